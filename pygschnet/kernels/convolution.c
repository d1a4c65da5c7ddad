/* The three kernels of the continuous-filter convolution, and the activation function, for CPUs.

   Compiled by cpu.py for this machine, once with REAL = float and once with REAL = double. The operators are explained
   in convolution.py. `features` is a multiple of 64 bytes; rows are contiguous. Threads share out what is written, never
   what is summed: every sum is taken by one thread in the order of the pairs, so the bits do not depend on how many there are.
*/
#include <stdint.h>
#include <string.h>
#include <tgmath.h>

#define TAPS 6
#define LANES (64 / (int)sizeof(REAL))
#define INLINE static inline __attribute__((always_inline))

typedef REAL vec __attribute__((vector_size(64), aligned(4), may_alias));
typedef __typeof__((vec){0} < (vec){0}) ivec;
typedef REAL half __attribute__((vector_size(32), may_alias));
typedef REAL quarter __attribute__((vector_size(16), may_alias));

INLINE vec load(const REAL *p) { return *(const vec *)p; }
INLINE void store(REAL *p, vec v) { *(vec *)p = v; }
INLINE REAL sum(vec v) {
    half h = ((half *)&v)[0] + ((half *)&v)[1];
    quarter q = ((quarter *)&h)[0] + ((quarter *)&h)[1];
    REAL total = 0;
    for (int lane = 0; lane < LANES / 4; lane++) total += q[lane];
    return total;
}

/* Threads: those that torch's own operators run on, if its OpenMP runtime is GNU's; else one. */
extern void GOMP_parallel(void (*)(void *), void *, unsigned, unsigned) __attribute__((weak));
extern int omp_get_num_threads(void) __attribute__((weak));
extern int omp_get_thread_num(void) __attribute__((weak));

static void run(void (*body)(void *), void *job, int64_t threads) {
    if (threads > 1 && GOMP_parallel && omp_get_num_threads && omp_get_thread_num)
        GOMP_parallel(body, job, (unsigned)threads, 0);
    else
        body(job);
}

static void share(int64_t count, int64_t *begin, int64_t *end) { /* what falls to this thread */
    int64_t threads = omp_get_num_threads ? omp_get_num_threads() : 1, thread = threads > 1 ? omp_get_thread_num() : 0;
    *begin = count * thread / threads;
    *end = count * (thread + 1) / threads;
}

typedef struct {
    const REAL *g, *x, *weights, *table, *g2, *x2, *weights2; /* the second ones are of the operators "two" alone */
    const int32_t *first, *second, *interval;
    REAL *out;
    int64_t atoms, pairs, features, knots, vectors; /* vectors: how many of them a block of features has */
} Job;

/* y_i = Σ_j x_j ∘ W_ij for the features f … f + V·LANES of all atoms; with TWO, W′ from other weights, + x′_j ∘ W′_ij. */
INLINE void aggregate_block(const Job *job, int64_t f, const int V, const int TWO) {
    const int64_t F = job->features;
    const REAL *x = job->x + f, *table = job->table + f, *x2 = TWO ? job->x2 + f : x;
    REAL *y = job->out + f;
    for (int64_t i = 0; i < job->atoms; i++) memset(y + i * F, 0, V * 64);
    int64_t row = -1;
    vec xi[V], yi[V], x2i[V];
    for (int64_t p = 0; p < job->pairs; p++) {
        const int64_t i = job->first[p], j = job->second[p];
        const REAL *w = job->weights + TAPS * p, *c = table + job->interval[p] * F;
        const REAL *w2 = TWO ? job->weights2 + TAPS * p : w;
        if (i != row) {
            for (int v = 0; v < V; v++) {
                if (row >= 0) store(y + row * F + v * LANES, yi[v]);
                xi[v] = load(x + i * F + v * LANES), yi[v] = load(y + i * F + v * LANES);
                if (TWO) x2i[v] = load(x2 + i * F + v * LANES);
            }
            row = i;
        }
        vec filter[V], filter2[V];
        for (int v = 0; v < V; v++) {
            filter[v] = w[0] * load(c + v * LANES);
            if (TWO) filter2[v] = w2[0] * load(c + v * LANES);
        }
        for (int m = 1; m < TAPS; m++)
            for (int v = 0; v < V; v++) {
                const vec coefficient = load(c + m * F + v * LANES);
                filter[v] += w[m] * coefficient;
                if (TWO) filter2[v] += w2[m] * coefficient;
            }
        for (int v = 0; v < V; v++) {
            if (i == j) { /* an atom and its own image */
                yi[v] += 2 * filter[v] * xi[v];
                if (TWO) yi[v] += 2 * filter2[v] * x2i[v];
                continue;
            }
            vec yj = load(y + j * F + v * LANES); /* a product at a time: however it is compiled, the bits are the same */
            yj += filter[v] * xi[v];
            yi[v] += filter[v] * load(x + j * F + v * LANES);
            if (TWO) {
                yj += filter2[v] * x2i[v];
                yi[v] += filter2[v] * load(x2 + j * F + v * LANES);
            }
            store(y + j * F + v * LANES, yj);
        }
    }
    if (row >= 0)
        for (int v = 0; v < V; v++) store(y + row * F + v * LANES, yi[v]);
}

/* A function for all blocks of features that fall to this thread. */
#define BLOCKS(body, function, two)                                              \
    static void body(void *argument) {                                           \
        const Job *job = argument;                                               \
        int64_t begin, end, width = job->vectors * LANES;                        \
        share(job->features / width, &begin, &end);                              \
        for (int64_t block = begin; block < end; block++)                        \
            if (job->vectors == 4) function(job, block * width, 4, two);         \
            else if (job->vectors == 2) function(job, block * width, 2, two);    \
            else function(job, block * width, 1, two);                           \
    }

BLOCKS(aggregate_body, aggregate_block, 0)
BLOCKS(aggregate_two_body, aggregate_block, 1)

void aggregate(const REAL *x, const REAL *weights, const REAL *table, const int32_t *first, const int32_t *second,
               const int32_t *interval, REAL *y, int64_t atoms, int64_t features, int64_t pairs, int64_t knots,
               int64_t vectors, int64_t threads) {
    Job job = {.x = x, .weights = weights, .table = table, .first = first, .second = second, .interval = interval,
               .out = y, .atoms = atoms, .pairs = pairs, .features = features, .vectors = vectors};
    run(aggregate_body, &job, threads);
}

void aggregate_two(const REAL *x, const REAL *weights, const REAL *x2, const REAL *weights2, const REAL *table,
                   const int32_t *first, const int32_t *second, const int32_t *interval, REAL *y, int64_t atoms,
                   int64_t features, int64_t pairs, int64_t knots, int64_t vectors, int64_t threads) {
    Job job = {.x = x, .weights = weights, .table = table, .x2 = x2, .weights2 = weights2, .first = first, .second = second,
               .interval = interval, .out = y, .atoms = atoms, .pairs = pairs, .features = features, .vectors = vectors};
    run(aggregate_two_body, &job, threads);
}

/* q_pm = Σ_f (g_i x_j + g_j x_i)_f C_{n(p) + m, f} */
static void pair_dot_body(void *argument) {
    const Job *job = argument;
    const int64_t F = job->features;
    int64_t begin, end;
    share(job->pairs, &begin, &end);
    for (int64_t p = begin; p < end; p++) {
        const int64_t i = job->first[p] * F, j = job->second[p] * F;
        const REAL *c = job->table + job->interval[p] * F;
        vec sums[TAPS] = {0};
        for (int64_t f = 0; f < F; f += LANES) {
            vec s = load(job->g + i + f) * load(job->x + j + f) + load(job->g + j + f) * load(job->x + i + f);
            for (int m = 0; m < TAPS; m++) sums[m] += s * load(c + m * F + f);
        }
        for (int m = 0; m < TAPS; m++) job->out[TAPS * p + m] = sum(sums[m]);
    }
}

void pair_dot(const REAL *g, const REAL *x, const REAL *table, const int32_t *first, const int32_t *second,
              const int32_t *interval, REAL *q, int64_t features, int64_t pairs, int64_t threads) {
    Job job = {.g = g, .x = x, .table = table, .first = first, .second = second, .interval = interval, .out = q,
               .pairs = pairs, .features = features};
    run(pair_dot_body, &job, threads);
}

/* C̄_k = Σ_{p, m: n(p) + m = k} w_pm (g_i ∘ x_j + g_j ∘ x_i) for the features f … f + V·LANES; with TWO, w times the same
   of g and x and of g′ and x′, and w′ times that of g′ and x. */
INLINE void table_grad_block(const Job *job, int64_t f, const int V, const int TWO) {
    const int64_t F = job->features;
    const REAL *g = job->g + f, *x = job->x + f, *g2 = TWO ? job->g2 + f : g, *x2 = TWO ? job->x2 + f : x;
    REAL *table = job->out + f;
    for (int64_t k = 0; k < job->knots; k++) memset(table + k * F, 0, V * 64);
    for (int64_t p = 0; p < job->pairs; p++) {
        const int64_t i = job->first[p] * F, j = job->second[p] * F;
        const REAL *w = job->weights + TAPS * p, *w2 = TWO ? job->weights2 + TAPS * p : w;
        REAL *c = table + job->interval[p] * F;
        for (int v = 0; v < V; v++) {
            const int64_t l = v * LANES;
            const vec xi = load(x + i + l), xj = load(x + j + l);
            vec s = load(g + i + l) * xj, s2;
            s += load(g + j + l) * xi;
            if (TWO) {
                const vec g2i = load(g2 + i + l), g2j = load(g2 + j + l);
                s += g2i * load(x2 + j + l);
                s += g2j * load(x2 + i + l);
                s2 = g2i * xj;
                s2 += g2j * xi;
            }
            for (int m = 0; m < TAPS; m++) {
                vec sum = load(c + m * F + l);
                sum += w[m] * s;
                if (TWO) sum += w2[m] * s2;
                store(c + m * F + l, sum);
            }
        }
    }
}

BLOCKS(table_grad_body, table_grad_block, 0)
BLOCKS(table_grad_two_body, table_grad_block, 1)

void table_grad(const REAL *g, const REAL *x, const REAL *weights, const int32_t *first, const int32_t *second,
                const int32_t *interval, REAL *out, int64_t features, int64_t pairs, int64_t knots, int64_t vectors,
                int64_t threads) {
    Job job = {.g = g, .x = x, .weights = weights, .first = first, .second = second, .interval = interval, .out = out,
               .pairs = pairs, .features = features, .knots = knots, .vectors = vectors};
    run(table_grad_body, &job, threads);
}

void table_grad_two(const REAL *g, const REAL *x, const REAL *weights, const REAL *g2, const REAL *x2, const REAL *weights2,
                    const int32_t *first, const int32_t *second, const int32_t *interval, REAL *out, int64_t features,
                    int64_t pairs, int64_t knots, int64_t vectors, int64_t threads) {
    Job job = {.g = g, .x = x, .weights = weights, .g2 = g2, .x2 = x2, .weights2 = weights2, .first = first, .second = second,
               .interval = interval, .out = out, .pairs = pairs, .features = features, .knots = knots, .vectors = vectors};
    run(table_grad_two_body, &job, threads);
}

/* Interval of each distance, its weights f(d) w_m and their slopes; `PairWeights` in cpu.py says more. */
typedef struct {
    const double *distances, *scales; /* spacing, cutoff */
    REAL *weights, *slopes;
    int32_t *interval;
    int64_t pairs, first, last, cosine;
} Splines;

static void splines_body(void *argument) {
    static const double c[TAPS][TAPS] = {{1, 26, 66, 26, 1, 0},   {-5, -50, 0, 50, 5, 0},   {10, 20, -60, 20, 10, 0},
                                       {-10, 20, 0, -20, 10, 0}, {5, -20, 30, -20, 5, 0}, {-1, 5, -10, 10, -5, 1}};
    const Splines *job = argument;
    const double spacing = job->scales[0], cutoff = job->scales[1], turn = 3.141592653589793 / cutoff;
    int64_t begin, end;
    share(job->pairs, &begin, &end);
    for (int64_t p = begin; p < end; p++) {
        const double d = job->distances[p], t = d / spacing, whole = floor(t), u = t - whole;
        const double limit = fmin(fmax(whole - job->first, 0), job->last); /* of what is no number, 0 */
        const double inside = d >= cutoff ? 0 : 1.0 / 120; /* not a number is inside, and stays what it is */
        const double f = job->cosine ? inside * 0.5 * (cos(d * turn) + 1) : inside;
        const double slope = job->cosine ? inside * -0.5 * turn * sin(d * turn) : 0;
        job->interval[p] = (int32_t)limit;
        for (int m = 0; m < TAPS; m++) {
            double value = c[TAPS - 1][m], rise = 0;
            for (int k = TAPS - 2; k >= 0; k--) rise = rise * u + value, value = value * u + c[k][m];
            job->weights[TAPS * p + m] = f * value;
            job->slopes[TAPS * p + m] = slope * value + f * rise / spacing;
        }
    }
}

void splines(const double *distances, const double *scales, REAL *weights, REAL *slopes, int32_t *interval, int64_t pairs,
             int64_t first, int64_t last, int64_t cosine, int64_t threads) {
    Splines job = {distances, scales, weights, slopes, interval, pairs, first, last, cosine};
    run(splines_body, &job, threads);
}

/* y = ln(½eˣ + ½) and its derivative s = 1/(1 + e⁻ˣ): with e = exp(−|x|), y = max(x, 0) + ln(½ + ½e). */
typedef struct {
    const REAL *x;
    REAL *y, *s;
    int64_t count;
} Activation;

#define SINGLE (sizeof(REAL) == 4)

INLINE vec choose(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }

INLINE void ssp_vector(const REAL *px, REAL *py, REAL *ps) {
    const REAL shifter = SINGLE ? 0x1.8p23 : 0x1.8p52; /* adding it leaves the nearest integer in the last bits */
    const int bias = SINGLE ? 127 : 1023, mantissa = SINGLE ? 23 : 52;
    const vec x = load(px), zero = {0};
    vec a = choose(x < 0, x, -x);
    a = choose(a < (REAL)(SINGLE ? -87 : -708), zero + (REAL)(SINGLE ? -87 : -708), a);
    const vec shifted = a * (REAL)1.4426950408889634 + shifter, r = a - (shifted - shifter) * (REAL)0.6931471805599453;
    vec e = zero + 1, log = zero; /* Taylor's series of exp for |r| ≤ ½ ln 2 */
    for (int n = SINGLE ? 7 : 13; n > 0; n--) e = 1 + e * r * ((REAL)1 / n);
    e *= (vec)(((ivec)shifted + bias) << mantissa);
    const vec z = (e - 1) / (e + 3), z2 = z * z; /* ln(½ + ½e) = 2 artanh z, |z| ≤ ⅓ */
    for (int n = SINGLE ? 7 : 16; n >= 0; n--) log = log * z2 + (REAL)2 / (2 * n + 1);
    store(py, choose(x < 0, zero, x) + z * log);
    store(ps, choose(x < 0, e, zero + 1) / (1 + e));
}

static void ssp_range(const Activation *job, int64_t begin, int64_t end) {
    const int64_t rest = job->count % LANES;
    for (int64_t l = begin * LANES; l < end * LANES; l += LANES) ssp_vector(job->x + l, job->y + l, job->s + l);
    if (rest && end == job->count / LANES) {
        REAL x[LANES] = {0}, y[LANES], s[LANES];
        memcpy(x, job->x + job->count - rest, rest * sizeof(REAL));
        ssp_vector(x, y, s);
        memcpy(job->y + job->count - rest, y, rest * sizeof(REAL));
        memcpy(job->s + job->count - rest, s, rest * sizeof(REAL));
    }
}

static void ssp_body(void *argument) {
    const Activation *job = argument;
    int64_t begin, end;
    share(job->count / LANES, &begin, &end);
    ssp_range(job, begin, end);
}

void ssp(const REAL *x, REAL *y, REAL *s, int64_t count, int64_t threads) {
    Activation job = {x, y, s, count};
    run(ssp_body, &job, threads);
}
