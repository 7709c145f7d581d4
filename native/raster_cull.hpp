// Which bands and blocks a Gaussian reaches: LANES Gaussians at a time.
#pragma once
#include "raster.hpp"
#include "simd.hpp"

namespace l2s {
namespace L2S_ISA {

constexpr int BLOCK_SHIFT = 3;
static_assert(1 << BLOCK_SHIFT == BLOCK_W, "columns to blocks");
constexpr double LOG2E = 1.4426950408889634;
constexpr double LOG2_CUTOFF = -7.994353436858858;  // log2(1 / 255)
// Extents are widened by SLACK px + SLACK of themselves: culling must never be stricter than the alpha test, whatever the rounding.
constexpr double SLACK = 1e-3;

template <class V> L2S_INLINE V vclamp(V x, V low, V high) { return vmin(vmax(x, low), high); }

// First and last pixel centre (index) in [0, size) between low and high; first > last when there is none.
template <class T> L2S_INLINE Vec<T> first_pixel(Vec<T> low, int size) { return vceil(vclamp(low - T(0.5), Vec<T>{}, splat<T>(T(size)))); }
template <class T> L2S_INLINE Vec<T> last_pixel(Vec<T> high, int size) { return vfloor(vclamp(high - T(0.5), splat<T>(T(-1)), splat<T>(T(size - 1)))); }

// The ellipses {alpha >= 1/255}: a dx^2 + 2 b dx dy + c dy^2 <= t, and their half extents.
template <class T> struct Ellipses {
    Vec<T> a, b, c, det, t, rx, ry;
    Mask<T> some;  // not empty
};

template <class T> L2S_INLINE void make_ellipses(Vec<T> opacity, Ellipses<T> &e) {
    const Vec<T> level = opacity * T(255);
    e.some = (level > T(1)) & (e.a > T(0)) & (e.c > T(0));
    e.t = T(2) * vlog(select(e.some, level, splat<T>(T(1))));
    T a[LANES<T>], b[LANES<T>], c[LANES<T>], t[LANES<T>], det[LANES<T>], x2[LANES<T>], y2[LANES<T>];
    store<T>(a, e.a), store<T>(b, e.b), store<T>(c, e.c), store<T>(t, e.t);
    // In double from the rounded conic: it is this conic's ellipse that the block loop sees. Rounded to degenerate: a very long ellipse.
    for (int l = 0; l < LANES<T>; ++l) {
        const double ac = double(a[l]) * double(c[l]), exact = ac - double(b[l]) * double(b[l]), least = 1e-12 * ac, d = exact > least ? exact : least;
        const double scale = double(t[l]) / d;
        det[l] = T(d), x2[l] = T(scale * double(c[l])), y2[l] = T(scale * double(a[l]));
    }
    e.det = load<T>(det);
    e.rx = root(load<T>(x2)) * T(1 + SLACK) + T(SLACK);
    e.ry = root(load<T>(y2)) * T(1 + SLACK) + T(SLACK);
}

// Numbers k, k + STRIDE, ... of an array of which at least `n` rows exist; lanes past them repeat the last.
template <class T, int STRIDE> L2S_INLINE Vec<T> load_strided(const T *base, int n) {
    Vec<T> v;
    if (n >= LANES<T>) {
        for (int l = 0; l < LANES<T>; ++l) v[l] = base[l * STRIDE];
    } else {
        for (int l = 0; l < LANES<T>; ++l) v[l] = base[(l < n ? l : n - 1) * STRIDE];
    }
    return v;
}

template <class T>
void prepare(const RasterInput<T> &in, int view, int band_rows, int64_t begin, int64_t end, Slot<T> *slots, uint16_t *first, uint16_t *last) {
    using V = Vec<T>;
    const int num_colors = in.channels == 1 ? 0 : 3;
    const T *conics = in.conics + 3 * view * in.N, *means2d = in.means2d + 2 * view * in.N, *opacities = in.opacities + view * in.opacity_stride;
    const T *colors = in.colors + view * in.color_stride, *depths = in.depths + view * in.N;
    const int32_t *radii = in.radii + 2 * view * in.N;
    for (int64_t i = begin; i < end; i += LANES<T>) {
        const int n = end - i < LANES<T> ? int(end - i) : LANES<T>;
        Ellipses<T> e;
        e.a = load_strided<T, 3>(conics + 3 * i, n), e.b = load_strided<T, 3>(conics + 3 * i + 1, n), e.c = load_strided<T, 3>(conics + 3 * i + 2, n);
        make_ellipses(load_strided<T, 1>(opacities + i, n), e);
        const V x = load_strided<T, 2>(means2d + 2 * i, n), y = load_strided<T, 2>(means2d + 2 * i + 1, n);
        const V row0 = first_pixel<T>(y - e.ry, in.height), row1 = last_pixel<T>(y + e.ry, in.height);
        e.some &= (row0 <= row1) & (first_pixel<T>(x - e.rx, in.width) <= last_pixel<T>(x + e.rx, in.width));
        T log_opacity[LANES<T>], det[LANES<T>], rx[LANES<T>], ry[LANES<T>], rows0[LANES<T>], rows1[LANES<T>];
        store<T>(log_opacity, e.t * T(0.5 * LOG2E) + T(LOG2_CUTOFF));  // log2(255 o) - log2(255)
        store<T>(det, e.det), store<T>(rx, e.rx), store<T>(ry, e.ry), store<T>(rows0, row0), store<T>(rows1, row1);
        Mask<T> some = e.some;
        for (int l = 0; l < n; ++l) {
            const int64_t k = i + l;
            bool shown = some[l] && radii[2 * k] > 0 && radii[2 * k + 1] > 0;
            Slot<T> slot{means2d[2 * k], means2d[2 * k + 1], T(0.5 * LOG2E) * conics[3 * k], T(LOG2E) * conics[3 * k + 1], T(0.5 * LOG2E) * conics[3 * k + 2],
                         log_opacity[l], {}, det[l], rx[l], ry[l], opacities[k], opacities[k] > T(ALPHA_MAX * (1 - 1e-4))};
            if (num_colors) {
                slot.color[0] = colors[3 * k], slot.color[1] = colors[3 * k + 1], slot.color[2] = colors[3 * k + 2];
                shown &= (slot.color[0] + slot.color[1] + slot.color[2]) * T(0) == T(0);  // finite
            }
            if (in.channels != 3) slot.color[num_colors] = depths[k];
            slots[k] = slot;
            first[k] = shown ? uint16_t(int(rows0[l]) / band_rows) : 1;
            last[k] = shown ? uint16_t(int(rows1[l]) / band_rows) : 0;
        }
    }
}

// All fields of LANES slots: fields[i][lane] is the i-th number of a slot.
constexpr int SLOT_FIELDS = 16;
L2S_INLINE void load_slots(const Slot<float> *slots, vec_f *fields) {
    static_assert(sizeof(Slot<float>) == SLOT_FIELDS * sizeof(float), "whole vectors");
    for (int c = 0; c < SLOT_FIELDS; c += LANES<float>) {
        for (int l = 0; l < LANES<float>; ++l) fields[c + l] = load(&slots[l].x + c);
        transpose(fields + c);
    }
}
L2S_INLINE void load_slots(const Slot<double> *slots, vec_d *fields) {
    for (int c = 0; c < SLOT_FIELDS - 2; ++c)  // the last two are no float64
        for (int l = 0; l < LANES<double>; ++l) fields[c][l] = (&slots[l].x)[c];
}

template <class T> void make_spans(const BandArgs<T> &band) {
    using V = Vec<T>;
    const int64_t stride = padded(band.num_slots);
    for (int strip = 0; strip < band.strips; ++strip) band.num_spans[strip] = 0;
    for (int64_t k = 0; k < band.num_slots; k += LANES<T>) {
        const Slot<T> *slots = band.slots + k;
        const int n = band.num_slots - k < LANES<T> ? int(band.num_slots - k) : LANES<T>;
        V fields[SLOT_FIELDS];
        load_slots(slots, fields);  // also of the padding, whose spans are left out
        auto field = [&](const T &of_first) __attribute__((always_inline)) { return fields[&of_first - &slots->x]; };
        const V x = field(slots->x), y = field(slots->y) - T(band.y0), rx = field(slots->rx), ry = field(slots->ry), det = field(slots->det);
        const V a = field(slots->A) * T(2 / LOG2E), b = field(slots->B) * T(1 / LOG2E), c = field(slots->C) * T(2 / LOG2E);
        const V t = (field(slots->log_opacity) - T(LOG2_CUTOFF)) * T(2 / LOG2E);  // a dx^2 + 2 b dx dy + c dy^2 <= t
        const V row0 = first_pixel<T>(y - ry, band.rows), row1 = last_pixel<T>(y + ry, band.rows);
        const V inv_a = T(1) / a, at = a * t, tip = b * rx / c;  // the rightmost point lies at dy = -tip, the leftmost at +tip
        const V slack = T(SLACK) + T(SLACK) * root(at) * inv_a;
        for (int strip = 0; strip < band.strips; ++strip) {
            const V ya = vmax(row0, splat<T>(T(strip * BLOCK_H))), yb = vmin(row1, splat<T>(T(strip * BLOCK_H + BLOCK_H - 1)));
            const V d0 = ya + T(0.5) - y, d1 = yb + T(0.5) - y;
            const V right_dy = vclamp(-tip, d0, d1), left_dy = vclamp(tip, d0, d1);
            const V right = (root(at - det * right_dy * right_dy) - b * right_dy) * inv_a + slack;
            const V left = (-root(at - det * left_dy * left_dy) - b * left_dy) * inv_a - slack;
            const V col0 = first_pixel<T>(x + left, band.width), col1 = last_pixel<T>(x + right, band.width);
            const Mask<T> some = (ya <= yb) & (col0 <= col1);
            const Mask<T> first = to_int(col0) >> BLOCK_SHIFT, end = select(some, (to_int(col1) >> BLOCK_SHIFT) + 1, Mask<T>{});
            Span *spans = band.spans + strip * stride;
            int64_t count = band.num_spans[strip];
            for (int l = 0; l < n; ++l) {
                spans[count] = {uint32_t(k + l), uint16_t(first[l]), uint16_t(end[l])};
                count += first[l] < end[l];
            }
            band.num_spans[strip] = count;
        }
    }
}

}  // namespace L2S_ISA
}  // namespace l2s
