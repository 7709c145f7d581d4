// Exact k nearest neighbours of every point of a cloud, by a balanced kd-tree whose leaves hold 16 points.
//
// Splitting by rank, not by place, keeps the tree balanced whatever the cloud looks like: clusters, far outliers, points that coincide. All points of a
// leaf search together: they share the walk through the tree, and each has a lane of a vector for its list of the nearest so far.
#pragma once
#include <cstdint>

#include "isa.hpp"

namespace l2s {

constexpr int64_t KNN_LEAF = 16;  // points

// Nodes are numbered in preorder over leaves lo..hi-1: the left child of `node` is node + 1, with leaves lo..mid-1, mid = (lo + hi) / 2; the right one
// node + 2 (mid - lo).
template <class T> struct KnnTree {
    int64_t num_points, num_leaves;
    const T *x, *y, *z;      // (num_leaves * KNN_LEAF) in tree order, in `unit`s; 0 after the last point
    const int32_t *numbers;  // of the points in the cloud
    const T *boxes;          // (2 num_leaves - 1, 6): smallest x, y, z, largest x, y, z
    double unit;             // a power of two, such that squares of distances neither overflow nor vanish
};

// points (N, 3), all finite, 1 <= k <= N < 2^31. Writes indices (N, k), nearest first, the point itself in column 0, and distances (N, k), not
// decreasing along a row. Of others at the same distance as the last one, any may be left out, always the same ones. Results do not depend on
// num_threads.
template <class T> void knn(const T *points, int64_t N, int k, int num_threads, int64_t *indices, T *distances);

struct KnnKernels {
    // Neighbours of all points of one leaf; scratch: 2 * KNN_LEAF * (k - 1) numbers.
    void (*leaf_float)(const KnnTree<float> &, int64_t leaf, int k, float *scratch, int64_t *indices, float *distances);
    void (*leaf_double)(const KnnTree<double> &, int64_t leaf, int k, double *scratch, int64_t *indices, double *distances);
};
L2S_DECLARE_KERNELS(KnnKernels, knn_kernels)

}  // namespace l2s
