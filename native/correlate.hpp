// How alike a photo and its neighbours are at given depths: the volume that the initializer's network reads (initializers/_volume.py has the definition
// and the torch version, which gradients go through; this one is for use).
//
// Maps lie with their channels side by side, so that a value between pixels is four runs of memory. Features have `channels` numbers of CORRELATE_GROUPS
// groups, interleaved: number c belongs to group c % CORRELATE_GROUPS. Patches have CORRELATE_PATCH numbers, zero where there are fewer.
#pragma once
#include <cstdint>

#include "isa.hpp"

namespace l2s {

constexpr int CORRELATE_GROUPS = 4, CORRELATE_PATCH = 32, CORRELATE_MAX_NEIGHBOURS = 8;
constexpr int CORRELATE_CHANNELS = CORRELATE_GROUPS + 4;  // of the volume

struct FeatureMap {
    const float *values;  // (height, width, channels)
    int64_t height, width;
};

struct CorrelateArgs {
    const float *depths;      // (count, height, width) world units
    const float *own, *own_patches;  // (height, width, channels), (height, width, CORRELATE_PATCH)
    int64_t count, height, width;
    int channels, num_neighbours;
    float column_step, row_step;  // px of the photo per pixel of the volume
    FeatureMap features[CORRELATE_MAX_NEIGHBOURS], patches[CORRELATE_MAX_NEIGHBOURS];
    float warps[CORRELATE_MAX_NEIGHBOURS][12];  // A by rows, then b: p = z A x + b, px of the neighbour
    float sizes[CORRELATE_MAX_NEIGHBOURS][2];   // (width, height) of the neighbour, px
    float *volume;            // (CORRELATE_CHANNELS, count, height, width)
};

void correlate(const CorrelateArgs &args, int num_threads);

struct CorrelateKernels {
    void (*row)(const CorrelateArgs &args, int64_t depth, int64_t row);
};
L2S_DECLARE_KERNELS(CorrelateKernels, correlate_kernels)

}  // namespace l2s
