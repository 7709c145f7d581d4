// From what the network of `anchored` says to the change of the parameters: gains, and corrections made of a few vectors. The definition is in
// anchored.py: `TERMS`, `make_correction`, `squash`, `decay`.
#pragma once
#include "update_kernels.hpp"

namespace l2s {
namespace L2S_ISA {

// What a step is made of besides the outputs of the network: everything at the lanes from j of a block.
struct Step {
    const float *direction, *raw, *slow, *near_direction, *near_offset, *params;
    vec_f mean_scale, trust, fading, late;  // fading: of pulls; late: how much steps have shrunk
};

// Tiles of PARAMS rows, and `vectors` of AnchoredArgs.
struct Tiles {
    const float *direction, *raw, *vectors, *params;
};

L2S_INLINE Step step_at(const AnchoredArgs &net, const Tiles &tiles, const float *counts, int j) {
    Step s;
    s.direction = tiles.direction + j, s.raw = tiles.raw + j, s.params = tiles.params + j;
    s.slow = tiles.vectors + j, s.near_direction = s.slow + CORE * BLOCK, s.near_offset = s.near_direction + CORE * BLOCK;
    const float *scales = s.params + STARTS[2] * BLOCK;
    s.mean_scale = (load(scales) + load(scales + BLOCK) + load(scales + 2 * BLOCK)) * (1.0f / 3);
    const vec_f count = load(counts + j), old = count * (1.0f / net.trust_age);
    s.late = select(count > net.trained_age, net.trained_age / count, splat(1.0f));
    s.fading = 1.0f / (1.0f + count * (1.0f / net.pull_age));
    s.trust = 1.0f - net.plenty * (1.0f - 1.0f / (1.0f + old * old));
    return s;
}

// The vectors that the correction of column c is made of: term(which coefficient, the vector, its share).
template <class F> L2S_INLINE void for_terms(const Step &s, int group, int c, F &&term) {
    const int at = c * BLOCK;
    if (group == GROUPS - 1) {
        term(0, load(s.raw + at), s.trust);
        term(1, load(s.direction + at), s.trust);
        return;
    }
    term(2 + group, load(s.raw + at), s.trust);
    term(7 + group, load(s.direction + at), s.trust);
    term(12 + group, load(s.slow + at), s.trust);
    if (group == 1) return;  // quats read no neighbours
    const int near = group == 0 ? 0 : group - 1;
    const vec_f pull = s.trust * s.fading;
    term(17 + near, load(s.near_direction + at), s.trust);
    term(21 + near, load(s.near_offset + at), pull);
    if (group == 2) term(25, splat(1.0f), pull), term(27, load(s.params + at) - s.mean_scale, pull);
    if (group == 3) term(26, splat(1.0f), pull);
}

struct Squashed {
    vec_f tanh, value;
};
L2S_INLINE Squashed squash(const AnchoredArgs &net, vec_f x) {
    const vec_f limit = select(x > 0.0f, splat(net.max_log_growth), splat(net.max_log_shrink)), t = vtanh(x / limit);
    return {t, limit * t};
}

// The tanh of the correction of column c over its bound.
L2S_INLINE vec_f bounded_correction(const AnchoredArgs &net, const Step &s, int group, int c, const float *coefficients) {
    vec_f x = {};
    for_terms(s, group, c, [&](int term, vec_f vector, vec_f share) __attribute__((always_inline)) { x += vector * (load(coefficients + term * BLOCK) * share); });
    return vtanh(x * (1.0f / net.max_correction));
}

// delta (PARAMS rows) = (direction + correction) * size * gain + decay. `gains` (GROUPS rows): logarithms, before they are squashed.
L2S_INLINE void make_delta(const UpdateArgs &a, const AnchoredArgs &net, const Lanes &lanes, const Tiles &tiles, const float *gains,
                           const float *coefficients, float *delta) {
    alignas(64) float counts[BLOCK];
    load_counts(a, lanes, counts);
    for (int j = 0; j < BLOCK; j += VEC) {
        const Step s = step_at(net, tiles, counts, j);
        const vec_f scarce = s.late * (1.0f - net.plenty), rounding = scarce * net.decay_anisotropy, dulling = scarce * net.decay_shN;
        vec_f sizes[GROUPS];
        step_sizes(a, lanes, j, sizes);
        for (int group = 0; group < GROUPS; ++group) {
            const vec_f size = sizes[group] * (vexp(squash(net, load(gains + group * BLOCK + j)).value * s.trust) * s.late);
            for (int c = STARTS[group]; c < STARTS[group] + WIDTHS[group]; ++c) {
                vec_f decay = {};
                if (group == 2) decay = (load(s.params + c * BLOCK) - s.mean_scale) * rounding;
                if (group == GROUPS - 1) decay = load(s.params + c * BLOCK) * dulling;
                const vec_f correction = net.max_correction * bounded_correction(net, s, group, c, coefficients + j);
                store<float>(delta + c * BLOCK + j, (load(s.direction + c * BLOCK) + correction) * size + decay);
            }
        }
    }
}

}  // namespace L2S_ISA
}  // namespace l2s
