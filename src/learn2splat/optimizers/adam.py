"""Plain Adam for all Gaussians, with a learning rate per parameter group: the baselines `adam`, `adam-tuned`, `adam-gsplat` and `adam-auto`.

Dense as in 3DGS: one count of steps for all, and Gaussians that no view of the step saw move on along their old momentum. The gradients come from
a loss that is *summed* over the views of a step; Adam divides the gradient's scale out again, so a mean would take the same steps (only `eps` =
1e-15 is compared with the gradient itself, and gradients that small change nothing to look at).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ..errors import OptionError
from ..gaussians.record import FIELDS, NUM_PARAMS, WIDTHS, Gaussians
from ._checks import require_finite
from ._moments import ADAM_EPS, clean_gradients
from .base import OptState, Task, UpdateRule

DEFAULT_STEPS = 30_000  # Horizon of the schedule of the means when the task has none, as in 3DGS.


@dataclass(frozen=True)
class AdamConfig:
    """Learning rates per parameter group (docs/method.md section 5) and Adam's constants."""

    means: float = 1.6e-4  # Times the task's scene_scale: world units.
    quats: float = 1e-3
    log_scales: float = 5e-3
    logit_opacities: float = 5e-2
    sh0: float = 2.5e-3
    shN: float = 1.25e-4
    means_final: float = 0.01  # The means' rate decays log-linearly to this share at the last step of the task; 1: not at all.
    beta1: float = 0.9
    beta2: float = 0.999
    batch_scaling: bool = False  # gsplat's simple_trainer: rates x sqrt(B), betas 1 - B (1 - beta), eps / sqrt(B), B = views per step.

    def __post_init__(self) -> None:
        require_finite(self)
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("beta1", "beta2"):
                if not 0 <= value < 1:
                    raise OptionError(f"{field.name} must be in [0, 1), got {value}")
            elif field.name != "batch_scaling" and not value > 0:
                raise OptionError(f"{field.name} of Adam must be above 0, got {value}")

    def scaled(self, factor: float) -> AdamConfig:
        """The same with all six learning rates times `factor`."""
        return replace(self, **{name: factor * getattr(self, name) for name in FIELDS})


# docs/method.md section 5: "all x5, means not decayed, beta1 0.99".
TUNED = replace(AdamConfig().scaled(5.0), means_final=1.0, beta1=0.99)
GSPLAT = AdamConfig(batch_scaling=True)
# Setting 56 of `benchmarks/search_rates.py`: the best mean over 300 and 1000 steps of those run at both (training/rates.jsonl).
AUTO = AdamConfig(
    means=4.226e-3,
    quats=5.24e-4,
    log_scales=0.0712,
    logit_opacities=0.0932,
    sh0=9.666e-3,
    shN=1.013e-4,
    means_final=0.2366,
    beta2=0.995,
)


class Adam(UpdateRule):
    """Adam (arXiv:1412.6980, Algorithm 1) over all Gaussians. State: `m`, `v` (N, 59); the count of steps is `state.step`.

    A Gaussian whose gradient is not finite gets a zero gradient in that step, as if no view had seen it.
    """

    def __init__(self, config: AdamConfig | None = None, name: str = "adam") -> None:
        self.config = config or AdamConfig()
        self.name = name

    def init(self, gaussians: Gaussians, task: Task, generator: torch.Generator) -> OptState:
        zeros = gaussians.means.new_zeros(len(gaussians), NUM_PARAMS)
        return OptState({"m": zeros, "v": zeros.clone()}, task=task)

    @torch.no_grad()
    def step(self, gaussians: Gaussians, grads: Gaussians, state: OptState) -> tuple[Gaussians, OptState]:
        config, t = self.config, state.step + 1
        batch = state.task.views_per_step if config.batch_scaling else 1
        beta1, beta2 = (max(0.0, 1 - batch * (1 - beta)) for beta in (config.beta1, config.beta2))
        flat, _ = clean_gradients(grads)
        m = state.tensors["m"].lerp(flat, 1 - beta1)
        v = (state.tensors["v"] * beta2).addcmul_(flat, flat, value=1 - beta2)
        # rate * mhat / (sqrt(vhat) + eps) with both bias corrections in the rate and in eps: two passes over (N, 59) fewer.
        root = math.sqrt(1 - beta2**t)
        rates = self.rates(state, flat) * (math.sqrt(batch) * root / (1 - beta1**t))
        update = v.sqrt().add_(root * ADAM_EPS / math.sqrt(batch))
        torch.div(m, update, out=update)
        new = gaussians.flatten().sub_(update.mul_(rates))
        return Gaussians.unflatten(new), replace(state, tensors={"m": m, "v": v}, step=t)

    def rates(self, state: OptState, like: Tensor) -> Tensor:
        """The learning rate of each of the 59 columns at the coming step, before batch scaling."""
        config, task = self.config, state.task
        progress = min(1.0, state.step / max(1, DEFAULT_STEPS if task.steps is None else task.steps))
        rates = {name: getattr(config, name) for name in FIELDS}
        rates["means"] *= task.scene_scale * config.means_final**progress
        return like.new_tensor([rates[name] for name in FIELDS for _ in range(WIDTHS[name])])
