// One inference step of the rules `nominal` and `anchored` (src/learn2splat/optimizers/), float32: from Gaussians, gradients and the state to new ones.
//
// The torch code there is the definition: names, constants and the order of columns are its. Gaussians that are not seen are copied; those that
// are seen are numbered 0 .. n-1 and worked on in blocks of BLOCK, whose tiles stay in the caches: tile[row * BLOCK + lane], one lane per Gaussian.
#pragma once
#include <cstdint>

#include "isa.hpp"

namespace l2s {

constexpr int BLOCK = 48;  // Gaussians per block: 3 vectors of 16, 6 of 8, 12 of 4
constexpr int GROUPS = 6;  // means, quats, log_scales, logit_opacities, sh0, shN
constexpr int WIDTHS[GROUPS] = {3, 4, 3, 1, 3, 45};
constexpr int STARTS[GROUPS] = {0, 3, 7, 10, 11, 14};
constexpr int PARAMS = 59;
constexpr int CORE = 14;      // all but shN
constexpr int FEATURES = 53;  // rows of the table of all features, in the order of _features.FEATURES
constexpr int STATS = 4 * GROUPS;  // per group the means of |g|, raw^2, direction^2, raw * direction
constexpr int TERMS = 28;          // coefficients of the correction: anchored.NUM_TERMS
constexpr int NEAR = 32;           // numbers that neighbours read: 14 parameters, 14 of the direction, filled up to whole vectors

// What both rules need. Arrays of Gaussians are (N, width) each; what starts with new_ is written.
struct UpdateArgs {
    int64_t N;
    const float *params[GROUPS], *grads[GROUPS];
    float *new_params[GROUPS];
    const float *m, *v, *spacing;  // (N, 59), (N, 59), (N)
    float *new_m, *new_v;
    const int32_t *count;
    int32_t *new_count;
    float step_sizes[GROUPS], beta1, rest1, beta2, rest2, log_beta1, log_beta2;  // rest = 1 - beta, rounded from float64
    float max_direction, reference_spacing, min_spacing_ratio, max_spacing_ratio;
    float limits[4];  // smallest and largest log-scale, largest |logit|, largest |SH|

    int64_t n;            // set by the step: how many are seen,
    const int32_t *rows;  // which (n),
    int32_t *position;    // and their number (N), -1 for the unseen
};

struct Dense {
    const float *weight, *bias;  // (out, in) as torch has them; bias null: zero
    int in, out;
};

struct Attention {  // a Block of attention.py
    const float *norm1_weight, *norm1_bias, *norm2_weight, *norm2_bias;
    Dense qkv, proj, fc1, fc2;
};

// What `anchored` needs besides.
struct AnchoredArgs {
    int width, latent, layers, heads, head_dim, hidden, neighbours;  // neighbours: the Gaussian itself included
    int num_candidates, num_read, num_noise;                         // num_noise 0: no magnitude path
    const int32_t *read, *noise;  // rows of the table of features that the network and the magnitude path read
    bool speaks;  // whether the network is asked in this step; else what it said last is taken
    float max_log_growth, max_log_shrink, max_correction, trained_age, pull_age, trust_age, plenty, scarcity, wideness, decay_anisotropy, decay_shN;
    int32_t step;
    const int64_t *candidates;  // (N, num_candidates)
    const float *old_latent, *old_slow, *old_running, *old_seen_rate;
    float *new_latent, *new_slow, *new_running, *new_seen_rate;
    const int32_t *old_last_seen;
    int32_t *new_last_seen;
    const float *weights;  // all of them, in the order of AnchoredNetwork.parameters()
    int64_t num_weights;
    const float *old_said;  // (N, GROUPS + TERMS): log-gains before they are squashed, coefficients
    float *new_said;        // null where it stays, as the latent state does then, or where nobody wants to know

    Dense own, memory, head1, head2;  // found in `weights` by the step
    const float *overall, *relation, *magnitude;
    const Attention *attention;  // (layers)

    // Scratch of the step. Tiles have one block after the other; the others are (n, columns), for neighbours to read.
    float *direction, *raw;                         // tiles of 59 rows, where torch has the network; else null, and made twice
    float *stats, *inverse_root;                    // tiles of STATS, 14 rows
    float *vectors;                                 // tile of 3 x 14 rows: slow direction, neighbours' direction, neighbours' offset
    float *gains, *bias, *u, *query;                // tiles of 6, neighbours x heads, width, heads x head_dim rows
    int32_t *chosen;                                // tile of neighbours rows: numbers of the neighbours, the Gaussian itself first
    float *found;                                   // tile of 1 row: how many of them there are, itself included
    float *near, *key_value;                        // (n, NEAR), (n, key_value_stride)
    int key_value_stride;
    float *sizes, *sums;  // (GROUPS, n) mean |g|; (blocks, FEATURES)
    float medians[GROUPS + 1];  // of the logarithms of `sizes`, and of the spacing
    const float *common;        // (width): what the means of the features add to u
    float common_gains[GROUPS];
    int64_t work_size;  // floats of scratch that a kernel needs for one block

    // Where torch has the network (unroll.hpp): what it reads, (n, num_read) and (n, num_noise), and what it says, (n, GROUPS + TERMS).
    float *features, *noise_features;
    const float *outputs;
};

// One step. `anchored` null: the rule `nominal`. Results do not depend on num_threads.
void update_step(UpdateArgs &args, AnchoredArgs *anchored, int num_threads);
// Numbers that `weights` must have.
int64_t count_weights(const AnchoredArgs &a);

struct UpdateKernels {
    void (*sort_out)(const UpdateArgs &, const AnchoredArgs *, int64_t begin, int64_t end);  // position 0: seen, -1: unseen, and then copied
    void (*nominal)(const UpdateArgs &, int64_t block);
    void (*moments)(const UpdateArgs &, const AnchoredArgs &, int64_t block);
    void (*glance)(const UpdateArgs &, const AnchoredArgs &, int64_t block);  // of `moments` only `near`
};
struct AnchoredKernels {
    void (*logarithms)(float *values, int64_t n);
    void (*observe)(const UpdateArgs &, const AnchoredArgs &, int64_t block, float *work);
    void (*project)(const AnchoredArgs &, int64_t n, int layer, int64_t block, float *work);  // to queries, keys and values
    void (*attend)(const UpdateArgs &, const AnchoredArgs &, int layer, int64_t block, float *work);
    void (*finish)(const UpdateArgs &, const AnchoredArgs &, int64_t block, float *work);
    void (*hold)(const UpdateArgs &, const AnchoredArgs &, int64_t block);  // all of a step that does not ask the network, after `glance`
};
L2S_DECLARE_KERNELS(UpdateKernels, update_kernels)
L2S_DECLARE_KERNELS(AnchoredKernels, anchored_kernels)

}  // namespace l2s
