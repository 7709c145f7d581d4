// Binning, depth sort and the two passes over bands. See raster.hpp for the scheme.
#include "raster.hpp"

#include <algorithm>
#include <cstring>
#include <memory>

#include "parallel.hpp"

namespace l2s {
namespace {

// Grows and keeps its memory: fresh pages cost more than the work that they are for.
template <class X> struct Buffer {
    std::unique_ptr<X[]> data;
    size_t capacity = 0;
    X *reserve(size_t n) {
        if (n > capacity) {
            capacity = n + n / 2;
            data.reset(new X[capacity]);
        }
        return data.get();
    }
};

template <class T> struct Scratch {
    Buffer<Slot<T>> slots;
    Buffer<Span> spans;
    Buffer<uint64_t> keys, keys_swap;
    Buffer<uint32_t> counts;
    Buffer<T> grads;
};

template <class T> Scratch<T> &scratch() {
    static thread_local Scratch<T> mine;
    return mine;
}

// Larger for larger images (less is computed twice for Gaussians on a border), smaller for small ones (enough tasks). Never a function of
// the number of threads.
int choose_band_rows(int C, int height) { return C * height <= 512 ? 16 : 32; }

// Order-preserving bits of a float.
uint32_t depth_bits(float depth) {
    uint32_t bits;
    std::memcpy(&bits, &depth, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// order[k] = position of the k-th nearest entry; ties keep their order.
void sort_by_depth(const float *depths, const uint32_t *ids, size_t n, uint32_t *order) {
    uint64_t *keys = scratch<float>().keys.reserve(n), *swap = scratch<float>().keys_swap.reserve(n);
    uint32_t low = UINT32_MAX, high = 0;
    for (size_t i = 0; i < n; ++i) {
        const uint32_t bits = depth_bits(depths[ids[i]]);
        keys[i] = uint64_t(bits) << 32 | i;
        low = std::min(low, bits), high = std::max(high, bits);
    }
    constexpr int DIGIT = 11;
    for (int shift = 0; n > 1 && shift < 32 && ((high - low) >> shift) != 0; shift += DIGIT) {
        uint32_t offsets[(1 << DIGIT) + 1] = {};
        for (size_t i = 0; i < n; ++i) ++offsets[(((uint32_t(keys[i] >> 32) - low) >> shift) & ((1 << DIGIT) - 1)) + 1];
        for (int d = 0; d < 1 << DIGIT; ++d) offsets[d + 1] += offsets[d];
        for (size_t i = 0; i < n; ++i) swap[offsets[((uint32_t(keys[i] >> 32) - low) >> shift) & ((1 << DIGIT) - 1)]++] = keys[i];
        std::swap(keys, swap);
    }
    for (size_t i = 0; i < n; ++i) order[i] = uint32_t(keys[i]);
}

void sort_by_depth(const double *depths, const uint32_t *ids, size_t n, uint32_t *order) {
    for (size_t i = 0; i < n; ++i) order[i] = uint32_t(i);
    std::stable_sort(order, order + n, [&](uint32_t a, uint32_t b) { return depths[ids[a]] < depths[ids[b]]; });
}

template <class T> void bin(const RasterInput<T> &in, int num_threads, RasterState &state) {
    state.band_rows = choose_band_rows(in.C, in.height);
    state.bands_per_view = (in.height + state.band_rows - 1) / state.band_rows;
    state.chunks = int((in.N + BIN_CHUNK - 1) / BIN_CHUNK);
    const int bands = state.bands_per_view, chunks = state.chunks;
    state.chunk_offsets.assign(size_t(in.C) * bands * (chunks + 1), 0);
    std::unique_ptr<uint16_t[]> first(new uint16_t[in.C * in.N]), last(new uint16_t[in.C * in.N]);
    parallel_for(int64_t(in.C) * chunks, num_threads, [&](int64_t task) {
        const int view = int(task / chunks), chunk = int(task % chunks);
        const int64_t begin = int64_t(chunk) * BIN_CHUNK, end = std::min(in.N, begin + BIN_CHUNK);
        uint16_t *f = first.get() + view * in.N, *l = last.get() + view * in.N;
        raster_table<T>().band_range(in, view, state.band_rows, begin, end, f, l);
        uint32_t *offsets = state.chunk_offsets.data() + size_t(view) * bands * (chunks + 1) + chunk + 1;
        for (int64_t i = begin; i < end; ++i)
            for (int b = f[i]; b <= l[i]; ++b) ++offsets[size_t(b) * (chunks + 1)];
    });
    state.band_offsets.assign(size_t(in.C) * bands + 1, 0);
    for (int64_t b = 0; b < int64_t(in.C) * bands; ++b) {
        uint32_t *offsets = state.chunk_offsets.data() + b * (chunks + 1);
        for (int k = 0; k < chunks; ++k) offsets[k + 1] += offsets[k];
        state.band_offsets[b + 1] = state.band_offsets[b] + offsets[chunks];
    }
    state.ids.resize(state.band_offsets.back());
    parallel_for(int64_t(in.C) * chunks, num_threads, [&](int64_t task) {
        const int view = int(task / chunks), chunk = int(task % chunks);
        const int64_t begin = int64_t(chunk) * BIN_CHUNK, end = std::min(in.N, begin + BIN_CHUNK);
        const uint16_t *f = first.get() + view * in.N, *l = last.get() + view * in.N;
        std::vector<uint32_t *> next(bands);
        for (int b = 0; b < bands; ++b) {
            const int64_t band = int64_t(view) * bands + b;
            next[b] = state.ids.data() + state.band_offsets[band] + state.chunk_offsets[band * (chunks + 1) + chunk];
        }
        for (int64_t i = begin; i < end; ++i)
            for (int b = f[i]; b <= l[i]; ++b) *next[b]++ = uint32_t(i);
    });
}

template <class T> BandArgs<T> band_args(const RasterInput<T> &in, const RasterState &state, int64_t task) {
    const int64_t view = task / state.bands_per_view;
    BandArgs<T> band{};
    band.width = in.width;
    band.channels = in.channels;
    band.y0 = int(task % state.bands_per_view) * state.band_rows;
    band.rows = std::min(state.band_rows, in.height - band.y0);
    band.tiles_x = (in.width + TILE_W - 1) / TILE_W;
    band.tiles_y = (band.rows + TILE_H - 1) / TILE_H;
    band.num_slots = int(state.band_offsets[task + 1] - state.band_offsets[task]);
    band.ids = state.ids.data() + state.band_offsets[task];
    band.means2d = in.means2d + 2 * view * in.N;
    band.conics = in.conics + 3 * view * in.N;
    band.opacities = in.opacities + view * in.opacity_stride;
    band.colors = in.colors ? in.colors + view * in.color_stride : nullptr;
    band.depths = in.depths + view * in.N;
    band.background = in.backgrounds ? in.backgrounds + view * in.channels : nullptr;
    const size_t tiles = size_t(band.tiles_x) * band.tiles_y;
    band.slots = scratch<T>().slots.reserve(band.num_slots);
    band.spans = scratch<T>().spans.reserve(size_t(band.num_slots) * band.tiles_y);
    band.tile_counts = scratch<T>().counts.reserve(tiles);
    std::fill_n(band.tile_counts, tiles, 0u);
    return band;
}

}  // namespace

int64_t RasterState::bytes() const {
    int64_t n = 4 * int64_t(ids.capacity() + chunk_offsets.capacity()) + 8 * int64_t(band_offsets.capacity());
    for (const Band &band : bands) n += int64_t(sizeof(Band)) + 4 * int64_t(band.order.capacity() + band.tile_offsets.capacity() + band.tile_slots.capacity());
    return n;
}

template <class T> void raster_forward(const RasterInput<T> &in, int num_threads, RasterState &state, T *renders, T *alphas) {
    bin(in, num_threads, state);
    const int64_t num_bands = int64_t(in.C) * state.bands_per_view;
    state.bands.resize(num_bands);
    parallel_for(num_bands, num_threads, [&](int64_t task) {
        const int64_t view = task / state.bands_per_view;
        Band &kept = state.bands[task];
        BandArgs<T> band = band_args(in, state, task);
        kept.order.resize(band.num_slots);
        sort_by_depth(band.depths, band.ids, band.num_slots, kept.order.data());
        band.order = kept.order.data();
        const int64_t num_spans = raster_table<T>().make_slots(band);
        const int tiles = band.tiles_x * band.tiles_y;
        kept.tile_offsets.resize(tiles + 1);
        kept.tile_offsets[0] = 0;
        for (int t = 0; t < tiles; ++t) {
            kept.tile_offsets[t + 1] = kept.tile_offsets[t] + band.tile_counts[t];
            band.tile_counts[t] = kept.tile_offsets[t];  // from here on: where the tile's next entry goes
        }
        kept.tile_slots.resize(kept.tile_offsets[tiles]);
        for (int64_t k = 0; k < num_spans; ++k) {
            const Span span = band.spans[k];
            uint32_t *next = band.tile_counts + span.tile_row * band.tiles_x;
            for (int t = span.tile0; t < span.tile1; ++t) kept.tile_slots[next[t]++] = span.slot;
        }
        band.tile_offsets = kept.tile_offsets.data();
        band.tile_slots = kept.tile_slots.data();
        band.render = renders + view * in.height * in.width * in.channels;
        band.alpha = alphas + view * in.height * in.width;
        raster_table<T>().forward(band);
    });
}

template <class T> void raster_backward(const RasterInput<T> &in, int num_threads, const RasterState &state, const RasterGrads<T> &grads) {
    const int64_t num_bands = int64_t(in.C) * state.bands_per_view;
    const int bands = state.bands_per_view, chunks = state.chunks, channels = in.channels;
    const int row_size = 6 + channels + (grads.absgrad ? 2 : 0);
    std::unique_ptr<T[]> rows(new T[size_t(state.band_offsets.back()) * row_size]);
    std::vector<T> v_background(grads.v_backgrounds ? num_bands * channels : 0, T(0));
    parallel_for(num_bands, num_threads, [&](int64_t task) {
        const int64_t view = task / bands;
        const Band &kept = state.bands[task];
        BandArgs<T> band = band_args(in, state, task);
        band.order = kept.order.data();
        band.tile_offsets = kept.tile_offsets.data();
        band.tile_slots = kept.tile_slots.data();
        band.spans = nullptr;
        raster_table<T>().make_slots(band);
        const int64_t pixels = int64_t(in.height) * in.width;
        band.render = const_cast<T *>(grads.renders) + view * pixels * channels;
        band.alpha = const_cast<T *>(grads.alphas) + view * pixels;
        band.v_render = grads.v_renders + view * pixels * channels;
        band.v_alpha = grads.v_alphas ? grads.v_alphas + view * pixels : nullptr;
        band.v_background = grads.v_backgrounds ? v_background.data() + task * channels : nullptr;
        band.absgrad = grads.absgrad != nullptr;
        band.grads = scratch<T>().grads.reserve(size_t(band.num_slots) * GRAD_ROW);
        std::fill_n(band.grads, size_t(band.num_slots) * GRAD_ROW, T(0));
        raster_table<T>().backward(band);
        T *out = rows.get() + state.band_offsets[task] * row_size;
        for (int k = 0; k < band.num_slots; ++k) std::memcpy(out + int64_t(band.order[k]) * row_size, band.grads + int64_t(k) * GRAD_ROW, sizeof(T) * row_size);
    });

    // Sum per Gaussian in band order, and turn the moments of dL/dsigma into gradients. sigma = (a dx^2 + c dy^2) / 2 + b dx dy, dx = pixel - mean.
    const int num_colors = channels == 1 ? 0 : 3;
    parallel_for(int64_t(in.C) * chunks, num_threads, [&](int64_t task) {
        const int view = int(task / chunks), chunk = int(task % chunks);
        const int64_t begin = int64_t(chunk) * BIN_CHUNK, end = std::min(in.N, begin + BIN_CHUNK), base = view * in.N;
        std::fill(grads.v_means2d + 2 * (base + begin), grads.v_means2d + 2 * (base + end), T(0));
        std::fill(grads.v_conics + 3 * (base + begin), grads.v_conics + 3 * (base + end), T(0));
        std::fill(grads.v_opacities + base + begin, grads.v_opacities + base + end, T(0));
        if (grads.v_colors) std::fill(grads.v_colors + 3 * (base + begin), grads.v_colors + 3 * (base + end), T(0));
        if (grads.v_depths) std::fill(grads.v_depths + base + begin, grads.v_depths + base + end, T(0));
        if (grads.absgrad) std::fill(grads.absgrad + 2 * (base + begin), grads.absgrad + 2 * (base + end), T(0));
        for (int b = 0; b < bands; ++b) {
            const int64_t band = int64_t(view) * bands + b;
            const uint32_t *offsets = state.chunk_offsets.data() + band * (chunks + 1) + chunk;
            for (int64_t entry = state.band_offsets[band] + offsets[0]; entry < state.band_offsets[band] + offsets[1]; ++entry) {
                const T *row = rows.get() + entry * row_size;
                const int64_t i = state.ids[entry], at = base + i;
                const T a = in.conics[3 * at], bb = in.conics[3 * at + 1], c = in.conics[3 * at + 2];
                grads.v_means2d[2 * at] -= a * row[1] + bb * row[2];
                grads.v_means2d[2 * at + 1] -= bb * row[1] + c * row[2];
                grads.v_conics[3 * at] += T(0.5) * row[3];
                grads.v_conics[3 * at + 1] += row[4];
                grads.v_conics[3 * at + 2] += T(0.5) * row[5];
                grads.v_opacities[at] -= row[0] / in.opacities[view * in.opacity_stride + i];
                for (int ch = 0; grads.v_colors && ch < num_colors; ++ch) grads.v_colors[3 * at + ch] += row[6 + ch];
                if (grads.v_depths && channels != 3) grads.v_depths[at] += row[6 + num_colors];
                if (grads.absgrad) {  // the kernel's A, B, C carry log2(e)
                    grads.absgrad[2 * at] += T(0.6931471805599453) * row[6 + channels];
                    grads.absgrad[2 * at + 1] += T(0.6931471805599453) * row[7 + channels];
                }
            }
        }
    });
    if (grads.v_backgrounds) {
        std::fill_n(grads.v_backgrounds, in.C * channels, T(0));
        for (int64_t b = 0; b < num_bands; ++b)
            for (int ch = 0; ch < channels; ++ch) grads.v_backgrounds[(b / bands) * channels + ch] += v_background[b * channels + ch];
    }
}

template void raster_forward<float>(const RasterInput<float> &, int, RasterState &, float *, float *);
template void raster_forward<double>(const RasterInput<double> &, int, RasterState &, double *, double *);
template void raster_backward<float>(const RasterInput<float> &, int, const RasterState &, const RasterGrads<float> &);
template void raster_backward<double>(const RasterInput<double> &, int, const RasterState &, const RasterGrads<double> &);

}  // namespace l2s
