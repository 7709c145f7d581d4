// SSIM and L1 of one tile with the gradient, fused. Compiled once per instruction set; see ssim.hpp for the contract.
//
// With G the Gaussian window, x the render, y the target:
//     mx = G*x, my = G*y, e2 = G*(x^2 + y^2), exy = G*(xy)                      four separable convolutions
//     S  = A1 A2 / (B1 B2),  A1 = 2 mx my + C1,  A2 = 2 (exy - mx my) + C2,
//                            B1 = mx^2 + my^2 + C1,  B2 = e2 - mx^2 - my^2 + C2
//     d(sum S)/dx = G^T P + 2x G^T Q + y G^T R                                  three more, transposed
//     P = dS/dmx = 2 (my (A2 - A1) - S mx (B2 - B1)) / (B1 B2),  Q = dS/de2 = -S / B2,  R = dS/dexy = 2 A1 / (B1 B2)
//
// The tile is walked once from top to bottom, GROUP rows at a time: vertical sums of the inputs, horizontal sums and S, P, Q, R in registers,
// transposed horizontal sums into a ring of rows, transposed vertical sums from the ring into the gradient. A pixel is three floats and
// neighbouring pixels are 3 apart, so a row of W pixels is convolved as one row of 3 W floats with taps at stride 3.
#include "ssim.hpp"

#include "simd.hpp"

namespace l2s {
namespace L2S_ISA {
namespace {

constexpr int TAPS = int(SSIM_WINDOW);
constexpr int GROUP = 4;       // window rows per round of the transposed vertical sums: 12 accumulators, of 16 registers
constexpr int FORWARD = 2;     // window rows per round of the vertical sums: 8 accumulators and 4 inputs
constexpr int RING = 16;       // slots; TAPS - 1 + GROUP = 14 rows are alive
constexpr int MAPS = 3;        // P, Q, R
template <bool WEIGHTED> constexpr int MOMENTS = WEIGHTED ? 5 : 4;  // mx, my, e2, exy, and the weight of the window
constexpr int64_t PAD = 16;    // numbers that a vector may reach beyond the end of a scratch row: LANES <= 16

constexpr double NO_WEIGHT = 1e-20;  // added to a window's weight, 1e-6 or more where a pixel of it counts, so that 0 / 0 is 0
constexpr double C1 = 0.01 * 0.01, C2 = 0.03 * 0.03;

template <class T> L2S_INLINE Vec<T> tap(int k, Vec<T> v) { return T(SSIM_TAPS[k]) * v; }

// Sums of a row in double, lane by lane: float sums would lose the last digits of a loss that is compared between steps.
template <class T> struct RowSum {
    double lanes[LANES<T>] = {};
    double rest = 0;
    L2S_INLINE void add(Vec<T> v) {
        for (int i = 0; i < LANES<T>; ++i) lanes[i] += double(v[i]);
    }
    L2S_INLINE double total() const {
        double sum = rest;
        for (int i = 0; i < LANES<T>; ++i) sum += lanes[i];
        return sum;
    }
};

template <class T> double sum_row(const T *values, int64_t n) {
    RowSum<T> sum;
    int64_t j = 0;
    for (; j + LANES<T> <= n; j += LANES<T>) sum.add(load(values + j));
    for (; j < n; ++j) sum.rest += double(values[j]);
    return sum.total();
}

template <class T, bool WEIGHTED> double sum_abs_difference(const T *x, const T *y, const T *w, int64_t n) {
    RowSum<T> sum;
    int64_t j = 0;
    for (; j + LANES<T> <= n; j += LANES<T>) {
        const Vec<T> d = load(x + j) - load(y + j), distance = d < T(0) ? -d : d;
        sum.add(WEIGHTED ? distance * load(w + j) : distance);
    }
    for (; j < n; ++j) {
        const double d = double(x[j]) - double(y[j]);
        sum.rest += (d < 0 ? -d : d) * (WEIGHTED ? double(w[j]) : 1.0);
    }
    return sum.total();
}

// Calls body(j) for vectors that cover [0, n), n >= LANES. The last one overlaps its neighbour: body must be a pure function of the inputs.
template <class T, class F> L2S_INLINE void for_each_vector(int64_t n, F &&body) {
    for (int64_t j = 0; j + LANES<T> <= n; j += LANES<T>) body(j);
    if (n % LANES<T>) body(n - LANES<T>);
}

int64_t scratch_row_length(int64_t tile_length) { return tile_length + 3 * SSIM_HALO + PAD; }
constexpr int64_t SCRATCH_ROWS = FORWARD * MOMENTS<true> + MAPS + 2 + MAPS * RING;

// Vertical sums of ROWS window rows from the TAPS - 1 + ROWS input rows that start at x, y and w. out[row * MOMENTS + moment].
template <class T, int ROWS, bool WEIGHTED>
void moments_vertical(const T *x, const T *y, const T *w, int64_t stride, int64_t n, T *const *out) {
    constexpr int COUNT = MOMENTS<WEIGHTED>;
    for_each_vector<T>(n, [&](int64_t j) __attribute__((always_inline)) {
        Vec<T> sums[ROWS][COUNT] = {};
#pragma GCC unroll 16
        for (int t = 0; t < TAPS - 1 + ROWS; ++t) {
            Vec<T> a = load(x + t * stride + j), b = load(y + t * stride + j), weight = {};
            Vec<T> squares = a * a + b * b, product = a * b;
            if constexpr (WEIGHTED) {
                weight = load(w + t * stride + j);
                a *= weight;
                b *= weight;
                squares *= weight;
                product *= weight;
            }
#pragma GCC unroll 4
            for (int r = 0; r < ROWS; ++r) {
                if (t - r < 0 || t - r >= TAPS) continue;
                sums[r][0] += tap<T>(t - r, a);
                sums[r][1] += tap<T>(t - r, b);
                sums[r][2] += tap<T>(t - r, squares);
                sums[r][3] += tap<T>(t - r, product);
                if constexpr (WEIGHTED) sums[r][4] += tap<T>(t - r, weight);
            }
        }
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 5
            for (int m = 0; m < COUNT; ++m) store<T>(out[r * COUNT + m] + j, sums[r][m]);
    });
}

// Horizontal sum at one vector. The window is symmetric: adding pairs first moves 5 of 11 multiplications to the adders (7 % on Zen 1).
template <class T> L2S_INLINE Vec<T> convolve_row(const T *p) {
    Vec<T> sum = tap<T>(TAPS / 2, load(p + TAPS / 2 * CHANNELS));
#pragma GCC unroll 16
    for (int k = 0; k < TAPS / 2; ++k) sum += tap<T>(k, load(p + k * CHANNELS) + load(p + (TAPS - 1 - k) * CHANNELS));
    return sum;
}

// Horizontal sums of one window row, then S and, if GRAD, P, Q, R. Writes whole vectors: up to PAD numbers beyond n.
// With weights, S is multiplied by that of its window, M, and P, Q, R are not: M dS/dx has M / M = 1 in front of them.
template <class T, bool GRAD, bool WEIGHTED> void ssim_row(T *const *moments, int64_t n, T *similarity, T *const *maps) {
    for (int64_t j = 0; j < n; j += LANES<T>) {
        Vec<T> mx = convolve_row(moments[0] + j), my = convolve_row(moments[1] + j);
        Vec<T> e2 = convolve_row(moments[2] + j), exy = convolve_row(moments[3] + j), weight = {};
        if constexpr (WEIGHTED) {
            weight = convolve_row(moments[4] + j);
            const Vec<T> share = T(1) / (weight + T(NO_WEIGHT));
            mx *= share;
            my *= share;
            e2 *= share;
            exy *= share;
        }
        const Vec<T> cross = mx * my, squares = mx * mx + my * my;
        const Vec<T> a1 = T(2) * cross + T(C1), a2 = T(2) * (exy - cross) + T(C2);
        const Vec<T> b1 = squares + T(C1), b2 = e2 - squares + T(C2);
        const Vec<T> inverse = T(1) / (b1 * b2);
        const Vec<T> s = a1 * a2 * inverse;
        store<T>(similarity + j, WEIGHTED ? s * weight : s);
        if (GRAD) {
            const Vec<T> twice = T(2) * inverse;
            store<T>(maps[0] + j, twice * (my * (a2 - a1) - s * mx * (b2 - b1)));
            store<T>(maps[1] + j, -s * b1 * inverse);
            store<T>(maps[2] + j, twice * a1);
        }
    }
}

// Transposed horizontal sums of one map; `padded` has SSIM_HALO zeros before its first and after its last window.
template <class T> void transpose_row(const T *padded, int64_t n, T *out) {
    for (int64_t j = 0; j < n; j += LANES<T>) store<T>(out + j, convolve_row(padded + j));
}

// Transposed vertical sums for GROUP pixel rows: rows[map][t], t = 0 is the row TAPS - 1 above the first; then the gradient of as many as `count`.
template <class T, bool WEIGHTED>
void gradient_rows(const T *const (*rows)[TAPS - 1 + GROUP], const T *x, const T *y, const T *w, T *grad, int64_t stride, int64_t n, int count, T l1_scale,
                   T ssim_scale) {
    for_each_vector<T>(n, [&](int64_t j) __attribute__((always_inline)) {
        Vec<T> sums[GROUP][MAPS] = {};
#pragma GCC unroll 16
        for (int t = 0; t < TAPS - 1 + GROUP; ++t) {
#pragma GCC unroll 4
            for (int m = 0; m < MAPS; ++m) {
                const Vec<T> v = load(rows[m][t] + j);
#pragma GCC unroll 4
                for (int r = 0; r < GROUP; ++r)
                    if (t - r >= 0 && t - r < TAPS) sums[r][m] += tap<T>(t - r, v);
            }
        }
#pragma GCC unroll 4
        for (int r = 0; r < GROUP; ++r) {
            if (r >= count) break;
            const Vec<T> a = load(x + r * stride + j), b = load(y + r * stride + j), zero = {};
            const Vec<T> sign = select(a > b, zero + l1_scale, zero) - select(a < b, zero + l1_scale, zero);
            const Vec<T> slope = sign + ssim_scale * (sums[r][0] + T(2) * a * sums[r][1] + b * sums[r][2]);
            store<T>(grad + r * stride + j, WEIGHTED ? slope * load(w + r * stride + j) : slope);
        }
    });
}

template <class T> void fill_zero(T *p, int64_t n) {
    for (int64_t j = 0; j < n; ++j) p[j] = 0;
}

template <class T, bool WEIGHTED> void run_tile(const SsimTile<T> &tile) {
    constexpr int COUNT = MOMENTS<WEIGHTED>;
    const int64_t n_out = tile.col_end - tile.col_begin, stride = tile.row_length;
    const int64_t window_rows = tile.height - SSIM_WINDOW + 1;
    for (int64_t row = tile.row_begin; row < tile.row_end; ++row) {
        const int64_t at = row * stride + tile.col_begin;
        tile.l1_rows[row] = sum_abs_difference<T, WEIGHTED>(tile.x + at, tile.y + at, WEIGHTED ? tile.w + at : nullptr, n_out);
    }

    // The windows that touch the tile; without a gradient only those that begin in it.
    const int64_t reach_rows = tile.grad ? SSIM_WINDOW - 1 : 0, reach_cols = tile.grad ? SSIM_HALO : 0;
    const int64_t first_row = tile.row_begin > reach_rows ? tile.row_begin - reach_rows : 0;
    const int64_t end_row = tile.row_end < window_rows ? tile.row_end : window_rows;
    const int64_t first_col = tile.col_begin > reach_cols ? tile.col_begin - reach_cols : 0;
    const int64_t end_col = tile.col_end < stride - SSIM_HALO ? tile.col_end : stride - SSIM_HALO;
    const int64_t n_windows = end_col - first_col, n_in = n_windows + SSIM_HALO;
    for (int64_t row = tile.row_begin; row < tile.row_end; ++row) tile.ssim_rows[row] = 0;
    if (n_windows <= 0) return;  // narrower than a window, at the right border, and no gradient wanted

    // Scratch rows, all of one length.
    const int64_t length = scratch_row_length(n_out);
    T *next = tile.scratch;
    const auto take = [&] { return (next += length) - length; };
    T *moments[FORWARD * COUNT], *padded[MAPS], *maps[MAPS], *ring[MAPS][RING];
    for (T *&row : moments) fill_zero(row = take(), length);  // zero, so that what lies beyond the last window stays finite
    for (int m = 0; m < MAPS; ++m) {
        fill_zero(padded[m] = take(), length);
        maps[m] = padded[m] + SSIM_HALO;
    }
    T *similarity = take(), *zeros = take();
    fill_zero(zeros, length);
    for (auto &rows : ring)
        for (T *&row : rows) row = take();

    const int64_t own_begin = tile.col_begin - first_col;  // windows from here on begin in the tile
    const int64_t shift = tile.col_begin - first_col;      // a tile's first float, counted from the first window
    for (int64_t group = first_row; group < tile.row_end; group += GROUP) {
        for (int64_t row = group; row < group + GROUP && row < end_row; row += FORWARD) {
            const int rows_here = row + FORWARD <= end_row ? FORWARD : 1;
            const T *x = tile.x + row * stride + first_col, *y = tile.y + row * stride + first_col;
            const T *w = WEIGHTED ? tile.w + row * stride + first_col : nullptr;
            if (rows_here == FORWARD)
                moments_vertical<T, FORWARD, WEIGHTED>(x, y, w, stride, n_in, moments);
            else
                moments_vertical<T, 1, WEIGHTED>(x, y, w, stride, n_in, moments);
            for (int r = 0; r < rows_here; ++r) {
                if (tile.grad)
                    ssim_row<T, true, WEIGHTED>(moments + r * COUNT, n_windows, similarity, maps);
                else
                    ssim_row<T, false, WEIGHTED>(moments + r * COUNT, n_windows, similarity, maps);
                if (row + r >= tile.row_begin) tile.ssim_rows[row + r] = sum_row(similarity + own_begin, n_windows - own_begin);
                if (!tile.grad) continue;
                for (int m = 0; m < MAPS; ++m) {
                    fill_zero(maps[m] + n_windows, PAD);  // what the last vector wrote beyond the last window
                    transpose_row(padded[m] + shift, n_out, ring[m][(row + r) % RING]);
                }
            }
        }
        if (!tile.grad) continue;
        // All windows that touch the pixel rows of this group are in the ring now. Rows above the tile are only warm-up.
        const T *rows[MAPS][TAPS - 1 + GROUP];
        const int64_t begin = group < tile.row_begin ? tile.row_begin : group;
        const int64_t end = group + GROUP < tile.row_end ? group + GROUP : tile.row_end;
        if (begin >= end) continue;
        for (int t = 0; t < TAPS - 1 + GROUP; ++t) {
            const int64_t row = begin - (TAPS - 1) + t;
            for (int m = 0; m < MAPS; ++m) rows[m][t] = row >= first_row && row < end_row && row < group + GROUP ? ring[m][row % RING] : zeros;
        }
        const int64_t at = begin * stride + tile.col_begin;
        gradient_rows<T, WEIGHTED>(rows, tile.x + at, tile.y + at, WEIGHTED ? tile.w + at : nullptr, tile.grad + at, stride, n_out, int(end - begin),
                                   T(tile.l1_scale), T(tile.ssim_scale));
    }
}

template <class T> void run_any_tile(const SsimTile<T> &tile) { tile.w ? run_tile<T, true>(tile) : run_tile<T, false>(tile); }

int64_t scratch_size(int64_t tile_length) { return SCRATCH_ROWS * scratch_row_length(tile_length); }

}  // namespace

extern const SsimKernels ssim_kernels = {run_any_tile<float>, run_any_tile<double>, scratch_size};

}  // namespace L2S_ISA
}  // namespace l2s
