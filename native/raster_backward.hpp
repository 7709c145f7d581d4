// The backward pass of one block of pixels. See raster.hpp for the scheme.
#pragma once
#include "raster_blend.hpp"
#include "raster_moments.hpp"

namespace l2s {
namespace L2S_ISA {

template <class T, int CH, bool ABS> void backward_part(const BandArgs<T> &band, int block_x, int strip, int index, const uint32_t *list, int64_t length) {
    using P = Part<T>;
    using V = Vec<T>;
    constexpr int NV = P::NV, IMAGES = ABS ? 4 : 2,  // alpha, then dL/dsigma; weight; with absgrad its factors |dL/dx|, |dL/dy|
                  STRIDE = IMAGES * P::PIXELS;
    P part(band, block_x, strip, index);
    if (part.alive == 0) return;

    T rests[P::PIXELS], grads[CH][P::PIXELS];
    for (int y = 0; y < P::PART_ROWS; ++y)
        for (int x = 0; x < BLOCK_W; ++x) {
            const int p = y * BLOCK_W + x;
            const bool inside = part.whole || (x < part.width && y < part.rows);
            const int64_t pixel = inside ? int64_t(part.y0 + y) * band.width + part.x0 + x : 0;
            rests[p] = inside && band.v_alpha ? -band.v_alpha[pixel] : T(0);
            for (int ch = 0; ch < CH; ++ch) grads[ch][p] = inside ? band.v_render[pixel * CH + ch] : T(0);
        }
    V grad[CH][NV], rest[NV];  // rest: what lies behind, as if nothing were before it, times the gradient
    for (int j = 0; j < NV; ++j) {
        rest[j] = load<T>(rests + j * LANES<T>);
        for (int ch = 0; ch < CH; ++ch) {
            grad[ch][j] = load<T>(grads[ch] + j * LANES<T>);
            if (band.background) rest[j] += grad[ch][j] * band.background[ch];
        }
    }

    T *centres_x = band.centres, *centres_y = band.centres + (length + 3) / 4 * 4;
    for (int64_t k = 0; k < length; ++k) {
        const Slot<T> &g = band.slots[list[k]];
        V alpha[NV], weight[NV];
        part.blend(g, alpha, weight);
        T *images = band.pixels + k * STRIDE;
        for (int j = 0; j < NV; ++j) {
            store<T>(images + j * LANES<T>, alpha[j]);
            store<T>(images + (NV + j) * LANES<T>, weight[j]);
        }
        centres_x[k] = g.x, centres_y[k] = g.y;
    }
    for (int ch = 0; band.v_background && ch < CH; ++ch) {
        V sum{};
        for (int j = 0; j < NV; ++j) sum += part.transmittance[j] * grad[ch][j];  // 0 outside the image
        band.v_background[ch] += horizontal_sum<T>(sum);
    }
    for (int64_t k = length - 1; k >= 0; --k) {
        const Slot<T> &g = band.slots[list[k]];
        T *images = band.pixels + k * STRIDE;
        for (int j = 0; j < NV; ++j) {
            const V alpha = load<T>(images + j * LANES<T>), weight = load<T>(images + (NV + j) * LANES<T>);
            V own = g.color[0] * grad[0][j];
            for (int ch = 1; ch < CH; ++ch) own += g.color[ch] * grad[ch][j];
            const V behind = rest[j] - own;
            rest[j] -= alpha * behind;
            V v_sigma = weight * behind;
            if (g.clamped) v_sigma = keep(above(splat<T>(T(ALPHA_MAX)), alpha), v_sigma);  // 0 where alpha was clamped
            store<T>(images + j * LANES<T>, v_sigma);
            if (ABS) {
                const V dx = part.px[j % P::NX] - g.x, dy = part.py[j / P::NX] - g.y;
                const V gx = v_sigma * (T(2) * g.A * dx + g.B * dy), gy = v_sigma * (g.B * dx + T(2) * g.C * dy);
                store<T>(images + (2 * NV + j) * LANES<T>, vmax(gx, -gx));
                store<T>(images + (3 * NV + j) * LANES<T>, vmax(gy, -gy));
            }
        }
    }
    add_moments<T, CH, ABS>(part, grad, band.pixels, centres_x, centres_y, list, length, band.grads);
}

template <class T, int CH, bool ABS> void backward_band(const BandArgs<T> &band) {
    for (int strip = 0; strip < band.strips; ++strip)
        for (int block_x = 0; block_x < band.blocks_x; ++block_x) {
            const int64_t block = int64_t(strip) * band.blocks_x + block_x;
            for (int part = 0; part < Part<T>::PARTS; ++part)
                backward_part<T, CH, ABS>(band, block_x, strip, part, band.list + band.begin[block], int64_t(band.end[block]) - band.begin[block]);
        }
}

}  // namespace L2S_ISA
}  // namespace l2s
