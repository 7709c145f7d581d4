// Splits the photos into bands of rows. See sweep.hpp.
#include "sweep.hpp"

#include <algorithm>
#include <memory>
#include <vector>

#include "parallel.hpp"

namespace l2s {
namespace {

constexpr int64_t BAND_ROWS = 32;  // a band warps 4 rows of its neighbours again

}  // namespace

void sweep(const SweepView *views, int64_t num_views, int count, int num_threads) {
    struct Band {
        const SweepView *view;
        int64_t begin, end;
    };
    std::vector<Band> bands;
    int64_t widest = 0;
    for (int64_t v = 0; v < num_views; ++v) {
        const int64_t height = views[v].photo.height, parts = (height + BAND_ROWS - 1) / BAND_ROWS;
        for (int64_t part = 0; part < parts; ++part) bands.push_back({views + v, height * part / parts, height * (part + 1) / parts});
        widest = std::max(widest, views[v].photo.width);
    }
    const SweepKernels &kernels = L2S_KERNELS(sweep_kernels);
    const int64_t scratch_size = kernels.scratch_size(BAND_ROWS, widest);
    parallel_for(int64_t(bands.size()), num_threads, [&](int64_t task) {
        const std::unique_ptr<float[]> scratch(new float[size_t(scratch_size)]);
        kernels.band(*bands[size_t(task)].view, count, bands[size_t(task)].begin, bands[size_t(task)].end, scratch.get());
    });
}

}  // namespace l2s
