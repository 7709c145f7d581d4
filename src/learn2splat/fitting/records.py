"""What a fit reports while it runs and what it ends with."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from torch import Tensor

from ..gaussians import save_ply, transform_gaussians
from ..gaussians.record import Gaussians
from ..scenes import Similarity
from .plan import Plan


@dataclass(frozen=True)
class CurvePoint:
    """Held-out quality after `step` inner steps, which took `seconds` of optimization: means over photos, PSNR in dB."""

    step: int
    seconds: float
    psnr: float
    ssim: float
    num_gaussians: int = 0
    long_side: int = 0  # px of the photos that are fitted at this moment; the quality is that at their full size


@dataclass(frozen=True)
class Change:
    """From `step` on, which began after `seconds`, there are so many Gaussians, and photos have so many px."""

    step: int
    seconds: float
    num_gaussians: int
    long_side: int


@dataclass(frozen=True, eq=False)
class Progress:
    """What a progress bar may want to know after a step."""

    step: int
    seconds: float
    loss: float  # Inner loss per view of this step, before its update.
    curve: tuple[CurvePoint, ...]
    gaussians: Gaussians  # As they would be evaluated after this step.
    progress: float  # Of the plan, 0 to 1.
    stage: int  # Of the plan.


@dataclass(frozen=True, eq=False, repr=False)
class FitResult:
    """What a run ends with.

    Attributes:
        gaussians: normalised frame of the scene, no gradients.
        curve: held-out quality over the run, in order of steps; its last point is that of `gaussians` unless `interrupted`.
        steps, seconds: inner steps done and the time they took, evaluation and saving not counted.
        diverged: a parameter or the loss became non-finite; `gaussians` are the last ones before that.
        interrupted: `should_stop` ended the run early.
        settled: a run without a budget ended because its loss no longer improved.
        plan: by which it was made.
        update_seconds, growth_seconds: the parts of `seconds` that the update rule and the density control took; the rest is render, loss, gradients.
        changes: of the size of the photos and the number of Gaussians, from the start on.
        to_input, offset: the way to the frame of the files (`Scene.to_normalised`, `Scene.offset`).
    """

    optimizer: str
    gaussians: Gaussians
    curve: tuple[CurvePoint, ...]
    steps: int
    seconds: float
    diverged: bool
    interrupted: bool
    settled: bool
    plan: Plan
    update_seconds: float
    growth_seconds: float
    changes: tuple[Change, ...]
    to_input: Similarity | None = None
    offset: Tensor | None = None

    def __repr__(self) -> str:
        return f"FitResult({self.optimizer}: {self.psnr:.2f} dB after {self.steps} steps, {self.seconds:.1f} s, {len(self.gaussians)} Gaussians)"

    def save_ply(self, path: str | os.PathLike) -> None:
        """Write the splat in the frame of the files, as every 3DGS viewer reads it.

        Raises:
            SaveError: the file cannot be written.
        """
        save_ply(path, self.gaussians if self.to_input is None else transform_gaussians(self.gaussians, self.to_input), offset=self.offset)

    @property
    def ended(self) -> str:
        """Why the run ended: "interrupted", "diverged", "settled", "steps" or "seconds", whatever of the budget was spent first."""
        for reason in ("interrupted", "diverged", "settled"):
            if getattr(self, reason):
                return reason
        return "steps" if self.plan.steps is not None and self.steps >= self.plan.steps else "seconds"

    @property
    def psnr(self) -> float:
        """Held-out PSNR at the end, dB; NaN if nothing was evaluated before an interruption."""
        return self.curve[-1].psnr if self.curve else math.nan

    @property
    def ssim(self) -> float:
        """Held-out SSIM at the end."""
        return self.curve[-1].ssim if self.curve else math.nan

    @property
    def best_psnr(self) -> float:
        """The largest held-out PSNR of the curve; minus `psnr` it tells how far the run degraded. Not that of `gaussians`."""
        return max((point.psnr for point in self.curve), default=math.nan)
