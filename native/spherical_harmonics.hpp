// Real spherical harmonics up to degree 3, signs as in 3DGS and gsplat: basis values and their gradient with respect to the direction.
#pragma once
#include "simd.hpp"

namespace l2s {
namespace L2S_ISA {

constexpr double SH_C0 = 0.28209479177387814, SH_C1 = 0.48860251190291992;
constexpr double SH_C2A = 1.0925484305920792, SH_C2B = 0.94617469575755997, SH_C2C = 0.54627421529603959;
constexpr double SH_C3A = 0.59004358992664352, SH_C3B = 2.8906114426405538, SH_C3C = 0.45704579946446572, SH_C3D = 0.3731763325901154,
                 SH_C3E = 1.4453057213202769;

// basis[0 .. (degree + 1)^2) at unit direction (x, y, z).
template <class T> L2S_INLINE void sh_basis(int degree, Vec<T> x, Vec<T> y, Vec<T> z, Vec<T> *basis) {
    basis[0] = splat<T>(T(SH_C0));
    if (degree < 1) return;
    basis[1] = T(-SH_C1) * y;
    basis[2] = T(SH_C1) * z;
    basis[3] = T(-SH_C1) * x;
    if (degree < 2) return;
    const Vec<T> xx = x * x, yy = y * y, zz = z * z;
    basis[4] = T(SH_C2A) * x * y;
    basis[5] = T(-SH_C2A) * y * z;
    basis[6] = T(SH_C2B) * zz - T(SH_C2B / 3);
    basis[7] = T(-SH_C2A) * x * z;
    basis[8] = T(SH_C2C) * (xx - yy);
    if (degree < 3) return;
    basis[9] = T(-SH_C3A) * y * (T(3) * xx - yy);
    basis[10] = T(SH_C3B) * x * y * z;
    basis[11] = T(-SH_C3C) * y * (T(5) * zz - T(1));
    basis[12] = T(SH_C3D) * z * (T(5) * zz - T(3));
    basis[13] = T(-SH_C3C) * x * (T(5) * zz - T(1));
    basis[14] = T(SH_C3E) * z * (xx - yy);
    basis[15] = T(-SH_C3A) * x * (xx - T(3) * yy);
}

// Gradient of sum_k basis_k w_k with respect to the direction, as if (x, y, z) were free.
template <class T> L2S_INLINE void sh_direction_gradient(int degree, Vec<T> x, Vec<T> y, Vec<T> z, const Vec<T> *w, Vec<T> &gx, Vec<T> &gy, Vec<T> &gz) {
    gx = gy = gz = Vec<T>{};
    if (degree < 1) return;
    gx -= T(SH_C1) * w[3];
    gy -= T(SH_C1) * w[1];
    gz += T(SH_C1) * w[2];
    if (degree < 2) return;
    gx += T(SH_C2A) * (y * w[4] - z * w[7]) + T(2 * SH_C2C) * x * w[8];
    gy += T(SH_C2A) * (x * w[4] - z * w[5]) - T(2 * SH_C2C) * y * w[8];
    gz += T(2 * SH_C2B) * z * w[6] - T(SH_C2A) * (y * w[5] + x * w[7]);
    if (degree < 3) return;
    const Vec<T> xx = x * x, yy = y * y, zz = z * z;
    gx += T(-6 * SH_C3A) * x * y * w[9] + T(SH_C3B) * y * z * w[10] - T(SH_C3C) * (T(5) * zz - T(1)) * w[13] + T(2 * SH_C3E) * x * z * w[14] -
          T(3 * SH_C3A) * (xx - yy) * w[15];
    gy += T(-3 * SH_C3A) * (xx - yy) * w[9] + T(SH_C3B) * x * z * w[10] - T(SH_C3C) * (T(5) * zz - T(1)) * w[11] - T(2 * SH_C3E) * y * z * w[14] +
          T(6 * SH_C3A) * x * y * w[15];
    gz += T(SH_C3B) * x * y * w[10] - T(10 * SH_C3C) * z * (y * w[11] + x * w[13]) + T(SH_C3D) * (T(15) * zz - T(3)) * w[12] +
          T(SH_C3E) * (xx - yy) * w[14];
}

}  // namespace L2S_ISA
}  // namespace l2s
