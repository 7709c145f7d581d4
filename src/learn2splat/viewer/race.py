"""Another optimizer from the same start, made step by step beside a run, so that both have had the same seconds. It takes nothing from the run."""

from __future__ import annotations

from ..fitting import FitRun, Plan, Progress
from ..gaussians import Gaussians
from ..optimizers import make_optimizer
from ..scenes import Scene

STEPS_AT_ONCE = 3  # while it catches up


class Rival:
    """A run that follows another one.

    Raises:
        OptionError: there is no such optimizer.
    """

    def __init__(self, scene: Scene, start: Gaussians, name: str, plan: Plan, seed: int) -> None:
        self.name = name
        self.run = FitRun(scene, start, make_optimizer(name), plan, seed=seed)
        self.run.evaluate()

    def follow(self, progress: Progress) -> None:
        """Some steps, until it has had as many seconds as the run; a point on its curve whenever the run has a new one."""
        for _ in range(STEPS_AT_ONCE):
            if self.run.finished or self.run.seconds >= progress.seconds:
                break
            self.run.advance()
        if (
            progress.curve
            and self.run.curve
            and progress.curve[-1].seconds > self.run.curve[-1].seconds
            and self.run.seconds >= progress.curve[-1].seconds
        ):
            self.run.evaluate()
