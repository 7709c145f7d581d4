// Tile rasterization of projected Gaussians, forward and backward.
//
// The image is cut into bands of BAND_ROWS rows, a band into tiles of TILE_W x TILE_H pixels. One task is one band of one view: it sorts the
// Gaussians that reach the band by depth, lists for every tile those whose ellipse {alpha >= 1/255} (exact, so it knows the opacity) reaches it,
// and blends front to back. Everything a task touches fits the L2 cache.
//
//   alpha = min(0.999, opacity * exp(-sigma)), skipped below 1/255; a pixel stops before the Gaussian that would bring its transmittance
//   to 1e-4 or less; depth ties go by index. These are gsplat's rules.
//
// The backward pass walks front to back again: with R = (sum of what lies behind) . g known from the total,
//   dL/dalpha_i = T_i (c_i . g) - R_i / (1 - alpha_i),
// so no per-pixel list is stored. Each band adds its gradients into rows of its own; a last pass sums them per Gaussian in band order, so that
// results do not depend on the number of threads.
#pragma once
#include <cstdint>
#include <vector>

#include "isa.hpp"

namespace l2s {

constexpr int TILE_W = 16, TILE_H = 4;
constexpr int BIN_CHUNK = 2048;        // Gaussians per binning task
constexpr int MAX_CHANNELS = 4;        // RGB + depth
constexpr int GRAD_ROW = 16;           // numbers per row of band gradients: M0 Mx My Mxx Mxy Myy, channels (4), abs x, abs y
constexpr double ALPHA_MAX = 0.999;    // gsplat: keeps 1 / (1 - alpha) bounded
constexpr double ALPHA_CUTOFF = 1.0 / 255.0;  // below one 8-bit step
constexpr double TRANSMITTANCE_STOP = 1e-4;

// Projected Gaussians of C views. Strides are 0 where all views share one row.
template <class T> struct RasterInput {
    int64_t N;
    int C, width, height, channels;  // channels: 1, 3 or 4
    const T *means2d, *conics;       // (C, N, 2), (C, N, 3)
    const T *opacities;              // (C, N) or (N,)
    int64_t opacity_stride;
    const T *colors;                 // (C, N, 3) or (N, 3); null if channels == 1
    int64_t color_stride;
    const T *depths;                 // (C, N): sort key, and the last channel if channels is 1 or 4
    const int32_t *radii;            // (C, N, 2): 0 means culled
    const T *backgrounds;            // (C, channels) or null
};

// A Gaussian as the tile loop reads it. alpha = 2^(log_opacity - (A dx^2 + B dx dy + C dy^2)).
template <class T> struct Slot {
    T x, y, A, B, C, log_opacity;
    T color[MAX_CHANNELS];
    int16_t row0, row1;  // rows of the band that its ellipse reaches, inclusive
};

// A run of tiles in one tile row of the band.
struct Span {
    uint32_t slot;
    uint16_t tile_row, tile0, tile1;  // tile0 <= tile < tile1
};

// What the forward pass leaves for the backward pass about one band: indices only.
struct Band {
    std::vector<uint32_t> order;        // order[slot] = entry of the band's list, by depth
    std::vector<uint32_t> tile_offsets;  // tiles + 1
    std::vector<uint32_t> tile_slots;
};

struct RasterState {
    int band_rows = 0, bands_per_view = 0, chunks = 0;
    // entries of all bands: view-major, then band, then Gaussian index
    std::vector<uint32_t> ids;
    std::vector<int64_t> band_offsets;   // (C * bands + 1)
    std::vector<uint32_t> chunk_offsets;  // (C, bands, chunks + 1): where a chunk's entries start, relative to the band
    std::vector<Band> bands;             // (C * bands)
    int64_t bytes() const;
};

// One band, as the kernels see it.
template <class T> struct BandArgs {
    int width, channels, y0, rows, tiles_x, tiles_y, num_slots;
    const uint32_t *order, *ids;
    const T *means2d, *conics, *opacities, *colors, *depths;  // of this view
    Slot<T> *slots;
    Span *spans;
    uint32_t *tile_counts;  // (tiles_y * tiles_x), zeroed
    const uint32_t *tile_offsets, *tile_slots;
    const T *background;                            // (channels,) or null
    T *render, *alpha;                              // of this view: (H, W, channels), (H, W)
    const T *v_render, *v_alpha;                    // v_alpha may be null
    T *grads;                                       // (num_slots, GRAD_ROW), zeroed, slot order
    T *v_background;                                // (channels,) of this band, or null
    bool absgrad;
};

template <class T> struct RasterTable {
    // First and last band of each Gaussian; first > last when it reaches no pixel.
    void (*band_range)(const RasterInput<T> &, int view, int band_rows, int64_t begin, int64_t end, uint16_t *first, uint16_t *last);
    int64_t (*make_slots)(const BandArgs<T> &);  // fills slots, spans, tile_counts; returns the number of spans
    void (*forward)(const BandArgs<T> &);
    void (*backward)(const BandArgs<T> &);
};
struct RasterKernels {
    RasterTable<float> f32;
    RasterTable<double> f64;
};
L2S_DECLARE_KERNELS(RasterKernels, raster_kernels)

template <class T> const RasterTable<T> &raster_table();
template <> inline const RasterTable<float> &raster_table<float>() { return L2S_KERNELS(raster_kernels).f32; }
template <> inline const RasterTable<double> &raster_table<double>() { return L2S_KERNELS(raster_kernels).f64; }

// renders (C, H, W, channels), alphas (C, H, W): every element is written.
template <class T> void raster_forward(const RasterInput<T> &in, int num_threads, RasterState &state, T *renders, T *alphas);

// Every element of the outputs is written: (C, N, 2), (C, N, 3), (C, N), (C, N, 3) or null, (C, N) or null, (C, N, 2) or null, (C, channels) or null.
template <class T> struct RasterGrads {
    const T *renders, *alphas, *v_renders, *v_alphas;  // v_alphas may be null
    T *v_means2d, *v_conics, *v_opacities, *v_colors, *v_depths, *absgrad, *v_backgrounds;
};
template <class T> void raster_backward(const RasterInput<T> &in, int num_threads, const RasterState &state, const RasterGrads<T> &grads);

}  // namespace l2s
