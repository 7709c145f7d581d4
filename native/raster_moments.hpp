// Sums over the pixels of a part, per Gaussian: what the backward pass keeps of dL/dsigma and of the weights.
#pragma once
#include "raster_blend.hpp"

namespace l2s {
namespace L2S_ISA {

#if defined(__AVX2__)
// Four Gaussians at a time: where a register held four neighbouring pixels of one of them, it holds one pixel of all four after a transposition.
constexpr int QUADS = LANES<float> / 4;

#if defined(L2S_AVX512)
L2S_INLINE vec_f unpack_low(vec_f a, vec_f b) { return (vec_f)_mm512_unpacklo_ps((__m512)a, (__m512)b); }
L2S_INLINE vec_f unpack_high(vec_f a, vec_f b) { return (vec_f)_mm512_unpackhi_ps((__m512)a, (__m512)b); }
L2S_INLINE vec_f low_pairs(vec_f a, vec_f b) { return (vec_f)_mm512_shuffle_ps((__m512)a, (__m512)b, 0x44); }
L2S_INLINE vec_f high_pairs(vec_f a, vec_f b) { return (vec_f)_mm512_shuffle_ps((__m512)a, (__m512)b, 0xee); }
L2S_INLINE vec_f repeat_four(const float *p) { return (vec_f)_mm512_broadcast_f32x4(_mm_loadu_ps(p)); }
#else
L2S_INLINE vec_f unpack_low(vec_f a, vec_f b) { return (vec_f)_mm256_unpacklo_ps((__m256)a, (__m256)b); }
L2S_INLINE vec_f unpack_high(vec_f a, vec_f b) { return (vec_f)_mm256_unpackhi_ps((__m256)a, (__m256)b); }
L2S_INLINE vec_f low_pairs(vec_f a, vec_f b) { return (vec_f)_mm256_shuffle_ps((__m256)a, (__m256)b, 0x44); }
L2S_INLINE vec_f high_pairs(vec_f a, vec_f b) { return (vec_f)_mm256_shuffle_ps((__m256)a, (__m256)b, 0xee); }
L2S_INLINE vec_f repeat_four(const float *p) { return (vec_f)_mm256_broadcast_ps((const __m128 *)p); }
#endif

// out[i][4 q + e] = v[e][4 q + i]
L2S_INLINE void transpose_quads(const vec_f *v, vec_f *out) {
    const vec_f a = unpack_low(v[0], v[1]), b = unpack_high(v[0], v[1]), c = unpack_low(v[2], v[3]), d = unpack_high(v[2], v[3]);
    out[0] = low_pairs(a, c), out[1] = high_pairs(a, c), out[2] = low_pairs(b, d), out[3] = high_pairs(b, d);
}

// The sum over i of that.
L2S_INLINE vec_f sum_quads(const vec_f *v) {
    const vec_f a = unpack_low(v[0], v[1]) + unpack_high(v[0], v[1]), b = unpack_low(v[2], v[3]) + unpack_high(v[2], v[3]);
    return low_pairs(a, b) + high_pairs(a, b);
}

// rows[e][i] += sum over the quads q of v[i][4 q + e], for i, e < 4.
L2S_INLINE void add_four_by_four(const vec_f *v, float *const *rows) {
    __m128 sums[4];
#if defined(L2S_AVX512)
    const __m512 a = (__m512)v[0], b = (__m512)v[1], c = (__m512)v[2], d = (__m512)v[3];
    const __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    const __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
    const __m512 abcd = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));  // [4 i + e]
    const __m512 of_e = _mm512_permutexvar_ps(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), abcd);
    sums[0] = _mm512_castps512_ps128(of_e), sums[1] = _mm512_extractf32x4_ps(of_e, 1);
    sums[2] = _mm512_extractf32x4_ps(of_e, 2), sums[3] = _mm512_extractf32x4_ps(of_e, 3);
#else
    for (int i = 0; i < 4; ++i) sums[i] = _mm_add_ps(_mm256_castps256_ps128((__m256)v[i]), _mm256_extractf128_ps((__m256)v[i], 1));
    _MM_TRANSPOSE4_PS(sums[0], sums[1], sums[2], sums[3]);
#endif
    for (int e = 0; e < 4; ++e) _mm_storeu_ps(rows[e], _mm_add_ps(_mm_loadu_ps(rows[e]), sums[e]));
}

// As add_moments_of_each, for as many as are whole fours; returns how many.
template <int CH, bool ABS>
L2S_INLINE int64_t add_moments_of_four(const Part<float> &part, const vec_f (*grad)[Part<float>::NV], const float *pixels, const float *centres_x, const float *centres_y,
                                       const uint32_t *list, int64_t length, float *grads) {
    using P = Part<float>;
    constexpr int NV = P::NV, STRIDE = (ABS ? 4 : 2) * P::PIXELS;
    static_assert(P::NX == 1, "all vectors have the same x");
    vec_f x, y[NV];  // of the first pixel of each quad
    for (int l = 0; l < LANES<float>; ++l) {
        x[l] = part.px[0][l / 4 * 4];
        for (int j = 0; j < NV; ++j) y[j][l] = part.py[j][l];
    }
    int64_t k = 0;
    for (; k + 4 <= length; k += 4) {
        const float *images = pixels + k * STRIDE;
        auto image = [&](int e, int i) __attribute__((always_inline)) { return load(images + e * STRIDE + i * LANES<float>); };
        const vec_f dx = x - repeat_four(centres_x + k), centre_y = repeat_four(centres_y + k);
        vec_f sums[GRAD_ROW] = {};
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) {
            const vec_f v[4] = {image(0, j), image(1, j), image(2, j), image(3, j)};
            vec_f p[4];
            transpose_quads(v, p);
            // of the four pixels of a quad, at dx + 0, 1, 2, 3
            const vec_f m0 = (p[0] + p[1]) + (p[2] + p[3]), first = p[1] + 2.0f * p[2] + 3.0f * p[3], second = p[1] + 4.0f * p[2] + 9.0f * p[3];
            const vec_f mx = dx * m0 + first, mxx = dx * (mx + first) + second;
            const vec_f dy = y[j] - centre_y, my = m0 * dy;
            sums[0] += m0, sums[1] += mx, sums[2] += my, sums[3] += mxx, sums[4] += mx * dy, sums[5] += my * dy;
        }
#pragma GCC unroll 4
        for (int ch = 0; ch < CH; ++ch) {
            vec_f v[4];
#pragma GCC unroll 4
            for (int e = 0; e < 4; ++e) {
                v[e] = image(e, NV) * grad[ch][0];
#pragma GCC unroll 2
                for (int j = 1; j < NV; ++j) v[e] += image(e, NV + j) * grad[ch][j];
            }
            sums[MOMENTS + ch] = sum_quads(v);
        }
        if (ABS)
#pragma GCC unroll 2
            for (int i = 0; i < 2; ++i) {
                vec_f v[4];
                for (int e = 0; e < 4; ++e) {
                    v[e] = image(e, (2 + i) * NV);
                    for (int j = 1; j < NV; ++j) v[e] += image(e, (2 + i) * NV + j);
                }
                sums[MOMENTS + CH + i] = sum_quads(v);
            }
#pragma GCC unroll 3
        for (int i = 0; i < MOMENTS + CH + (ABS ? 2 : 0); i += 4) {
            float *rows[4];
            for (int e = 0; e < 4; ++e) rows[e] = grads + int64_t(list[k + e]) * GRAD_ROW + i;
            add_four_by_four(sums + i, rows);
        }
    }
    return k;
}
#endif

// grads[list[k]] += moments of dL/dsigma, sums of weight * grad per channel, and with ABS sums of the last two images, for k < length.
// pixels: per entry the images (dL/dsigma, weight, ...) of the part; centres: of the Gaussians.
template <class T, int CH, bool ABS>
L2S_INLINE void add_moments_of_each(const Part<T> &part, const Vec<T> (*grad)[Part<T>::NV], const T *pixels, const T *centres_x, const T *centres_y, const uint32_t *list,
                                    int64_t begin, int64_t length, T *grads) {
    using P = Part<T>;
    using V = Vec<T>;
    constexpr int NV = P::NV, STRIDE = (ABS ? 4 : 2) * P::PIXELS;
    for (int64_t k = begin; k < length; ++k) {
        const T *images = pixels + k * STRIDE;
        V sums[GRAD_ROW] = {};
        for (int j = 0; j < NV; ++j) {
            const V v = load<T>(images + j * LANES<T>), weight = load<T>(images + (NV + j) * LANES<T>);
            const V dx = part.px[j % P::NX] - centres_x[k], dy = part.py[j / P::NX] - centres_y[k];
            const V v_dx = v * dx, v_dy = v * dy;
            sums[0] += v, sums[1] += v_dx, sums[2] += v_dy, sums[3] += v_dx * dx, sums[4] += v_dx * dy, sums[5] += v_dy * dy;
            for (int ch = 0; ch < CH; ++ch) sums[MOMENTS + ch] += weight * grad[ch][j];
            for (int i = 0; ABS && i < 2; ++i) sums[MOMENTS + CH + i] += load<T>(images + ((2 + i) * NV + j) * LANES<T>);
        }
        T *out = grads + int64_t(list[k]) * GRAD_ROW;
        for (int i = 0; i < MOMENTS + CH + (ABS ? 2 : 0); ++i) out[i] += horizontal_sum<T>(sums[i]);
    }
}

template <class T, int CH, bool ABS>
L2S_INLINE void add_moments(const Part<T> &part, const Vec<T> (*grad)[Part<T>::NV], const T *pixels, const T *centres_x, const T *centres_y, const uint32_t *list,
                            int64_t length, T *grads) {
    int64_t begin = 0;
#if defined(__AVX2__)
    if constexpr (sizeof(T) == 4) begin = add_moments_of_four<CH, ABS>(part, grad, pixels, centres_x, centres_y, list, length, grads);
#endif
    add_moments_of_each<T, CH, ABS>(part, grad, pixels, centres_x, centres_y, list, begin, length, grads);
}

}  // namespace L2S_ISA
}  // namespace l2s
