// Tiles of BLOCK Gaussians: tile[row * BLOCK + lane]. Moving rows of arrays in and out, small dense layers, and functions that networks are made of.
#pragma once
#include "simd.hpp"
#include "update.hpp"

namespace l2s {
namespace L2S_ISA {

constexpr int VEC = LANES<float>;
static_assert(BLOCK % (3 * VEC) == 0, "dense_rows walks three vectors at a time");
#if defined(L2S_AVX512)
constexpr int DENSE_ROWS = 8;  // 24 sums and 3 inputs in 32 registers
#else
constexpr int DENSE_ROWS = 4;  // 12 sums, 3 inputs and a weight in 16
#endif

// `columns` columns of BLOCK rows, transposed VEC by VEC: from(lane, c, i) and to(lane, c, i) point at the i-th vector of the square that begins there.
template <class From, class To> L2S_INLINE void copy_transposed(int columns, From &&from, To &&to) {
    for (int lane = 0; lane < BLOCK; lane += VEC)
        for (int c = 0; c < columns; c += VEC) {
            const int first = c + VEC <= columns ? c : columns - VEC;
            vec_f v[VEC];
#pragma GCC unroll 16
            for (int i = 0; i < VEC; ++i) v[i] = load(from(lane, first, i));
            transpose(v);
#pragma GCC unroll 16
            for (int i = 0; i < VEC; ++i) store<float>(to(lane, first, i), v[i]);
        }
}

// tile[c * BLOCK + lane] = base[rows[lane] * stride + c]
L2S_INLINE void load_rows(const float *base, int64_t stride, const int32_t *rows, int columns, float *tile) {
    if (columns < VEC) {
        for (int lane = 0; lane < BLOCK; ++lane)
            for (int c = 0; c < columns; ++c) tile[c * BLOCK + lane] = base[rows[lane] * stride + c];
        return;
    }
    copy_transposed(columns, [&](int lane, int c, int i) __attribute__((always_inline)) { return base + rows[lane + i] * stride + c; },
                    [&](int lane, int c, int i) __attribute__((always_inline)) { return tile + (c + i) * BLOCK + lane; });
}

// The inverse. Lanes that repeat a row must hold the same numbers.
L2S_INLINE void store_rows(float *base, int64_t stride, const int32_t *rows, int columns, const float *tile) {
    if (columns < VEC) {
        for (int lane = 0; lane < BLOCK; ++lane)
            for (int c = 0; c < columns; ++c) base[rows[lane] * stride + c] = tile[c * BLOCK + lane];
        return;
    }
    copy_transposed(columns, [&](int lane, int c, int i) __attribute__((always_inline)) { return tile + (c + i) * BLOCK + lane; },
                    [&](int lane, int c, int i) __attribute__((always_inline)) { return base + rows[lane + i] * stride + c; });
}

// The lanes of a block: rows[lane] of the arrays, number[lane] among the seen. Lanes past the last Gaussian repeat it.
struct Lanes {
    int32_t rows[BLOCK], number[BLOCK];
    int used;
};
L2S_INLINE Lanes lanes_of(const int32_t *rows, int64_t n, int64_t block) {
    Lanes lanes;
    const int64_t begin = block * BLOCK;
    lanes.used = n - begin < BLOCK ? int(n - begin) : BLOCK;
    for (int i = 0; i < BLOCK; ++i) {
        lanes.number[i] = int32_t(begin + (i < lanes.used ? i : lanes.used - 1));
        lanes.rows[i] = rows ? rows[lanes.number[i]] : lanes.number[i];
    }
    return lanes;
}

// ROWS rows of W x (weights with `stride` between rows), at 3 vectors of the tile; done(row, offset, sum) takes them.
template <int ROWS, class F> L2S_INLINE void dense_rows(const float *weight, int stride, int in, const float *x, int row, F &done) {
    for (int j = 0; j < BLOCK; j += 3 * VEC) {
        vec_f sums[ROWS][3] = {};
        const float *w = weight + int64_t(row) * stride;
        for (int i = 0; i < in; ++i) {
            const vec_f x0 = load(x + i * BLOCK + j), x1 = load(x + i * BLOCK + j + VEC), x2 = load(x + i * BLOCK + j + 2 * VEC);
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; ++r) {
                const vec_f scale = splat(w[int64_t(r) * stride + i]);
                sums[r][0] += scale * x0, sums[r][1] += scale * x1, sums[r][2] += scale * x2;
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 3
            for (int k = 0; k < 3; ++k) done(row + r, j + k * VEC, sums[r][k]);
    }
}

template <class F> L2S_INLINE void dense(const float *weight, int stride, int in, int out, const float *x, F &&done) {
    int row = 0;
    for (; row + DENSE_ROWS <= out; row += DENSE_ROWS) dense_rows<DENSE_ROWS>(weight, stride, in, x, row, done);
    for (; row < out; ++row) dense_rows<1>(weight, stride, in, x, row, done);
}

L2S_INLINE float bias_of(const Dense &layer, int row) { return layer.bias ? layer.bias[row] : 0.0f; }
// y = W x + b
L2S_INLINE void linear(const Dense &d, const float *x, float *y) {
    dense(d.weight, d.in, d.in, d.out, x, [&](int row, int j, vec_f sum) __attribute__((always_inline)) { store<float>(y + row * BLOCK + j, sum + bias_of(d, row)); });
}
// y = relu(W x + b)
L2S_INLINE void linear_relu(const Dense &d, const float *x, float *y) {
    dense(d.weight, d.in, d.in, d.out, x, [&](int row, int j, vec_f sum) __attribute__((always_inline)) {
        store<float>(y + row * BLOCK + j, vmax(vec_f{}, sum + bias_of(d, row)));
    });
}
// y += W x + b
L2S_INLINE void add_linear(const Dense &d, const float *x, float *y) {
    dense(d.weight, d.in, d.in, d.out, x, [&](int row, int j, vec_f sum) __attribute__((always_inline)) {
        store<float>(y + row * BLOCK + j, load(y + row * BLOCK + j) + (sum + bias_of(d, row)));
    });
}

// LayerNorm over the rows of x, with torch's epsilon.
L2S_INLINE void layer_norm(const float *x, const float *weight, const float *bias, int width, float *y) {
    for (int j = 0; j < BLOCK; j += VEC) {
        vec_f sum = {}, squares = {};
        for (int c = 0; c < width; ++c) sum += load(x + c * BLOCK + j);
        const vec_f mean = sum * (1.0f / float(width));
        for (int c = 0; c < width; ++c) {
            const vec_f d = load(x + c * BLOCK + j) - mean;
            squares += d * d;
        }
        const vec_f scale = 1.0f / vsqrt(squares * (1.0f / float(width)) + 1e-5f);
        for (int c = 0; c < width; ++c) store<float>(y + c * BLOCK + j, (load(x + c * BLOCK + j) - mean) * scale * weight[c] + bias[c]);
    }
}

// min(max(x, low), high). NaN stays NaN: the x86 instructions return their second operand then.
L2S_INLINE vec_f clamp(vec_f x, float low, float high) { return vmin(splat(high), vmax(splat(low), x)); }

// exp(x); below -87 and above 88 as there.
L2S_INLINE vec_f vexp(vec_f x) { return fast_exp2(clamp(x, -87.0f, 88.0f) * 1.44269504f); }

// exp(x) - 1 for x <= 0, to a few ulp also near 0.
L2S_INLINE vec_f expm1_negative(vec_f x) {
    vec_f p = 2.4801587e-5f * x + 1.9841270e-4f;
    p = p * x + 1.3888889e-3f;
    p = p * x + 8.3333333e-3f;
    p = p * x + 4.1666667e-2f;
    p = p * x + 1.6666667e-1f;
    p = p * x + 0.5f;
    return select(x > -0.5f, p * x * x + x, vexp(x) - 1.0f);
}

// tanh(x), to a few ulp: the rational approximation of Eigen. tanh(0) = 0, and never beyond +-1.
L2S_INLINE vec_f vtanh(vec_f x) {
    x = clamp(x, -7.99881172f, 7.99881172f);
    const vec_f x2 = x * x;
    vec_f p = -2.76076847742355e-16f * x2 + 2.00018790482477e-13f;
    p = p * x2 - 8.60467152213735e-11f;
    p = p * x2 + 5.12229709037114e-08f;
    p = p * x2 + 1.48572235717979e-05f;
    p = p * x2 + 6.37261928875436e-04f;
    p = p * x2 + 4.89352455891786e-03f;
    vec_f q = 1.19825839466702e-06f * x2 + 1.18534705686654e-04f;
    q = q * x2 + 2.26843463243900e-03f;
    q = q * x2 + 4.89352518554385e-03f;
    return clamp(x * p * reciprocal(q), -1.0f, 1.0f);
}

L2S_INLINE vec_f vsigmoid(vec_f x) { return reciprocal(1.0f + vexp(-x)); }

}  // namespace L2S_ISA
}  // namespace l2s
