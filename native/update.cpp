// Runs the passes of a step over the blocks and reduces what all Gaussians have in common. See update.hpp.
#include "update.hpp"

#include <algorithm>
#include <memory>
#include <vector>

#include "parallel.hpp"

namespace l2s {
namespace {

constexpr int64_t ROWS_PER_TASK = 512;
constexpr int64_t BLOCKS_PER_THREAD = 4;  // about 0.1 ms: less is not worth waking a thread
constexpr int64_t ALIGNMENT = 64;         // bytes; whole vectors, and rows of a tile are whole cache lines

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t whole_lines(int64_t floats) { return ceil_div(floats, 16) * 16; }

// Memory that is handed out piece by piece; the pieces are aligned and not initialised. Each is an allocation of its own, so that they fit into what
// rendering has freed: one large allocation would add to the peak of the process.
class Arena {
  public:
    template <class T> void want(T *&place, int64_t count) {
        static_assert(sizeof(T) == 4, "counted in floats");
        pieces_.emplace_back(new float[size_t(count + ALIGNMENT / 4)]);
        float *piece = pieces_.back().get();
        place = reinterpret_cast<T *>(piece + (ALIGNMENT - reinterpret_cast<uintptr_t>(piece) % ALIGNMENT) / 4);
    }

  private:
    std::vector<std::unique_ptr<float[]>> pieces_;
};

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
    float *common;
    const auto tile = [&](auto *&place, int64_t rows) { arena.want(place, blocks * rows * BLOCK); };
    tile(a.direction, PARAMS), tile(a.raw, PARAMS), tile(a.stats, STATS), tile(a.inverse_root, CORE), tile(a.vectors, 3 * CORE), tile(a.gains, GROUPS);
    tile(a.bias, int64_t(a.neighbours) * a.heads), tile(a.u, a.width), tile(a.query, inner), tile(a.chosen, a.neighbours), tile(a.found, 1);
    arena.want(a.near, n * NEAR), arena.want(a.key_value, n * a.key_value_stride), arena.want(a.sizes, GROUPS * n), arena.want(a.sums, blocks * FEATURES);
    arena.want(common, a.width);

    const auto for_blocks = [&](auto &&kernel) {
        parallel_for(blocks, num_threads, [&](int64_t block) {
            Arena scratch;
            float *work;
            scratch.want(work, a.work_size);
            kernel(block, work);
        });
    };
    parallel_for(blocks, num_threads, [&](int64_t block) { L2S_KERNELS(update_kernels).moments(args, a, block); });

    parallel_for(GROUPS + 1, num_threads, [&](int64_t which) {
        std::vector<float> spacing;
        if (which == GROUPS)
            for (int64_t i = 0; i < n; ++i) spacing.push_back(args.spacing[args.rows[i]]);
        a.medians[which] = select_kth(which == GROUPS ? spacing.data() : a.sizes + which * n, n, (n - 1) / 2);  // the lower one, as torch has it
    });
    kernels.logarithms(a.medians, GROUPS + 1);
    for_blocks([&](int64_t block, float *work) { kernels.observe(args, a, block, work); });

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
        for_blocks([&](int64_t block, float *work) { kernels.project(a, n, layer, block, work); });
        for_blocks([&](int64_t block, float *work) {
            kernels.attend(args, a, layer, block, work);
            if (layer + 1 == a.layers) kernels.finish(args, a, block, work);
        });
    }
    if (a.layers == 0) for_blocks([&](int64_t block, float *work) { kernels.finish(args, a, block, work); });
}

}  // namespace

int64_t count_weights(const AnchoredArgs &args) {
    AnchoredArgs a = args;
    std::vector<Attention> attention;
    return find_weights(a, nullptr, attention);
}

void update_step(UpdateArgs &args, AnchoredArgs *anchored, int num_threads) {
    const auto &kernels = L2S_KERNELS(update_kernels);
    num_threads = int(std::min<int64_t>(num_threads, ceil_div(args.N, BLOCK * BLOCKS_PER_THREAD)));
    const std::unique_ptr<int32_t[]> numbers(new int32_t[size_t(2 * args.N + 1)]);
    int32_t *rows = numbers.get();
    args.position = rows + args.N;
    parallel_for(ceil_div(args.N, ROWS_PER_TASK), num_threads, [&](int64_t task) {
        kernels.sort_out(args, anchored, task * ROWS_PER_TASK, std::min(args.N, (task + 1) * ROWS_PER_TASK));
    });
    args.n = 0;
    for (int64_t i = 0; i < args.N; ++i)
        if (args.position[i] >= 0) {
            rows[args.n] = int32_t(i);
            args.position[i] = int32_t(args.n++);
        }
    args.rows = rows;
    if (args.n == 0) return;
    if (anchored)
        run_anchored(args, *anchored, num_threads);
    else
        parallel_for(ceil_div(args.n, BLOCK), num_threads, [&](int64_t block) { kernels.nominal(args, block); });
}

}  // namespace l2s
