// Rasterization of projected Gaussians, forward and backward.
//
// The image is cut into bands, a band into strips of BLOCK_H rows, a strip into blocks of BLOCK_W x BLOCK_H pixels. One task is one band of one view:
// it sorts the Gaussians that reach the band by depth, lists for every block those whose ellipse {alpha >= 1/255} (exact, so it knows the opacity)
// reaches it, and blends front to back, the pixels of a block in registers. Everything a task touches fits the L2 cache.
//
//   alpha = min(0.999, opacity * exp(-sigma)), skipped below 1/255; a pixel stops before the Gaussian that would bring its transmittance
//   to 1e-4 or less; depth ties go by index. These are gsplat's rules.
//
// The forward pass leaves the lists of those that were seen. The backward pass walks them front to back for alpha and transmittance T, and back again
// for what lies behind: with S = (colour seen behind i, were nothing before it) . g,
//   dL/dalpha_i = T_i (c_i . g - S_i),   S_(i-1) = S_i + alpha_i (c_i . g - S_i),   S_last = background . g - dL/dalpha of the image,
// so nothing is divided, and no image of the forward pass is needed. Each band adds its gradients into rows of its own; a last pass sums them per
// Gaussian in band order, so that results do not depend on the number of threads.
#pragma once
#include <cstdint>
#include <vector>

#include "isa.hpp"
#include "pool.hpp"

namespace l2s {

constexpr int BLOCK_W = 8, BLOCK_H = 4;
constexpr int BLOCK_PIXELS = BLOCK_W * BLOCK_H;
constexpr int MAX_WIDTH = 65535 * BLOCK_W;  // spans count blocks in 16 bits
constexpr int BIN_CHUNK = 2048;        // Gaussians per binning task
constexpr int MAX_CHANNELS = 4;        // RGB + depth
constexpr int MOMENTS = 6;             // of dL/dsigma about the mean: 1, dx, dy, dx^2, dx dy, dy^2
constexpr int GRAD_ROW = 12;           // numbers per row of band gradients: moments, channels (up to 4), abs x, abs y
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

// A projected Gaussian, one or two cache lines. alpha = 2^(log_opacity - (A dx^2 + B dx dy + C dy^2)).
template <class T> struct alignas(64) Slot {
    T x, y, A, B, C, log_opacity;
    T color[MAX_CHANNELS];
    T det, rx, ry;  // of the conic; half extents of the ellipse in which it is seen, a little more than exact
    T opacity;
    int32_t clamped;  // whether alpha can reach ALPHA_MAX
};

// The blocks of a strip that the ellipse of a slot reaches: begin <= block < end.
struct Span {
    uint32_t slot;
    uint16_t begin, end;
};

// What the forward pass leaves for the backward pass about one band: indices only.
struct Band {
    std::vector<uint32_t> ranks;          // ranks[entry of the band's list] = slot, by depth; with a flag if unseen
    std::vector<uint32_t> block_offsets;  // blocks + 1
    Pooled<uint32_t> seen;                // slots that are seen in each block, front to back
};

template <class T> struct RasterState {
    int64_t N = 0;
    int C = 0, width = 0, height = 0, channels = 0, band_rows = 0, bands_per_view = 0, chunks = 0;
    Pooled<Slot<T>> gaussians;  // (C, N)
    // entries of all bands: view-major, then band, then Gaussian index
    std::vector<uint32_t> ids;
    std::vector<int64_t> band_offsets;    // (C * bands + 1)
    std::vector<uint32_t> chunk_offsets;  // (C, bands, chunks + 1): where a chunk's entries start, relative to the band
    std::vector<Band> bands;              // (C * bands)
    int64_t bytes() const;
};

// One band, as the kernels see it.
template <class T> struct BandArgs {
    int width, channels, y0, rows, blocks_x, strips;
    int64_t num_slots;
    const Slot<T> *slots;               // (padded(num_slots),), by depth
    Span *spans;                        // (strips, padded(num_slots)): of each strip, in the order of the slots
    int64_t *num_spans;                 // (strips,)
    const uint32_t *begin, *end, *list;  // lists of the blocks: of one strip (forward), or of the band (backward)
    uint32_t *seen, *seen_end;          // forward: of these lists what is seen, block after block, and where the blocks end
    uint8_t *slot_seen;                 // (num_slots,): forward: whether a pixel of the band sees it, at first 0
    uint8_t *flags;                     // scratch: one per entry of the longest list
    T *pixels;                          // scratch of the backward pass: images of BLOCK_PIXELS pixels per entry of the longest list
    T *centres;                         // likewise: x and y
    const T *background;                // (channels,) or null
    T *render, *alpha;                  // of this view: (H, W, channels), (H, W)
    const T *v_render, *v_alpha;        // v_alpha may be null
    T *grads;                           // (num_slots, GRAD_ROW), zeroed
    T *v_background;                    // (channels,) of this band, or null
    bool absgrad;
};
constexpr int SLOT_PADDING = 16;  // Gaussians are culled so many at a time, at most
inline int64_t padded(int64_t num_slots) { return (num_slots + SLOT_PADDING - 1) / SLOT_PADDING * SLOT_PADDING; }

template <class T> struct RasterTable {
    // Fills the slots of a view, and the first and last band of each Gaussian; first > last when it reaches no pixel.
    void (*prepare)(const RasterInput<T> &, int view, int band_rows, int64_t begin, int64_t end, Slot<T> *slots, uint16_t *first, uint16_t *last);
    void (*make_spans)(const BandArgs<T> &);
    void (*forward)(const BandArgs<T> &, int strip);
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

// renders (C, H, W, channels), alphas (C, H, W): every element is written. Throws std::overflow_error where lists do not fit 32 bits.
template <class T> void raster_forward(const RasterInput<T> &in, int num_threads, RasterState<T> &state, T *renders, T *alphas);

// Every element of the outputs is written: (C, N, 2), (C, N, 3), (C, N), (C, N, 3) or null, (C, N) or null, (C, N, 2) or null, (C, channels) or null.
template <class T> struct RasterGrads {
    const T *v_renders, *v_alphas, *backgrounds;  // the last two may be null
    T *v_means2d, *v_conics, *v_opacities, *v_colors, *v_depths, *absgrad, *v_backgrounds;
};
template <class T> void raster_backward(const RasterState<T> &state, int num_threads, const RasterGrads<T> &grads);

}  // namespace l2s
