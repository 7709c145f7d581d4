// Runs the passes of a step over the blocks and reduces what all Gaussians have in common. See update.hpp.
#include "step_ends.hpp"

#include <algorithm>

#include "parallel.hpp"

namespace l2s {
namespace {

constexpr int64_t ROWS_PER_TASK = 512;
constexpr int64_t BLOCKS_PER_THREAD = 4;  // about 0.1 ms: less is not worth waking a thread

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t whole_lines(int64_t floats) { return ceil_div(floats, 16) * 16; }

// The k-th smallest of n numbers that are not negative: by the digits of their bits, which have the same order.
float select_kth(const float *values, int64_t n, int64_t k) {
    const auto bits_of = [&](int64_t i) {
        uint32_t bits;
        __builtin_memcpy(&bits, values + i, sizeof bits);
        return bits;
    };
    uint32_t prefix = 0;
    int known = 0;
    for (const int digits : {11, 11, 10}) {
        std::vector<int64_t> counts(size_t(1) << digits);
        const int shift = 32 - known - digits;
        for (int64_t i = 0; i < n; ++i) {
            const uint32_t bits = bits_of(i);
            if (known == 0 || bits >> (32 - known) == prefix) ++counts[(bits >> shift) & ((1u << digits) - 1)];
        }
        uint32_t digit = 0;
        while (k >= counts[digit]) k -= counts[digit++];
        prefix = prefix << digits | digit;
        known += digits;
    }
    float value;
    __builtin_memcpy(&value, &prefix, sizeof value);
    return value;
}

// Hands out the weights in the order of AnchoredNetwork.parameters(); without `base` it only counts.
struct Weights {
    const float *base;
    int64_t used = 0;

    const float *take(int64_t count) {
        used += count;
        return base ? base + used - count : nullptr;
    }
    Dense dense(int in, int out, bool has_bias = true) {
        const float *weight = take(int64_t(in) * out);
        return {weight, has_bias ? take(out) : nullptr, in, out};
    }
    Attention attention(int width, int inner, int hidden) {
        Attention a;
        a.norm1_weight = take(width), a.norm1_bias = take(width);
        a.qkv = dense(width, 3 * inner, false), a.proj = dense(inner, width);
        a.norm2_weight = take(width), a.norm2_bias = take(width);
        a.fc1 = dense(width, hidden), a.fc2 = dense(hidden, width);
        return a;
    }
};

int64_t find_weights(AnchoredArgs &a, const float *base, std::vector<Attention> &attention) {
    Weights w{base};
    a.own = w.dense(a.num_read + a.latent, a.width);
    a.overall = w.take(int64_t(a.width) * (a.num_read + 3));
    a.relation = w.take(3 * a.heads);
    for (int layer = 0; layer < a.layers; ++layer) attention.push_back(w.attention(a.width, a.heads * a.head_dim, a.hidden));
    a.memory = w.dense(a.width, 2 * a.latent);
    a.head1 = w.dense(a.width, a.width);
    a.head2 = w.dense(a.width, GROUPS + TERMS);
    a.magnitude = w.take(GROUPS * 2 * a.num_noise);
    return w.used;
}

template <class Kernel> void for_blocks(const AnchoredArgs &a, int64_t blocks, int num_threads, Kernel &&kernel) {
    parallel_for(blocks, num_threads, [&](int64_t block) {
        Arena scratch;
        float *work;
        scratch.want(work, a.work_size);
        kernel(block, work);
    });
}

// Medians and features, and moments where torch has the network. What `make_delta` reads afterwards is in `kept`, the rest in `scratch`. Needs a.work_size.
void observe(const UpdateArgs &args, AnchoredArgs &a, Arena &kept, Arena &scratch, int num_threads) {
    const auto &kernels = L2S_KERNELS(anchored_kernels);
    const int64_t n = args.n, blocks = ceil_div(n, BLOCK);
    const auto tile = [&](Arena &arena, auto *&place, int64_t rows) { arena.want(place, blocks * rows * BLOCK); };
    tile(kept, a.vectors, 3 * CORE);
    tile(scratch, a.stats, STATS), tile(scratch, a.inverse_root, CORE), tile(scratch, a.gains, GROUPS), tile(scratch, a.bias, int64_t(a.neighbours) * a.heads);
    tile(scratch, a.u, a.width), tile(scratch, a.chosen, a.neighbours), tile(scratch, a.found, 1);
    scratch.want(a.near, n * NEAR), scratch.want(a.sizes, GROUPS * n), scratch.want(a.sums, blocks * FEATURES);
    parallel_for(blocks, num_threads, [&](int64_t block) { L2S_KERNELS(update_kernels).moments(args, a, block); });

    parallel_for(GROUPS + 1, num_threads, [&](int64_t which) {
        std::vector<float> spacing;
        if (which == GROUPS)
            for (int64_t i = 0; i < n; ++i) spacing.push_back(args.spacing[args.rows[i]]);
        a.medians[which] = select_kth(which == GROUPS ? spacing.data() : a.sizes + which * n, n, (n - 1) / 2);  // the lower one, as torch has it
    });
    kernels.logarithms(a.medians, GROUPS + 1);
    for_blocks(a, blocks, num_threads, [&](int64_t block, float *work) { kernels.observe(args, a, block, work); });
}

// A step in which what the network said last is taken. The latent state stays.
void run_held(UpdateArgs &args, AnchoredArgs &a, int num_threads) {
    const int64_t blocks = ceil_div(args.n, BLOCK);
    Arena scratch;
    scratch.want(a.near, args.n * NEAR), scratch.want(a.chosen, blocks * a.neighbours * BLOCK);
    parallel_for(blocks, num_threads, [&](int64_t block) { L2S_KERNELS(update_kernels).glance(args, a, block); });
    parallel_for(blocks, num_threads, [&](int64_t block) { L2S_KERNELS(anchored_kernels).hold(args, a, block); });
}

void run_anchored(UpdateArgs &args, AnchoredArgs &a, int num_threads) {
    const auto &kernels = L2S_KERNELS(anchored_kernels);
    std::vector<Attention> attention;
    find_weights(a, a.weights, attention);
    a.attention = attention.data();

    const int64_t n = args.n, blocks = ceil_div(n, BLOCK), inner = int64_t(a.heads) * a.head_dim;
    a.key_value_stride = int(whole_lines(2 * inner));
    const int64_t in_observe = std::max(a.num_noise, a.num_read + a.latent), in_project = a.width + a.key_value_stride;
    const int64_t in_attend = std::max<int64_t>(inner + a.neighbours * (1 + a.key_value_stride), a.width + a.hidden);
    const int64_t in_finish = std::max(3 * a.latent, a.width + GROUPS + TERMS);
    a.work_size = BLOCK * std::max({in_observe, in_project, in_attend, in_finish});
    Arena arena;
    observe(args, a, arena, arena, num_threads);
    float *common;
    arena.want(a.query, blocks * inner * BLOCK), arena.want(a.key_value, n * a.key_value_stride), arena.want(common, a.width);

    double means[FEATURES] = {};
    for (int64_t block = 0; block < blocks; ++block)
        for (int row = 0; row < FEATURES; ++row) means[row] += a.sums[block * FEATURES + row];
    for (double &mean : means) mean /= double(n);
    for (int row = 0; row < a.width; ++row) {
        const float *weight = a.overall + row * (a.num_read + 3);
        double sum = weight[a.num_read] * (double(n) / double(args.N)) + weight[a.num_read + 1] * double(a.scarcity) +
                     weight[a.num_read + 2] * double(a.wideness);
        for (int i = 0; i < a.num_read; ++i) sum += weight[i] * means[a.read[i]];
        common[row] = float(sum);
    }
    a.common = common;
    for (int group = 0; group < GROUPS; ++group) {
        double sum = 0;
        for (int i = 0; i < a.num_noise; ++i) sum += a.magnitude[(2 * group + 1) * a.num_noise + i] * means[a.noise[i]];
        a.common_gains[group] = float(sum);
    }

    for (int layer = 0; layer < a.layers; ++layer) {
        for_blocks(a, blocks, num_threads, [&](int64_t block, float *work) { kernels.project(a, n, layer, block, work); });
        for_blocks(a, blocks, num_threads, [&](int64_t block, float *work) {
            kernels.attend(args, a, layer, block, work);
            if (layer + 1 == a.layers) kernels.finish(args, a, block, work);
        });
    }
    if (a.layers == 0) for_blocks(a, blocks, num_threads, [&](int64_t block, float *work) { kernels.finish(args, a, block, work); });
}

}  // namespace

int64_t count_weights(const AnchoredArgs &args) {
    AnchoredArgs a = args;
    std::vector<Attention> attention;
    return find_weights(a, nullptr, attention);
}

namespace {

// Who is seen: a.n, a.rows and a.position, in the 2 N numbers that are returned. The others are copied.
std::unique_ptr<int32_t[]> sort_out(UpdateArgs &args, const AnchoredArgs *anchored, int num_threads) {
    std::unique_ptr<int32_t[]> numbers(new int32_t[size_t(2 * args.N + 1)]);
    int32_t *rows = numbers.get();
    args.position = rows + args.N;
    parallel_for(ceil_div(args.N, ROWS_PER_TASK), num_threads, [&](int64_t task) {
        L2S_KERNELS(update_kernels).sort_out(args, anchored, task * ROWS_PER_TASK, std::min(args.N, (task + 1) * ROWS_PER_TASK));
    });
    args.n = 0;
    for (int64_t i = 0; i < args.N; ++i)
        if (args.position[i] >= 0) {
            rows[args.n] = int32_t(i);
            args.position[i] = int32_t(args.n++);
        }
    args.rows = rows;
    return numbers;
}

int worth_waking(const UpdateArgs &args, int num_threads) { return int(std::min<int64_t>(num_threads, ceil_div(args.N, BLOCK * BLOCKS_PER_THREAD))); }

}  // namespace

void update_step(UpdateArgs &args, AnchoredArgs *anchored, int num_threads) {
    num_threads = worth_waking(args, num_threads);
    const auto numbers = sort_out(args, anchored, num_threads);
    if (args.n == 0) return;
    if (anchored && !anchored->speaks)
        run_held(args, *anchored, num_threads);
    else if (anchored)
        run_anchored(args, *anchored, num_threads);
    else
        parallel_for(ceil_div(args.n, BLOCK), num_threads, [&](int64_t block) { L2S_KERNELS(update_kernels).nominal(args, block); });
}

StepEnds::StepEnds(const UpdateArgs &args, const AnchoredArgs &net, const Inputs &inputs, int num_threads)
    : args_(args), net_(net), num_threads_(worth_waking(args, num_threads)) {
    static const float identity[9] = {1, 0, 0, 0, 1, 0, 0, 0, 1};
    net_.heads = 3, net_.relation = identity;  // so the biases of the attention are the relations themselves
    net_.work_size = BLOCK * int64_t(std::max(net_.num_noise, net_.num_read));
    net_.features = inputs.features, net_.noise_features = inputs.noise;
    numbers_ = sort_out(args_, &net_, num_threads_);
    if (args_.n == 0) return;
    for (float **tile : {&net_.direction, &net_.raw}) kept_.want(*tile, ceil_div(args_.n, BLOCK) * PARAMS * BLOCK);
    Arena scratch;
    observe(args_, net_, kept_, scratch, num_threads_);
    const int k = net_.neighbours;
    std::copy_n(args_.rows, args_.n, inputs.rows);
    for (int64_t i = 0; i < args_.n; ++i) {
        const int64_t block = i / BLOCK, lane = i % BLOCK;
        for (int64_t near = 0; near < k; ++near) {
            inputs.neighbours[i * k + near] = net_.chosen[(block * k + near) * BLOCK + lane];
            inputs.exists[i * k + near] = net_.found[block * BLOCK + lane] > float(near);
            for (int64_t relation = 0; relation < 3; ++relation)
                inputs.relations[(i * k + near) * 3 + relation] = net_.bias[((block * k + near) * 3 + relation) * BLOCK + lane];
        }
    }
}

void StepEnds::finish(const float *outputs) const {
    AnchoredArgs net = net_;
    net.outputs = outputs;
    parallel_for(ceil_div(args_.n, BLOCK), num_threads_, [&](int64_t block) { L2S_KERNELS(unroll_kernels).finish(args_, net, block); });
}

void StepEnds::backward(const float *outputs, const float *const *v_params, float *v_outputs) const {
    AnchoredArgs net = net_;
    net.outputs = outputs;
    parallel_for(ceil_div(args_.n, BLOCK), num_threads_, [&](int64_t block) { L2S_KERNELS(unroll_kernels).backward(args_, net, v_params, block, v_outputs); });
}

void attend(const AttentionArgs &args, float *mixed, int num_threads) {
    parallel_for(ceil_div(args.n, ROWS_PER_TASK), num_threads, [&](int64_t task) {
        std::vector<float> weights(size_t(args.k));
        L2S_KERNELS(unroll_kernels).attend(args, task * ROWS_PER_TASK, std::min(args.n, (task + 1) * ROWS_PER_TASK), weights.data(), mixed);
    });
}

void attend_backward(const AttentionArgs &args, const float *v_mixed, float *v_qkv, float *v_bias) {
    std::vector<float> weights(size_t(args.k));
    L2S_KERNELS(unroll_kernels).attend_backward(args, weights.data(), v_mixed, v_qkv, v_bias);
}

}  // namespace l2s
