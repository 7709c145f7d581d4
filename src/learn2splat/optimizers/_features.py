"""What the `anchored` network reads about each seen Gaussian: scale-free numbers only (docs/optimizer.md).

Nothing here depends on the unit of length, on where the origin is, on the unit of the loss, or on how many Gaussians or steps there are. There are
two clocks, and no horizon can be read off either: `age`, 1 / sqrt(steps in which this Gaussian was seen), which fades, and `log_age`, which only the
magnitude path reads, so that steps may shrink as a power of the age and go on doing so beyond any trained horizon. How many views there
are, and how far apart, does enter (`scarcity`, `wideness`): few of them, or distant ones, can be fitted by what is wrong from everywhere else.
Gradients enter divided by their own running size or by that of the other Gaussians; lengths enter divided by the local spacing. Vectors enter only
through sizes and agreements of vectors, never as components, so axes may be relabelled; what keeps the rule from being rotation equivariant is
Adam's normalisation per component, and nothing else.

Every logarithm is of a number that is clamped away from 0 first, and every feature is clamped: broken inputs give boring features, not NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from ..gaussians.record import COLUMNS, FIELDS, NUM_PARAMS, WIDTHS
from .base import Task

NUM_GROUPS = len(FIELDS)
CORE = COLUMNS["sh0"].stop  # The first 14 columns: everything but shN.
SLOW_BETA = 0.99
RUNNING_BETA = 0.95  # of the running mean of log |g|
MAX_RATIO = 5.0  # Bound of normalised gradients, as that of the nominal direction.
TINY = 1e-37  # Just above the smallest normal float32.
MAX_LOG = 8.0
FIRST_AGE = 16.0  # Steps: where the logarithm of the age begins.
LOG_UNIT = 4.0  # Logarithms are divided by this, so that features are of order 1.

# The features and their widths. The network reads those that its configuration names, in this order.
FEATURES = {
    "size_to_running": NUM_GROUPS,  # log of |g| per parameter group over its own running geometric mean
    "size_to_median": NUM_GROUPS,  # ... over the median over the seen Gaussians
    "raw": NUM_GROUPS,  # log rms of g / sqrt(vhat): this gradient against the last thousand
    "momentum": NUM_GROUPS,  # log rms of the Adam direction (beta 0.9): signal to noise
    "slow_momentum": NUM_GROUPS - 1,  # log rms of the direction with beta 0.99, without shN: signal to noise, ten times finer
    "agreement": NUM_GROUPS,  # cosine of gradient and momentum
    "shape": 3,  # log-scales over log spacing: smallest, mean, largest
    "spacing": 1,  # log spacing over its median over the seen Gaussians
    "opacity": 1,  # logit
    "colour": 2,  # mean of sh0; log rms of shN
    "seen": 1,  # running share of steps in which this Gaussian was seen
    "age": 1,
    "log_age": 1,  # log(1 + age / FIRST_AGE)
    "neighbour_agreement": 4,  # cosine of the own direction and the neighbours' mean (means, log-scales, opacity, sh0)
    "neighbour_difference": 4,  # log rms of the neighbours' mean parameters minus the own; means in units of spacing
}
# What the magnitude path reads: how far gradients stand out of their noise, and the age.
MAGNITUDE_FEATURES = ("size_to_running", "raw", "momentum", "slow_momentum", "log_age")
# What the network reads unless told otherwise: a log age beyond all trained ones must not reach what is not linear in it.
NETWORK_FEATURES = tuple(name for name in FEATURES if name != "log_age")

MANY_VIEWS = 64  # More are as good as these: then nothing is learned about one view that no other view corrects.
CLOSE_ANGLE, WIDE_ANGLE = 1.0, 30.0  # Degrees between neighbouring views: nothing new below the first, beyond the second they show different things.


def scarcity(num_views: int | None) -> float:
    """How few the views of a run are, all seen Gaussians alike: 0 where there are many (or nobody knows), 1 at one."""
    return 1 - math.log(min(num_views or MANY_VIEWS, MANY_VIEWS)) / math.log(MANY_VIEWS)


def wideness(view_angle: float | None) -> float:
    """How far apart they are, in [0, 1]: logarithm of the angle from `CLOSE_ANGLE` (or unknown) to `WIDE_ANGLE`."""
    return _share(math.log(max(view_angle or CLOSE_ANGLE, CLOSE_ANGLE)), math.log(CLOSE_ANGLE), math.log(WIDE_ANGLE))


# Where what fits the views is right elsewhere too: from the first to the second number of views, and angle in degrees.
ENOUGH_VIEWS = (8, 14)
NEAR_ANGLES = (6.0, 2.5)


def enough(task: Task) -> float:
    """1 where views are many (or nobody knows how many), 0 where they are few; linear in the logarithm between."""
    return _share(-scarcity(task.num_views), *(-scarcity(n) for n in ENOUGH_VIEWS))


def plenty(task: Task) -> float:
    """1 where views are many and close to each other (or nobody knows), 0 where they are few or far apart; linear in the logarithms between."""
    return enough(task) * _share(-wideness(task.view_angle), *(-wideness(angle) for angle in NEAR_ANGLES))


def _share(x: float, zero: float, one: float) -> float:
    return min(1.0, max(0.0, (x - zero) / (one - zero)))


NEIGHBOUR_FIELDS = ("means", "log_scales", "logit_opacities", "sh0")  # Differences of quaternions mean nothing (q and -q are one rotation).
NUM_RELATIONS = 3  # What the attention reads about a pair: log distance over spacing, difference in opacity, distance in colour.


@dataclass
class Seen:
    """What is known about the n Gaussians that are seen in this step. All tensors have n rows."""

    flat: Tensor  # (n, 59) parameters
    grad: Tensor  # (n, 59)
    direction: Tensor  # (n, 59) the nominal direction
    root: Tensor  # (n, 59) sqrt of the bias-corrected second moment, positive
    slow: Tensor  # (n, 14) first moment with SLOW_BETA
    count: Tensor  # (n,) steps in which each was seen, this one included; floating
    running: Tensor  # (n, 6) running mean of log |g| before this step
    seen_rate: Tensor  # (n,) in [0, 1]
    spacing: Tensor  # (n,) world units
    neighbours: Tensor  # (n, k) int64 rows, column 0 the Gaussian itself; `attention.seen_neighbours`
    exists: Tensor  # (n, k) bool


@dataclass
class Observed:
    """Features, and the vectors that corrections are made of."""

    features: dict[str, Tensor]  # Each (n, width).
    relations: Tensor  # (n, k, NUM_RELATIONS)
    raw: Tensor  # (n, 59) gradient / root, bounded
    slow: Tensor  # (n, 14) slow direction, bounded
    neighbour_direction: Tensor  # (n, 14) mean nominal direction of the neighbours, zero where there are none
    neighbour_offset: Tensor  # (n, 14) their mean parameters minus the own, bounded; means in units of spacing
    running: Tensor  # (n, 6) after this step


@lru_cache(maxsize=8)
def group_means(dtype: torch.dtype, device: torch.device) -> Tensor:
    """(59, 6) matrix that averages columns per parameter group: a product with it is the fastest grouped reduction on a CPU."""
    matrix = torch.zeros(NUM_PARAMS, NUM_GROUPS, dtype=dtype, device=device)
    for i, name in enumerate(FIELDS):
        matrix[COLUMNS[name], i] = 1 / WIDTHS[name]
    return matrix


def log_rms(mean_square: Tensor) -> Tensor:
    """Half the logarithm of a mean square; 1e-6 keeps the derivative at 0 finite and ends the range at -6.9."""
    return 0.5 * (mean_square + 1e-6).log()


def observe(s: Seen) -> Observed:
    """Features of the seen Gaussians, in the type of `s.flat`."""
    groups = group_means(s.flat.dtype, s.flat.device)
    core_groups = groups[:CORE, :-1]
    raw = (s.grad / s.root).clamp_(-MAX_RATIO, MAX_RATIO)
    slow = (s.slow / ((1 - SLOW_BETA**s.count).unsqueeze(1) * s.root[:, :CORE])).clamp_(-MAX_RATIO, MAX_RATIO)
    raw_square, square, slow_square = raw.square() @ groups, s.direction.square() @ groups, slow.square() @ core_groups

    log_size = (s.grad.abs() @ groups).clamp_min(TINY).log()
    first = (s.count == 1).unsqueeze(1)
    running = torch.where(first, log_size, s.running)

    length = s.spacing.clamp_min(TINY).unsqueeze(1)
    log_length = length.log()
    near, mean, has_neighbour = _gather_neighbours(s)
    neighbour_direction = mean[:, CORE:]
    offset = (mean[:, :CORE] - s.flat[:, :CORE]) * has_neighbour
    offset = torch.cat([offset[:, :3] / length, offset[:, 3:]], dim=1).clamp(-MAX_RATIO, MAX_RATIO)
    pick = [FIELDS.index(name) for name in NEIGHBOUR_FIELDS]
    cross = (s.direction[:, :CORE] * neighbour_direction) @ core_groups
    neighbour_square = neighbour_direction.square() @ core_groups

    log_scales = s.flat[:, COLUMNS["log_scales"]] - log_length
    logs = {
        "size_to_running": log_size - running,
        "size_to_median": log_size - log_size.median(0, keepdim=True).values,
        "raw": log_rms(raw_square),
        "momentum": log_rms(square),
        "slow_momentum": log_rms(slow_square),
        "shape": torch.cat([log_scales.amin(1, keepdim=True), log_scales.mean(1, keepdim=True), log_scales.amax(1, keepdim=True)], dim=1),
        "spacing": log_length - log_length.median(),
        "opacity": s.flat[:, COLUMNS["logit_opacities"]],
        "neighbour_difference": log_rms(offset.square() @ groups[:CORE, pick]),
        "colour": torch.cat([s.flat[:, COLUMNS["sh0"]].mean(1, keepdim=True), log_rms(s.flat.square() @ groups[:, -1:])], dim=1),
    }
    bounded = torch.cat(list(logs.values()), dim=1).clamp(-MAX_LOG, MAX_LOG) / LOG_UNIT
    features = dict(zip(logs, bounded.split([t.shape[1] for t in logs.values()], dim=1)))
    features["agreement"] = ((raw * s.direction) @ groups) / (raw_square * square + 1e-12).sqrt()
    features["seen"] = s.seen_rate.unsqueeze(1)
    features["age"] = s.count.rsqrt().unsqueeze(1)
    features["log_age"] = (s.count / FIRST_AGE).log1p().unsqueeze(1) / LOG_UNIT
    features["neighbour_agreement"] = (cross / (square[:, :-1] * neighbour_square + 1e-12).sqrt())[:, pick]
    weight = s.count.reciprocal().clamp_min(1 - RUNNING_BETA).unsqueeze(1)
    return Observed(features, _relations(s, near, length), raw, slow, neighbour_direction, offset, running.lerp(log_size, weight))


def _gather_neighbours(s: Seen) -> tuple[Tensor, Tensor, Tensor]:
    """First 14 parameters and directions of each neighbour (n, k, 28); their mean without the Gaussian itself (n, 28); is there any (n, 1)."""
    core = torch.cat([s.flat[:, :CORE], s.direction[:, :CORE]], dim=1)
    near = F.embedding(s.neighbours.reshape(-1), core).view(*s.neighbours.shape, 2 * CORE)
    others = s.exists[:, 1:].to(core.dtype)  # column 0 is the Gaussian itself
    number = others.sum(1, keepdim=True)
    mean = (near[:, 1:] * (others / number.clamp_min(1.0)).unsqueeze(2)).sum(1)
    return near, mean, (number > 0).to(core.dtype)


def _relations(s: Seen, near: Tensor, length: Tensor) -> Tensor:
    """(n, k, NUM_RELATIONS): what the attention may know about each pair."""
    difference = near[:, :, :CORE] - s.flat[:, None, :CORE]
    distance_square = (difference[:, :, :3] / length.unsqueeze(1)).square().sum(2)
    opacity, colour = COLUMNS["logit_opacities"], COLUMNS["sh0"]
    parts = [
        0.5 * (distance_square + 0.01).log().clamp(-MAX_LOG, MAX_LOG),  # 0.01: the Gaussian itself is put at a tenth of the spacing
        difference[:, :, opacity].squeeze(2).clamp(-MAX_LOG, MAX_LOG) / LOG_UNIT,
        difference[:, :, colour].square().sum(2).clamp_max(MAX_LOG) / LOG_UNIT,
    ]
    return torch.stack(parts, dim=2)
