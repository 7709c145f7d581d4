// One band of rows of one photo: see sweep.hpp.
//
// For each depth the rows are walked from top to bottom. A row of every neighbour is warped, its products are summed over 5 columns into a ring of 5
// rows, and the sums of the ring give the correlations of the row in its middle, from which scores and the running best are made in registers.
#include "warp.hpp"

namespace l2s {
namespace L2S_ISA {
namespace {

constexpr int R = int(SWEEP_RADIUS), TAPS = 2 * R + 1;
constexpr int64_t MARGIN = 16;  // zeros before and after each row of scratch: windows reach R beyond it, vectors up to LANES <= 16

int64_t padded(int64_t width) { return (width + 15) / 16 * 16; }  // to whole vectors of any instruction set
int64_t row_stride(int64_t width) { return padded(width) + 2 * MARGIN; }

// What a row of a neighbour leaves in the ring: the sum of its values, of their squares and of their products with the photo.
enum Moment { SUM, SQUARES, PRODUCTS, MOMENTS };

// Values of `picture` seen from row `y` of the photo at inverse depth rho; NaN outside of the picture, 0 right of the photo.
void warp_row(const Picture &picture, const float *warp, float rho, float y, int64_t width, float *values) {
    const float x0 = warp[1] * y + warp[2] + rho * warp[9], y0 = warp[4] * y + warp[5] + rho * warp[10], z0 = warp[7] * y + warp[8] + rho * warp[11];
    const vec_f zero = {}, nan = zero / zero, lanes = lane_numbers() + 0.5f;
    for (int64_t j = 0; j < width; j += LANES<float>) {
        const vec_f x = lanes + float(j), inverse = 1.0f / (warp[6] * x + z0);
        mask_f inside = inverse > zero;
        const vec_f value = sample(picture, (warp[0] * x + x0) * inverse, (warp[3] * x + y0) * inverse, inside);
        store<float>(values + j, select(inside, value, nan));
    }
    for (int64_t j = width; j < padded(width); ++j) values[j] = 0;
}

// Moments of the 5 columns around each pixel of a row of the photo and of what a neighbour shows there; three rows, `stride` apart.
void sum_columns(const float *photo, const float *values, int64_t width, float *moments, int64_t stride) {
    for (int64_t j = 0; j < width; j += LANES<float>) {
        vec_f sums[MOMENTS] = {};
#pragma GCC unroll 5
        for (int k = -R; k <= R; ++k) {
            const vec_f v = load(values + j + k);
            sums[SUM] += v, sums[SQUARES] += v * v, sums[PRODUCTS] += v * load(photo + j + k);
        }
        for (int m = 0; m < MOMENTS; ++m) store<float>(moments + m * stride + j, sums[m]);
    }
}

// The rows of scratch of one band. `row(array, y)` is column 0 of its row y, counted from the first row of the band.
struct Band {
    const SweepView &view;
    const int64_t begin, rows, width, stride;
    float *memory;
    float *photo = take(rows + 2 * R) + R * stride;  // rows -R .. rows + R - 1, zero outside of the photo
    float *mean = take(rows), *inverse_deviation = take(rows), *inverse_columns = take(1), *values = take(1), *zeros = take(1);
    float *ring = take(int64_t(view.num_neighbours) * TAPS * MOMENTS);  // [neighbour][row][moment]
    float *previous = take(rows), *best = take(rows), *best_at = take(rows), *before = take(rows), *after = take(rows);

    float *take(int64_t count) {  // zeroed
        float *first = memory + MARGIN;
        for (float *end = memory + count * stride; memory < end; ++memory) *memory = 0;
        return first;
    }
    float *moments(int neighbour, int64_t slot) const { return ring + (neighbour * TAPS + slot) * MOMENTS * stride; }
    bool in_photo(int64_t y) const { return begin + y >= 0 && begin + y < view.photo.height; }
    float inverse_rows(int64_t y) const {  // 1 / rows of the photo in the window around row y
        int inside = 0;
        for (int64_t t = y - R; t <= y + R; ++t) inside += in_photo(t);
        return 1.0f / float(inside);
    }

    void prepare() {
        for (int64_t y = -R; y < rows + R; ++y)
            for (int64_t j = 0; j < width && in_photo(y); ++j) photo[y * stride + j] = view.photo.pixels[(begin + y) * width + j];
        for (int64_t j = 0; j < padded(width); ++j) {
            const int64_t left = j - R > 0 ? j - R : 0, right = j + R < width - 1 ? j + R : width - 1;
            inverse_columns[j] = right >= left ? 1.0f / float(right - left + 1) : 1.0f;
        }
        for (int64_t y = 0; y < rows; ++y) {
            for (int64_t j = 0; j < width; j += LANES<float>) {
                vec_f sum = {}, squares = {};
                for (int64_t t = y - R; t <= y + R; ++t)
                    for (int k = -R; k <= R; ++k) {
                        const vec_f p = load(photo + t * stride + j + k);
                        sum += p, squares += p * p;
                    }
                const vec_f share = inverse_rows(y) * load(inverse_columns + j), m = sum * share, variance = vmax(squares * share - m * m, vec_f{});
                store<float>(mean + y * stride + j, m);
                store<float>(inverse_deviation + y * stride + j, 1.0f / vsqrt(variance + VARIANCE_FLOOR));
            }
            for (int64_t j = 0; j < padded(width); ++j) best[y * stride + j] = previous[y * stride + j] = before[y * stride + j] = after[y * stride + j] = NO_SCORE;
        }
    }

    // Lets row y into the ring.
    void compare_row(int64_t y, float rho) const {
        for (int n = 0; n < view.num_neighbours; ++n) {
            if (in_photo(y)) warp_row(view.neighbours[n], view.warps[n], rho, float(begin + y) + 0.5f, width, values);
            sum_columns(photo + y * stride, in_photo(y) ? values : zeros, width, moments(n, (y + R) % TAPS), stride);
        }
    }

    // Mean correlation of the best neighbours at the vector at column j of row y, which is in the middle of the ring.
    vec_f score(int64_t y, int64_t j, vec_f share) const {
        const vec_f none = splat<float>(NO_SCORE), own_mean = load(mean + y * stride + j), deviation = load(inverse_deviation + y * stride + j);
        Best highest(view.best);
        for (int n = 0; n < view.num_neighbours; ++n) {
            vec_f sums[MOMENTS] = {};
            for (int t = 0; t < TAPS; ++t)
                for (int m = 0; m < MOMENTS; ++m) sums[m] += load(moments(n, t) + m * stride + j);
            const vec_f other = sums[SUM] * share, variance = vmax(sums[SQUARES] * share - other * other, vec_f{});
            const vec_f correlation = (sums[PRODUCTS] * share - other * own_mean) * deviation / vsqrt(variance + VARIANCE_FLOOR);
            highest.offer(select(correlation > none, correlation, none));  // also where it is NaN: the window leaves the neighbour
        }
        return highest.mean();
    }

    // The best depth so far of row y, after the k-th; `before` and `after` are the scores of the depths beside the best one.
    void keep_best(int64_t y, int k) const {
        const vec_f none = splat<float>(NO_SCORE), share_rows = splat<float>(inverse_rows(y));
        for (int64_t j = 0; j < width; j += LANES<float>) {
            const int64_t at = y * stride + j;
            const vec_f now = score(y, j, share_rows * load(inverse_columns + j));
            const vec_f old_best = load(best + at), old_at = load(best_at + at);
            const mask_f better = now > old_best;
            store<float>(after + at, select(better, none, select(old_at == float(k - 1), now, load(after + at))));
            store<float>(before + at, select(better, load(previous + at), load(before + at)));
            store<float>(best_at + at, select(better, splat<float>(float(k)), old_at));
            store<float>(best + at, select(better, now, old_best));
            store<float>(previous + at, now);
        }
    }

    void write() const {
        for (int64_t y = 0; y < rows; ++y)
            for (int64_t j = 0; j < width; ++j) {
                const int64_t at = y * stride + j, out = (begin + y) * width + j;
                const float offset = peak_offset(before[at], best[at], after[at]);  // 0 at the ends of the range
                view.score[out] = best[at];
                view.inverse_depth[out] = best[at] > NO_SCORE ? view.first + (best_at[at] + offset) * view.step : __builtin_nanf("");
            }
    }
};

void band(const SweepView &view, int count, int64_t row_begin, int64_t row_end, float *scratch) {
    const int64_t width = view.photo.width;
    if (view.num_neighbours == 0) {
        for (int64_t at = row_begin * width; at < row_end * width; ++at) view.score[at] = NO_SCORE, view.inverse_depth[at] = __builtin_nanf("");
        return;
    }
    Band band{view, row_begin, row_end - row_begin, width, row_stride(width), scratch};
    band.prepare();
    for (int k = 0; k < count; ++k)
        for (int64_t y = -R; y < band.rows + R; ++y) {
            band.compare_row(y, view.first + float(k) * view.step);
            if (y >= R) band.keep_best(y - R, k);
        }
    band.write();
}

int64_t scratch_size(int64_t rows, int64_t width) {
    return (rows + 2 * R + 2 * rows + 3 + SWEEP_MAX_NEIGHBOURS * TAPS * MOMENTS + 5 * rows) * row_stride(width);
}

}  // namespace

extern const SweepKernels sweep_kernels = {band, scratch_size};

}  // namespace L2S_ISA
}  // namespace l2s
