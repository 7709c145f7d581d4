// Multi-view stereo: the depth of every pixel of a photo, found by comparing it with the photos beside it.
//
// A point on the ray of pixel x = (column + 0.5, row + 0.5, 1) at inverse depth rho lies in a neighbour at  p = A x + rho b,  p / p_z in its pixels
// (A = K_n R K^-1, b = K_n t). Photo and neighbour are compared in 5x5 windows by normalised cross-correlation,
//     NCC = cov / sqrt((var + floor) (var' + floor)),
// the neighbour sampled bilinearly; a window that leaves the neighbour counts -1. The score of a depth is the mean of the best `best` neighbours, and
// the best of several depths is refined by the parabola through its score and those of the depths beside it.
//
// `sweep` tries `count` inverse depths, evenly spaced and the same for all pixels of a window; windows are cut at the border of the photo.
// `refine` starts from a map and tries 5 inverse depths around each of its pixels, with photos that may have more pixels than the map: precision is a
// share of a pixel, so that twice the resolution halves the error. Its windows lie in the surface: inverse depth changes linearly across a plane, by slopes
// that the map tells (least squares over the pixels around that continue the surface).
//
// Grey is enough: colour, each channel with its own mean, takes 1.7 times as long and has 0.1 % more confirmed pixels within 5 % (six real scenes).
#pragma once
#include <cstdint>

#include "isa.hpp"

namespace l2s {

constexpr int SWEEP_MAX_NEIGHBOURS = 8;
constexpr int64_t SWEEP_RADIUS = 2;            // px: windows of 5x5
constexpr double SWEEP_VARIANCE_FLOOR = 4e-5;  // of values in [0, 1]: the noise of 8-bit photos is no texture

struct Picture {
    const float *pixels;  // (height, width), grey in [0, 1]
    int64_t height, width;
};

struct SweepView {
    Picture photo;
    int num_neighbours, best;  // 1 <= best <= num_neighbours, or both 0
    Picture neighbours[SWEEP_MAX_NEIGHBOURS];
    float warps[SWEEP_MAX_NEIGHBOURS][12];  // A by rows, then b
    int64_t height, width;                  // of the map; `sweep`: those of the photo
    float *inverse_depth, *score;           // (height, width); NaN and -1 where no depth could be compared
    float first, step;                      // inverse depths of `sweep` are first + k * step; those of `refine` 0.6 * step apart, from that of the map
};

// Fills inverse_depth and score of all views. Results do not depend on num_threads.
void sweep(const SweepView *views, int64_t num_views, int count, int num_threads);
// Replaces them. `step` is still that of the sweep.
void refine(const SweepView *views, int64_t num_views, int num_threads);

struct SweepKernels {
    void (*band)(const SweepView &view, int count, int64_t row_begin, int64_t row_end, float *scratch);
    int64_t (*scratch_size)(int64_t rows, int64_t width);  // numbers
};
struct RefineKernels {
    void (*row)(const SweepView &view, const float *old_inverse_depth, int64_t row);
};
L2S_DECLARE_KERNELS(SweepKernels, sweep_kernels)
L2S_DECLARE_KERNELS(RefineKernels, refine_kernels)

}  // namespace l2s
