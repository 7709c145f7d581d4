// Binning, depth sort and the two passes over bands. See raster.hpp for the scheme.
#include "raster.hpp"

#include <algorithm>
#include <cstring>
#include <memory>
#include <stdexcept>

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
    X *extend(size_t used, size_t n) {  // room for n more after the first `used`, which stay
        if (used + n > capacity) {
            std::unique_ptr<X[]> before = std::move(data);
            reserve(used + n);
            std::copy_n(before.get(), used, data.get());
        }
        return data.get();
    }
};

template <class T> struct Scratch {
    Buffer<Slot<T>> slots;
    Buffer<Span> spans;
    Buffer<int64_t> num_spans;
    Buffer<uint64_t> keys, keys_swap;
    Buffer<uint32_t> order, begin, end, list, seen, seen_end;
    Buffer<uint8_t> flags, slot_seen;
    Buffer<T> pixels, centres, sums;
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

template <class T> void bin(const RasterInput<T> &in, int num_threads, RasterState<T> &state) {
    state.N = in.N, state.C = in.C, state.width = in.width, state.height = in.height, state.channels = in.channels;
    state.band_rows = choose_band_rows(in.C, in.height);
    state.bands_per_view = (in.height + state.band_rows - 1) / state.band_rows;
    state.chunks = int((in.N + BIN_CHUNK - 1) / BIN_CHUNK);
    const int bands = state.bands_per_view, chunks = state.chunks;
    state.gaussians = pooled<Slot<T>>(in.C * in.N);
    state.chunk_offsets.assign(size_t(in.C) * bands * (chunks + 1), 0);
    std::unique_ptr<uint16_t[]> first(new uint16_t[in.C * in.N]), last(new uint16_t[in.C * in.N]);
    parallel_for(int64_t(in.C) * chunks, num_threads, [&](int64_t task) {
        const int view = int(task / chunks), chunk = int(task % chunks);
        const int64_t begin = int64_t(chunk) * BIN_CHUNK, end = std::min(in.N, begin + BIN_CHUNK);
        uint16_t *f = first.get() + view * in.N, *l = last.get() + view * in.N;
        raster_table<T>().prepare(in, view, state.band_rows, begin, end, state.gaussians.get() + view * in.N, f, l);
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

constexpr int AHEAD = 16;  // entries: memory is asked for so early
constexpr uint32_t UNSEEN = 1u << 31;  // flag of a rank: no pixel of the band sees that slot, so it has no gradient

template <class T> BandArgs<T> band_args(const RasterState<T> &state, const T *backgrounds, int64_t task) {
    const int64_t view = task / state.bands_per_view;
    BandArgs<T> band{};
    band.width = state.width;
    band.channels = state.channels;
    band.y0 = int(task % state.bands_per_view) * state.band_rows;
    band.rows = std::min(state.band_rows, state.height - band.y0);
    band.blocks_x = (state.width + BLOCK_W - 1) / BLOCK_W;
    band.strips = (band.rows + BLOCK_H - 1) / BLOCK_H;
    band.num_slots = state.band_offsets[task + 1] - state.band_offsets[task];
    band.background = backgrounds ? backgrounds + view * state.channels : nullptr;
    Slot<T> *slots = scratch<T>().slots.reserve(padded(band.num_slots));
    const Slot<T> *gaussians = state.gaussians.get() + view * state.N;
    const uint32_t *ids = state.ids.data() + state.band_offsets[task], *ranks = state.bands[task].ranks.data();
    for (int64_t entry = 0; entry < band.num_slots; ++entry) {
        if (entry + AHEAD < band.num_slots) {
            __builtin_prefetch(gaussians + ids[entry + AHEAD]);
            __builtin_prefetch(slots + (ranks[entry + AHEAD] & ~UNSEEN), 1);
        }
        if (!(ranks[entry] & UNSEEN)) slots[ranks[entry]] = gaussians[ids[entry]];
    }
    band.slots = slots;
    return band;
}

// Lists the Gaussians of every block of a strip, in the order of the slots. Returns how many entries there are, and more, for the blocks' seams.
template <class T> size_t list_strip(BandArgs<T> &band, int strip) {
    constexpr int AT_ONCE = 4;  // so many blocks of a span are written without a branch: lists have a place more, and there are so many more lists
    const size_t blocks = size_t(band.blocks_x);
    uint32_t *begin = scratch<T>().begin.reserve(blocks + AT_ONCE), *end = scratch<T>().end.reserve(blocks + AT_ONCE);
    const Span *spans = band.spans + strip * padded(band.num_slots), *last = spans + band.num_spans[strip];
    std::fill_n(end, blocks + AT_ONCE, 0u);
    for (const Span *span = spans; span < last; ++span) {  // differences of the lists' lengths, from block to block
        ++end[span->begin];
        --end[span->end];
    }
    uint64_t total = 0;
    uint32_t length = 0;
    for (size_t b = 0; b < blocks + AT_ONCE; ++b) {
        length += end[b];
        begin[b] = end[b] = uint32_t(total);  // from here on, `end` is where the block's next entry goes
        total += uint64_t(length) + 1;
        if (total > UINT32_MAX) throw std::overflow_error("one row of blocks has more than 2^32 pairs of a block and a Gaussian");
    }
    uint32_t *list = scratch<T>().list.reserve(total);
    for (const Span *span = spans; span < last; ++span) {
        const uint32_t slot = span->slot, count = uint32_t(span->end - span->begin);
        uint32_t *next = end + span->begin;
        for (uint32_t b = 0; b < AT_ONCE; ++b) {
            list[next[b]] = slot;
            next[b] += b < count;
        }
        for (uint32_t b = AT_ONCE; b < count; ++b) list[next[b]++] = slot;
    }
    band.begin = begin, band.end = end, band.list = list;
    return total;
}

}  // namespace

template <class T> int64_t RasterState<T>::bytes() const {
    int64_t n = int64_t(sizeof(Slot<T>)) * C * N + 4 * int64_t(ids.capacity() + chunk_offsets.capacity()) + 8 * int64_t(band_offsets.capacity());
    for (const Band &band : bands) n += int64_t(sizeof(Band)) + 4 * int64_t(band.ranks.capacity() + band.block_offsets.capacity() + (band.block_offsets.empty() ? 0 : band.block_offsets.back()));
    return n;
}

template <class T> void raster_forward(const RasterInput<T> &in, int num_threads, RasterState<T> &state, T *renders, T *alphas) {
    bin(in, num_threads, state);
    const int64_t num_bands = int64_t(in.C) * state.bands_per_view;
    state.bands.resize(num_bands);
    parallel_for(num_bands, num_threads, [&](int64_t task) {
        const int64_t view = task / state.bands_per_view, num_slots = state.band_offsets[task + 1] - state.band_offsets[task];
        Scratch<T> &mine = scratch<T>();
        Band &kept = state.bands[task];
        uint32_t *order = mine.order.reserve(num_slots);
        sort_by_depth(in.depths + view * in.N, state.ids.data() + state.band_offsets[task], num_slots, order);
        kept.ranks.resize(num_slots);
        for (int64_t k = 0; k < num_slots; ++k) kept.ranks[order[k]] = uint32_t(k);
        BandArgs<T> band = band_args(state, in.backgrounds, task);
        band.spans = mine.spans.reserve(padded(num_slots) * band.strips);
        band.num_spans = mine.num_spans.reserve(band.strips);
        raster_table<T>().make_spans(band);
        band.render = renders + view * in.height * in.width * in.channels;
        band.alpha = alphas + view * in.height * in.width;
        band.seen_end = mine.seen_end.reserve(band.blocks_x);
        band.slot_seen = mine.slot_seen.reserve(num_slots);
        std::fill_n(band.slot_seen, num_slots, uint8_t(0));
        kept.block_offsets.assign(1, 0);
        kept.block_offsets.reserve(size_t(band.blocks_x) * band.strips + 1);
        size_t num_seen = 0;  // of all strips
        for (int strip = 0; strip < band.strips; ++strip) {
            const size_t entries = list_strip(band, strip);
            if (num_seen + entries > UINT32_MAX) throw std::overflow_error("one band of the image shows more than 2^32 pairs of a block and a Gaussian");
            band.flags = mine.flags.reserve(entries);
            band.seen = mine.seen.extend(num_seen, entries) + num_seen;
            raster_table<T>().forward(band, strip);
            for (int b = 0; b < band.blocks_x; ++b) kept.block_offsets.push_back(uint32_t(num_seen + band.seen_end[b]));
            num_seen = kept.block_offsets.back();
        }
        kept.seen = pooled<uint32_t>(num_seen);
        std::copy_n(mine.seen.data.get(), num_seen, kept.seen.get());
        for (uint32_t &rank : kept.ranks) rank |= band.slot_seen[rank] ? 0 : UNSEEN;
    });
}

template <class T> void raster_backward(const RasterState<T> &state, int num_threads, const RasterGrads<T> &grads) {
    const int64_t num_bands = int64_t(state.C) * state.bands_per_view;
    const int bands = state.bands_per_view, chunks = state.chunks, channels = state.channels;
    const Pooled<T> rows = pooled<T>(state.band_offsets.back() * GRAD_ROW);
    std::vector<T> v_background(grads.v_backgrounds ? num_bands * channels : 0, T(0));
    parallel_for(num_bands, num_threads, [&](int64_t task) {
        const int64_t view = task / bands, pixels = int64_t(state.height) * state.width;
        const Band &kept = state.bands[task];
        BandArgs<T> band = band_args(state, grads.backgrounds, task);
        band.begin = kept.block_offsets.data(), band.end = band.begin + 1;
        band.list = kept.seen.get();
        size_t longest = 0;
        for (size_t b = 1; b < kept.block_offsets.size(); ++b) longest = std::max(longest, size_t(kept.block_offsets[b] - kept.block_offsets[b - 1]));
        band.pixels = scratch<T>().pixels.reserve(longest * BLOCK_PIXELS * (grads.absgrad ? 4 : 2));
        band.centres = scratch<T>().centres.reserve(2 * (longest + 4));
        band.v_render = grads.v_renders + view * pixels * channels;
        band.v_alpha = grads.v_alphas ? grads.v_alphas + view * pixels : nullptr;
        band.v_background = grads.v_backgrounds ? v_background.data() + task * channels : nullptr;
        band.absgrad = grads.absgrad != nullptr;
        band.grads = rows.get() + state.band_offsets[task] * GRAD_ROW;
        uint8_t *seen = scratch<T>().slot_seen.reserve(band.num_slots);
        for (const uint32_t rank : kept.ranks) seen[rank & ~UNSEEN] = rank < UNSEEN;
        for (int64_t k = 0; k < band.num_slots; ++k)
            if (seen[k]) std::fill_n(band.grads + k * GRAD_ROW, GRAD_ROW, T(0));
        raster_table<T>().backward(band);
    });

    // Sum per Gaussian in band order, and turn the moments of dL/dsigma into gradients. sigma = (a dx^2 + c dy^2) / 2 + b dx dy, dx = pixel - mean.
    constexpr T LN2 = T(0.6931471805599453);  // the slot's A, B, C carry log2(e)
    const int num_colors = channels == 1 ? 0 : 3;
    parallel_for(int64_t(state.C) * chunks, num_threads, [&](int64_t task) {
        const int view = int(task / chunks), chunk = int(task % chunks);
        const int64_t begin = int64_t(chunk) * BIN_CHUNK, end = std::min(state.N, begin + BIN_CHUNK), base = view * state.N;
        T *sums = scratch<T>().sums.reserve(BIN_CHUNK * GRAD_ROW);
        std::fill_n(sums, (end - begin) * GRAD_ROW, T(0));
        for (int b = 0; b < bands; ++b) {
            const int64_t band = int64_t(view) * bands + b, start = state.band_offsets[band];
            const uint32_t *offsets = state.chunk_offsets.data() + band * (chunks + 1) + chunk, *ranks = state.bands[band].ranks.data();
            for (int64_t k = offsets[0]; k < offsets[1]; ++k) {
                if (k + AHEAD < offsets[1] && ranks[k + AHEAD] < UNSEEN) {
                    const T *ahead = rows.get() + (start + ranks[k + AHEAD]) * GRAD_ROW;
                    __builtin_prefetch(ahead), __builtin_prefetch(ahead + GRAD_ROW - 1);
                }
                if (ranks[k] & UNSEEN) continue;
                const T *__restrict row = rows.get() + (start + ranks[k]) * GRAD_ROW;
                T *__restrict sum = sums + (state.ids[start + k] - begin) * GRAD_ROW;
                for (int i = 0; i < GRAD_ROW; ++i) sum[i] += row[i];
            }
        }
        for (int64_t i = begin; i < end; ++i) {
            const T *row = sums + (i - begin) * GRAD_ROW;
            const int64_t at = base + i;
            const Slot<T> &g = state.gaussians[at];
            const T a = 2 * LN2 * g.A, bb = LN2 * g.B, c = 2 * LN2 * g.C;
            const bool seen = row[0] != 0 || row[3] != 0 || row[5] != 0;  // what is culled may be anything in `g`
            grads.v_means2d[2 * at] = seen ? -(a * row[1] + bb * row[2]) : T(0);
            grads.v_means2d[2 * at + 1] = seen ? -(bb * row[1] + c * row[2]) : T(0);
            grads.v_conics[3 * at] = T(0.5) * row[3];
            grads.v_conics[3 * at + 1] = row[4];
            grads.v_conics[3 * at + 2] = T(0.5) * row[5];
            grads.v_opacities[at] = seen ? -row[0] / g.opacity : T(0);
            for (int ch = 0; grads.v_colors && ch < num_colors; ++ch) grads.v_colors[3 * at + ch] = row[MOMENTS + ch];
            if (grads.v_depths) grads.v_depths[at] = channels != 3 ? row[MOMENTS + num_colors] : T(0);
            if (grads.absgrad) {
                grads.absgrad[2 * at] = LN2 * row[MOMENTS + channels];
                grads.absgrad[2 * at + 1] = LN2 * row[MOMENTS + 1 + channels];
            }
        }
    });
    if (grads.v_backgrounds) {
        std::fill_n(grads.v_backgrounds, state.C * channels, T(0));
        for (int64_t b = 0; b < num_bands; ++b)
            for (int ch = 0; ch < channels; ++ch) grads.v_backgrounds[(b / bands) * channels + ch] += v_background[b * channels + ch];
    }
}

template struct RasterState<float>;
template struct RasterState<double>;
template void raster_forward<float>(const RasterInput<float> &, int, RasterState<float> &, float *, float *);
template void raster_forward<double>(const RasterInput<double> &, int, RasterState<double> &, double *, double *);
template void raster_backward<float>(const RasterState<float> &, int, const RasterGrads<float> &);
template void raster_backward<double>(const RasterState<double> &, int, const RasterGrads<double> &);

}  // namespace l2s
