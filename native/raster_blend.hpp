// Blending of one block of pixels: the step that the forward and the backward pass share, and the forward pass.
#pragma once
#include "raster.hpp"
#include "simd.hpp"

namespace l2s {
namespace L2S_ISA {

// A block is blended in parts of which all pixels fit into registers: NV vectors, PART_ROWS rows of BLOCK_W. Pixel p of the part is lane p % LANES of
// vector p / LANES. NX vectors make a row, or one vector makes several rows; vectors with the same j % NX share their x, the same j / NX their y.
template <class T> struct Part {
    static constexpr int NV = LANES<T> >= 4 ? 2 : 4, PIXELS = NV * LANES<T>, PART_ROWS = PIXELS / BLOCK_W, PARTS = BLOCK_H / PART_ROWS;
    static constexpr int NX = LANES<T> >= BLOCK_W ? 1 : BLOCK_W / LANES<T>, NY = NV / NX;
    static_assert(PART_ROWS * BLOCK_W == PIXELS && PARTS * PART_ROWS == BLOCK_H && NX * NY == NV, "a block is whole parts, a part whole rows");

    int x0, y0, width, rows;  // of the image; width and rows: how much of the part lies inside
    bool whole;               // all of it does
    int alive;                // pixels that have not stopped
    Vec<T> px[NX], py[NY], transmittance[NV];
    Vec<T> threshold[NV];     // The power below which a Gaussian is not seen: log2(1/255), and infinite for pixels that have stopped or lie outside.

    L2S_INLINE Part(const BandArgs<T> &band, int block_x, int strip, int part) {
        x0 = block_x * BLOCK_W;
        y0 = strip * BLOCK_H + part * PART_ROWS;  // of the band, so far
        width = band.width - x0 < BLOCK_W ? band.width - x0 : BLOCK_W;
        rows = band.rows - y0 < PART_ROWS ? band.rows - y0 : PART_ROWS;
        rows = rows > 0 ? rows : 0;
        y0 += band.y0;
        whole = width == BLOCK_W && rows == PART_ROWS;
        alive = width * rows;
        T columns[PIXELS], lines[PIXELS];
        for (int p = 0; p < PIXELS; ++p) columns[p] = T(p % BLOCK_W), lines[p] = T(p / BLOCK_W);
        for (int j = 0; j < NX; ++j) px[j] = load<T>(columns + j * LANES<T>) + (T(x0) + T(0.5));
        for (int j = 0; j < NY; ++j) py[j] = load<T>(lines + j * NX * LANES<T>) + (T(y0) + T(0.5));
        const Vec<T> seen = splat<T>(T(LOG2_CUTOFF)), never = splat<T>(T(__builtin_inff()));
        for (int j = 0; j < NV; ++j) {
            transmittance[j] = splat<T>(T(1));
            threshold[j] = seen;
            if (!whole) {
                const auto inside = (load<T>(columns + j * LANES<T>) < T(width)) & (load<T>(lines + j * LANES<T>) < T(rows));
                threshold[j] = select(inside, seen, never);
            }
        }
    }

    // What the Gaussian does to the pixels: alpha and weight = alpha * transmittance, both 0 where it is not seen; the transmittance behind it.
    // True if a pixel sees it. Whole parts before any branch: one of the pixels nearly always sees the Gaussian, since it is in the list.
    L2S_INLINE bool blend(const Slot<T> &g, Vec<T> *alpha, Vec<T> *weight) {
        using V = Vec<T>;
        V base[NX], b_dx[NX], power[NV], left[NV];
        Bits<T> visible[NV];
        for (int j = 0; j < NX; ++j) {
            const V dx = px[j] - g.x;
            b_dx[j] = g.B * dx;
            base[j] = g.log_opacity - g.A * dx * dx;
        }
        for (int j = 0; j < NV; ++j) {
            const V dy = py[j / NX] - g.y;
            power[j] = base[j % NX] - dy * (g.C * dy + b_dx[j % NX]);
            visible[j] = at_least(power[j], threshold[j]);
            alpha[j] = keep(visible[j], rough_exp2(power[j]));
        }
        if (g.clamped)
            for (int j = 0; j < NV; ++j) alpha[j] = vmin(alpha[j], splat<T>(T(ALPHA_MAX)));
        V least;
        for (int j = 0; j < NV; ++j) {
            weight[j] = alpha[j] * transmittance[j];
            left[j] = transmittance[j] - weight[j];
            least = j == 0 ? left[0] : vmin(least, left[j]);
        }
        if (any(at_least(splat<T>(T(TRANSMITTANCE_STOP)), least))) {  // Rare: at most once per pixel, and never where it is not seen.
            for (int j = 0; j < NV; ++j) {
                const Bits<T> stopped = at_least(splat<T>(T(TRANSMITTANCE_STOP)), left[j]);
                alive -= count(stopped);
                threshold[j] = choose(stopped, splat<T>(T(__builtin_inff())), threshold[j]);
                left[j] = choose(stopped, transmittance[j], left[j]);
                visible[j] = and_not(visible[j], stopped);
                alpha[j] = keep(visible[j], alpha[j]);
                weight[j] = keep(visible[j], weight[j]);
            }
        }
        for (int j = 0; j < NV; ++j) transmittance[j] = left[j];
        return any_of<T, NV>(visible);
    }
};

// Appends what is seen of the block's list to band.seen at `num_seen`, and returns what that is then.
template <class T, int CH> uint32_t forward_block(const BandArgs<T> &band, int block_x, int strip, uint32_t num_seen) {
    using P = Part<T>;
    using V = Vec<T>;
    const uint32_t *list = band.list + band.begin[block_x];
    const int64_t length = int64_t(band.end[block_x]) - band.begin[block_x];
    for (int64_t k = 0; P::PARTS > 1 && k < length; ++k) band.flags[k] = 0;
    for (int index = 0; index < P::PARTS; ++index) {
        P part(band, block_x, strip, index);
        V color[CH][P::NV] = {};
        for (int64_t k = 0; k < length && part.alive > 0; ++k) {
            const Slot<T> &g = band.slots[list[k]];
            V alpha[P::NV], weight[P::NV];
            const bool seen = part.blend(g, alpha, weight);
            band.slot_seen[list[k]] |= seen;
            if (P::PARTS == 1) {
                band.seen[num_seen] = list[k];
                num_seen += seen;
            } else {
                band.flags[k] |= seen;
            }
            for (int ch = 0; ch < CH; ++ch)
                for (int j = 0; j < P::NV; ++j) color[ch][j] += weight[j] * g.color[ch];
        }
        T left[P::PIXELS], out[CH][P::PIXELS];
        for (int j = 0; j < P::NV; ++j) {
            const V t = part.transmittance[j];
            store<T>(left + j * LANES<T>, t);
            for (int ch = 0; ch < CH; ++ch) store<T>(out[ch] + j * LANES<T>, band.background ? color[ch][j] + t * band.background[ch] : color[ch][j]);
        }
        for (int y = 0; y < part.rows; ++y) {
            const int64_t pixel = int64_t(part.y0 + y) * band.width + part.x0;
            for (int x = 0; x < part.width; ++x) {
                band.alpha[pixel + x] = T(1) - left[y * BLOCK_W + x];
                for (int ch = 0; ch < CH; ++ch) band.render[(pixel + x) * CH + ch] = out[ch][y * BLOCK_W + x];
            }
        }
    }
    for (int64_t k = 0; P::PARTS > 1 && k < length; ++k) {
        band.seen[num_seen] = list[k];
        num_seen += band.flags[k];
    }
    return num_seen;
}

template <class T, int CH> void forward_strip(const BandArgs<T> &band, int strip) {
    uint32_t num_seen = 0;
    for (int block_x = 0; block_x < band.blocks_x; ++block_x) band.seen_end[block_x] = num_seen = forward_block<T, CH>(band, block_x, strip, num_seen);
}

}  // namespace L2S_ISA
}  // namespace l2s
