// The two ends of a step of `anchored`, of which unroll.hpp speaks.
#pragma once
#include "arena.hpp"
#include "unroll.hpp"

namespace l2s {

class StepEnds {
  public:
    // What the network reads, for the seen Gaussians, n <= N of them.
    struct Inputs {
        int64_t *rows;               // (n)
        float *features, *noise;     // (n, num_read), (n, num_noise)
        float *relations;            // (n, neighbours, 3)
        int64_t *neighbours;         // (n, neighbours) numbers among the seen
        bool *exists;                // (n, neighbours)
    };
    // The first end: moments, features and all of the new state but the latent one. `net` needs bounds, rows of features, and that state.
    StepEnds(const UpdateArgs &args, const AnchoredArgs &net, const Inputs &inputs, int num_threads);
    int64_t seen() const { return args_.n; }
    // The other: from log-gains and coefficients (n, GROUPS + TERMS) to new Gaussians. Reads parameters, spacing and new counts again.
    void finish(const float *outputs) const;
    // From the gradient of the new Gaussians (fields of (N, width)) to that of the outputs.
    void backward(const float *outputs, const float *const *v_params, float *v_outputs) const;

  private:
    UpdateArgs args_;
    AnchoredArgs net_;
    int num_threads_;
    Arena kept_;
    std::unique_ptr<int32_t[]> numbers_;
};

}  // namespace l2s
