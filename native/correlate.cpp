// Splits the volume into rows. See correlate.hpp.
#include "correlate.hpp"

#include "parallel.hpp"

namespace l2s {

void correlate(const CorrelateArgs &args, int num_threads) {
    const CorrelateKernels &kernels = L2S_KERNELS(correlate_kernels);
    parallel_for(args.height, num_threads, [&](int64_t row) {
        for (int64_t depth = 0; depth < args.count; ++depth) kernels.row(args, depth, row);
    });
}

}  // namespace l2s
