"""`fit`: optimize the Gaussians of a scene, whatever the update rule. The command line runs this very function."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from ..errors import OptionError
from ..gaussians import init_from_points, init_random
from ..gaussians.record import Gaussians
from ..optimizers import UpdateRule, make_optimizer
from ..scenes import Scene
from .plan import Plan, flat_plan
from .records import FitResult, Progress
from .run import FitRun

EARLY_EVALS = (0, 10, 30, 100, 300, 1000)  # The curve of a run at one size is read on a logarithmic axis, ...
EVAL_EVERY = 2000  # ... and then at every multiple of this.
EVAL_SHARE = 0.1  # The curve of a run with a plan has a point at every tenth of it.
RANDOM_START = 5000  # Gaussians where the scene has no points
DEFAULT_STEPS = 1000  # Where neither steps nor seconds nor a plan are given.


def default_eval_steps(step: int) -> bool:
    """Whether the curve of a run at one size has a point at `step`: 0, 10, 30, 100, 300, 1000, 2000, 4000, then every 2000."""
    return step in EARLY_EVALS or step % EVAL_EVERY == 0


def _start(scene: Scene, seed: int) -> Gaussians:
    generator = torch.Generator().manual_seed(seed)
    if len(scene.points):
        return init_from_points(scene.points, scene.colors, generator=generator)
    return init_random(scene, RANDOM_START, generator=generator)


def fit(
    scene: Scene,
    gaussians: Gaussians | None = None,
    optimizer: UpdateRule | str = "learned",
    *,
    plan: Plan | None = None,
    steps: int | None = None,
    max_seconds: float | None = None,
    views_per_step: int = 8,
    seed: int = 0,
    eval_at: Iterable[int] | None = None,
    checkpoint: Path | str | None = None,
    save_every: float = 30.0,
    resume: bool = False,
    on_step: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> FitResult:
    """Optimize `gaussians` on the train photos of `scene`.

    Args:
        scene: at least one train and one held-out photo.
        gaussians: the start, in the frame of the scene; their device is where everything runs. Not changed.
            Default: one Gaussian for each point of the scene, or 5000 at random where there are none.
        optimizer: an update rule, or its name for `make_optimizer`.
        plan: coarse to fine, with growth, by `make_plan`. Without one: the photos as they are and the Gaussians of the start, for `steps` inner
            steps or `max_seconds` seconds of optimization, whichever comes first (neither: 1000 steps), `views_per_step` photos in each.
        seed: of the view sampling, of the initial state of the rule and of the density control.
        eval_at: steps at which the held-out photos are scored, besides the last; default: every tenth of a plan, else `default_eval_steps`.
        checkpoint: folder in which to keep a checkpoint, replaced every `save_every` seconds and at the end.
        resume: go on from that checkpoint if there is one. Steps and seconds count from the beginning of the run. With other `steps` than at its
            start, schedules follow the new ones from here on; with the same, the bits are those of a run that never stopped.
        on_step: called after every step and every evaluation.
        should_stop: asked before every step; if true, the run is saved and ends.

    Raises:
        OptionError: an option makes no sense, or the weights are of another world than the scene (`rule.world.scene(scene)`).
        SceneError: no train or no held-out photo.
        CheckpointError: the checkpoint to resume is damaged or belongs to another run.
        SaveError: a checkpoint cannot be written; the one before is intact.
    """
    rule = make_optimizer(optimizer) if isinstance(optimizer, str) else optimizer
    if gaussians is None:
        gaussians = rule.world.splat(_start(scene, seed), scene)
        scene = rule.world.scene(scene)
    if views_per_step < 1:
        raise OptionError(f"views_per_step must be at least 1, got {views_per_step}")
    if not save_every > 0:
        raise OptionError(f"save_every must be positive, got {save_every}")
    if plan is not None and (steps is not None or max_seconds is not None):
        raise OptionError("a plan has its own steps and seconds: give them to make_plan")
    by_plan = plan is not None
    if plan is None:
        steps = DEFAULT_STEPS if steps is None and max_seconds is None else steps
        long_side = max((max(scene.size(i)) for i in range(len(scene))), default=1)
        plan = flat_plan(long_side, steps=steps, seconds=max_seconds, views_per_step=views_per_step)
    folder = None if checkpoint is None else Path(checkpoint)
    run = FitRun(scene, gaussians, rule, plan, seed=seed, checkpoint=folder, resume=resume)
    last_save = time.monotonic()
    tenth = int(run.progress / EVAL_SHARE) if run.step else -1  # where a resumed run was saved, it had been scored

    def is_eval_step() -> bool:
        nonlocal tenth
        if eval_at is not None:
            return run.step in eval_steps
        if not by_plan:
            return default_eval_steps(run.step)
        before, tenth = tenth, int(run.progress / EVAL_SHARE)
        return tenth > before

    def report() -> None:
        if on_step:
            on_step(Progress(run.step, run.seconds, run.loss, run.curve, run.gaussians, run.progress, run.stage))

    eval_steps = set() if eval_at is None else set(eval_at)
    while True:
        finished = run.finished
        if (is_eval_step() or finished) and run.evaluate():
            report()
        interrupted = not finished and should_stop is not None and should_stop()
        if folder and (finished or interrupted or time.monotonic() - last_save >= save_every):
            run.save()
            last_save = time.monotonic()
        if finished or interrupted:
            return run.result(interrupted)
        run.advance()
        report()
