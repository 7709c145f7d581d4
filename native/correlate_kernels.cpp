// One row of the volume at one depth: see correlate.hpp.
#include "correlate.hpp"
#include "simd.hpp"

namespace l2s {
namespace L2S_ISA {
namespace {

constexpr int CHUNK = 16;  // numbers that are handled together, whatever the width of registers: channels come in multiples of it

struct Corners {
    int64_t at[4];  // pixels
    float weight[4];
};

// Where u, v px lies between the pixel centres of a map that covers a photo of `size` px; beyond the outermost centres, on them.
L2S_INLINE Corners corners(const FeatureMap &map, float u, float v, const float *size) {
    const float right = float(map.width - 1), bottom = float(map.height - 1);
    float x = u * float(map.width) / size[0] - 0.5f, y = v * float(map.height) / size[1] - 0.5f;
    x = x < 0 ? 0 : x > right ? right : x;
    y = y < 0 ? 0 : y > bottom ? bottom : y;
    const int64_t column = int64_t(x), row = int64_t(y), next = column + 1 < map.width, below = row + 1 < map.height ? map.width : 0;
    const float a = x - float(column), b = y - float(row);
    const int64_t first = row * map.width + column;
    return {{first, first + next, first + below, first + below + next}, {(1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b}};
}

// Sums of products of `own` and the map between its pixels, by position in a chunk.
L2S_INLINE void products(const FeatureMap &map, const Corners &corners, const float *own, int channels, float *sums) {
    const float *p[4];
    for (int k = 0; k < 4; ++k) p[k] = map.values + corners.at[k] * channels;
    for (int l = 0; l < CHUNK; ++l) sums[l] = 0;
    for (int c = 0; c < channels; c += CHUNK)
        for (int l = 0; l < CHUNK; ++l) {
            const float value = corners.weight[0] * p[0][c + l] + corners.weight[1] * p[1][c + l] + corners.weight[2] * p[2][c + l] + corners.weight[3] * p[3][c + l];
            sums[l] += value * own[c + l];
        }
}

// Mean of the best two of `count` scores; 0 of none.
L2S_INLINE float best_two(const float *scores, int count) {
    float first = -2, second = -2;
    for (int n = 0; n < count; ++n)
        if (scores[n] > first) second = first, first = scores[n];
        else if (scores[n] > second) second = scores[n];
    return count == 0 ? 0 : count == 1 ? first : 0.5f * (first + second);
}

void row(const CorrelateArgs &a, int64_t depth, int64_t row) {
    const int64_t plane = a.height * a.width;
    const float y = (float(row) + 0.5f) * a.row_step;
    for (int64_t column = 0; column < a.width; ++column) {
        const int64_t at = row * a.width + column;
        const float x = (float(column) + 0.5f) * a.column_step, z = a.depths[depth * plane + at];
        float group_sums[CORRELATE_GROUPS] = {}, learned[CORRELATE_MAX_NEIGHBOURS], plain[CORRELATE_MAX_NEIGHBOURS], plain_sum = 0;
        int seen = 0;
        for (int n = 0; n < a.num_neighbours; ++n) {
            const float *w = a.warps[n], *size = a.sizes[n];
            const float pz = z * (w[6] * x + w[7] * y + w[8]) + w[11];
            if (!(pz > 1e-6f)) continue;
            const float u = (z * (w[0] * x + w[1] * y + w[2]) + w[9]) / pz, v = (z * (w[3] * x + w[4] * y + w[5]) + w[10]) / pz;
            if (!(u >= 0 && u <= size[0] && v >= 0 && v <= size[1])) continue;
            float sums[CHUNK];
            products(a.features[n], corners(a.features[n], u, v, size), a.own + at * a.channels, a.channels, sums);
            float mean = 0;
            for (int g = 0; g < CORRELATE_GROUPS; ++g) {
                float sum = 0;
                for (int l = g; l < CHUNK; l += CORRELATE_GROUPS) sum += sums[l];
                group_sums[g] += sum, mean += sum;
            }
            learned[seen] = mean / CORRELATE_GROUPS;
            products(a.patches[n], corners(a.patches[n], u, v, size), a.own_patches + at * CORRELATE_PATCH, CORRELATE_PATCH, sums);
            float sum = 0;
            for (int l = 0; l < CHUNK; ++l) sum += sums[l];
            plain[seen++] = sum, plain_sum += sum;
        }
        const float share = seen ? 1.0f / float(seen) : 0;
        float *out = a.volume + depth * plane + at;
        const int64_t channel = a.count * plane;
        for (int g = 0; g < CORRELATE_GROUPS; ++g) out[g * channel] = group_sums[g] * share;
        out[CORRELATE_GROUPS * channel] = best_two(learned, seen);
        out[(CORRELATE_GROUPS + 1) * channel] = plain_sum * share;
        out[(CORRELATE_GROUPS + 2) * channel] = best_two(plain, seen);
        out[(CORRELATE_GROUPS + 3) * channel] = a.num_neighbours ? float(seen) / float(a.num_neighbours) : 0;
    }
}

}  // namespace

extern const CorrelateKernels correlate_kernels = {row};

}  // namespace L2S_ISA
}  // namespace l2s
