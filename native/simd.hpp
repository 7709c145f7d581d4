// Vectors of the widest registers of the instruction set that this file is compiled for, on GCC/Clang vector extensions.
//
// Everything lives in the namespace of the instruction set (L2S_ISA) and is forced inline: the same templates are compiled several times with
// different flags, and the linker must never merge an AVX-512 copy into the code that runs on older CPUs. For the same reason kernel files
// use no std:: containers or algorithms.
#pragma once
#include <cmath>
#include <cstdint>
#if defined(__AVX512F__)
#define L2S_AVX512
#endif
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define L2S_INLINE inline __attribute__((always_inline))

namespace l2s {
namespace L2S_ISA {

#if defined(L2S_VECTOR_BYTES)  // given on the command line: the layout of wide registers can be tested on a CPU without them
#elif defined(L2S_AVX512)
#define L2S_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define L2S_VECTOR_BYTES 32
#else
#define L2S_VECTOR_BYTES 16
#endif

typedef float vec_f __attribute__((vector_size(L2S_VECTOR_BYTES)));
typedef double vec_d __attribute__((vector_size(L2S_VECTOR_BYTES)));
typedef int32_t mask_f __attribute__((vector_size(L2S_VECTOR_BYTES)));
typedef int64_t mask_d __attribute__((vector_size(L2S_VECTOR_BYTES)));

template <class T> struct VecOf;
template <> struct VecOf<float> { using vec = vec_f; using mask = mask_f; };
template <> struct VecOf<double> { using vec = vec_d; using mask = mask_d; };
template <class T> using Vec = typename VecOf<T>::vec;
template <class T> using Mask = typename VecOf<T>::mask;
template <class T> constexpr int LANES = L2S_VECTOR_BYTES / int(sizeof(T));

template <class T> L2S_INLINE Vec<T> splat(T x) { return x - Vec<T>{}; }
template <class T> L2S_INLINE Vec<T> load(const T *p) {
    Vec<T> v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
template <class T> L2S_INLINE void store(T *p, Vec<T> v) { __builtin_memcpy(p, &v, sizeof v); }
template <class V, class M> L2S_INLINE V select(M m, V a, V b) { return m ? a : b; }

// NaN in a gives b, as the x86 instructions do (compilers emit a compare and a blend for the ternary form).
L2S_INLINE vec_f vmin(vec_f a, vec_f b) {
#if defined(L2S_AVX512)
    return (vec_f)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vec_f)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return a < b ? a : b;
#endif
}
L2S_INLINE vec_f vmax(vec_f a, vec_f b) {
#if defined(L2S_AVX512)
    return (vec_f)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vec_f)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return a > b ? a : b;
#endif
}
L2S_INLINE vec_d vmin(vec_d a, vec_d b) { return a < b ? a : b; }
L2S_INLINE vec_d vmax(vec_d a, vec_d b) { return a > b ? a : b; }

// True if any lane of the comparison result is set.
L2S_INLINE bool any(mask_f m) {
#if defined(L2S_AVX512)
    return _mm512_test_epi32_mask((__m512i)m, (__m512i)m) != 0;
#elif defined(__AVX2__)
    return _mm256_movemask_ps((__m256)m) != 0;
#else
    const mask_d wide = (mask_d)m;
    int64_t bits = 0;
    for (int i = 0; i < LANES<double>; ++i) bits |= wide[i];
    return bits != 0;
#endif
}
L2S_INLINE bool any(mask_d m) {
    int64_t bits = 0;
    for (int i = 0; i < LANES<double>; ++i) bits |= m[i];
    return bits != 0;
}

// Comparison results of the blending loop. AVX-512 has mask registers for them, which GCC leaves again for every step if one writes vectors.
#if defined(L2S_AVX512)
typedef __mmask16 bits_f;
L2S_INLINE bits_f at_least(vec_f a, vec_f b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GE_OQ); }
L2S_INLINE bits_f above(vec_f a, vec_f b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ); }
L2S_INLINE vec_f keep(bits_f m, vec_f v) { return (vec_f)_mm512_maskz_mov_ps(m, (__m512)v); }
L2S_INLINE vec_f choose(bits_f m, vec_f a, vec_f b) { return (vec_f)_mm512_mask_blend_ps(m, (__m512)b, (__m512)a); }
L2S_INLINE bool any(bits_f m) { return m != 0; }
L2S_INLINE int count(bits_f m) { return __builtin_popcount(m); }
#else
typedef mask_f bits_f;
L2S_INLINE bits_f at_least(vec_f a, vec_f b) { return a >= b; }
L2S_INLINE bits_f above(vec_f a, vec_f b) { return a > b; }
L2S_INLINE vec_f keep(bits_f m, vec_f v) { return (vec_f)(m & (mask_f)v); }
L2S_INLINE vec_f choose(bits_f m, vec_f a, vec_f b) { return m ? a : b; }
L2S_INLINE int count(bits_f m) {
    int n = 0;
    for (int i = 0; i < LANES<float>; ++i) n -= m[i];
    return n;
}
#endif
typedef mask_d bits_d;
L2S_INLINE bits_d at_least(vec_d a, vec_d b) { return a >= b; }
L2S_INLINE bits_d above(vec_d a, vec_d b) { return a > b; }
L2S_INLINE vec_d keep(bits_d m, vec_d v) { return (vec_d)(m & (mask_d)v); }
L2S_INLINE vec_d choose(bits_d m, vec_d a, vec_d b) { return m ? a : b; }
L2S_INLINE int count(bits_d m) {
    int n = 0;
    for (int i = 0; i < LANES<double>; ++i) n -= int(m[i]);
    return n;
}
template <class T> using Bits = decltype(at_least(Vec<T>{}, Vec<T>{}));
template <class B> L2S_INLINE B and_not(B a, B b) { return B(a & ~b); }

// True if any lane of the N masks is set.
template <class T, int N> L2S_INLINE bool any_of(const Bits<T> *masks) {
    Bits<T> all = masks[0];
    for (int j = 1; j < N; ++j) all = Bits<T>(all | masks[j]);
    return any(all);
}

#if defined(L2S_AVX512)
template <> L2S_INLINE bool any_of<float, 2>(const bits_f *masks) { return !_kortestz_mask16_u8(masks[0], masks[1]); }
#endif

L2S_INLINE vec_f vsqrt(vec_f x) {
#if defined(L2S_AVX512)
    return (vec_f)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
    return (vec_f)_mm256_sqrt_ps((__m256)x);
#else
    for (int i = 0; i < LANES<float>; ++i) x[i] = __builtin_sqrtf(x[i]);
    return x;
#endif
}
L2S_INLINE vec_d vsqrt(vec_d x) {
    for (int i = 0; i < LANES<double>; ++i) x[i] = __builtin_sqrt(x[i]);
    return x;
}

// 1 / x. In float an estimate and one Newton step (relative error below 3e-7): a true division would bound the backward pass.
L2S_INLINE vec_f reciprocal(vec_f x) {
#if defined(L2S_AVX512)
    const vec_f r = (vec_f)_mm512_rcp14_ps((__m512)x);
    return r * (2.0f - x * r);
#elif defined(__AVX2__)
    const vec_f r = (vec_f)_mm256_rcp_ps((__m256)x);
    return r * (2.0f - x * r);
#else
    return 1.0f / x;
#endif
}
L2S_INLINE vec_d reciprocal(vec_d x) { return 1.0 / x; }

// 2^x for -126 < x < 127 (elsewhere: some number). Degree-5 minimax polynomial on [-0.5, 0.5]: relative error 9e-8 plus rounding.
// Estrin's scheme: two operations more than Horner's would wait for each other less.
L2S_INLINE vec_f fast_exp2(vec_f x) {
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, which then sits in the low bits
    const vec_f shifted = x + magic, f = x - (shifted - magic), f2 = f * f;
    const vec_f low = 6.9314697760e-1f * f + 1.0f, mid = 5.5507337437e-2f * f + 2.4022242084e-1f, high = 1.3264727262e-3f * f + 9.6715127104e-3f;
    const vec_f y = (high * f2 + mid) * f2 + low;
    return (vec_f)((mask_f)y + ((mask_f)shifted << 23));
}
// The same to 2.6e-6, degree 4: what an alpha needs.
L2S_INLINE vec_f rough_exp2(vec_f x) {
#if defined(L2S_AVX512)
    const vec_f f = (vec_f)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);  // x - floor(x)
    vec_f y = 1.3534167912e-2f * f + 5.2011460619e-2f;
    y = y * f + 2.4144275689e-1f;
    y = y * f + 6.9300383447e-1f;
    y = y * f + 1.0000025934f;
    return (vec_f)_mm512_scalef_ps((__m512)y, (__m512)x);
#else
    const float magic = 12582912.0f;
    const vec_f shifted = x + magic, f = x - (shifted - magic);
    vec_f y = 9.5701019081e-3f * f + 5.5917860319e-2f;
    y = y * f + 2.4024744828e-1f;
    y = y * f + 6.9312181474e-1f;
    y = y * f + 9.9999926145e-1f;
    return (vec_f)((mask_f)y + ((mask_f)shifted << 23));
#endif
}
L2S_INLINE vec_d fast_exp2(vec_d x) {  // float64 is for tests: the library's accuracy, one lane at a time
    for (int i = 0; i < LANES<double>; ++i) x[i] = std::exp2(x[i]);
    return x;
}
L2S_INLINE vec_d rough_exp2(vec_d x) { return fast_exp2(x); }

// log(x) of normal positive numbers, to 1 ulp (Cephes).
L2S_INLINE vec_f vlog(vec_f x) {
    const mask_f bits = (mask_f)x;
    mask_f exponent = ((bits - 0x3f3504f3) >> 23);  // of x / sqrt(1/2): the mantissa is then in [sqrt(1/2), sqrt(2))
    const vec_f f = (vec_f)(bits - (exponent << 23)) - 1.0f, f2 = f * f;
    const vec_f e = __builtin_convertvector(exponent, vec_f);
    vec_f p = 7.0376836292e-2f * f - 1.1514610310e-1f;
    p = p * f + 1.1676998740e-1f;
    p = p * f - 1.2420140846e-1f;
    p = p * f + 1.4249322787e-1f;
    p = p * f - 1.6668057665e-1f;
    p = p * f + 2.0000714765e-1f;
    p = p * f - 2.4999993993e-1f;
    p = p * f + 3.3333331174e-1f;
    const vec_f tail = p * f * f2 + (-2.12194440e-4f * e - 0.5f * f2);
    return f + tail + 0.693359375f * e;
}

L2S_INLINE vec_d vlog(vec_d x) {
    for (int i = 0; i < LANES<double>; ++i) x[i] = std::log(x[i]);
    return x;
}

template <class V> L2S_INLINE V vceil(V x) {
    for (int i = 0; i < int(sizeof x / sizeof x[0]); ++i) x[i] = std::ceil(x[i]);
    return x;
}
#if defined(L2S_AVX512)
template <> L2S_INLINE vec_f vceil(vec_f x) { return (vec_f)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC); }
#elif defined(__AVX2__)
template <> L2S_INLINE vec_f vceil(vec_f x) { return (vec_f)_mm256_ceil_ps((__m256)x); }
#endif
template <class V> L2S_INLINE V vfloor(V x) { return -vceil(-x); }
L2S_INLINE mask_f to_int(vec_f x) { return __builtin_convertvector(x, mask_f); }  // towards zero
L2S_INLINE mask_d to_int(vec_d x) { return __builtin_convertvector(x, mask_d); }
// sqrt(max(x, 0))
template <class V> L2S_INLINE V root(V x) { return vsqrt(vmax(x, V{})); }

// (a0, b0, a1, b1, ...) of the first and of the second halves.
L2S_INLINE void interleave(vec_f a, vec_f b, vec_f &low, vec_f &high) {
#if defined(L2S_AVX512)
    const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    low = (vec_f)_mm512_permutex2var_ps((__m512)a, first, (__m512)b);
    high = (vec_f)_mm512_permutex2var_ps((__m512)a, _mm512_add_epi32(first, _mm512_set1_epi32(8)), (__m512)b);
#elif defined(__AVX2__)
    const __m256 x = _mm256_unpacklo_ps((__m256)a, (__m256)b), y = _mm256_unpackhi_ps((__m256)a, (__m256)b);
    low = (vec_f)_mm256_permute2f128_ps(x, y, 0x20);
    high = (vec_f)_mm256_permute2f128_ps(x, y, 0x31);
#else
    for (int i = 0; i < LANES<float> / 2; ++i) {
        low[2 * i] = a[i], low[2 * i + 1] = b[i];
        high[2 * i] = a[LANES<float> / 2 + i], high[2 * i + 1] = b[LANES<float> / 2 + i];
    }
#endif
}

// As many rows as a vector has lanes, transposed: log2(LANES<float>) perfect shuffles.
L2S_INLINE void transpose(vec_f *rows) {
#pragma GCC unroll 4
    for (int step = 1; step < LANES<float>; step *= 2) {
        vec_f next[LANES<float>];
#pragma GCC unroll 8
        for (int i = 0; i < LANES<float> / 2; ++i) interleave(rows[i], rows[i + LANES<float> / 2], next[2 * i], next[2 * i + 1]);
#pragma GCC unroll 16
        for (int i = 0; i < LANES<float>; ++i) rows[i] = next[i];
    }
}

template <class T> L2S_INLINE T horizontal_sum(Vec<T> v) {
    T lanes[LANES<T>];
    store<T>(lanes, v);
    for (int width = LANES<T> / 2; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
    return lanes[0];
}

// out[i] += sum of the lanes of v[i], for i < 8. A transposed tree: 8 sums for the price of about 3.
template <class T> L2S_INLINE void add_sums_of_8(const Vec<T> *v, T *out) {
    for (int i = 0; i < 8; ++i) out[i] += horizontal_sum<T>(v[i]);
}
#if defined(__AVX2__)
template <> L2S_INLINE void add_sums_of_8<float>(const vec_f *v, float *out) {
    __m256 x[8];
    for (int i = 0; i < 8; ++i) {
#if defined(L2S_AVX512)
        x[i] = _mm256_add_ps(_mm512_castps512_ps256((__m512)v[i]), _mm512_extractf32x8_ps((__m512)v[i], 1));
#else
        x[i] = (__m256)v[i];
#endif
    }
    const __m256 a = _mm256_hadd_ps(x[0], x[1]), b = _mm256_hadd_ps(x[2], x[3]);
    const __m256 c = _mm256_hadd_ps(x[4], x[5]), d = _mm256_hadd_ps(x[6], x[7]);
    const __m256 e = _mm256_hadd_ps(a, b), f = _mm256_hadd_ps(c, d);
    const __m256 sums = _mm256_add_ps(_mm256_permute2f128_ps(e, f, 0x20), _mm256_permute2f128_ps(e, f, 0x31));
    _mm256_storeu_ps(out, _mm256_add_ps(_mm256_loadu_ps(out), sums));
}
#endif

}  // namespace L2S_ISA
}  // namespace l2s
