/* All interaction blocks of SchNet in one call, and the derivative of their result with respect to the pairs.

   For molecules so small that calling one operator after another takes most of the time; one thread. `features` and
   `filters` are multiples of 128 bytes. Matrices come in panels of 128 bytes of columns, [columns / (2 · LANES)][rows][2 · LANES].
*/
#include <stdint.h>

#define LANES (64 / (int)sizeof(REAL))
#define INLINE static inline __attribute__((always_inline))

typedef REAL vec __attribute__((vector_size(64), aligned(4), may_alias));

void aggregate(const REAL *, const REAL *, const REAL *, const int32_t *, const int32_t *, const int32_t *, REAL *, int64_t,
               int64_t, int64_t, int64_t, int64_t, int64_t);
void pair_dot(const REAL *, const REAL *, const REAL *, const int32_t *, const int32_t *, const int32_t *, REAL *, int64_t,
              int64_t, int64_t);
void ssp(const REAL *, REAL *, REAL *, int64_t, int64_t);

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

/* y = x A + bias, or y + x A + bias */
static void matrix_product(const REAL *x, const REAL *panels, const REAL *bias, int add, REAL *y, int64_t atoms, int64_t in,
                           int64_t out) {
    for (int64_t column = 0; column < out; column += 2 * LANES, panels += 2 * LANES * in) {
        const REAL *b = bias ? bias + column : bias;
        for (int64_t n = 0, left = atoms; left > 0; n = atoms - left) {
            const REAL *from = x + n * in;
            REAL *to = y + n * out + column;
            if (left == 4 || left > 5) rows(from, panels, b, add, to, in, out, 4), left -= 4;
            else if (left == 5) rows(from, panels, b, add, to, in, out, 5), left -= 5;
            else if (left == 3) rows(from, panels, b, add, to, in, out, 3), left -= 3;
            else if (left == 2) rows(from, panels, b, add, to, in, out, 2), left -= 2;
            else rows(from, panels, b, add, to, in, out, 1), left -= 1;
        }
    }
}

/* x ← x + W_d ssp(W_f c + b_f) + b_d with c = conv(h), h = W_in x, block after block; keeps h and ssp′. */
void interactions(REAL *x, const REAL *in2f, const REAL *f2out, const REAL *dense, const REAL *biases, const REAL *weights,
                  const REAL *tables, const int32_t *first, const int32_t *second, const int32_t *interval, REAL *h,
                  REAL *slopes, REAL *scratch, int64_t blocks, int64_t atoms, int64_t features, int64_t filters,
                  int64_t pairs, int64_t knots) {
    REAL *other = scratch + atoms * (features > filters ? features : filters);
    for (int64_t t = 0; t < blocks; t++) {
        matrix_product(x, in2f, 0, 0, h, atoms, features, filters);
        aggregate(h, weights, tables, first, second, interval, scratch, atoms, filters, pairs, knots, 2, 1);
        matrix_product(scratch, f2out, biases, 0, other, atoms, filters, features);
        ssp(other, scratch, slopes, atoms * features, 1);
        matrix_product(scratch, dense, biases + features, 1, x, atoms, features, features);
        in2f += features * filters, f2out += features * filters, dense += features * features, biases += 2 * features;
        tables += knots * filters, h += atoms * filters, slopes += atoms * features;
    }
}

/* From g = ∂E/∂x, which is lost, q = ∂E/∂w; the matrices are those of `interactions`, transposed, the last block first. */
void interactions_backward(REAL *g, const REAL *in2f, const REAL *f2out, const REAL *dense, const REAL *weights,
                           const REAL *tables, const int32_t *first, const int32_t *second, const int32_t *interval,
                           const REAL *h, const REAL *slopes, REAL *scratch, REAL *q, int64_t blocks, int64_t atoms,
                           int64_t features, int64_t filters, int64_t pairs, int64_t knots) {
    const int64_t taps = 6;
    REAL *other = scratch + atoms * (features > filters ? features : filters), *part = q + taps * pairs;
    for (int64_t l = 0; l < taps * pairs; l++) q[l] = 0;
    for (int64_t t = blocks - 1; t >= 0; t--) {
        const REAL *s = slopes + t * atoms * features, *table = tables + t * knots * filters;
        matrix_product(g, dense, 0, 0, other, atoms, features, features);
        for (int64_t l = 0; l < atoms * features; l++) other[l] *= s[l];
        matrix_product(other, f2out, 0, 0, scratch, atoms, features, filters);
        pair_dot(scratch, h + t * atoms * filters, table, first, second, interval, part, filters, pairs, 1);
        for (int64_t l = 0; l < taps * pairs; l++) q[l] += part[l];
        aggregate(scratch, weights, table, first, second, interval, other, atoms, filters, pairs, knots, 2, 1);
        matrix_product(other, in2f, 0, 1, g, atoms, filters, features);
        in2f += features * filters, f2out += features * filters, dense += features * features;
    }
}
