// What the two kernel files of a step share: compiled once, so that both rules round alike.
#pragma once
#include "tile.hpp"

namespace l2s {
namespace L2S_ISA {

// Tiles that the moments leave behind.
struct Moments {
    float *direction, *raw;  // PARAMS rows each: the nominal direction; gradient / root, bounded
    float *stats;            // STATS rows
    float *inverse_root;     // CORE rows: 1 / (sqrt of the bias-corrected second moment + eps)
};

// The first `groups` fields of the Gaussians, or of their gradients.
L2S_INLINE void load_fields(const float *const *fields, const Lanes &lanes, int groups, float *tile) {
    for (int group = 0; group < groups; ++group) load_rows(fields[group], WIDTHS[group], lanes.rows, WIDTHS[group], tile + STARTS[group] * BLOCK);
}
// In how many steps each was seen, this one included.
L2S_INLINE void load_counts(const UpdateArgs &a, const Lanes &lanes, float *counts) {
    for (int lane = 0; lane < BLOCK; ++lane) counts[lane] = float(a.new_count[lanes.rows[lane]]);
}
// Adam's moments, written if `write`, and what follows from them. Without writing nothing of the state changes but the counts: a pass may look first.
void update_moments(const UpdateArgs &a, const Lanes &lanes, const Moments &out, bool write);
// Bounds of the parameters of a group.
L2S_INLINE float highest(const UpdateArgs &a, int group) { return group < 2 ? __builtin_inff() : a.limits[group < 4 ? group - 1 : 3]; }
L2S_INLINE float lowest(const UpdateArgs &a, int group) { return group == 2 ? a.limits[0] : -highest(a, group); }
// Writes params - delta, quaternions normalised, clamped. `params` and `delta` (PARAMS rows): both are overwritten.
void apply_update(const UpdateArgs &a, const Lanes &lanes, float *params, float *delta);
// How far a direction of 1 moves each group, at the lanes from j.
L2S_INLINE void step_sizes(const UpdateArgs &a, const Lanes &lanes, int j, vec_f *sizes) {
    vec_f spacing;
    for (int i = 0; i < VEC; ++i) spacing[i] = a.spacing[lanes.rows[j + i]];
    for (int group = 0; group < GROUPS; ++group) sizes[group] = splat(a.step_sizes[group]);
    sizes[0] *= clamp(spacing / a.reference_spacing, a.min_spacing_ratio, a.max_spacing_ratio);
}

}  // namespace L2S_ISA
}  // namespace l2s
