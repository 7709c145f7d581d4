// Band kernels of the rasterizer: which bands and tiles a Gaussian reaches, and the blending of one tile, forward and backward.
#include "raster.hpp"

#include "simd.hpp"

namespace l2s {
namespace L2S_ISA {
namespace {

constexpr double LOG2E = 1.4426950408889634;
constexpr double LOG2_CUTOFF = -7.994353436858858;          // log2(1 / 255)
constexpr double LOG2_ALPHA_MAX = -0.0014434168696687186;  // log2(0.999)
// Extents are widened by SLACK px + SLACK of themselves: culling must never be stricter than the alpha test, whatever the rounding.
constexpr double SLACK = 1e-3;

template <class X> L2S_INLINE X clamp(X x, X low, X high) { return x < low ? low : x > high ? high : x; }
L2S_INLINE float root(float x) { return __builtin_sqrtf(x > 0 ? x : 0); }
L2S_INLINE double root(double x) { return __builtin_sqrt(x > 0 ? x : 0); }

// First and last pixel centre (index) in [0, size) between low and high; first > last when there is none.
template <class T> L2S_INLINE int first_pixel(T low, int size) { return int(std::ceil(clamp(low - T(0.5), T(0), T(size)))); }
template <class T> L2S_INLINE int last_pixel(T high, int size) { return int(std::floor(clamp(high - T(0.5), T(-1), T(size - 1)))); }

// The ellipse {alpha >= 1/255}: a dx^2 + 2 b dx dy + c dy^2 <= t, and its half extents.
template <class T> struct Ellipse {
    T a, b, c, det, t, rx, ry;
};

template <class T> L2S_INLINE bool make_ellipse(const T *conic, T opacity, Ellipse<T> &e) {
    e.a = conic[0], e.b = conic[1], e.c = conic[2];
    e.t = T(2) * std::log(T(255) * opacity);
    if (!(e.t > T(0)) || !(e.a > T(0)) || !(e.c > T(0))) return false;
    // In double from the rounded conic: it is this conic's ellipse that the tile loop sees. Rounded to degenerate: a very long ellipse.
    const double ac = double(e.a) * double(e.c), det = ac - double(e.b) * double(e.b), inv = 1.0 / (det > 1e-12 * ac ? det : 1e-12 * ac);
    e.det = T(det > 1e-12 * ac ? det : 1e-12 * ac);
    e.rx = root(T(double(e.t) * double(e.c) * inv)) * T(1 + SLACK) + T(SLACK);
    e.ry = root(T(double(e.t) * double(e.a) * inv)) * T(1 + SLACK) + T(SLACK);
    return true;
}

template <class T> L2S_INLINE bool finite_color(const T *color, int n) {
    T check = 0;
    for (int k = 0; k < n; ++k) check += color[k] * T(0);
    return check == T(0);
}

template <class T>
void band_range(const RasterInput<T> &in, int view, int band_rows, int64_t begin, int64_t end, uint16_t *first, uint16_t *last) {
    const int num_colors = in.channels == 1 ? 0 : 3;
    for (int64_t i = begin; i < end; ++i) {
        const int64_t row = view * in.N + i;
        first[i] = 1, last[i] = 0;
        if (in.radii[2 * row] <= 0 || in.radii[2 * row + 1] <= 0) continue;
        Ellipse<T> e{};
        if (!make_ellipse(in.conics + 3 * row, in.opacities[view * in.opacity_stride + i], e)) continue;
        if (num_colors && !finite_color(in.colors + view * in.color_stride + 3 * i, 3)) continue;
        const T x = in.means2d[2 * row], y = in.means2d[2 * row + 1];
        const int row0 = first_pixel(y - e.ry, in.height), row1 = last_pixel(y + e.ry, in.height);
        if (row0 > row1 || first_pixel(x - e.rx, in.width) > last_pixel(x + e.rx, in.width)) continue;
        first[i] = uint16_t(row0 / band_rows), last[i] = uint16_t(row1 / band_rows);
    }
}

template <class T> int64_t make_slots(const BandArgs<T> &band) {
    int64_t num_spans = 0;
    const int num_colors = band.channels == 1 ? 0 : 3;
    for (int k = 0; k < band.num_slots; ++k) {
        if (k + 8 < band.num_slots) {
            const int64_t ahead = band.ids[band.order[k + 8]];
            __builtin_prefetch(band.means2d + 2 * ahead);
            __builtin_prefetch(band.conics + 3 * ahead);
            __builtin_prefetch(band.opacities + ahead);
            if (num_colors) __builtin_prefetch(band.colors + 3 * ahead);
        }
        const int64_t i = band.ids[band.order[k]];
        Slot<T> &slot = band.slots[k];
        Ellipse<T> e{};
        make_ellipse(band.conics + 3 * i, band.opacities[i], e);
        slot.x = band.means2d[2 * i], slot.y = band.means2d[2 * i + 1];
        slot.A = T(0.5 * LOG2E) * band.conics[3 * i];
        slot.B = T(LOG2E) * band.conics[3 * i + 1];
        slot.C = T(0.5 * LOG2E) * band.conics[3 * i + 2];
        slot.log_opacity = e.t * T(0.5 * LOG2E) + T(LOG2_CUTOFF);  // log2(255 o) - log2(255)
        for (int ch = 0; ch < num_colors; ++ch) slot.color[ch] = band.colors[3 * i + ch];
        if (band.channels != 3) slot.color[num_colors] = band.depths[i];
        const T x = slot.x, y = slot.y - T(band.y0);
        const int row0 = first_pixel(y - e.ry, band.rows), row1 = last_pixel(y + e.ry, band.rows);
        slot.row0 = int16_t(row0), slot.row1 = int16_t(row1);
        if (!band.spans) continue;  // the backward pass has its tile lists already
        const T inv_a = T(1) / e.a, tip = e.b * e.rx / e.c, at = e.a * e.t;  // the rightmost point lies at dy = -tip, the leftmost at +tip
        const T slack = T(SLACK) + T(SLACK) * root(at) * inv_a;
        for (int tile_row = row0 / TILE_H; tile_row * TILE_H <= row1; ++tile_row) {
            const int ya = tile_row * TILE_H > row0 ? tile_row * TILE_H : row0;
            const int yb = tile_row * TILE_H + TILE_H - 1 < row1 ? tile_row * TILE_H + TILE_H - 1 : row1;
            const T d0 = T(ya) + T(0.5) - y, d1 = T(yb) + T(0.5) - y;
            const T right_dy = clamp(-tip, d0, d1), left_dy = clamp(tip, d0, d1);
            const T right = (root(at - e.det * right_dy * right_dy) - e.b * right_dy) * inv_a + slack;
            const T left = (-root(at - e.det * left_dy * left_dy) - e.b * left_dy) * inv_a - slack;
            const int col0 = first_pixel(x + left, band.width), col1 = last_pixel(x + right, band.width);
            if (col0 > col1) continue;
            const int tile0 = col0 / TILE_W, tile1 = col1 / TILE_W + 1;
            band.spans[num_spans++] = {uint32_t(k), uint16_t(tile_row), uint16_t(tile0), uint16_t(tile1)};
            uint32_t *counts = band.tile_counts + tile_row * band.tiles_x;
            for (int t = tile0; t < tile1; ++t) ++counts[t];
        }
    }
    return num_spans;
}

// One tile: pixel centres, transmittance, and the power below which a Gaussian is not seen. That threshold is log2(1/255), and infinite for
// pixels that have stopped or lie outside the image, so that one comparison decides.
template <class T> struct Tile {
    static constexpr int NV = TILE_W / LANES<T>;
    int x0, y0, width, rows, alive;  // y0 and rows relative to the band; alive: pixels that have not stopped
    T py[TILE_H];
    Vec<T> px[NV], transmittance[TILE_H][NV], threshold[TILE_H][NV];

    L2S_INLINE Tile(const BandArgs<T> &band, int tx, int ty) : x0(tx * TILE_W), y0(ty * TILE_H) {
        width = band.width - x0 < TILE_W ? band.width - x0 : TILE_W;
        rows = band.rows - y0 < TILE_H ? band.rows - y0 : TILE_H;
        alive = width * rows;
        for (int j = 0; j < NV; ++j)
            for (int l = 0; l < LANES<T>; ++l) px[j][l] = T(x0 + j * LANES<T> + l) + T(0.5);
        for (int r = 0; r < TILE_H; ++r) {
            py[r] = T(band.y0 + y0 + r) + T(0.5);
            for (int j = 0; j < NV; ++j) {
                transmittance[r][j] = splat<T>(T(1));
                threshold[r][j] = splat<T>(T(LOG2_CUTOFF));
                if (r >= rows || (j + 1) * LANES<T> > width)
                    for (int l = 0; l < LANES<T>; ++l)
                        if (r >= rows || j * LANES<T> + l >= width) threshold[r][j][l] = T(__builtin_inff());
            }
        }
    }

    // These pixels stop before the Gaussian that would take their transmittance to TRANSMITTANCE_STOP. Rare: at most once per pixel.
    template <class B> L2S_INLINE void stop(int r, int j, B stopped) {
        alive -= count(stopped);
        threshold[r][j] = choose(stopped, splat<T>(T(__builtin_inff())), threshold[r][j]);
    }
};

// The rows of the tile that a slot's ellipse reaches.
template <class T> L2S_INLINE int first_row(const Slot<T> &g, const Tile<T> &tile) { return g.row0 - tile.y0 > 0 ? g.row0 - tile.y0 : 0; }
template <class T> L2S_INLINE int last_row(const Slot<T> &g, const Tile<T> &tile) { return g.row1 - tile.y0 < TILE_H - 1 ? g.row1 - tile.y0 : TILE_H - 1; }

// True if any pixel of the row is in one of its NV masks.
template <class T> L2S_INLINE bool any_of(const Bits<T> *masks) {
    Bits<T> all = masks[0];
    for (int j = 1; j < Tile<T>::NV; ++j) all = Bits<T>(all | masks[j]);
    return any(all);
}

template <class T, int CH> void forward_tile(const BandArgs<T> &band, int tx, int ty) {
    constexpr int NV = Tile<T>::NV;
    using V = Vec<T>;
    Tile<T> tile(band, tx, ty);
    V color[CH][TILE_H][NV];
    for (int ch = 0; ch < CH; ++ch)
        for (int r = 0; r < TILE_H; ++r)
            for (int j = 0; j < NV; ++j) color[ch][r][j] = V{};
    const uint32_t *list = band.tile_slots + band.tile_offsets[ty * band.tiles_x + tx], *list_end = band.tile_slots + band.tile_offsets[ty * band.tiles_x + tx + 1];
    for (; list < list_end && tile.alive > 0; ++list) {
        const Slot<T> &g = band.slots[*list];
        const int r1 = last_row(g, tile);
        V dx[NV];
        for (int j = 0; j < NV; ++j) dx[j] = tile.px[j] - g.x;
        for (int r = first_row(g, tile); r <= r1; ++r) {
            const T dy = tile.py[r] - g.y, b_dy = g.B * dy, base = g.log_opacity - g.C * dy * dy;
            // The whole row before its branches: one of its pixels is nearly always seen, a branch per vector would often be mispredicted.
            V power[NV], weight[NV];
            Bits<T> visible[NV], stopped[NV];
            for (int j = 0; j < NV; ++j) {
                power[j] = base - dx[j] * (g.A * dx[j] + b_dy);
                visible[j] = at_least(power[j], tile.threshold[r][j]);
            }
            if (!any_of<T>(visible)) continue;
            for (int j = 0; j < NV; ++j) {
                weight[j] = vmin(fast_exp2(power[j]), splat<T>(T(ALPHA_MAX))) * tile.transmittance[r][j];
                stopped[j] = and_not(visible[j], above(tile.transmittance[r][j] - weight[j], splat<T>(T(TRANSMITTANCE_STOP))));
            }
            if (any_of<T>(stopped))
                for (int j = 0; j < NV; ++j) {
                    tile.stop(r, j, stopped[j]);
                    visible[j] = and_not(visible[j], stopped[j]);
                }
            for (int j = 0; j < NV; ++j) {
                const V shown = keep(visible[j], weight[j]);
                for (int ch = 0; ch < CH; ++ch) color[ch][r][j] += shown * g.color[ch];
                tile.transmittance[r][j] -= shown;
            }
        }
    }
    for (int r = 0; r < tile.rows; ++r) {
        const int64_t pixel = int64_t(band.y0 + tile.y0 + r) * band.width + tile.x0;
        T left[TILE_W], out[CH][TILE_W];
        for (int j = 0; j < NV; ++j) {
            const V t = tile.transmittance[r][j];
            store<T>(left + j * LANES<T>, t);
            for (int ch = 0; ch < CH; ++ch) store<T>(out[ch] + j * LANES<T>, band.background ? color[ch][r][j] + t * band.background[ch] : color[ch][r][j]);
        }
        for (int x = 0; x < tile.width; ++x) {
            band.alpha[pixel + x] = T(1) - left[x];
            for (int ch = 0; ch < CH; ++ch) band.render[(pixel + x) * CH + ch] = out[ch][x];
        }
    }
}

template <class T, int CH, bool ABS> void backward_tile(const BandArgs<T> &band, int tx, int ty) {
    constexpr int NV = Tile<T>::NV;
    constexpr int SUMS = 6 + CH + (ABS ? 2 : 0);
    using V = Vec<T>;
    Tile<T> tile(band, tx, ty);
    V rest[TILE_H][NV], grad[CH][TILE_H][NV];
    for (int r = 0; r < TILE_H; ++r) {
        T row_rest[TILE_W] = {}, row_grad[CH][TILE_W] = {};
        const int64_t pixel = int64_t(band.y0 + tile.y0 + r) * band.width + tile.x0;
        for (int x = 0; r < tile.rows && x < tile.width; ++x) {
            const T left = T(1) - band.alpha[pixel + x];
            T total = band.v_alpha ? -left * band.v_alpha[pixel + x] : T(0);  // d(1 - T)/dalpha_i = T / (1 - alpha_i)
            for (int ch = 0; ch < CH; ++ch) {
                const T v = band.v_render[(pixel + x) * CH + ch];
                row_grad[ch][x] = v;
                total += v * band.render[(pixel + x) * CH + ch];
                if (band.v_background) band.v_background[ch] += left * v;
            }
            row_rest[x] = total;
        }
        for (int j = 0; j < NV; ++j) {
            rest[r][j] = load<T>(row_rest + j * LANES<T>);
            for (int ch = 0; ch < CH; ++ch) grad[ch][r][j] = load<T>(row_grad[ch] + j * LANES<T>);
        }
    }
    const uint32_t *list = band.tile_slots + band.tile_offsets[ty * band.tiles_x + tx], *list_end = band.tile_slots + band.tile_offsets[ty * band.tiles_x + tx + 1];
    for (; list < list_end && tile.alive > 0; ++list) {
        const Slot<T> &g = band.slots[*list];
        const int r1 = last_row(g, tile);
        V sums[SUMS < 8 ? 8 : SUMS];  // moments of dL/dsigma: 1, dx, dy, dx^2, dx dy, dy^2; then the channels
        for (V &s : sums) s = V{};
        bool touched = false;
        for (int r = first_row(g, tile); r <= r1; ++r) {
            const T dy = tile.py[r] - g.y, b_dy = g.B * dy, base = g.log_opacity - g.C * dy * dy, dy2 = dy * dy;
            for (int j = 0; j < NV; ++j) {
                const V dx = tile.px[j] - g.x;
                const V power = base - dx * (g.A * dx + b_dy);
                auto visible = at_least(power, tile.threshold[r][j]);
                if (!any(visible)) continue;
                const V alpha = vmin(fast_exp2(power), splat<T>(T(ALPHA_MAX)));
                const V before = tile.transmittance[r][j], weight = alpha * before;
                const auto stopped = and_not(visible, above(before - weight, splat<T>(T(TRANSMITTANCE_STOP))));
                if (any(stopped)) {
                    tile.stop(r, j, stopped);
                    visible = and_not(visible, stopped);
                }
                touched = true;
                const V shown = keep(visible, weight);
                tile.transmittance[r][j] = before - shown;
                V color_grad = g.color[0] * grad[0][r][j];
                for (int ch = 1; ch < CH; ++ch) color_grad += g.color[ch] * grad[ch][r][j];
                for (int ch = 0; ch < CH; ++ch) sums[6 + ch] += shown * grad[ch][r][j];
                const V behind = rest[r][j] - shown * color_grad;
                rest[r][j] = behind;
                // alpha dL/dalpha = w (c . g) - alpha R / (1 - alpha);  dL/dsigma is its negative, and 0 where alpha was clamped
                const V v_sigma = keep(and_not(visible, above(power, splat<T>(T(LOG2_ALPHA_MAX)))), alpha * behind * reciprocal(T(1) - alpha) - weight * color_grad);
                const V v_dx = v_sigma * dx;
                sums[0] += v_sigma;
                sums[1] += v_dx;
                sums[2] += v_sigma * dy;
                sums[3] += v_dx * dx;
                sums[4] += v_dx * dy;
                sums[5] += v_sigma * dy2;
                if (ABS) {
                    const V gx = T(2) * g.A * v_dx + g.B * dy * v_sigma, gy = g.B * v_dx + T(2) * g.C * dy * v_sigma;
                    sums[SUMS - 2] += vmax(gx, -gx);
                    sums[SUMS - 1] += vmax(gy, -gy);
                }
            }
        }
        if (!touched) continue;
        T *out = band.grads + int64_t(*list) * GRAD_ROW;
        add_sums_of_8<T>(sums, out);
        for (int k = 8; k < SUMS; ++k) out[k] += horizontal_sum<T>(sums[k]);
    }
}

template <class T, int CH> void forward_channels(const BandArgs<T> &band) {
    for (int ty = 0; ty < band.tiles_y; ++ty)
        for (int tx = 0; tx < band.tiles_x; ++tx) forward_tile<T, CH>(band, tx, ty);
}

template <class T, int CH, bool ABS> void backward_channels(const BandArgs<T> &band) {
    for (int ty = 0; ty < band.tiles_y; ++ty)
        for (int tx = 0; tx < band.tiles_x; ++tx) backward_tile<T, CH, ABS>(band, tx, ty);
}

template <class T> void forward(const BandArgs<T> &band) {
    if (band.channels == 1) forward_channels<T, 1>(band);
    else if (band.channels == 3) forward_channels<T, 3>(band);
    else forward_channels<T, 4>(band);
}

template <class T> void backward(const BandArgs<T> &band) {
    if (band.channels == 1) band.absgrad ? backward_channels<T, 1, true>(band) : backward_channels<T, 1, false>(band);
    else if (band.channels == 3) band.absgrad ? backward_channels<T, 3, true>(band) : backward_channels<T, 3, false>(band);
    else band.absgrad ? backward_channels<T, 4, true>(band) : backward_channels<T, 4, false>(band);
}

}  // namespace

extern const RasterKernels raster_kernels;
const RasterKernels raster_kernels = {{band_range<float>, make_slots<float>, forward<float>, backward<float>},
                                      {band_range<double>, make_slots<double>, forward<double>, backward<double>}};

}  // namespace L2S_ISA
}  // namespace l2s
