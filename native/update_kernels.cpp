// Who is seen, Adam's moments, and writing the new Gaussians: what `nominal` and `anchored` have in common. See update.hpp.
#include "update_kernels.hpp"

namespace l2s {
namespace L2S_ISA {
namespace {

constexpr float MAX_GRADIENT = 1e15f, ADAM_EPS = 1e-15f, MAX_RATIO = 5.0f;  // as in _moments.py and _features.py

// Sum of the magnitudes of `count` numbers.
L2S_INLINE float sum_magnitudes(const float *p, int count) {
    float sum = 0;
    int c = 0;
    if (count >= VEC) {
        vec_f total = {};
        for (; c + VEC <= count; c += VEC) {
            const vec_f v = load(p + c);
            total += v < 0.0f ? -v : v;
        }
        sum = horizontal_sum<float>(total);
    }
    for (; c < count; ++c) sum += __builtin_fabsf(p[c]);
    return sum;
}

// What a bias-corrected moment is multiplied with: 1 / (1 - beta1^count), 1 / sqrt(1 - beta2^count).
struct Corrections {
    vec_f first, second;
};
L2S_INLINE Corrections corrections(const UpdateArgs &a, vec_f count) {
    const vec_f c1 = -expm1_negative(clamp(count * a.log_beta1, -87.0f, 0.0f)), c2 = -expm1_negative(clamp(count * a.log_beta2, -87.0f, 0.0f));
    return {1.0f / c1, 1.0f / vsqrt(c2)};
}

struct Stepped {
    vec_f m, v, inverse_root, direction;
};
L2S_INLINE Stepped step_moments(const UpdateArgs &a, const Corrections &c, vec_f g, vec_f m, vec_f v) {
    Stepped s;
    s.m = m + a.rest1 * (g - m), s.v = v * (1.0f - a.rest2) + a.rest2 * (g * g);
    s.inverse_root = reciprocal(vsqrt(s.v) * c.second + ADAM_EPS);
    s.direction = clamp(s.m * s.inverse_root * c.first, -a.max_direction, a.max_direction);
    return s;
}

template <class T> L2S_INLINE void copy_row(T *to, const T *from, int64_t row, int64_t width) {
    __builtin_memcpy(to + row * width, from + row * width, size_t(width) * sizeof(T));
}

void sort_out(const UpdateArgs &a, const AnchoredArgs *anchored, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
        float size = 0;
        for (int group = GROUPS - 1; group >= 0; --group) size += sum_magnitudes(a.grads[group] + i * WIDTHS[group], WIDTHS[group]);
        if (size > 0 && size < MAX_GRADIENT) {  // not if NaN
            a.position[i] = 0;
            continue;
        }
        a.position[i] = -1;
        for (int group = 0; group < GROUPS; ++group) copy_row(a.new_params[group], a.params[group], i, WIDTHS[group]);
        copy_row(a.new_m, a.m, i, PARAMS);
        copy_row(a.new_v, a.v, i, PARAMS);
        a.new_count[i] = a.count[i];
        if (!anchored) continue;
        if (anchored->speaks) copy_row(anchored->new_latent, anchored->old_latent, i, anchored->latent);
        if (anchored->new_said) copy_row(anchored->new_said, anchored->old_said, i, GROUPS + TERMS);
        copy_row(anchored->new_slow, anchored->old_slow, i, CORE);
        copy_row(anchored->new_running, anchored->old_running, i, GROUPS);
        anchored->new_seen_rate[i] = anchored->old_seen_rate[i];
        anchored->new_last_seen[i] = anchored->old_last_seen[i];
    }
}

void nominal(const UpdateArgs &a, int64_t block) {
    const Lanes lanes = lanes_of(a.rows, a.n, block);
    alignas(64) float direction[PARAMS * BLOCK], params[PARAMS * BLOCK], stats[STATS * BLOCK], inverse_root[CORE * BLOCK];
    update_moments(a, lanes, {direction, params, stats, inverse_root}, true);
    load_fields(a.params, lanes, GROUPS, params);
    for (int j = 0; j < BLOCK; j += VEC) {
        vec_f sizes[GROUPS];
        step_sizes(a, lanes, j, sizes);
        for (int group = 0; group < GROUPS; ++group)
            for (int c = STARTS[group]; c < STARTS[group] + WIDTHS[group]; ++c)
                store<float>(direction + c * BLOCK + j, load(direction + c * BLOCK + j) * sizes[group]);
    }
    apply_update(a, lanes, params, direction);
}

// The rows of `near`.
L2S_INLINE void show(const UpdateArgs &a, const AnchoredArgs &anchored, const Lanes &lanes, const float *direction) {
    alignas(64) float near[NEAR * BLOCK];
    load_fields(a.params, lanes, GROUPS - 1, near);
    for (int i = 0; i < CORE * BLOCK; ++i) near[NEAR / 2 * BLOCK + i] = direction[i];
    for (int i = CORE * BLOCK; i < NEAR / 2 * BLOCK; ++i) near[i] = near[NEAR / 2 * BLOCK + i] = 0;
    store_rows(anchored.near, NEAR, lanes.number, NEAR, near);
}

void moments(const UpdateArgs &a, const AnchoredArgs &anchored, int64_t block) {
    const Lanes lanes = lanes_of(a.rows, a.n, block);
    alignas(64) float direction[PARAMS * BLOCK], raw[PARAMS * BLOCK];
    const bool kept = anchored.direction;  // else `finish` makes them again: less to move to memory and back
    const Moments out = {kept ? anchored.direction + block * PARAMS * BLOCK : direction, kept ? anchored.raw + block * PARAMS * BLOCK : raw,
                         anchored.stats + block * STATS * BLOCK, anchored.inverse_root + block * CORE * BLOCK};
    update_moments(a, lanes, out, kept);
    for (int group = 0; group < GROUPS; ++group)
        for (int lane = 0; lane < lanes.used; ++lane) anchored.sizes[group * a.n + lanes.number[lane]] = out.stats[group * BLOCK + lane];
    show(a, anchored, lanes, out.direction);
}

void glance(const UpdateArgs &a, const AnchoredArgs &anchored, int64_t block) {
    const Lanes lanes = lanes_of(a.rows, a.n, block);
    alignas(64) float grads[CORE * BLOCK], m[NEAR / 2 * BLOCK], v[NEAR / 2 * BLOCK];  // NEAR / 2: CORE, filled up to whole vectors
    load_fields(a.grads, lanes, GROUPS - 1, grads);
    load_rows(a.m, PARAMS, lanes.rows, NEAR / 2, m);
    load_rows(a.v, PARAMS, lanes.rows, NEAR / 2, v);
    for (int j = 0; j < BLOCK; j += VEC) {
        vec_f count;
        for (int i = 0; i < VEC; ++i) count[i] = float(a.count[lanes.rows[j + i]] + 1);
        const Corrections c = corrections(a, count);
        for (int at = j; at < CORE * BLOCK; at += BLOCK) store<float>(m + at, step_moments(a, c, load(grads + at), load(m + at), load(v + at)).direction);
    }
    show(a, anchored, lanes, m);
}

}  // namespace

void update_moments(const UpdateArgs &a, const Lanes &lanes, const Moments &out, bool write) {
    alignas(64) float grads[PARAMS * BLOCK], m[PARAMS * BLOCK], v[PARAMS * BLOCK], counts[BLOCK];
    load_fields(a.grads, lanes, GROUPS, grads);
    load_rows(a.m, PARAMS, lanes.rows, PARAMS, m);
    load_rows(a.v, PARAMS, lanes.rows, PARAMS, v);
    for (int lane = 0; lane < BLOCK; ++lane) {
        const int32_t count = a.count[lanes.rows[lane]] + 1;
        a.new_count[lanes.rows[lane]] = count;
        counts[lane] = float(count);
    }
    for (int j = 0; j < BLOCK; j += VEC) {
        const Corrections correction = corrections(a, load(counts + j));
        for (int group = 0; group < GROUPS; ++group) {
            vec_f size = {}, raw_square = {}, square = {}, product = {};
            for (int c = STARTS[group]; c < STARTS[group] + WIDTHS[group]; ++c) {
                const int at = c * BLOCK + j;
                const vec_f g = load(grads + at);
                const Stepped s = step_moments(a, correction, g, load(m + at), load(v + at));
                const vec_f raw = clamp(g * s.inverse_root, -MAX_RATIO, MAX_RATIO), direction = s.direction;
                store<float>(m + at, s.m);
                store<float>(v + at, s.v);
                store<float>(out.raw + at, raw);
                store<float>(out.direction + at, direction);
                if (c < CORE) store<float>(out.inverse_root + at, s.inverse_root);
                size += g < 0.0f ? -g : g;
                raw_square += raw * raw, square += direction * direction, product += raw * direction;
            }
            const float share = 1.0f / float(WIDTHS[group]);
            float *stats = out.stats + group * BLOCK + j;
            store<float>(stats, size * share);
            store<float>(stats + GROUPS * BLOCK, raw_square * share);
            store<float>(stats + 2 * GROUPS * BLOCK, square * share);
            store<float>(stats + 3 * GROUPS * BLOCK, product * share);
        }
    }
    if (!write) return;
    store_rows(a.new_m, PARAMS, lanes.rows, PARAMS, m);
    store_rows(a.new_v, PARAMS, lanes.rows, PARAMS, v);
}

void apply_update(const UpdateArgs &a, const Lanes &lanes, float *params, float *delta) {
    for (int j = 0; j < BLOCK; j += VEC) {
        for (int group = 0; group < GROUPS; ++group)
            for (int c = STARTS[group]; c < STARTS[group] + WIDTHS[group]; ++c) {
                const int at = c * BLOCK + j;
                store<float>(params + at, clamp(load(params + at) - load(delta + at), lowest(a, group), highest(a, group)));
            }
        float *quats = params + STARTS[1] * BLOCK + j;
        vec_f square = {};
        for (int c = 0; c < 4; ++c) square += load(quats + c * BLOCK) * load(quats + c * BLOCK);
        const vec_f norm = vmax(splat(1e-12f), vsqrt(square));
        for (int c = 0; c < 4; ++c) store<float>(quats + c * BLOCK, load(quats + c * BLOCK) / norm);
    }
    for (int group = 0; group < GROUPS; ++group) store_rows(a.new_params[group], WIDTHS[group], lanes.rows, WIDTHS[group], params + STARTS[group] * BLOCK);
}

extern const UpdateKernels update_kernels = {sort_out, nominal, moments, glance};

}  // namespace L2S_ISA
}  // namespace l2s
