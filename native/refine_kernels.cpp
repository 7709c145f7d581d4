// One row of a map, its pixels in the lanes of vectors: see `refine` in sweep.hpp.
#include "warp.hpp"

namespace l2s {
namespace L2S_ISA {
namespace {

constexpr int R = int(SWEEP_RADIUS), SIDE = 2 * R + 1, AREA = SIDE * SIDE;
constexpr int TRIES = 5;            // inverse depths
constexpr float TRY_STEP = 0.6f;    // of the step of the sweep: +-1.2 steps are searched
constexpr float STEEPEST = 1.0f;    // steps per px of the map: what is farther off does not continue the surface
constexpr float NO_SLOPE = 1.0f;    // weight of a slope of 0, against a sum of up to 50 of squared distances

struct Slopes {
    float x, y;  // inverse depth per px of the map
};

// Of the surface at a pixel: least squares over the 5x5 pixels around it.
Slopes slopes_at(const SweepView &view, const float *inverse_depth, int64_t row, int64_t column) {
    const float own = inverse_depth[row * view.width + column];
    float xx = NO_SLOPE, xy = 0, yy = NO_SLOPE, xr = 0, yr = 0;
    for (int dy = -R; dy <= R; ++dy)
        for (int dx = -R; dx <= R; ++dx) {
            const int64_t y = row + dy, x = column + dx;
            if (y < 0 || y >= view.height || x < 0 || x >= view.width) continue;
            const int distance = dx * dx > dy * dy ? (dx < 0 ? -dx : dx) : (dy < 0 ? -dy : dy);
            const float rise = inverse_depth[y * view.width + x] - own, most = view.step * (0.5f + STEEPEST * float(distance));
            if (!(rise <= most && rise >= -most)) continue;
            xx += float(dx * dx), xy += float(dx * dy), yy += float(dy * dy), xr += float(dx) * rise, yr += float(dy) * rise;
        }
    const float determinant = xx * yy - xy * xy;
    return {(yy * xr - xy * yr) / determinant, (xx * yr - xy * xr) / determinant};
}

// LANES windows of the photo, and the inverse depth in them.
struct Windows {
    vec_f x, y;                      // middles, px of the photo
    vec_f rho, slope_x, slope_y;     // inverse depth in the middle; per px of the photo
    mask_f whole;                    // the window is inside of the photo, and there is a depth
    vec_f values[AREA], mean, inverse_deviation;

    void read(const Picture &photo) {
        vec_f sum = {}, squares = {};
        for (int i = 0; i < AREA; ++i) {
            values[i] = sample(photo, x + float(i % SIDE - R), y + float(i / SIDE - R), whole);
            sum += values[i], squares += values[i] * values[i];
        }
        mean = sum * (1.0f / AREA);
        inverse_deviation = 1.0f / vsqrt(vmax(squares * (1.0f / AREA) - mean * mean, vec_f{}) + VARIANCE_FLOOR);
    }

    vec_f correlation(const Picture &picture, const float *warp, vec_f depth) const {
        vec_f sum = {}, squares = {}, products = {};
        mask_f inside = whole;
        for (int i = 0; i < AREA; ++i) {
            const float dx = float(i % SIDE - R), dy = float(i / SIDE - R);
            const vec_f px = x + dx, py = y + dy, at = depth + slope_x * dx + slope_y * dy;
            const vec_f inverse = 1.0f / (warp[6] * px + warp[7] * py + warp[8] + at * warp[11]);
            inside &= inverse > vec_f{};
            const vec_f u = (warp[0] * px + warp[1] * py + warp[2] + at * warp[9]) * inverse, v = (warp[3] * px + warp[4] * py + warp[5] + at * warp[10]) * inverse;
            const vec_f value = sample(picture, u, v, inside);
            sum += value, squares += value * value, products += value * values[i];
        }
        const vec_f other = sum * (1.0f / AREA), variance = vmax(squares * (1.0f / AREA) - other * other, vec_f{});
        return select(inside, (products * (1.0f / AREA) - other * mean) * inverse_deviation / vsqrt(variance + VARIANCE_FLOOR), splat<float>(NO_SCORE));
    }
};

void refine_row(const SweepView &view, const float *old, int64_t row) {
    const float columns = float(view.photo.width) / float(view.width), rows = float(view.photo.height) / float(view.height);  // px of the photo per px of the map
    for (int64_t j = 0; j < view.width && view.num_neighbours; j += LANES<float>) {
        const int lanes = int(view.width - j < LANES<float> ? view.width - j : LANES<float>);
        float rho[LANES<float>], slope_x[LANES<float>], slope_y[LANES<float>];
        for (int i = 0; i < LANES<float>; ++i) {
            rho[i] = i < lanes ? old[row * view.width + j + i] : __builtin_nanf("");
            const Slopes slopes = rho[i] == rho[i] ? slopes_at(view, old, row, j + i) : Slopes{0, 0};
            slope_x[i] = slopes.x / columns, slope_y[i] = slopes.y / rows;
        }
        Windows windows;
        windows.x = (lane_numbers() + (float(j) + 0.5f)) * columns, windows.y = splat<float>((float(row) + 0.5f) * rows);
        windows.rho = load(rho), windows.slope_x = load(slope_x), windows.slope_y = load(slope_y);
        windows.whole = windows.rho == windows.rho;
        windows.read(view.photo);
        float scores[TRIES][LANES<float>];
        for (int t = 0; t < TRIES; ++t) {
            const vec_f depth = windows.rho + float(t - TRIES / 2) * (TRY_STEP * view.step);
            Best highest(view.best);
            for (int n = 0; n < view.num_neighbours; ++n) highest.offer(windows.correlation(view.neighbours[n], view.warps[n], depth));
            store<float>(scores[t], highest.mean());
        }
        for (int i = 0; i < lanes; ++i) {
            int at = 0;
            for (int t = 1; t < TRIES; ++t)
                if (scores[t][i] > scores[at][i]) at = t;
            if (scores[at][i] <= NO_SCORE) continue;  // at the border: the map keeps what it has
            const float offset = at > 0 && at < TRIES - 1 ? peak_offset(scores[at - 1][i], scores[at][i], scores[at + 1][i]) : 0.0f;
            view.inverse_depth[row * view.width + j + i] = rho[i] + (float(at - TRIES / 2) + offset) * (TRY_STEP * view.step);
            view.score[row * view.width + j + i] = scores[at][i];
        }
    }
}

}  // namespace

extern const RefineKernels refine_kernels = {refine_row};

}  // namespace L2S_ISA
}  // namespace l2s
