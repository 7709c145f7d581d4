// The search for the neighbours of all points of one leaf. See knn.hpp.
#include "knn.hpp"

#include "simd.hpp"

namespace l2s {
namespace L2S_ISA {
namespace {

constexpr int Q = int(KNN_LEAF);
constexpr int DEPTH = 64;  // of the stack: one entry for each level of a tree of fewer than 2^31 leaves

// Square distance between two intervals along one axis, of a scalar or of each lane.
template <class T> L2S_INLINE T gap_along(T low, T high, T other_low, T other_high) {
    const T gap = low - other_high > other_low - high ? low - other_high : other_low - high;
    return gap > 0 ? gap * gap : T(0);
}
template <class T> L2S_INLINE T gap_between(const T *box, const T *other) {
    T sum = 0;
    for (int axis = 0; axis < 3; ++axis) sum += gap_along(box[axis], box[3 + axis], other[axis], other[3 + axis]);
    return sum;
}

// All points of a leaf search together, one in each lane.
template <class T> struct Search {
    static constexpr int VECTORS = Q / LANES<T>;
    using Number = decltype(Mask<T>{}[0] + 0);  // as wide as T
    const KnnTree<T> &tree;
    const int64_t own;    // leaf
    const int wanted;     // others per point
    T *squares;           // (wanted, Q), ascending down the columns
    T *places;            // (wanted, Q) integers: places in the tree

    L2S_INLINE Vec<T> worst(int v) const { return load(squares + (wanted - 1) * Q + v * LANES<T>); }

    // Offers every point of `leaf` to all lanes.
    void visit(int64_t leaf, const T *box) {
        const T *x = tree.x + own * Q, *y = tree.y + own * Q, *z = tree.z + own * Q;
        Vec<T> px[VECTORS], py[VECTORS], pz[VECTORS];
        bool near = false;
        for (int v = 0; v < VECTORS; ++v) {
            px[v] = load(x + v * LANES<T>), py[v] = load(y + v * LANES<T>), pz[v] = load(z + v * LANES<T>);
            const Vec<T> zero = {}, gx = vmax(vmax(box[0] - px[v], px[v] - box[3]), zero), gy = vmax(vmax(box[1] - py[v], py[v] - box[4]), zero);
            const Vec<T> gz = vmax(vmax(box[2] - pz[v], pz[v] - box[5]), zero);
            near |= any(gx * gx + gy * gy + gz * gz < worst(v));
        }
        if (!near) return;
        const int64_t end = (leaf + 1) * Q < tree.num_points ? (leaf + 1) * Q : tree.num_points;
        for (int64_t place = leaf * Q; place < end; ++place)
            for (int v = 0; v < VECTORS; ++v) {
                const Vec<T> dx = px[v] - tree.x[place], dy = py[v] - tree.y[place], dz = pz[v] - tree.z[place];
                const Vec<T> square = dx * dx + dy * dy + dz * dz;
                if (any(square < worst(v))) insert(v, square, place);
            }
    }

    // Bubbles (square, place) into the sorted list of every lane; what is larger than all of it falls out. The lane that is `place` itself gets nothing.
    void insert(int v, Vec<T> square, int64_t place) {
        const int64_t lane = place - own * Q - v * LANES<T>;
        if (lane >= 0 && lane < LANES<T>) square[lane] = T(__builtin_inf());
        Mask<T> number = Number(place) - Mask<T>{};
        for (int i = 0; i < wanted; ++i) {
            T *at = squares + i * Q + v * LANES<T>, *place_at = places + i * Q + v * LANES<T>;
            const Vec<T> old = load(at);
            const Mask<T> old_number = (Mask<T>)load(place_at), closer = square < old;
            store<T>(at, select(closer, square, old));
            store<T>(place_at, (Vec<T>)select(closer, number, old_number));
            square = select(closer, old, square), number = select(closer, old_number, number);
        }
    }

    T worst_of_all() const {
        T most = 0;
        for (int q = 0; q < Q; ++q) most = squares[(wanted - 1) * Q + q] > most ? squares[(wanted - 1) * Q + q] : most;
        return most;
    }

    void run(int count) {
        for (int i = 0; i < wanted; ++i)
            for (int q = 0; q < Q; ++q) squares[i * Q + q] = q < count ? T(__builtin_inf()) : T(0);  // lanes without a point want nothing
        const T *columns[3] = {tree.x + own * Q, tree.y + own * Q, tree.z + own * Q};
        T box[6];
        for (int axis = 0; axis < 3; ++axis) {
            box[axis] = box[3 + axis] = columns[axis][0];
            for (int q = 1; q < count; ++q) {
                const T x = columns[axis][q];
                box[axis] = x < box[axis] ? x : box[axis], box[3 + axis] = x > box[3 + axis] ? x : box[3 + axis];
            }
        }
        visit(own, box);
        T most = worst_of_all();
        struct Entry {
            int64_t node, lo, hi;
            T gap;
        } stack[DEPTH];
        int size = 1;
        stack[0] = {0, 0, tree.num_leaves, 0};
        while (size) {
            const Entry e = stack[--size];
            if (e.gap >= most) continue;  // >=: where points coincide, nothing is nearer than what there is
            if (e.hi - e.lo == 1) {
                if (e.lo == own) continue;
                visit(e.lo, tree.boxes + e.node * 6);
                most = worst_of_all();
                continue;
            }
            const int64_t mid = (e.lo + e.hi) / 2;
            Entry left{e.node + 1, e.lo, mid, 0}, right{e.node + 2 * (mid - e.lo), mid, e.hi, 0};
            left.gap = gap_between(box, tree.boxes + left.node * 6), right.gap = gap_between(box, tree.boxes + right.node * 6);
            const bool left_first = left.gap < right.gap || (left.gap == right.gap && own < mid);
            stack[size++] = left_first ? right : left;
            stack[size++] = left_first ? left : right;
        }
    }
};

template <class T> void search_leaf(const KnnTree<T> &tree, int64_t leaf, int k, T *scratch, int64_t *indices, T *distances) {
    const int64_t left = tree.num_points - leaf * Q;
    const int count = int(left < Q ? left : Q), wanted = k - 1;
    Search<T> search{tree, leaf, wanted, scratch, scratch + wanted * Q};
    if (wanted) search.run(count);
    for (int q = 0; q < count; ++q) {
        const int64_t self = tree.numbers[leaf * Q + q];
        indices[self * k] = self, distances[self * k] = 0;
        for (int i = 0; i < wanted; ++i) {
            typename Search<T>::Number place;
            __builtin_memcpy(&place, search.places + i * Q + q, sizeof place);
            indices[self * k + 1 + i] = tree.numbers[place];
            distances[self * k + 1 + i] = T(__builtin_sqrt(double(search.squares[i * Q + q])) * tree.unit);
        }
    }
}

}  // namespace

extern const KnnKernels knn_kernels = {search_leaf<float>, search_leaf<double>};

}  // namespace L2S_ISA
}  // namespace l2s
