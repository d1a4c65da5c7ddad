/* SchNet and its output network in one call, with the derivative with respect to positions and strain.

   What would be dozens of operators with arrays of all edges between them is one pass over the pairs. `features` and
   `filters` are multiples of 128 bytes. Matrices come in panels of 128 bytes of columns,
   [columns / (2 · LANES)][rows][2 · LANES].
*/
#include "convolution.c"

INLINE void rows(const REAL *x, const REAL *panel, const REAL *bias, int add, REAL *y, int64_t in, int64_t out, const int R) {
    vec sums[R][2];
    for (int r = 0; r < R; r++)
        for (int v = 0; v < 2; v++) {
            sums[r][v] = add ? *(vec *)(y + r * out + v * LANES) : (vec){0};
            if (bias) sums[r][v] += *(const vec *)(bias + v * LANES);
        }
    for (int64_t k = 0; k < in; k++)
        for (int r = 0; r < R; r++)
            for (int v = 0; v < 2; v++) sums[r][v] += x[r * in + k] * *(const vec *)(panel + (2 * k + v) * LANES);
    for (int r = 0; r < R; r++)
        for (int v = 0; v < 2; v++) *(vec *)(y + r * out + v * LANES) = sums[r][v];
}

typedef struct {
    const REAL *x, *panels, *bias;
    REAL *y;
    int64_t add, atoms, in, out;
} Product;

static void product_body(void *argument) {
    const Product *job = argument;
    const int64_t in = job->in, out = job->out;
    int64_t begin, end;
    share(job->atoms, &begin, &end);
    for (int64_t column = 0; column < out; column += 2 * LANES) {
        const REAL *b = job->bias ? job->bias + column : NULL, *panel = job->panels + column * in;
        for (int64_t n = begin, left = end - begin; left > 0; n = end - left) {
            const REAL *from = job->x + n * in;
            REAL *to = job->y + n * out + column;
            if (left == 4 || left > 5) rows(from, panel, b, job->add, to, in, out, 4), left -= 4;
            else if (left == 5) rows(from, panel, b, job->add, to, in, out, 5), left -= 5;
            else if (left == 3) rows(from, panel, b, job->add, to, in, out, 3), left -= 3;
            else if (left == 2) rows(from, panel, b, job->add, to, in, out, 2), left -= 2;
            else rows(from, panel, b, job->add, to, in, out, 1), left -= 1;
        }
    }
}

static int64_t worth(int64_t work, int64_t threads) { /* fewer is done before a second thread has started */
    return work < 40000 ? 1 : threads;
}

/* y = x A + bias, or y + x A + bias */
static void matrix_product(const REAL *x, const REAL *panels, const REAL *bias, int add, REAL *y, int64_t atoms, int64_t in,
                           int64_t out, int64_t threads) {
    Product job = {x, panels, bias, y, add, atoms, in, out};
    run(product_body, &job, worth(atoms * in * out / 16, threads));
}

/* Aggregation by as many threads as there are blocks of features, each of as many vectors as may be. */
static void convolve(const REAL *x, const REAL *weights, const REAL *table, const int32_t *first, const int32_t *second,
                     const int32_t *interval, REAL *y, int64_t atoms, int64_t filters, int64_t pairs, int64_t knots,
                     int64_t threads) {
    const int64_t blocks = filters / LANES, wanted = worth(TAPS * pairs * filters, threads);
    const int64_t used = wanted < blocks ? wanted : blocks;
    int64_t vectors = pairs > 1000 ? 4 : 2;
    while (vectors > 1 && blocks % (vectors * used)) vectors /= 2;
    aggregate(x, weights, table, first, second, interval, y, atoms, filters, pairs, knots, vectors, used);
}

/* x ← x + W_d ssp(W_f c + b_f) + b_d with c = conv(h), h = W_in x, block after block; keeps h and ssp′. */
static void interactions(REAL *x, const REAL *in2f, const REAL *f2out, const REAL *dense, const REAL *biases,
                         const REAL *weights, const REAL *tables, const int32_t *first, const int32_t *second,
                         const int32_t *interval, REAL *h, REAL *slopes, REAL *scratch, REAL *other, int64_t blocks,
                         int64_t atoms, int64_t features, int64_t filters, int64_t pairs, int64_t knots,
                         int64_t threads) {
    for (int64_t t = 0; t < blocks; t++) {
        matrix_product(x, in2f, 0, 0, h, atoms, features, filters, threads);
        convolve(h, weights, tables, first, second, interval, scratch, atoms, filters, pairs, knots, threads);
        matrix_product(scratch, f2out, biases, 0, other, atoms, filters, features, threads);
        ssp(other, scratch, slopes, atoms * features, worth(8 * atoms * features, threads));
        matrix_product(scratch, dense, biases + features, 1, x, atoms, features, features, threads);
        in2f += features * filters, f2out += features * filters, dense += features * features, biases += 2 * features;
        tables += knots * filters, h += atoms * filters, slopes += atoms * features;
    }
}

/* From g = ∂y/∂x, which is lost, q = ∂y/∂w; the matrices are those of `interactions`, transposed, the last block first. */
static void interactions_backward(REAL *g, const REAL *in2f, const REAL *f2out, const REAL *dense, const REAL *weights,
                                  const REAL *tables, const int32_t *first, const int32_t *second, const int32_t *interval,
                                  const REAL *h, const REAL *slopes, REAL *scratch, REAL *other, REAL *q, REAL *part,
                                  int64_t blocks, int64_t atoms, int64_t features, int64_t filters, int64_t pairs,
                                  int64_t knots, int64_t threads) {
    memset(q, 0, TAPS * pairs * sizeof(REAL));
    for (int64_t t = blocks - 1; t >= 0; t--) {
        const REAL *s = slopes + t * atoms * features, *table = tables + t * knots * filters;
        matrix_product(g, dense, 0, 0, other, atoms, features, features, threads);
        for (int64_t l = 0; l < atoms * features; l++) other[l] *= s[l];
        matrix_product(other, f2out, 0, 0, scratch, atoms, features, filters, threads);
        pair_dot(scratch, h + t * atoms * filters, table, first, second, interval, part, filters, pairs,
                 worth(TAPS * pairs * filters, threads));
        for (int64_t l = 0; l < TAPS * pairs; l++) q[l] += part[l];
        convolve(scratch, weights, table, first, second, interval, other, atoms, filters, pairs, knots, threads);
        matrix_product(other, in2f, 0, 1, g, atoms, filters, features, threads);
        in2f += features * filters, f2out += features * filters, dense += features * features;
    }
}

typedef struct {
    REAL *x;
    const REAL *A, *b, *w, *c;
    REAL *y, *before, *after, *slopes;
    int64_t atoms, features, hidden;
} Output;

static void output_body(void *argument) {
    const Output *job = argument;
    const int64_t F = job->features, hidden = job->hidden;
    int64_t begin, end;
    share(job->atoms, &begin, &end);
    REAL *before = job->before + begin * hidden, *after = job->after + begin * hidden;
    REAL *slopes = job->slopes + begin * hidden;
    for (int64_t i = begin; i < end; i++)
        for (int64_t n = 0; n < hidden; n++) {
            vec dot = {0};
            for (int64_t f = 0; f < F; f += LANES) dot += load(job->x + i * F + f) * load(job->A + n * F + f);
            job->before[i * hidden + n] = job->b[n] + sum(dot);
        }
    Activation activation = {before, after, slopes, (end - begin) * hidden};
    ssp_range(&activation, 0, activation.count / LANES);
    for (int64_t i = begin; i < end; i++) {
        REAL *x = job->x + i * F;
        job->y[i] = *job->c;
        memset(x, 0, F * sizeof(REAL));
        for (int64_t n = 0; n < hidden; n++) {
            const REAL slope = job->w[n] * job->slopes[i * hidden + n];
            job->y[i] += job->w[n] * job->after[i * hidden + n];
            for (int64_t f = 0; f < F; f += LANES) store(x + f, load(x + f) + slope * load(job->A + n * F + f));
        }
    }
}

/* y_i = w·ssp(A x_i + b) + c, and x_i ← ∂y_i/∂x_i; A is [hidden][features]. */
static void output_network(REAL *x, const REAL *A, const REAL *b, const REAL *w, const REAL *c, REAL *y, REAL *before,
                           REAL *after, REAL *slopes, int64_t atoms, int64_t features, int64_t hidden, int64_t threads) {
    Output job = {x, A, b, w, c, y, before, after, slopes, atoms, features, hidden};
    run(output_body, &job, worth(atoms * features * hidden / 8, threads));
}

static int positive(const int64_t *shift) { /* of S and −S one is */
    for (int k = 0; k < 3; k++)
        if (shift[k]) return shift[k] > 0;
    return 0;
}

static void *take(char **room, int64_t count, int64_t size) {
    void *start = *room;
    *room += (count * size + 63) / 64 * 64;
    return start;
}

/* y, the output of every atom, gradient = ∂(Σ_i y_i)/∂r and virial = ∂(Σ_i y_i)/∂ε.

   Edges are all sources, then all targets, and contain the reverse of each; of an atom and its images the
   larger shift is taken. `shift` and `offset`, the same in Å, are null without cells. `scales` are the spacing of the
   knots and the cutoff radius. Returns 0, or 1 if an edge has an atom that is not there.
*/
int64_t molecule(const REAL *embedding, const REAL *in2f, const REAL *f2out, const REAL *dense, const REAL *in2f_back,
                 const REAL *f2out_back, const REAL *dense_back, const REAL *biases, const REAL *tables, const REAL *A,
                 const REAL *b, const REAL *w, const REAL *c, const double *scales, const double *pos, const int64_t *z,
                 const int64_t *edge, const int64_t *shift, const double *offset, REAL *y, double *gradient,
                 double *virial, char *room, int64_t blocks, int64_t atoms, int64_t features, int64_t filters,
                 int64_t hidden, int64_t edges, int64_t knots, int64_t start, int64_t cosine, int64_t threads) {
    double *vector = take(&room, 3 * edges, sizeof(double)), *distance = take(&room, edges, sizeof(double));
    int32_t *first = take(&room, edges, 4), *second = take(&room, edges, 4), *interval = take(&room, edges, 4);
    REAL *weights = take(&room, TAPS * edges, sizeof(REAL)), *q = take(&room, TAPS * edges, sizeof(REAL));
    REAL *rise = take(&room, TAPS * edges, sizeof(REAL)), *part = take(&room, TAPS * edges, sizeof(REAL));
    REAL *x = take(&room, atoms * features, sizeof(REAL)), *h = take(&room, blocks * atoms * filters, sizeof(REAL));
    REAL *slopes = take(&room, blocks * atoms * features, sizeof(REAL));
    const int64_t wide = features > filters ? features : filters, widest = wide > hidden ? wide : hidden;
    REAL *one = take(&room, atoms * widest, sizeof(REAL)), *two = take(&room, atoms * widest, sizeof(REAL));
    REAL *three = take(&room, atoms * hidden, sizeof(REAL));

    int64_t pairs = 0;
    for (int64_t e = 0; e < edges; e++) {
        const int64_t j = edge[e], i = edge[edges + e];
        if (i < 0 || j < 0 || i >= atoms || j >= atoms) return 1;
        if (j > i || (j == i && !(shift && positive(shift + 3 * e)))) continue;
        double *v = vector + 3 * pairs;
        for (int k = 0; k < 3; k++) v[k] = pos[3 * j + k] - pos[3 * i + k] + (shift ? offset[3 * e + k] : 0);
        first[pairs] = i, second[pairs] = j, distance[pairs] = sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]);
        pairs++;
    }
    splines(distance, scales, weights, rise, interval, pairs, start, knots - TAPS, cosine, worth(20 * pairs, threads));
    for (int64_t i = 0; i < atoms; i++) memcpy(x + i * features, embedding + z[i] * features, features * sizeof(REAL));
    interactions(x, in2f, f2out, dense, biases, weights, tables, first, second, interval, h, slopes, one, two, blocks,
                 atoms, features, filters, pairs, knots, threads);
    output_network(x, A, b, w, c, y, one, two, three, atoms, features, hidden, threads);
    interactions_backward(x, in2f_back, f2out_back, dense_back, weights, tables, first, second, interval, h, slopes, one,
                          two, q, part, blocks, atoms, features, filters, pairs, knots, threads);
    memset(gradient, 0, 3 * atoms * sizeof(double));
    memset(virial, 0, 9 * sizeof(double));
    for (int64_t p = 0; p < pairs; p++) {
        double change = 0;
        for (int m = 0; m < TAPS; m++) change += (double)q[TAPS * p + m] * rise[TAPS * p + m];
        for (int k = 0; k < 3; k++) {
            const double pull = distance[p] == 0 ? 0 : change * vector[3 * p + k] / distance[p];
            gradient[3 * second[p] + k] += pull, gradient[3 * first[p] + k] -= pull;
            for (int l = 0; l < 3; l++) virial[3 * k + l] += pull * vector[3 * p + l];
        }
    }
    return 0;
}
