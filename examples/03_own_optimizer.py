"""An optimizer of your own, in the same table as all others: ten lines, then the comparison and its report.

    python examples/03_own_optimizer.py [--steps 50] [--out out/own]

From the command line, without registering: learned2splat bench SCENE --optimizers adam,learned,examples/03_own_optimizer.py:SignMomentum
"""

import argparse
from pathlib import Path

import torch

import learn2splat as l2s
from learn2splat.bench import Budget, Protocol, run_bench, tables
from learn2splat.bench.report import write_report
from learn2splat.optimizers import OptState, UpdateRule
from learn2splat.scenes import make_procedural_scene


class SignMomentum(UpdateRule):
    """The sign of a running mean of the gradients: steps of a fixed length in each of the 59 numbers of a Gaussian."""

    name = "sign-momentum"
    # Lengths for means, quats, log_scales, logit_opacities, sh0, shN, which have 3, 4, 3, 1, 3 and 45 of the numbers.
    lengths = torch.tensor([2e-3, 5e-3, 2e-2, 3e-2, 1e-2, 1e-3]).repeat_interleave(torch.tensor([3, 4, 3, 1, 3, 45]))

    def init(self, gaussians, task, generator):
        return OptState({"mean": torch.zeros(len(gaussians), 59)}, task=task)  # all that it remembers, with a row per Gaussian

    def step(self, gaussians, grads, state):
        mean = 0.9 * state.tensors["mean"] + 0.1 * grads.flatten()
        new = l2s.Gaussians.unflatten(gaussians.flatten() - self.lengths * mean.sign())
        return new, OptState({"mean": mean}, state.step + 1, state.task)


def main(steps: int, out: Path) -> None:
    l2s.register_optimizer("sign-momentum", SignMomentum)
    scene = make_procedural_scene(seed=1, width=96, height=72, num_points=1000)
    protocol = Protocol(budget=Budget.parse(f"adam:{steps}"), long_side=None)  # for all, the seconds of so many steps of adam
    run_bench([scene], ["adam", "nominal", "sign-momentum"], protocol, out)
    for comparison in write_report(out):
        print(tables.quality_table(comparison).markdown(), tables.headline(comparison), f"Report: {out / 'report.html'}", sep="\n\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("out/own"))
    options = parser.parse_args()
    main(options.steps, options.out)
