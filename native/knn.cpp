// Builds the tree and shares out its leaves. See knn.hpp.
#include "knn.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <vector>

#include "parallel.hpp"

namespace l2s {
namespace {

constexpr int64_t LEAVES_PER_TASK = 32;
constexpr int64_t SUBTREE_LEAVES = 256;  // built by one task
constexpr int MAX_ROUNDS = 100;          // of `select`, which usually takes twice the logarithm of the count: then std::nth_element, which is never quadratic

template <class T> struct Point {
    T at[3];
    int32_t number;
};

// As std::nth_element, along one axis. Swapping without a branch takes a third of its time: which side a point goes to cannot be predicted.
template <class T> void select(Point<T> *begin, Point<T> *nth, Point<T> *end, int axis) {
    for (int round = 0; round < MAX_ROUNDS && end - begin > 1; ++round) {
        const T a = begin->at[axis], b = begin[(end - begin) / 2].at[axis], c = (end - 1)->at[axis];
        const T pivot = std::max(std::min(a, b), std::min(std::max(a, b), c));
        const auto partition = [&](auto &&goes_left) {
            Point<T> *border = begin;
            for (Point<T> *p = begin; p < end; ++p) {
                const Point<T> here = *p;
                *p = *border, *border = here;
                border += goes_left(here.at[axis]);
            }
            return border;
        };
        Point<T> *border = partition([pivot](T x) { return x < pivot; });
        if (border == begin) {  // nothing is smaller than the pivot: put those aside that equal it
            border = partition([pivot](T x) { return x <= pivot; });
            if (nth < border) return;
        }
        (nth < border ? end : begin) = border;
    }
    if (end - begin > 1) std::nth_element(begin, nth, end, [axis](const Point<T> &p, const Point<T> &q) { return p.at[axis] < q.at[axis]; });
}

template <class T> struct Builder {
    Point<T> *points;
    int64_t num_points;
    T *boxes;
    struct Part {
        int64_t node, lo, hi;  // leaves
    };
    std::vector<Part> *later;  // subtrees that are left to others; null: none

    void build(int64_t node, int64_t lo, int64_t hi) const {
        if (later && hi - lo <= SUBTREE_LEAVES) {
            later->push_back({node, lo, hi});
            return;
        }
        Point<T> *begin = points + lo * KNN_LEAF, *end = points + std::min(hi * KNN_LEAF, num_points);
        T *box = boxes + node * 6;
        for (int axis = 0; axis < 3; ++axis) box[axis] = std::numeric_limits<T>::infinity(), box[3 + axis] = -box[axis];
        for (const Point<T> *p = begin; p < end; ++p)
            for (int axis = 0; axis < 3; ++axis) box[axis] = std::min(box[axis], p->at[axis]), box[3 + axis] = std::max(box[3 + axis], p->at[axis]);
        if (hi - lo == 1) return;
        int widest = 0;
        const auto extent = [&](int axis) { return box[3 + axis] - box[axis]; };
        for (int axis = 1; axis < 3; ++axis)
            if (extent(axis) > extent(widest)) widest = axis;
        const int64_t mid = (lo + hi) / 2;
        select(begin, points + mid * KNN_LEAF, end, widest);
        build(node + 1, lo, mid);
        build(node + 2 * (mid - lo), mid, hi);
    }
};

void search(const KnnTree<float> &tree, int64_t leaf, int k, float *scratch, int64_t *indices, float *distances) {
    L2S_KERNELS(knn_kernels).leaf_float(tree, leaf, k, scratch, indices, distances);
}
void search(const KnnTree<double> &tree, int64_t leaf, int k, double *scratch, int64_t *indices, double *distances) {
    L2S_KERNELS(knn_kernels).leaf_double(tree, leaf, k, scratch, indices, distances);
}

// The exponent of the power of two that brings the largest coordinate to the middle between 1 and the largest number whose square is one.
template <class T> int unit_exponent(const T *points, int64_t N) {
    T largest = 0;
    for (int64_t i = 0; i < 3 * N; ++i) largest = std::max(largest, std::abs(points[i]));
    return largest > 0 ? std::clamp(std::ilogb(largest) - std::numeric_limits<T>::max_exponent / 2 + 4, -1000, 1000) : 0;
}

}  // namespace

template <class T> void knn(const T *points, int64_t N, int k, int num_threads, int64_t *indices, T *distances) {
    if (N == 0) return;
    const int64_t leaves = (N + KNN_LEAF - 1) / KNN_LEAF, padded = leaves * KNN_LEAF;
    const std::unique_ptr<Point<T>[]> sorted(new Point<T>[size_t(N)]);
    const int exponent = unit_exponent(points, N);
    const double unit = std::ldexp(1.0, exponent), inverse_unit = std::ldexp(1.0, -exponent);
    for (int64_t i = 0; i < N; ++i) {
        for (int axis = 0; axis < 3; ++axis) sorted[i].at[axis] = T(points[3 * i + axis] * inverse_unit);
        sorted[i].number = int32_t(i);
    }
    const std::unique_ptr<T[]> boxes(new T[size_t((2 * leaves - 1) * 6)]);
    std::vector<typename Builder<T>::Part> parts;
    Builder<T>{sorted.get(), N, boxes.get(), &parts}.build(0, 0, leaves);
    parallel_for(int64_t(parts.size()), num_threads, [&](int64_t task) {
        const auto &part = parts[size_t(task)];
        Builder<T>{sorted.get(), N, boxes.get(), nullptr}.build(part.node, part.lo, part.hi);
    });

    const std::unique_ptr<T[]> columns(new T[size_t(3 * padded)]);
    const std::unique_ptr<int32_t[]> numbers(new int32_t[size_t(padded)]);
    for (int64_t i = 0; i < padded; ++i) {
        for (int axis = 0; axis < 3; ++axis) columns[axis * padded + i] = i < N ? sorted[i].at[axis] : 0;
        numbers[i] = i < N ? sorted[i].number : -1;
    }
    const KnnTree<T> tree{N, leaves, columns.get(), columns.get() + padded, columns.get() + 2 * padded, numbers.get(), boxes.get(), unit};
    parallel_for((leaves + LEAVES_PER_TASK - 1) / LEAVES_PER_TASK, num_threads, [&](int64_t task) {
        const std::unique_ptr<T[]> scratch(new T[size_t(2 * KNN_LEAF * (k - 1))]);
        for (int64_t leaf = task * LEAVES_PER_TASK; leaf < std::min(leaves, (task + 1) * LEAVES_PER_TASK); ++leaf)
            search(tree, leaf, k, scratch.get(), indices, distances);
    });
}

template void knn<float>(const float *, int64_t, int, int, int64_t *, float *);
template void knn<double>(const double *, int64_t, int, int, int64_t *, double *);

}  // namespace l2s
