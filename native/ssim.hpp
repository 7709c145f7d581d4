// L1 + SSIM of image pairs and its gradient in one pass (docs/method.md section 3; SSIM: Wang et al. 2004, 11x11 Gaussian window of sigma 1.5, valid
// padding, data range 1, C1 = 0.01^2, C2 = 0.03^2).
//
// Images are (height, width, 3), interleaved; per view  loss = (1 - w) * mean|x - y| + w * (1 - mean SSIM).
//
// With a weight m per pixel, both are of the weighted pixels only:  sum m |x - y| / sum m,  and  sum M S / sum M  with M = G*m the weight of a window,
// whose S has the moments of the weighted pixels in it: mx = G*(m x) / M, and so on. Where m = 1 that is the above; where m = 0, x and y do not count.
#pragma once
#include <cstdint>

#include "isa.hpp"

namespace l2s {

constexpr int64_t SSIM_WINDOW = 11;  // px
// exp(-(k - 5)^2 / (2 * 1.5^2)), normalised to sum 1.
constexpr double SSIM_TAPS[SSIM_WINDOW] = {0.0010283800844791101, 0.007598758135239185, 0.036000772128430829, 0.10936068950970002,
                                           0.21300553771125369,   0.26601172486179436,  0.21300553771125369,  0.10936068950970002,
                                           0.036000772128430829,  0.007598758135239185, 0.0010283800844791101};
constexpr int64_t CHANNELS = 3;
constexpr int64_t SSIM_HALO = (SSIM_WINDOW - 1) * CHANNELS;  // floats of a row that a window reaches beyond its first pixel

// renders, targets (num_views, height, width, 3), height and width >= 11. weights: null, or of the same shape, >= 0, one number per pixel three times.
// Writes l1 (num_views) = mean|x - y|, ssim (num_views) = mean SSIM, and, unless grads is null, grads (num_views, height, width, 3) = d loss_v / d x.
// d|x - y| / dx is 0 where x == y. NaN in an image makes its l1 and ssim NaN. A view whose weights are all 0 has l1 0 and ssim 1. Results do not depend on num_threads.
template <class T>
void photometric_forward(const T *renders, const T *targets, const T *weights, int64_t num_views, int64_t height, int64_t width, double ssim_weight, int num_threads,
                         double *l1, double *ssim, T *grads);

// A rectangle of one image. Windows are named by their first pixel; those whose first pixel is in the tile count for its SSIM sums.
template <class T> struct SsimTile {
    const T *x, *y;  // whole images (height, width, 3)
    const T *w;      // whole image of weights, or null
    T *grad;         // whole image, or null
    int64_t height, row_length;            // px; floats
    int64_t row_begin, row_end;            // px
    int64_t col_begin, col_end;            // floats, multiples of 3
    double l1_scale, ssim_scale;           // what d mean|x - y| and d(sum of SSIM) are multiplied with
    double *l1_rows, *ssim_rows;           // (height): sums over this tile's part of each row
    T *scratch;                            // scratch_size(col_end - col_begin) numbers
};

struct SsimKernels {
    void (*tile_float)(const SsimTile<float> &);
    void (*tile_double)(const SsimTile<double> &);
    int64_t (*scratch_size)(int64_t tile_length);
};
L2S_DECLARE_KERNELS(SsimKernels, ssim_kernels)

}  // namespace l2s
