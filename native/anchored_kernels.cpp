// The network of `anchored` on one block of Gaussians: features, attention among neighbours, gains and corrections. See update.hpp; the definition
// is in anchored.py, _features.py and attention.py.
#include "delta.hpp"

namespace l2s {
namespace L2S_ISA {
namespace {

constexpr float SLOW_REST = 0.01f, LOG_SLOW_BETA = -1.0050335853501441e-2f;  // log(0.99)
constexpr float RUNNING_REST = 0.05f, SEEN_REST = 0.05f, LOG_SEEN_BETA = -5.1293294387550578e-2f;  // log(0.95)
constexpr float MAX_RATIO = 5.0f, TINY = 1e-37f, MAX_LOG = 8.0f, FIRST_AGE = 16.0f, LOG_UNIT = 4.0f;

// Where features begin in the table.
enum Row { TO_RUNNING = 0, TO_MEDIAN = 6, RAW = 12, MOMENTUM = 18, SLOW = 24, AGREEMENT = 29, SHAPE = 35, SPACING = 38, OPACITY = 39, COLOUR = 40,
           SEEN = 42, AGE = 43, LOG_AGE = 44, NEAR_AGREEMENT = 45, NEAR_DIFFERENCE = 49 };
constexpr int NEAR_GROUPS[4] = {0, 2, 3, 4};  // means, log_scales, logit_opacities, sh0: those that read neighbours

L2S_INLINE vec_f log_rms(vec_f mean_square) { return 0.5f * vlog(mean_square + 1e-6f); }
L2S_INLINE vec_f bounded_log(vec_f x) { return clamp(x, -MAX_LOG, MAX_LOG) * (1.0f / LOG_UNIT); }
L2S_INLINE vec_f at_least_tiny(vec_f x) { return vmax(splat(TINY), x); }
L2S_INLINE vec_f cosine(vec_f product, vec_f square1, vec_f square2) { return product / vsqrt(square1 * square2 + 1e-12f); }
L2S_INLINE vec_f lerp(vec_f a, vec_f b, vec_f weight) { return select(weight < 0.5f, a + weight * (b - a), b - (b - a) * (1.0f - weight)); }

L2S_INLINE void load_number(const float *base, const int32_t *rows, float *lanes) {
    for (int lane = 0; lane < BLOCK; ++lane) lanes[lane] = base[rows[lane]];
}

void logarithms(float *values, int64_t n) {
    int64_t i = 0;
    for (; i + VEC <= n; i += VEC) store<float>(values + i, vlog(at_least_tiny(load(values + i))));
    for (; i < n; ++i) values[i] = vlog(at_least_tiny(splat(values[i])))[0];
}

// The first seen ones of each list of candidates, itself first.
void choose_neighbours(const UpdateArgs &a, const AnchoredArgs &net, const Lanes &lanes, int32_t *chosen, float *found) {
    for (int lane = 0; lane < BLOCK; ++lane) {
        const int64_t row = lanes.rows[lane];
        const int64_t *list = net.candidates + row * net.num_candidates;
        int count = 1;
        for (int i = 0; i < net.neighbours; ++i) chosen[i * BLOCK + lane] = lanes.number[lane];
        for (int i = 1; i < net.num_candidates && count < net.neighbours; ++i) {
            const int64_t other = list[i];
            if (other != row && uint64_t(other) < uint64_t(a.N) && a.position[other] >= 0) chosen[count++ * BLOCK + lane] = a.position[other];
        }
        found[lane] = float(count);
    }
}

// What the attention may know about the pair of a Gaussian and its neighbour, as a bias of each head.
L2S_INLINE void relate(const AnchoredArgs &net, const float *own, const float *other, const float *length, float *bias) {
    for (int j = 0; j < BLOCK; j += VEC) {
        vec_f distance = {}, colour = {};
        for (int c = 0; c < 3; ++c) {
            const vec_f d = (load(other + c * BLOCK + j) - load(own + c * BLOCK + j)) / load(length + j);
            distance += d * d;
        }
        for (int c = STARTS[4]; c < CORE; ++c) {
            const vec_f d = load(other + c * BLOCK + j) - load(own + c * BLOCK + j);
            colour += d * d;
        }
        const int opacity = STARTS[3] * BLOCK + j;
        const vec_f relations[3] = {0.5f * clamp(vlog(distance + 0.01f), -MAX_LOG, MAX_LOG), bounded_log(load(other + opacity) - load(own + opacity)),
                                    vmin(splat(MAX_LOG), colour) * (1.0f / LOG_UNIT)};
        for (int head = 0; head < net.heads; ++head) {
            const float *w = net.relation + 3 * head;
            store<float>(bias + head * BLOCK + j, w[0] * relations[0] + w[1] * relations[1] + w[2] * relations[2]);
        }
    }
}

// What a Gaussian remembers of its gradients, brought up to date.
struct Memory {
    float slow_direction[CORE * BLOCK];
    float sizes[GROUPS * BLOCK], before[GROUPS * BLOCK];  // log of this gradient's size, and the running mean of it before this step
    float rates[BLOCK];                                   // in which share of the steps it was seen
};

// slow, running, seen_rate and last_seen.
L2S_INLINE void remember(const UpdateArgs &a, const AnchoredArgs &net, const Lanes &lanes, const float *stats, const float *inverse_root, const float *counts,
                         Memory &memory) {
    alignas(64) float grads[CORE * BLOCK], slow[CORE * BLOCK], running[GROUPS * BLOCK], gaps[BLOCK], last[BLOCK];
    load_fields(a.grads, lanes, GROUPS - 1, grads);
    load_rows(net.old_slow, CORE, lanes.rows, CORE, slow);
    load_rows(net.old_running, GROUPS, lanes.rows, GROUPS, running);
    load_number(net.old_seen_rate, lanes.rows, memory.rates);
    for (int lane = 0; lane < BLOCK; ++lane) {
        last[lane] = float(net.old_last_seen[lanes.rows[lane]]);
        gaps[lane] = float(net.step - net.old_last_seen[lanes.rows[lane]]);
        net.new_last_seen[lanes.rows[lane]] = net.step;
    }
    for (int j = 0; j < BLOCK; j += VEC) {
        const vec_f count = load(counts + j), running_weight = vmax(splat(RUNNING_REST), 1.0f / count);
        for (int group = 0; group < GROUPS; ++group) {
            const int at = group * BLOCK + j;
            const vec_f size = vlog(at_least_tiny(load(stats + at))), before = select(count == 1.0f, size, load(running + at));
            store<float>(memory.sizes + at, size);
            store<float>(memory.before + at, before);
            store<float>(running + at, lerp(before, size, running_weight));
        }
        const vec_f inverse_c = -1.0f / expm1_negative(vmax(splat(-87.0f), count * LOG_SLOW_BETA));
        for (int at = j; at < CORE * BLOCK; at += BLOCK) {
            const vec_f moment = load(slow + at) + SLOW_REST * (load(grads + at) - load(slow + at));
            store<float>(slow + at, moment);
            store<float>(memory.slow_direction + at, clamp(moment * inverse_c * load(inverse_root + at), -MAX_RATIO, MAX_RATIO));
        }
        const vec_f rate = select(load(last + j) < 0.0f, splat(1.0f), load(memory.rates + j) * vexp(load(gaps + j) * LOG_SEEN_BETA) + SEEN_REST);
        store<float>(memory.rates + j, rate);
    }
    store_rows(net.new_slow, CORE, lanes.rows, CORE, slow);
    store_rows(net.new_running, GROUPS, lanes.rows, GROUPS, running);
    for (int lane = 0; lane < BLOCK; ++lane) net.new_seen_rate[lanes.rows[lane]] = memory.rates[lane];
}

// What is remembered, and the features that need no neighbour.
L2S_INLINE void observe_own(const UpdateArgs &a, const AnchoredArgs &net, const Lanes &lanes, int64_t block, const float *near, const float *length,
                            const float *sh_square, float *table) {
    const float *stats = net.stats + block * STATS * BLOCK, *inverse_root = net.inverse_root + block * CORE * BLOCK;
    float *slow_direction = net.vectors + block * 3 * CORE * BLOCK;
    alignas(64) float counts[BLOCK];
    alignas(64) Memory memory;
    load_counts(a, lanes, counts);
    remember(a, net, lanes, stats, inverse_root, counts, memory);
    for (int i = 0; i < CORE * BLOCK; ++i) slow_direction[i] = memory.slow_direction[i];
    for (int j = 0; j < BLOCK; j += VEC) {
        const auto put = [&](int row, vec_f v) __attribute__((always_inline)) { store<float>(table + row * BLOCK + j, v); };
        const vec_f count = load(counts + j), log_length = vlog(load(length + j));
        for (int group = 0; group < GROUPS; ++group) {
            const vec_f size = load(memory.sizes + group * BLOCK + j), before = load(memory.before + group * BLOCK + j);
            const vec_f raw_square = load(stats + (GROUPS + group) * BLOCK + j), square = load(stats + (2 * GROUPS + group) * BLOCK + j);
            put(TO_RUNNING + group, bounded_log(size - before));
            put(TO_MEDIAN + group, bounded_log(size - net.medians[group]));
            put(RAW + group, bounded_log(log_rms(raw_square)));
            put(MOMENTUM + group, bounded_log(log_rms(square)));
            put(AGREEMENT + group, cosine(load(stats + (3 * GROUPS + group) * BLOCK + j), raw_square, square));
        }
        for (int group = 0; group < GROUPS - 1; ++group) {
            vec_f square = {};
            for (int c = STARTS[group]; c < STARTS[group] + WIDTHS[group]; ++c) {
                const vec_f direction = load(memory.slow_direction + c * BLOCK + j);
                square += direction * direction;
            }
            put(SLOW + group, bounded_log(log_rms(square * (1.0f / float(WIDTHS[group])))));
        }
        const float *scales = near + STARTS[2] * BLOCK + j, *colours = near + STARTS[4] * BLOCK + j;
        const vec_f s0 = load(scales) - log_length, s1 = load(scales + BLOCK) - log_length, s2 = load(scales + 2 * BLOCK) - log_length;
        put(SHAPE, bounded_log(vmin(vmin(s0, s1), s2)));
        put(SHAPE + 1, bounded_log((s0 + s1 + s2) * (1.0f / 3)));
        put(SHAPE + 2, bounded_log(vmax(vmax(s0, s1), s2)));
        put(SPACING, bounded_log(log_length - net.medians[GROUPS]));
        put(OPACITY, bounded_log(load(near + STARTS[3] * BLOCK + j)));
        put(COLOUR, bounded_log((load(colours) + load(colours + BLOCK) + load(colours + 2 * BLOCK)) * (1.0f / 3)));
        put(COLOUR + 1, bounded_log(log_rms(load(sh_square + j))));
        put(SEEN, load(memory.rates + j));
        put(AGE, 1.0f / vsqrt(count));
        put(LOG_AGE, vlog(count * (1.0f / FIRST_AGE) + 1.0f) * (1.0f / LOG_UNIT));
    }
}

// mean += weight * other, where there is an i-th neighbour: after all of them the mean (NEAR rows) over the neighbours without the Gaussian itself.
L2S_INLINE void add_neighbour(int i, const float *found, const float *other, float *mean) {
    for (int j = 0; j < BLOCK; j += VEC) {
        const vec_f weight = select(load(found + j) > float(i), 1.0f / vmax(splat(1.0f), load(found + j) - 1.0f), vec_f{});
        for (int c = 0; c < NEAR; ++c) store<float>(mean + c * BLOCK + j, load(mean + c * BLOCK + j) + weight * load(other + c * BLOCK + j));
    }
}

// From that mean to the neighbours' direction and offset (CORE rows each).
L2S_INLINE void compare(const float *found, const float *own, const float *mean, const float *length, float *direction, float *offset) {
    for (int j = 0; j < BLOCK; j += VEC) {
        const vec_f has = select(load(found + j) > 1.0f, splat(1.0f), vec_f{}), inverse_length = 1.0f / load(length + j);
        for (int c = 0; c < CORE; ++c) {
            const vec_f difference = (load(mean + c * BLOCK + j) - load(own + c * BLOCK + j)) * has;
            store<float>(offset + c * BLOCK + j, clamp(c < 3 ? difference * inverse_length : difference, -MAX_RATIO, MAX_RATIO));
            store<float>(direction + c * BLOCK + j, load(mean + (NEAR / 2 + c) * BLOCK + j));
        }
    }
}

// The neighbours' mean direction and offset, and the features of both; biases of the attention.
L2S_INLINE void observe_neighbours(const AnchoredArgs &net, int64_t block, const float *own, const float *length, float *table) {
    const int32_t *chosen = net.chosen + block * net.neighbours * BLOCK;
    const float *found = net.found + block * BLOCK, *stats = net.stats + block * STATS * BLOCK;
    float *bias = net.bias + block * net.neighbours * net.heads * BLOCK;
    float *mean_direction = net.vectors + (block * 3 + 1) * CORE * BLOCK, *offset = mean_direction + CORE * BLOCK;
    alignas(64) float other[NEAR * BLOCK], mean[NEAR * BLOCK] = {};
    relate(net, own, own, length, bias);
    for (int i = 1; i < net.neighbours; ++i) {
        load_rows(net.near, NEAR, chosen + i * BLOCK, NEAR, other);
        relate(net, own, other, length, bias + i * net.heads * BLOCK);
        add_neighbour(i, found, other, mean);
    }
    compare(found, own, mean, length, mean_direction, offset);
    for (int j = 0; j < BLOCK; j += VEC) {
        for (int i = 0; i < 4; ++i) {
            const int group = NEAR_GROUPS[i];
            vec_f cross = {}, square = {}, offset_square = {};
            for (int c = STARTS[group]; c < STARTS[group] + WIDTHS[group]; ++c) {
                const vec_f d = load(mean_direction + c * BLOCK + j), o = load(offset + c * BLOCK + j);
                cross += load(own + (NEAR / 2 + c) * BLOCK + j) * d, square += d * d, offset_square += o * o;
            }
            const float share = 1.0f / float(WIDTHS[group]);
            const vec_f own_square = load(stats + (2 * GROUPS + group) * BLOCK + j);
            store<float>(table + (NEAR_AGREEMENT + i) * BLOCK + j, cosine(cross * share, own_square, square * share));
            store<float>(table + (NEAR_DIFFERENCE + i) * BLOCK + j, bounded_log(log_rms(offset_square * share)));
        }
    }
}

void observe(const UpdateArgs &a, const AnchoredArgs &net, int64_t block, float *work) {
    const Lanes lanes = lanes_of(a.rows, a.n, block);
    alignas(64) float table[FEATURES * BLOCK], own[NEAR * BLOCK], length[BLOCK], sh_square[BLOCK], sh[WIDTHS[5] * BLOCK];
    load_rows(net.near, NEAR, lanes.number, NEAR, own);
    load_rows(a.params[5], WIDTHS[5], lanes.rows, WIDTHS[5], sh);
    load_number(a.spacing, lanes.rows, length);
    for (int j = 0; j < BLOCK; j += VEC) {
        store<float>(length + j, at_least_tiny(load(length + j)));
        vec_f sum = {};
        for (int c = 0; c < WIDTHS[5]; ++c) sum += load(sh + c * BLOCK + j) * load(sh + c * BLOCK + j);
        store<float>(sh_square + j, sum * (1.0f / float(WIDTHS[5])));
    }
    observe_own(a, net, lanes, block, own, length, sh_square, table);
    choose_neighbours(a, net, lanes, net.chosen + block * net.neighbours * BLOCK, net.found + block * BLOCK);
    observe_neighbours(net, block, own, length, table);

    float *sums = net.sums + block * FEATURES;
    alignas(64) float used[BLOCK];
    for (int lane = 0; lane < BLOCK; ++lane) used[lane] = lane < lanes.used ? 1.0f : 0.0f;
    for (int row = 0; row < FEATURES; ++row) {
        vec_f sum = {};
        for (int j = 0; j < BLOCK; j += VEC) sum += load(table + row * BLOCK + j) * load(used + j);
        sums[row] = horizontal_sum<float>(sum);
    }
    const auto gather = [&](const int32_t *rows, int count) {
        for (int i = 0; i < count; ++i)
            for (int j = 0; j < BLOCK; j += VEC) store<float>(work + i * BLOCK + j, load(table + rows[i] * BLOCK + j));
    };
    if (net.features) {  // torch has the network
        gather(net.read, net.num_read);
        store_rows(net.features, net.num_read, lanes.number, net.num_read, work);
        gather(net.noise, net.num_noise);
        store_rows(net.noise_features, net.num_noise, lanes.number, net.num_noise, work);
        return;
    }
    if (net.num_noise) {
        gather(net.noise, net.num_noise);
        float *gains = net.gains + block * GROUPS * BLOCK;
        dense(net.magnitude, 2 * net.num_noise, net.num_noise, GROUPS, work,
              [&](int row, int j, vec_f sum) __attribute__((always_inline)) { store<float>(gains + row * BLOCK + j, sum); });
    }
    gather(net.read, net.num_read);
    load_rows(net.old_latent, net.latent, lanes.rows, net.latent, work + net.num_read * BLOCK);
    linear(net.own, work, net.u + block * net.width * BLOCK);
}

// u += what all Gaussians have in common: before it is read for the first time.
L2S_INLINE void add_common(const AnchoredArgs &net, float *u) {
    for (int c = 0; c < net.width; ++c)
        for (int j = 0; j < BLOCK; j += VEC) store<float>(u + c * BLOCK + j, load(u + c * BLOCK + j) + net.common[c]);
}

void project(const AnchoredArgs &net, int64_t n, int layer, int64_t block, float *work) {
    const Attention &attention = net.attention[layer];
    const Lanes lanes = lanes_of(nullptr, n, block);
    const int inner = net.heads * net.head_dim;
    float *u = net.u + block * net.width * BLOCK, *query = net.query + block * inner * BLOCK, *key_value = work + net.width * BLOCK;
    if (layer == 0) add_common(net, u);
    layer_norm(u, attention.norm1_weight, attention.norm1_bias, net.width, work);
    const Dense &qkv = attention.qkv;
    dense(qkv.weight, qkv.in, qkv.in, qkv.out, work, [&](int row, int j, vec_f sum) __attribute__((always_inline)) {
        store<float>((row < inner ? query + row * BLOCK : key_value + (row - inner) * BLOCK) + j, sum);
    });
    for (int i = 2 * inner * BLOCK; i < net.key_value_stride * BLOCK; ++i) key_value[i] = 0;
    store_rows(net.key_value, net.key_value_stride, lanes.number, net.key_value_stride, key_value);
}

void attend(const UpdateArgs &, const AnchoredArgs &net, int layer, int64_t block, float *work) {
    const Attention &attention = net.attention[layer];
    const int inner = net.heads * net.head_dim, stride = net.key_value_stride * BLOCK;
    const int32_t *chosen = net.chosen + block * net.neighbours * BLOCK;
    const float *found = net.found + block * BLOCK, *bias = net.bias + block * net.neighbours * net.heads * BLOCK;
    const float *query = net.query + block * inner * BLOCK, scale = 1.0f / __builtin_sqrtf(float(net.head_dim));
    float *u = net.u + block * net.width * BLOCK;
    float *mixed = work, *weights = mixed + inner * BLOCK, *key_value = weights + net.neighbours * BLOCK;
    for (int i = 0; i < net.neighbours; ++i) load_rows(net.key_value, net.key_value_stride, chosen + i * BLOCK, net.key_value_stride, key_value + i * stride);
    for (int head = 0; head < net.heads; ++head)
        for (int j = 0; j < BLOCK; j += VEC) {
            const int first = head * net.head_dim;
            vec_f largest = splat(-__builtin_inff()), total = {};
            for (int i = 0; i < net.neighbours; ++i) {
                vec_f logit = {};
                for (int c = first; c < first + net.head_dim; ++c) logit += load(key_value + i * stride + c * BLOCK + j) * load(query + c * BLOCK + j);
                logit = logit * scale + load(bias + (i * net.heads + head) * BLOCK + j);
                store<float>(weights + i * BLOCK + j, logit);
                largest = select(load(found + j) > float(i), vmax(largest, logit), largest);
            }
            for (int i = 0; i < net.neighbours; ++i) {
                const vec_f weight = select(load(found + j) > float(i), vexp(load(weights + i * BLOCK + j) - largest), vec_f{});
                store<float>(weights + i * BLOCK + j, weight);
                total += weight;
            }
            const vec_f inverse = 1.0f / total;
            for (int c = first; c < first + net.head_dim; ++c) {
                vec_f sum = {};
                for (int i = 0; i < net.neighbours; ++i) sum += load(weights + i * BLOCK + j) * load(key_value + i * stride + (inner + c) * BLOCK + j);
                store<float>(mixed + c * BLOCK + j, sum * inverse);
            }
        }
    add_linear(attention.proj, mixed, u);
    float *normed = work, *hidden = work + net.width * BLOCK;
    layer_norm(u, attention.norm2_weight, attention.norm2_bias, net.width, normed);
    linear_relu(attention.fc1, normed, hidden);
    add_linear(attention.fc2, hidden, u);
}

void finish(const UpdateArgs &a, const AnchoredArgs &net, int64_t block, float *work) {
    const Lanes lanes = lanes_of(a.rows, a.n, block);
    float *u = net.u + block * net.width * BLOCK, *latent = work, *memory = latent + net.latent * BLOCK;
    if (net.layers == 0) add_common(net, u);
    load_rows(net.old_latent, net.latent, lanes.rows, net.latent, latent);
    linear(net.memory, u, memory);
    for (int i = 0; i < net.latent * BLOCK; i += VEC) {
        const vec_f gate = vsigmoid(load(memory + i)), candidate = vtanh(load(memory + net.latent * BLOCK + i));
        store<float>(latent + i, lerp(load(latent + i), candidate, gate));
    }
    store_rows(net.new_latent, net.latent, lanes.rows, net.latent, latent);

    float *hidden = work, *outputs = work + net.width * BLOCK;
    linear_relu(net.head1, u, hidden);
    linear(net.head2, hidden, outputs);
    if (net.num_noise) {
        const float *magnitude = net.gains + block * GROUPS * BLOCK;
        for (int group = 0; group < GROUPS; ++group)
            for (int at = group * BLOCK; at < (group + 1) * BLOCK; at += VEC)
                store<float>(outputs + at, load(outputs + at) + (load(magnitude + at) + net.common_gains[group]));
    }
    if (net.new_said) store_rows(net.new_said, GROUPS + TERMS, lanes.rows, GROUPS + TERMS, outputs);
    alignas(64) float direction[PARAMS * BLOCK], raw[PARAMS * BLOCK], stats[STATS * BLOCK], inverse_root[CORE * BLOCK];
    alignas(64) float params[PARAMS * BLOCK], delta[PARAMS * BLOCK];
    update_moments(a, lanes, {direction, raw, stats, inverse_root}, true);
    load_fields(a.params, lanes, GROUPS, params);
    make_delta(a, net, lanes, {direction, raw, net.vectors + block * 3 * CORE * BLOCK, params}, outputs, outputs + GROUPS * BLOCK, delta);
    apply_update(a, lanes, params, delta);
}

void hold(const UpdateArgs &a, const AnchoredArgs &net, int64_t block) {
    const Lanes lanes = lanes_of(a.rows, a.n, block);
    alignas(64) float direction[PARAMS * BLOCK], raw[PARAMS * BLOCK], stats[STATS * BLOCK], inverse_root[CORE * BLOCK], vectors[3 * CORE * BLOCK];
    alignas(64) float params[PARAMS * BLOCK], delta[PARAMS * BLOCK], said[(GROUPS + TERMS) * BLOCK], counts[BLOCK], length[BLOCK], found[BLOCK];
    alignas(64) float own[NEAR * BLOCK], other[NEAR * BLOCK], mean[NEAR * BLOCK] = {};
    alignas(64) Memory memory;
    update_moments(a, lanes, {direction, raw, stats, inverse_root}, true);
    load_counts(a, lanes, counts);
    remember(a, net, lanes, stats, inverse_root, counts, memory);
    for (int i = 0; i < CORE * BLOCK; ++i) vectors[i] = memory.slow_direction[i];

    load_number(a.spacing, lanes.rows, length);
    for (int j = 0; j < BLOCK; j += VEC) store<float>(length + j, at_least_tiny(load(length + j)));
    load_rows(net.near, NEAR, lanes.number, NEAR, own);
    int32_t *chosen = net.chosen + block * net.neighbours * BLOCK;
    choose_neighbours(a, net, lanes, chosen, found);
    for (int i = 1; i < net.neighbours; ++i) {
        load_rows(net.near, NEAR, chosen + i * BLOCK, NEAR, other);
        add_neighbour(i, found, other, mean);
    }
    compare(found, own, mean, length, vectors + CORE * BLOCK, vectors + 2 * CORE * BLOCK);

    load_rows(net.old_said, GROUPS + TERMS, lanes.rows, GROUPS + TERMS, said);
    load_fields(a.params, lanes, GROUPS, params);
    make_delta(a, net, lanes, {direction, raw, vectors, params}, said, said + GROUPS * BLOCK, delta);
    apply_update(a, lanes, params, delta);
}

}  // namespace

extern const AnchoredKernels anchored_kernels = {logarithms, observe, project, attend, finish, hold};

}  // namespace L2S_ISA
}  // namespace l2s
