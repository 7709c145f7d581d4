// Splits the maps into bands and rows. See sweep.hpp.
#include "sweep.hpp"

#include <algorithm>
#include <memory>
#include <utility>
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

void refine(const SweepView *views, int64_t num_views, int num_threads) {
    std::vector<std::vector<float>> before;  // the slopes of a row need the rows around it as they were
    std::vector<std::pair<int64_t, int64_t>> rows;
    for (int64_t v = 0; v < num_views; ++v) {
        before.emplace_back(views[v].inverse_depth, views[v].inverse_depth + views[v].height * views[v].width);
        for (int64_t row = 0; row < views[v].height; ++row) rows.emplace_back(v, row);
    }
    parallel_for(int64_t(rows.size()), num_threads, [&](int64_t task) {
        const auto [v, row] = rows[size_t(task)];
        L2S_KERNELS(refine_kernels).row(views[v], before[size_t(v)].data(), row);
    });
}

}  // namespace l2s
