// See unroll.hpp.
#include "unroll.hpp"

#include "delta.hpp"

namespace l2s {
namespace L2S_ISA {
namespace {

constexpr int OUTPUTS = GROUPS + TERMS;

L2S_INLINE Tiles tiles_of(const AnchoredArgs &net, int64_t block, const float *params) {
    return {net.direction + block * PARAMS * BLOCK, net.raw + block * PARAMS * BLOCK, net.vectors + block * 3 * CORE * BLOCK, params};
}

void finish(const UpdateArgs &a, const AnchoredArgs &net, int64_t block) {
    const Lanes lanes = lanes_of(a.rows, a.n, block);
    alignas(64) float outputs[OUTPUTS * BLOCK], params[PARAMS * BLOCK], delta[PARAMS * BLOCK];
    load_rows(net.outputs, OUTPUTS, lanes.number, OUTPUTS, outputs);
    load_fields(a.params, lanes, GROUPS, params);
    make_delta(a, net, lanes, tiles_of(net, block, params), outputs, outputs + GROUPS * BLOCK, delta);
    apply_update(a, lanes, params, delta);
}

// Of `apply_update`: from the gradient of the new parameters to that of delta, in place. `delta` is read.
L2S_INLINE void apply_update_backward(const UpdateArgs &a, const float *params, const float *delta, float *v) {
    for (int j = 0; j < BLOCK; j += VEC) {
        vec_f quats[4], square = {}, along = {};
        for (int c = 0; c < 4; ++c) {
            const int at = (STARTS[1] + c) * BLOCK + j;
            quats[c] = load(params + at) - load(delta + at);
            square += quats[c] * quats[c], along += quats[c] * load(v + at);
        }
        const vec_f norm = vsqrt(square), inverse = 1.0f / vmax(splat(1e-12f), norm);
        along = select(norm < 1e-12f, vec_f{}, along * inverse * inverse);
        for (int c = 0; c < 4; ++c) {
            const int at = (STARTS[1] + c) * BLOCK + j;
            store<float>(v + at, (load(v + at) - quats[c] * along) * inverse);
        }
        for (int group = 0; group < GROUPS; ++group)
            for (int c = STARTS[group]; c < STARTS[group] + WIDTHS[group]; ++c) {
                const int at = c * BLOCK + j;
                const vec_f x = load(params + at) - load(delta + at);
                const vec_f inside = select(x < lowest(a, group), vec_f{}, select(x > highest(a, group), vec_f{}, load(v + at)));
                store<float>(v + at, -inside);
            }
    }
}

void backward(const UpdateArgs &a, const AnchoredArgs &net, const float *const *v_params, int64_t block, float *v_outputs) {
    const Lanes lanes = lanes_of(a.rows, a.n, block);
    alignas(64) float outputs[OUTPUTS * BLOCK], params[PARAMS * BLOCK], delta[PARAMS * BLOCK], v[PARAMS * BLOCK], result[OUTPUTS * BLOCK] = {}, counts[BLOCK];
    load_rows(net.outputs, OUTPUTS, lanes.number, OUTPUTS, outputs);
    load_fields(a.params, lanes, GROUPS, params);
    load_fields(v_params, lanes, GROUPS, v);
    load_counts(a, lanes, counts);
    const float *coefficients = outputs + GROUPS * BLOCK;
    make_delta(a, net, lanes, tiles_of(net, block, params), outputs, coefficients, delta);
    apply_update_backward(a, params, delta, v);
    for (int j = 0; j < BLOCK; j += VEC) {
        const Step s = step_at(net, tiles_of(net, block, params), counts, j);
        vec_f sizes[GROUPS];
        step_sizes(a, lanes, j, sizes);
        for (int group = 0; group < GROUPS; ++group) {
            const Squashed gain = squash(net, load(outputs + group * BLOCK + j));
            const vec_f size = sizes[group] * (vexp(gain.value * s.trust) * s.late);
            vec_f v_size = {};
            for (int c = STARTS[group]; c < STARTS[group] + WIDTHS[group]; ++c) {
                const vec_f t = bounded_correction(net, s, group, c, coefficients + j), v_delta = load(v + c * BLOCK + j);
                v_size += v_delta * (load(s.direction + c * BLOCK) + net.max_correction * t);
                const vec_f v_sum = v_delta * size * (1.0f - t * t);
                for_terms(s, group, c, [&](int term, vec_f vector, vec_f share) __attribute__((always_inline)) {
                    float *to = result + (GROUPS + term) * BLOCK + j;
                    store<float>(to, load(to) + v_sum * (vector * share));
                });
            }
            store<float>(result + group * BLOCK + j, v_size * size * s.trust * (1.0f - gain.tanh * gain.tanh));
        }
    }
    store_rows(v_outputs, OUTPUTS, lanes.number, OUTPUTS, result);
}

L2S_INLINE float dot(const float *x, const float *y, int count) {
    vec_f sums = {};
    int i = 0;
    for (; i + VEC <= count; i += VEC) sums += load(x + i) * load(y + i);
    float sum = horizontal_sum<float>(sums);
    for (; i < count; ++i) sum += x[i] * y[i];
    return sum;
}
// y += scale x
L2S_INLINE void add_scaled(float scale, const float *x, float *y, int count) {
    int i = 0;
    for (; i + VEC <= count; i += VEC) store<float>(y + i, load(y + i) + scale * load(x + i));
    for (; i < count; ++i) y[i] += scale * x[i];
}

// The softmax over the neighbours of row i.
L2S_INLINE void soften(const AttentionArgs &a, int64_t i, int head, float *weights) {
    const int64_t inner = int64_t(a.heads) * a.head_dim, first = int64_t(head) * a.head_dim;
    const float scale = 1.0f / __builtin_sqrtf(float(a.head_dim));
    float largest = -__builtin_inff(), total = 0;
    for (int near = 0; near < a.k; ++near) {
        const int64_t pair = i * a.k + near;
        if (!a.exists[pair]) continue;
        const float *key = a.qkv + (3 * a.neighbours[pair] + 1) * inner;
        weights[near] = scale * dot(a.qkv + 3 * i * inner + first, key + first, a.head_dim) + (a.bias ? a.bias[pair * a.heads + head] : 0.0f);
        largest = weights[near] > largest ? weights[near] : largest;
    }
    for (int near = 0; near < a.k; ++near) {
        weights[near] = a.exists[i * a.k + near] ? __builtin_expf(weights[near] - largest) : 0.0f;
        total += weights[near];
    }
    for (int near = 0; near < a.k; ++near) weights[near] /= total;
}

void attend(const AttentionArgs &a, int64_t begin, int64_t end, float *weights, float *mixed) {
    const int64_t inner = int64_t(a.heads) * a.head_dim;
    for (int64_t i = begin; i < end; ++i)
        for (int head = 0; head < a.heads; ++head) {
            const int64_t first = int64_t(head) * a.head_dim;
            float *to = mixed + i * inner + first;
            soften(a, i, head, weights);
            for (int c = 0; c < a.head_dim; ++c) to[c] = 0;
            for (int near = 0; near < a.k; ++near)
                add_scaled(weights[near], a.qkv + (3 * a.neighbours[i * a.k + near] + 2) * inner + first, to, a.head_dim);
        }
}

void attend_backward(const AttentionArgs &a, float *weights, const float *v_mixed, float *v_qkv, float *v_bias) {
    const int64_t inner = int64_t(a.heads) * a.head_dim;
    const float scale = 1.0f / __builtin_sqrtf(float(a.head_dim));
    for (int64_t i = 0; i < a.n; ++i)
        for (int head = 0; head < a.heads; ++head) {
            const int64_t first = int64_t(head) * a.head_dim, own = 3 * i * inner + first;
            const float *v = v_mixed + i * inner + first;
            soften(a, i, head, weights);
            const auto key_of = [&](int near) { return (3 * a.neighbours[i * a.k + near] + 1) * inner + first; };  // its value: `inner` further
            float mean = 0;
            for (int near = 0; near < a.k; ++near) mean += weights[near] * dot(v, a.qkv + key_of(near) + inner, a.head_dim);
            for (int near = 0; near < a.k; ++near) {
                const int64_t key = key_of(near);
                const float v_logit = weights[near] * (dot(v, a.qkv + key + inner, a.head_dim) - mean);
                add_scaled(weights[near], v, v_qkv + key + inner, a.head_dim);
                add_scaled(scale * v_logit, a.qkv + own, v_qkv + key, a.head_dim);
                add_scaled(scale * v_logit, a.qkv + key, v_qkv + own, a.head_dim);
                if (v_bias) v_bias[(i * a.k + near) * a.heads + head] = v_logit;
            }
        }
}

}  // namespace

extern const UnrollKernels unroll_kernels = {finish, backward, attend, attend_backward};

}  // namespace L2S_ISA
}  // namespace l2s
