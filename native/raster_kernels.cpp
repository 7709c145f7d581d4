// The kernels of the rasterizer, per instruction set: culling, and blending forward and backward.
#include "raster_cull.hpp"
//
#include "raster_backward.hpp"

namespace l2s {
namespace L2S_ISA {
namespace {

template <class T> void forward(const BandArgs<T> &band, int strip) {
    if (band.channels == 1) forward_strip<T, 1>(band, strip);
    else if (band.channels == 3) forward_strip<T, 3>(band, strip);
    else forward_strip<T, 4>(band, strip);
}

template <class T> void backward(const BandArgs<T> &band) {
    if (band.channels == 1) band.absgrad ? backward_band<T, 1, true>(band) : backward_band<T, 1, false>(band);
    else if (band.channels == 3) band.absgrad ? backward_band<T, 3, true>(band) : backward_band<T, 3, false>(band);
    else band.absgrad ? backward_band<T, 4, true>(band) : backward_band<T, 4, false>(band);
}

}  // namespace

extern const RasterKernels raster_kernels;
const RasterKernels raster_kernels = {{prepare<float>, make_spans<float>, forward<float>, backward<float>},
                                      {prepare<double>, make_spans<double>, forward<double>, backward<double>}};

}  // namespace L2S_ISA
}  // namespace l2s
