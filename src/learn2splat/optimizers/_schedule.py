"""What `anchored` does late in the life of a Gaussian, by its age and by what is known of the views: how far the network is trusted, from which age
on steps shrink, and what decays. And the clamps of docs/method.md section 2, which no rule leaves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..gaussians.record import COLUMNS
from ._features import enough, plenty
from .base import Task

if TYPE_CHECKING:
    from .anchored import AnchoredConfig

MIN_LOG_SCALE, MAX_LOG_SCALE = -8.0, math.log(3.0)
MAX_LOGIT_OPACITY = 7.0
MAX_SH = 2.0


def trust(count: Tensor, task: Task, trust_age: float) -> Tensor:
    """The part (n,) of log-gains and coefficients that is taken: 1, and less with the age where views are many and close to each other (`plenty`)."""
    return 1 - plenty(task) * (1 - 1 / (1 + (count / trust_age).square()))


def settled_age(task: Task, config: AnchoredConfig) -> float:
    """The age from which on steps shrink as one over the age."""
    share = enough(task)
    return min(config.few_age, config.trained_age) ** (1 - share) * config.trained_age**share


def decay(flat: Tensor, task: Task, config: AnchoredConfig) -> Tensor:
    """What (n, 59) the parameters `flat` lose with a step, whatever their gradients are: nothing where views are many and close to each other."""
    log_scales, shN = COLUMNS["log_scales"], COLUMNS["shN"]
    lost = torch.zeros_like(flat)
    lost[:, log_scales] = config.decay_anisotropy * (flat[:, log_scales] - flat[:, log_scales].mean(1, keepdim=True))
    lost[:, shN] = config.decay_shN * flat[:, shN]
    return (1 - plenty(task)) * lost
