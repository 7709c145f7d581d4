// What meta-training needs of a step of `anchored`: torch has the network and its gradients, the two ends of the step and the attention are native.
//
// Features, parameters and gradients are constants in meta-training (schemes.py), so of the ends only what the network says has a gradient.
#pragma once
#include "update.hpp"

namespace l2s {

// Attention of each row to k rows: qkv (n, 3 heads head_dim), neighbours and exists (n, k), column 0 exists, bias (n, k, heads) or null.
struct AttentionArgs {
    int64_t n;
    int k, heads, head_dim;
    const float *qkv, *bias;
    const int64_t *neighbours;
    const bool *exists;
};
// mixed (n, heads head_dim)
void attend(const AttentionArgs &args, float *mixed, int num_threads);
// v_qkv is added to, v_bias written unless null. One thread: rows meet in the same neighbours.
void attend_backward(const AttentionArgs &args, const float *v_mixed, float *v_qkv, float *v_bias);

struct UnrollKernels {
    void (*finish)(const UpdateArgs &, const AnchoredArgs &, int64_t block);  // from `outputs` to new Gaussians
    void (*backward)(const UpdateArgs &, const AnchoredArgs &, const float *const *v_params, int64_t block, float *v_outputs);
    // `weights`: k numbers of scratch.
    void (*attend)(const AttentionArgs &, int64_t begin, int64_t end, float *weights, float *mixed);
    void (*attend_backward)(const AttentionArgs &, float *weights, const float *v_mixed, float *v_qkv, float *v_bias);
};
L2S_DECLARE_KERNELS(UnrollKernels, unroll_kernels)

}  // namespace l2s
