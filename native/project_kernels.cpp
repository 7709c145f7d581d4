// Projection kernels: LANES Gaussians at a time, all views of a Gaussian together, so that its gradient is summed by one thread in view order.
#include "project.hpp"

#include "simd.hpp"
#include "spherical_harmonics.hpp"

namespace l2s {
namespace L2S_ISA {
namespace {

// Products of what stays below these remain finite; what does not, or is NaN, is culled.
template <class T> constexpr T HUGE_SQUARE = sizeof(T) == 4 ? T(1e30) : T(1e300);
template <class T> constexpr T HUGE_LENGTH = sizeof(T) == 4 ? T(1e15) : T(1e150);

// Rows i .. i+n-1 of an (N, stride) array, column k; lanes past n repeat the last row.
template <class T> L2S_INLINE Vec<T> load_column(const T *base, int64_t stride, int k, int n) {
    Vec<T> v;
    if (n == LANES<T>) {
        for (int l = 0; l < LANES<T>; ++l) v[l] = base[l * stride + k];
    } else {
        for (int l = 0; l < LANES<T>; ++l) v[l] = base[(l < n ? l : n - 1) * stride + k];
    }
    return v;
}

template <class T> L2S_INLINE void store_column(T *base, int64_t stride, int k, int n, Vec<T> v) {
    if (n == LANES<T>) {
        for (int l = 0; l < LANES<T>; ++l) base[l * stride + k] = v[l];
    } else {
        for (int l = 0; l < n; ++l) base[l * stride + k] = v[l];
    }
}

// The first `count` columns: whole squares of rows and columns are transposed in registers.
template <class T> L2S_INLINE void load_columns(const T *base, int64_t stride, int count, int n, Vec<T> *columns) {
    int k = 0;
    if constexpr (sizeof(T) == 4)
        for (; n == LANES<T> && k + LANES<T> <= count; k += LANES<T>) {
            for (int l = 0; l < LANES<T>; ++l) columns[k + l] = load<T>(base + l * stride + k);
            transpose(columns + k);
        }
    for (; k < count; ++k) columns[k] = load_column(base, stride, k, n);
}

template <class T> L2S_INLINE void store_columns(T *base, int64_t stride, int count, int n, const Vec<T> *columns) {
    int k = 0;
    if constexpr (sizeof(T) == 4)
        for (; n == LANES<T> && k + LANES<T> <= count; k += LANES<T>) {
            Vec<T> rows[LANES<T>];
            for (int l = 0; l < LANES<T>; ++l) rows[l] = columns[k + l];
            transpose(rows);
            for (int l = 0; l < LANES<T>; ++l) store<T>(base + l * stride + k, rows[l]);
        }
    for (; k < count; ++k) store_column(base, stride, k, n, columns[k]);
}

// What does not depend on the view: M = R(q) S.
template <class T> struct Shape {
    Vec<T> mean[3], scale[3], opacity;
    Vec<T> inv_norm, q[4];  // normalised quaternion (w, x, y, z)
    Vec<T> R[9], M[9];
    Mask<T> usable;
};

template <class T> L2S_INLINE void load_shape(const ProjectArgs<T> &a, int64_t i, int n, Shape<T> &s) {
    using V = Vec<T>;
    for (int k = 0; k < 3; ++k) s.mean[k] = load_column(a.means + 3 * i, 3, k, n);
    for (int k = 0; k < 3; ++k) s.scale[k] = load_column(a.scales + 3 * i, 3, k, n);
    for (int k = 0; k < 4; ++k) s.q[k] = load_column(a.quats + 4 * i, 4, k, n);
    s.opacity = load_column(a.opacities + i, 1, 0, n);
    const V norm2 = s.q[0] * s.q[0] + s.q[1] * s.q[1] + s.q[2] * s.q[2] + s.q[3] * s.q[3];
    s.usable = (norm2 > T(1) / HUGE_SQUARE<T>) & (norm2 < HUGE_SQUARE<T>);
    s.usable &= s.mean[0] * s.mean[0] + s.mean[1] * s.mean[1] + s.mean[2] * s.mean[2] < HUGE_SQUARE<T>;
    s.usable &= s.scale[0] * s.scale[0] + s.scale[1] * s.scale[1] + s.scale[2] * s.scale[2] < HUGE_SQUARE<T>;
    for (int k = 0; k < 3; ++k) s.mean[k] = select(s.usable, s.mean[k], Vec<T>{});
    for (int k = 0; k < 3; ++k) s.scale[k] = select(s.usable, s.scale[k], Vec<T>{});
    s.inv_norm = T(1) / vsqrt(select(s.usable, norm2, splat<T>(T(1))));
    for (int k = 0; k < 4; ++k) s.q[k] = select(s.usable, s.q[k] * s.inv_norm, splat<T>(T(k == 0)));
    const V w = s.q[0], x = s.q[1], y = s.q[2], z = s.q[3];
    s.R[0] = T(1) - T(2) * (y * y + z * z), s.R[1] = T(2) * (x * y - w * z), s.R[2] = T(2) * (x * z + w * y);
    s.R[3] = T(2) * (x * y + w * z), s.R[4] = T(1) - T(2) * (x * x + z * z), s.R[5] = T(2) * (y * z - w * x);
    s.R[6] = T(2) * (x * z - w * y), s.R[7] = T(2) * (y * z + w * x), s.R[8] = T(1) - T(2) * (x * x + y * y);
    for (int r = 0; r < 3; ++r)
        for (int c = 0; c < 3; ++c) s.M[3 * r + c] = s.R[3 * r + c] * s.scale[c];
}

// SH coefficients of the block; a Gaussian with one that is not finite becomes unusable.
template <class T> L2S_INLINE void load_sh(const ProjectArgs<T> &a, int64_t i, int n, int num_bases, Shape<T> &s, Vec<T> *coefficients) {
    Vec<T> check{};
    load_columns(a.sh + a.sh_stride * i, a.sh_stride, 3 * num_bases, n, coefficients);
    for (int k = 0; k < 3 * num_bases; ++k) check += coefficients[k] * T(0);
    s.usable &= check == T(0);
    for (int k = 0; k < 3 * num_bases; ++k) coefficients[k] = select(s.usable, coefficients[k], Vec<T>{});
}

// One pinhole view: scalars, read once per block.
template <class T> struct View {
    T R[9], t[3], fx, fy, cx, cy, x_min, x_max, y_min, y_max;
};

template <class T> L2S_INLINE View<T> load_view(const ProjectArgs<T> &a, int c) {
    View<T> v;
    const T *m = a.viewmats + 16 * c, *K = a.Ks + 9 * c;
    for (int r = 0; r < 3; ++r) {
        for (int k = 0; k < 3; ++k) v.R[3 * r + k] = m[4 * r + k];
        v.t[r] = m[4 * r + 3];
    }
    v.fx = K[0], v.fy = K[4], v.cx = K[2], v.cy = K[5];
    const T margin_x = T(0.15) * T(a.width) / v.fx, margin_y = T(0.15) * T(a.height) / v.fy;
    v.x_min = -(v.cx / v.fx + margin_x), v.x_max = (T(a.width) - v.cx) / v.fx + margin_x;
    v.y_min = -(v.cy / v.fy + margin_y), v.y_max = (T(a.height) - v.cy) / v.fy + margin_y;
    return v;
}

// Everything between a Gaussian and its conic in one view, kept for the backward pass.
template <class T> struct Footprint {
    Vec<T> p[3], inv_z, u[3], v[3];  // camera-space mean; the rows of H = J W M
    Vec<T> V[9];                     // W M
    Vec<T> j00, j02, j11, j12;
    Mask<T> free_x, free_y;  // not clamped inside the Jacobian
    Vec<T> s00, s11, det_blur, det;  // diagonal of Sigma' without eps2d; det(H H^T); det(Sigma')
    Vec<T> a, b, c;                  // conic
    Mask<T> valid;
};

template <class T> L2S_INLINE void project(const ProjectArgs<T> &args, const Shape<T> &s, const View<T> &view, Footprint<T> &f) {
    using V = Vec<T>;
    const V one = splat<T>(T(1));
    for (int r = 0; r < 3; ++r) f.p[r] = view.R[3 * r] * s.mean[0] + view.R[3 * r + 1] * s.mean[1] + view.R[3 * r + 2] * s.mean[2] + view.t[r];
    f.valid = s.usable & (f.p[2] > args.near_plane) & (f.p[2] < args.far_plane);
    const V z = select(f.valid, f.p[2], one);
    f.inv_z = one / z;
    for (int r = 0; r < 3; ++r)
        for (int k = 0; k < 3; ++k) f.V[3 * r + k] = view.R[3 * r] * s.M[k] + view.R[3 * r + 1] * s.M[3 + k] + view.R[3 * r + 2] * s.M[6 + k];
    const V x = f.p[0] * f.inv_z, y = f.p[1] * f.inv_z;
    f.free_x = (x >= view.x_min) & (x <= view.x_max);
    f.free_y = (y >= view.y_min) & (y <= view.y_max);
    const V tx = vmin(vmax(x, splat<T>(view.x_min)), splat<T>(view.x_max)), ty = vmin(vmax(y, splat<T>(view.y_min)), splat<T>(view.y_max));
    f.j00 = view.fx * f.inv_z, f.j11 = view.fy * f.inv_z;
    f.j02 = -f.j00 * tx, f.j12 = -f.j11 * ty;
    for (int k = 0; k < 3; ++k) {
        f.u[k] = f.j00 * f.V[k] + f.j02 * f.V[6 + k];
        f.v[k] = f.j11 * f.V[3 + k] + f.j12 * f.V[6 + k];
    }
    f.s00 = f.u[0] * f.u[0] + f.u[1] * f.u[1] + f.u[2] * f.u[2];
    f.s11 = f.v[0] * f.v[0] + f.v[1] * f.v[1] + f.v[2] * f.v[2];
    const V s01 = f.u[0] * f.v[0] + f.u[1] * f.v[1] + f.u[2] * f.v[2];
    const V m0 = f.u[1] * f.v[2] - f.u[2] * f.v[1], m1 = f.u[2] * f.v[0] - f.u[0] * f.v[2], m2 = f.u[0] * f.v[1] - f.u[1] * f.v[0];
    f.det_blur = m0 * m0 + m1 * m1 + m2 * m2;
    f.det = f.det_blur + args.eps2d * (f.s00 + f.s11) + args.eps2d * args.eps2d;
    f.valid &= (f.det > T(0)) & (f.det < HUGE_SQUARE<T>) & (f.s00 < HUGE_LENGTH<T>) & (f.s11 < HUGE_LENGTH<T>);
    f.valid &= (f.p[0] > -HUGE_LENGTH<T>) & (f.p[0] < HUGE_LENGTH<T>) & (f.p[1] > -HUGE_LENGTH<T>) & (f.p[1] < HUGE_LENGTH<T>);
    const V inv_det = one / select(f.valid, f.det, one);
    f.a = (f.s11 + args.eps2d) * inv_det;
    f.b = -s01 * inv_det;
    f.c = (f.s00 + args.eps2d) * inv_det;
}

template <class T> L2S_INLINE Vec<T> ceil_positive(Vec<T> x) {
    for (int l = 0; l < LANES<T>; ++l) x[l] = __builtin_ceil(x[l]);
    return x;
}

template <class T> L2S_INLINE Vec<T> log_lanes(Vec<T> x) {
    for (int l = 0; l < LANES<T>; ++l) x[l] = std::log(x[l]);
    return x;
}

// Unit direction from the camera centre to the Gaussian, and 1 / distance (0 when they coincide).
template <class T> L2S_INLINE Vec<T> view_direction(const ProjectArgs<T> &a, const Shape<T> &s, int c, Vec<T> *dir) {
    const T *centre = a.campos + 3 * c;
    for (int k = 0; k < 3; ++k) dir[k] = s.mean[k] - centre[k];
    const Vec<T> norm2 = dir[0] * dir[0] + dir[1] * dir[1] + dir[2] * dir[2];
    const Mask<T> ok = norm2 > T(1e-24);
    const Vec<T> inv = select(ok, T(1) / vsqrt(select(ok, norm2, splat<T>(T(1)))), Vec<T>{});
    for (int k = 0; k < 3; ++k) dir[k] *= inv;
    return inv;
}

template <class T> void project_forward(const ProjectArgs<T> &a, int64_t begin, int64_t end) {
    using V = Vec<T>;
    const V zero{};
    const int num_bases = a.sh_degree >= 0 ? (a.sh_degree + 1) * (a.sh_degree + 1) : 0;
    for (int64_t i = begin; i < end; i += LANES<T>) {
        const int n = end - i < LANES<T> ? int(end - i) : LANES<T>;
        Shape<T> s;
        load_shape(a, i, n, s);
        V coefficients[48];
        load_sh(a, i, n, num_bases, s, coefficients);
        const V log_visible = log_lanes<T>(s.opacity * T(255));  // NaN or negative when never visible
        for (int c = 0; c < a.C; ++c) {
            const View<T> view = load_view(a, c);
            Footprint<T> f;
            project(a, s, view, f);
            const int64_t row = int64_t(c) * a.N + i;
            V opacity = s.opacity, log_255o = log_visible;
            if (a.antialiased) {
                opacity *= vsqrt(vmax(f.det_blur, zero) / select(f.valid, f.det, splat<T>(T(1))));
                log_255o = log_lanes<T>(opacity * T(255));
            }
            f.valid &= (log_255o > T(0)) & (opacity < HUGE_SQUARE<T>);
            const V extent = vmin(splat<T>(T(3.33)), vsqrt(T(2) * select(f.valid, log_255o, zero)));
            const V most = splat<T>(T(2147483520));  // the largest float that an int32 holds
            const V rx = vmin(ceil_positive<T>(extent * vsqrt(select(f.valid, f.s00, zero) + a.eps2d)), most);
            const V ry = vmin(ceil_positive<T>(extent * vsqrt(select(f.valid, f.s11, zero) + a.eps2d)), most);
            const V mx = select(f.valid, view.fx * f.p[0] * f.inv_z + view.cx, zero), my = select(f.valid, view.fy * f.p[1] * f.inv_z + view.cy, zero);
            f.valid &= (mx + rx > T(0)) & (mx - rx < T(a.width)) & (my + ry > T(0)) & (my - ry < T(a.height));
            store_column(a.means2d + 2 * row, 2, 0, n, select(f.valid, mx, zero));
            store_column(a.means2d + 2 * row, 2, 1, n, select(f.valid, my, zero));
            store_column(a.depths + row, 1, 0, n, select(f.valid, f.p[2], zero));
            store_column(a.conics + 3 * row, 3, 0, n, select(f.valid, f.a, zero));
            store_column(a.conics + 3 * row, 3, 1, n, select(f.valid, f.b, zero));
            store_column(a.conics + 3 * row, 3, 2, n, select(f.valid, f.c, zero));
            if (a.antialiased) store_column(a.compensated + row, 1, 0, n, select(f.valid, opacity, zero));
            for (int l = 0; l < n; ++l) {
                a.radii[2 * (row + l)] = f.valid[l] ? int32_t(rx[l]) : 0;
                a.radii[2 * (row + l) + 1] = f.valid[l] ? int32_t(ry[l]) : 0;
            }
            if (num_bases == 0) continue;
            V rgb[3] = {zero, zero, zero};
            if (any(f.valid)) {
                V dir[3], basis[16];
                view_direction(a, s, c, dir);
                sh_basis<T>(a.sh_degree, dir[0], dir[1], dir[2], basis);
                for (int ch = 0; ch < 3; ++ch) {
                    for (int k = 0; k < num_bases; ++k) rgb[ch] += basis[k] * coefficients[3 * k + ch];
                    rgb[ch] += T(0.5);
                }
            }
            for (int ch = 0; ch < 3; ++ch) store_column(a.colors + 3 * row, 3, ch, n, select(f.valid & (rgb[ch] > T(0)) & (rgb[ch] < HUGE_SQUARE<T>), rgb[ch], zero));
        }
    }
}

// Gradient of the view's outputs with respect to the Gaussian (accumulated over views) and to the camera.
template <class T> void project_backward(const ProjectArgs<T> &a, const ProjectGrads<T> &g, int64_t chunk) {
    using V = Vec<T>;
    const V zero{};
    const int num_bases = a.sh_degree >= 0 ? (a.sh_degree + 1) * (a.sh_degree + 1) : 0;
    const int64_t begin = chunk * PROJECT_CHUNK, end = begin + PROJECT_CHUNK < a.N ? begin + PROJECT_CHUNK : a.N;
    T *v_cameras = g.v_cameras ? g.v_cameras + chunk * a.C * 15 : nullptr;
    for (int k = 0; v_cameras && k < a.C * 15; ++k) v_cameras[k] = 0;

    for (int64_t i = begin; i < end; i += LANES<T>) {
        const int n = end - i < LANES<T> ? int(end - i) : LANES<T>;
        Shape<T> s;
        load_shape(a, i, n, s);
        V coefficients[48], v_coefficients[48];
        load_sh(a, i, n, num_bases, s, coefficients);
        for (int k = 0; k < 3 * num_bases; ++k) v_coefficients[k] = zero;
        V v_mean[3] = {zero, zero, zero}, v_M[9] = {zero, zero, zero, zero, zero, zero, zero, zero, zero}, v_opacity = zero;
        for (int c = 0; c < a.C; ++c) {
            const int64_t row = int64_t(c) * a.N + i;
            Mask<T> seen;
            for (int l = 0; l < LANES<T>; ++l) seen[l] = (l < n && a.radii[2 * (row + l)] > 0) ? -1 : 0;
            if (!any(seen)) continue;
            const View<T> view = load_view(a, c);
            Footprint<T> f;
            project(a, s, view, f);
            auto incoming = [&](const T *grad, int stride, int k) { return grad ? load_column(grad + stride * row, stride, k, n) : zero; };

            // conic = Sigma'^-1: v_Sigma = -Q G Q with G = [[v_a, v_b / 2], [v_b / 2, v_c]]
            const V ga = incoming(g.v_conics, 3, 0), gb = T(0.5) * incoming(g.v_conics, 3, 1), gc = incoming(g.v_conics, 3, 2);
            const V t00 = f.a * ga + f.b * gb, t01 = f.a * gb + f.b * gc, t10 = f.b * ga + f.c * gb, t11 = f.b * gb + f.c * gc;
            V x00 = -(t00 * f.a + t01 * f.b), x01 = -(t00 * f.b + t01 * f.c), x11 = -(t10 * f.b + t11 * f.c);
            if (a.antialiased) {  // compensation^2 = det_blur / det
                const V ratio = f.det_blur / f.det, compensation = vsqrt(ratio), v_out = incoming(g.v_compensated, 1, 0);
                v_opacity += select(seen, v_out * compensation, zero);
                const Mask<T> ok = ratio > T(1e-12);
                const V half = select(ok, T(0.5) * v_out * s.opacity / (select(ok, compensation, splat<T>(T(1))) * f.det), zero);
                const V s01 = -f.b * f.det;
                x00 += half * (f.s11 - ratio * (f.s11 + a.eps2d));
                x11 += half * (f.s00 - ratio * (f.s00 + a.eps2d));
                x01 += half * s01 * (ratio - T(1));
            }

            V v_u[3], v_v[3], v_V[9];
            for (int k = 0; k < 3; ++k) {
                v_u[k] = T(2) * (x00 * f.u[k] + x01 * f.v[k]);
                v_v[k] = T(2) * (x01 * f.u[k] + x11 * f.v[k]);
                v_V[k] = f.j00 * v_u[k];
                v_V[3 + k] = f.j11 * v_v[k];
                v_V[6 + k] = f.j02 * v_u[k] + f.j12 * v_v[k];
            }
            const V v_j00 = v_u[0] * f.V[0] + v_u[1] * f.V[1] + v_u[2] * f.V[2], v_j02 = v_u[0] * f.V[6] + v_u[1] * f.V[7] + v_u[2] * f.V[8];
            const V v_j11 = v_v[0] * f.V[3] + v_v[1] * f.V[4] + v_v[2] * f.V[5], v_j12 = v_v[0] * f.V[6] + v_v[1] * f.V[7] + v_v[2] * f.V[8];

            // j00 = fx / z, j02 = -fx x / z^2 (or -fx limit / z where clamped); means2d = f p / z + c
            const V v_mx = incoming(g.v_means2d, 2, 0), v_my = incoming(g.v_means2d, 2, 1);
            V v_p[3];
            v_p[0] = f.j00 * (v_mx - select(f.free_x, f.inv_z * v_j02, zero));
            v_p[1] = f.j11 * (v_my - select(f.free_y, f.inv_z * v_j12, zero));
            v_p[2] = incoming(g.v_depths, 1, 0) - f.inv_z * (f.j00 * v_j00 + f.j11 * v_j11 + f.j00 * f.p[0] * v_mx + f.j11 * f.p[1] * v_my +
                                                            f.j02 * v_j02 + f.j12 * v_j12 + select(f.free_x, f.j02 * v_j02, zero) + select(f.free_y, f.j12 * v_j12, zero));
            for (int k = 0; k < 3; ++k) v_p[k] = select(seen, v_p[k], zero);
            for (int k = 0; k < 9; ++k) v_V[k] = select(seen, v_V[k], zero);
            for (int k = 0; k < 3; ++k) v_mean[k] += view.R[k] * v_p[0] + view.R[3 + k] * v_p[1] + view.R[6 + k] * v_p[2];
            for (int r = 0; r < 3; ++r)
                for (int k = 0; k < 3; ++k) v_M[3 * r + k] += view.R[r] * v_V[k] + view.R[3 + r] * v_V[3 + k] + view.R[6 + r] * v_V[6 + k];

            V v_dir_mean[3] = {zero, zero, zero};
            if (num_bases > 0 && g.v_colors) {
                V dir[3], basis[16], w[16];
                const V inv_norm = view_direction(a, s, c, dir);
                sh_basis<T>(a.sh_degree, dir[0], dir[1], dir[2], basis);
                for (int k = 0; k < num_bases; ++k) w[k] = zero;
                for (int ch = 0; ch < 3; ++ch) {
                    const V shown = load_column(a.colors + 3 * row, 3, ch, n);  // max(., 0) passes no gradient where it is 0
                    const V v_rgb = select(seen & (shown > T(0)), incoming(g.v_colors, 3, ch), zero);
                    for (int k = 0; k < num_bases; ++k) {
                        v_coefficients[3 * k + ch] += basis[k] * v_rgb;
                        w[k] += coefficients[3 * k + ch] * v_rgb;
                    }
                }
                V gx, gy, gz;
                sh_direction_gradient<T>(a.sh_degree, dir[0], dir[1], dir[2], w, gx, gy, gz);
                const V radial = gx * dir[0] + gy * dir[1] + gz * dir[2];
                v_dir_mean[0] = select(seen, (gx - radial * dir[0]) * inv_norm, zero);
                v_dir_mean[1] = select(seen, (gy - radial * dir[1]) * inv_norm, zero);
                v_dir_mean[2] = select(seen, (gz - radial * dir[2]) * inv_norm, zero);
                for (int k = 0; k < 3; ++k) v_mean[k] += v_dir_mean[k];
            }
            if (v_cameras) {
                T *out = v_cameras + 15 * c;
                for (int r = 0; r < 3; ++r) {
                    for (int k = 0; k < 3; ++k) {
                        const V dR = v_p[r] * s.mean[k] + v_V[3 * r] * s.M[3 * k] + v_V[3 * r + 1] * s.M[3 * k + 1] + v_V[3 * r + 2] * s.M[3 * k + 2];
                        out[3 * r + k] += horizontal_sum<T>(select(seen, dR, zero));
                    }
                    out[9 + r] += horizontal_sum<T>(v_p[r]);
                    out[12 + r] -= horizontal_sum<T>(v_dir_mean[r]);
                }
            }
        }

        // M = R(q) S
        V v_R[9], v_scale[3], v_q[4];
        const V w = s.q[0], x = s.q[1], y = s.q[2], z = s.q[3];
        for (int k = 0; k < 3; ++k) {
            v_scale[k] = s.R[k] * v_M[k] + s.R[3 + k] * v_M[3 + k] + s.R[6 + k] * v_M[6 + k];
            for (int r = 0; r < 3; ++r) v_R[3 * r + k] = v_M[3 * r + k] * s.scale[k];
        }
        v_q[0] = T(2) * (x * (v_R[7] - v_R[5]) + y * (v_R[2] - v_R[6]) + z * (v_R[3] - v_R[1]));
        v_q[1] = T(2) * (w * (v_R[7] - v_R[5]) - T(2) * x * (v_R[4] + v_R[8]) + y * (v_R[1] + v_R[3]) + z * (v_R[2] + v_R[6]));
        v_q[2] = T(2) * (w * (v_R[2] - v_R[6]) + x * (v_R[1] + v_R[3]) - T(2) * y * (v_R[0] + v_R[8]) + z * (v_R[5] + v_R[7]));
        v_q[3] = T(2) * (w * (v_R[3] - v_R[1]) + x * (v_R[2] + v_R[6]) + y * (v_R[5] + v_R[7]) - T(2) * z * (v_R[0] + v_R[4]));
        const V radial = v_q[0] * w + v_q[1] * x + v_q[2] * y + v_q[3] * z;
        for (int k = 0; k < 4; ++k) store_column(g.v_quats + 4 * i, 4, k, n, select(s.usable, (v_q[k] - radial * s.q[k]) * s.inv_norm, zero));
        for (int k = 0; k < 3; ++k) store_column(g.v_scales + 3 * i, 3, k, n, v_scale[k]);
        for (int k = 0; k < 3; ++k) store_column(g.v_means + 3 * i, 3, k, n, v_mean[k]);
        if (a.antialiased) store_column(g.v_opacities + i, 1, 0, n, v_opacity);
        if (num_bases > 0) {
            store_columns(g.v_sh + a.sh_stride * i, a.sh_stride, 3 * num_bases, n, v_coefficients);
            for (int64_t k = 3 * num_bases; k < a.sh_stride; ++k) store_column(g.v_sh + a.sh_stride * i, a.sh_stride, int(k), n, zero);
        }
    }
}

}  // namespace

extern const ProjectKernels project_kernels;
const ProjectKernels project_kernels = {{project_forward<float>, project_backward<float>}, {project_forward<double>, project_backward<double>}};

}  // namespace L2S_ISA
}  // namespace l2s
