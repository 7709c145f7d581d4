// Projection of 3D Gaussians into pinhole views, and spherical-harmonics colours: the contract of the kernels in project_kernels.cpp.
//
// Sigma' = J W Sigma W^T J^T (3D Gaussian Splatting, arXiv:2308.04079, Eq. 5) with gsplat's conventions: x/z and y/z are clamped to the image
// plus 30 % of half its width inside the Jacobian; eps2d (px^2) is added to the diagonal; a Gaussian is culled (radii 0) when its depth is
// outside (near_plane, far_plane), when its box misses the image, when its opacity is below 1/255, or when anything of it is not finite.
// We factor Sigma' = H H^T with H = J W R S (2x3) and take det(Sigma') as a sum of squares (Cauchy-Binet), which never cancels.
#pragma once
#include <cstdint>

#include "isa.hpp"

namespace l2s {

constexpr int PROJECT_CHUNK = 256;  // Gaussians per task; fixed, so that sums over Gaussians do not depend on the thread count

template <class T> struct ProjectArgs {
    int64_t N;
    int C, width, height;
    T near_plane, far_plane, eps2d;
    bool antialiased;  // opacity *= sqrt(det(Sigma' - eps2d I) / det(Sigma'))
    int sh_degree;     // -1: no spherical harmonics
    int64_t sh_stride;  // K * 3: numbers per Gaussian in sh
    // inputs
    const T *means, *quats, *scales, *opacities;  // (N, 3), (N, 4) wxyz of any length, (N, 3) linear, (N,) in [0, 1]
    const T *sh, *campos;                         // (N, K, 3), (C, 3): camera centres in the world; null without SH
    const T *viewmats, *Ks;                       // (C, 4, 4) camera from world; (C, 3, 3) px
    // outputs
    T *means2d, *depths, *conics;  // (C, N, 2) px, (C, N), (C, N, 3) px^-2: upper triangle of the inverse of Sigma'
    T *compensated;                // (C, N) opacities; only if antialiased
    T *colors;                     // (C, N, 3) max(SH + 0.5, 0); only with SH
    int32_t *radii;                // (C, N, 2) px
};

template <class T> struct ProjectGrads {
    // gradients that come in; any may be null
    const T *v_means2d, *v_depths, *v_conics, *v_compensated, *v_colors;
    // gradients that go out, summed over views; every row is written
    T *v_means, *v_quats, *v_scales;
    T *v_opacities;  // only if antialiased
    T *v_sh;         // only with SH
    T *v_cameras;    // (chunks, C, 15): dL/dR (9, row-major), dL/dt (3), dL/dcampos (3) of each chunk; null when not wanted
};

template <class T> struct ProjectTable {
    void (*forward)(const ProjectArgs<T> &, int64_t begin, int64_t end);
    void (*backward)(const ProjectArgs<T> &, const ProjectGrads<T> &, int64_t chunk);
};
struct ProjectKernels {
    ProjectTable<float> f32;
    ProjectTable<double> f64;
};
L2S_DECLARE_KERNELS(ProjectKernels, project_kernels)

template <class T> const ProjectTable<T> &project_table();
template <> inline const ProjectTable<float> &project_table<float>() { return L2S_KERNELS(project_kernels).f32; }
template <> inline const ProjectTable<double> &project_table<double>() { return L2S_KERNELS(project_kernels).f64; }

}  // namespace l2s
