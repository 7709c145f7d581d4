// What the kernels of stereo share: reading pictures at fractional places, and the best of a few scores. See sweep.hpp.
#pragma once
#include "simd.hpp"
#include "sweep.hpp"

namespace l2s {
namespace L2S_ISA {

constexpr float NO_SCORE = -1;  // of what cannot be compared
constexpr float VARIANCE_FLOOR = float(SWEEP_VARIANCE_FLOOR);

L2S_INLINE vec_f gather(const float *p, mask_f at) {
#if defined(L2S_AVX512)
    return (vec_f)_mm512_i32gather_ps((__m512i)at, p, 4);
#elif defined(__AVX2__)
    return (vec_f)_mm256_i32gather_ps(p, (__m256i)at, 4);
#else
    vec_f v;
    for (int i = 0; i < LANES<float>; ++i) v[i] = p[at[i]];
    return v;
#endif
}

L2S_INLINE vec_f lane_numbers() {
    vec_f v;
    for (int i = 0; i < LANES<float>; ++i) v[i] = float(i);
    return v;
}

// Bilinear values at (u, v), px of the picture. `inside` loses the lanes that are not between the centres of its pixels; their values mean nothing.
L2S_INLINE vec_f sample(const Picture &picture, vec_f u, vec_f v, mask_f &inside) {
    const float right = float(picture.width - 1), bottom = float(picture.height - 1);
    const int32_t last_column = int32_t(picture.width - 2), last_row = int32_t(picture.height - 2), stride = int32_t(picture.width);
    const vec_f zero = {};
    u -= 0.5f, v -= 0.5f;
    inside &= (u >= zero) & (v >= zero) & (u <= right) & (v <= bottom);
    u = select(inside, u, zero), v = select(inside, v, zero);
    mask_f column = __builtin_convertvector(u, mask_f), row = __builtin_convertvector(v, mask_f);
    column = column > last_column ? last_column - mask_f{} : column;
    row = row > last_row ? last_row - mask_f{} : row;
    const vec_f a = u - __builtin_convertvector(column, vec_f), b = v - __builtin_convertvector(row, vec_f);
    const mask_f at = row * stride + column;
    const float *p = picture.pixels;
    const vec_f p00 = gather(p, at), p01 = gather(p + 1, at), p10 = gather(p + stride, at), p11 = gather(p + stride + 1, at);
    const vec_f top = p00 + a * (p01 - p00), low = p10 + a * (p11 - p10);
    return top + b * (low - top);
}

// The highest scores so far, in each lane.
struct Best {
    vec_f highest[SWEEP_MAX_NEIGHBOURS];
    const int count;

    L2S_INLINE explicit Best(int count) : count(count) {
        for (int i = 0; i < count; ++i) highest[i] = splat<float>(NO_SCORE);
    }
    L2S_INLINE void offer(vec_f score) {
        for (int i = 0; i < count; ++i) {
            const vec_f larger = vmax(highest[i], score);
            score = vmin(highest[i], score), highest[i] = larger;
        }
    }
    L2S_INLINE vec_f mean() const {
        vec_f sum = highest[0];
        for (int i = 1; i < count; ++i) sum += highest[i];
        return sum * (1.0f / float(count));
    }
};

// How far from the middle one of three equally spaced scores, in spacings, their parabola is highest; 0 where there is none.
inline __attribute__((always_inline)) float peak_offset(float before, float middle, float after) {
    const float curvature = before - 2 * middle + after;
    return before > NO_SCORE && after > NO_SCORE && curvature < 0 ? 0.5f * (before - after) / curvature : 0.0f;
}

}  // namespace L2S_ISA
}  // namespace l2s
