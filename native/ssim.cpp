// Splits the images into tiles, runs the kernels over them and adds up the rows. See ssim.hpp.
#include "ssim.hpp"

#include <algorithm>
#include <memory>
#include <vector>

#include "parallel.hpp"

namespace l2s {
namespace {

void run_tile(const SsimTile<float> &tile) { L2S_KERNELS(ssim_kernels).tile_float(tile); }
void run_tile(const SsimTile<double> &tile) { L2S_KERNELS(ssim_kernels).tile_double(tile); }

// The tiling depends on the shape alone, so that results do not depend on the thread count.
constexpr int64_t MIN_TASKS = 16;       // enough to share out among a few cores
constexpr int64_t MIN_BAND_ROWS = 32;   // a band recomputes 10 rows of its neighbour
constexpr int64_t MAX_BAND_ROWS = 128;
constexpr int64_t MAX_STRIP_COLS = 384;  // px: the ring of 14 rows x 3 maps then stays in a 512 KiB L2 cache
constexpr int64_t PIXELS_PER_THREAD = 4096;  // about 0.1 ms: less is not worth waking a thread

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How much of the windows of one dimension falls on each of its n pixels: 1 but for the first and last 10.
std::vector<double> window_shares(int64_t n) {
    std::vector<double> shares(size_t(n), 0.0);
    for (int64_t start = 0; start + SSIM_WINDOW <= n; ++start)
        for (int64_t k = 0; k < SSIM_WINDOW; ++k) shares[size_t(start + k)] += SSIM_TAPS[k];
    return shares;
}

// Sums over one view, all three channels: of the weights, and of the weights of all windows.
template <class T> void sum_weights(const T *weights, int64_t height, int64_t width, double &pixels, double &windows) {
    const std::vector<double> rows = window_shares(height), columns = window_shares(width);
    pixels = windows = 0;
    for (int64_t row = 0; row < height; ++row) {
        double sum = 0, shared = 0;
        for (int64_t column = 0; column < width; ++column) {
            const double weight = double(weights[(row * width + column) * CHANNELS]);
            sum += weight;
            shared += weight * columns[size_t(column)];
        }
        pixels += CHANNELS * sum;
        windows += CHANNELS * shared * rows[size_t(row)];
    }
}

}  // namespace

template <class T>
void photometric_forward(const T *renders, const T *targets, const T *weights, int64_t num_views, int64_t height, int64_t width, double ssim_weight,
                         int num_threads, double *l1, double *ssim, T *grads) {
    const int64_t most_bands = std::max<int64_t>(1, height / MIN_BAND_ROWS);
    const int64_t bands = std::max(std::min(most_bands, ceil_div(MIN_TASKS, std::max<int64_t>(1, num_views))), ceil_div(height, MAX_BAND_ROWS));
    const int64_t strips = ceil_div(width, MAX_STRIP_COLS);
    const int64_t image_size = height * width * CHANNELS, longest_strip = ceil_div(width, strips) * CHANNELS;
    num_threads = int(std::min<int64_t>(num_threads, ceil_div(num_views * height * width, PIXELS_PER_THREAD)));
    const double all_windows = double((height - SSIM_WINDOW + 1) * (width - SSIM_WINDOW + 1) * CHANNELS);
    std::vector<double> num_values = std::vector<double>(size_t(num_views), double(image_size));  // of each view, or the sum of its weights
    std::vector<double> num_windows = std::vector<double>(size_t(num_views), all_windows);
    if (weights)
        parallel_for(num_views, num_threads, [&](int64_t view) {
            sum_weights(weights + view * image_size, height, width, num_values[size_t(view)], num_windows[size_t(view)]);
        });
    std::vector<double> row_sums(size_t(num_views * strips * height * 2));
    parallel_for(num_views * bands * strips, num_threads, [&](int64_t task) {
        const int64_t strip = task % strips, band = task / strips % bands, view = task / strips / bands;
        const std::unique_ptr<T[]> scratch(new T[size_t(L2S_KERNELS(ssim_kernels).scratch_size(longest_strip))]);
        SsimTile<T> tile;
        tile.x = renders + view * image_size;
        tile.y = targets + view * image_size;
        tile.w = weights ? weights + view * image_size : nullptr;
        tile.grad = grads ? grads + view * image_size : nullptr;
        tile.height = height;
        tile.row_length = width * CHANNELS;
        tile.row_begin = height * band / bands;
        tile.row_end = height * (band + 1) / bands;
        tile.col_begin = width * strip / strips * CHANNELS;
        tile.col_end = width * (strip + 1) / strips * CHANNELS;
        const bool counts = num_values[size_t(view)] > 0;
        tile.l1_scale = counts ? (1 - ssim_weight) / num_values[size_t(view)] : 0;
        tile.ssim_scale = counts ? -ssim_weight / num_windows[size_t(view)] : 0;
        tile.l1_rows = row_sums.data() + (view * strips + strip) * height * 2;
        tile.ssim_rows = tile.l1_rows + height;
        tile.scratch = scratch.get();
        run_tile(tile);
    });

    for (int64_t view = 0; view < num_views; ++view) {
        const double *rows = row_sums.data() + view * strips * height * 2;
        double l1_sum = 0, ssim_sum = 0;
        for (int64_t strip = 0; strip < strips; ++strip, rows += 2 * height)
            for (int64_t row = 0; row < height; ++row) {
                l1_sum += rows[row];
                ssim_sum += rows[height + row];
            }
        const bool counts = num_values[size_t(view)] > 0;
        l1[view] = counts ? l1_sum / num_values[size_t(view)] : 0;
        ssim[view] = counts ? ssim_sum / num_windows[size_t(view)] : 1;
    }
}

template void photometric_forward<float>(const float *, const float *, const float *, int64_t, int64_t, int64_t, double, int, double *, double *, float *);
template void photometric_forward<double>(const double *, const double *, const double *, int64_t, int64_t, int64_t, double, int, double *, double *,
                                          double *);

}  // namespace l2s
