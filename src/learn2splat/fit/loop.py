"""`fit`: the one loop that optimizes the Gaussians of a scene, whatever the update rule. The command line runs this very function.
`FitRun` is the same run in hand: whoever holds it decides when the next step is made (`bench` interleaves several).

    choose views -> render -> photometric loss (sum over views) -> gradients -> optimizer.step -> evaluate and save now and then

What the loop promises: the same seed on the same machine gives the same bits, also when the run was killed and resumed; seconds
count optimization only; held-out photos are looked at for the curve and never to choose what is returned; a run that
diverges ends with its last finite state and says so.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from ..errors import CheckpointError, OptionError, SceneError
from ..gaussians.record import Gaussians
from ..losses import photometric_loss
from ..optimizers import OptState, Task, UpdateRule, make_optimizer
from ..scenes import Scene
from .checkpoint import check_same_run, fingerprint, group, has_checkpoint, load_checkpoint, named, rule_fingerprint, save_checkpoint
from .evaluate import by_size, mean_score, render_photos, score
from .problem import ViewsProblem
from .records import CurvePoint, FitResult, Progress
from .views import ViewSampler

DEFAULT_STEPS = 1000  # When neither steps nor seconds are given.
EARLY_EVALS = (0, 10, 30, 100, 300, 1000)  # The curve is read on a logarithmic axis, ...
EVAL_EVERY = 2000  # ... and then at every multiple of this.
AVERAGE_FROM = 100  # Before this step the average lags behind too far to help (NOTES.md section 2, point 3).


@dataclass
class _Run:
    """All that changes during a run, apart from the view sampler; this and the sampler are what a checkpoint holds."""

    gaussians: Gaussians
    state: OptState
    average: Gaussians | None
    step: int = 0
    seconds: float = 0.0  # wall clock of the steps; evaluation and saving not counted
    cpu_seconds: float = 0.0  # the same, processor time of all threads
    update_seconds: float = 0.0  # the part of `seconds` that is the update rule's; the rest is views, rendering, loss and gradients
    curve: list[CurvePoint] = field(default_factory=list)
    diverged: bool = False

    def shown(self) -> Gaussians:
        """The Gaussians that are evaluated and returned."""
        return self.average if self.average is not None and self.step >= AVERAGE_FROM else self.gaussians


def default_eval_steps(step: int) -> bool:
    """Whether the curve has a point at `step`: 0, 10, 30, 100, 300, 1000, 2000, 4000, then every 2000."""
    return step in EARLY_EVALS or step % EVAL_EVERY == 0


class FitRun:
    """A run that is advanced from outside. `advance` makes one step, `evaluate` adds a point to the curve, `save` writes a checkpoint.

    After any sequence of calls its Gaussians are those of `fit` after as many steps, to the bit.
    """

    def __init__(
        self,
        scene: Scene,
        gaussians: Gaussians,
        rule: UpdateRule,
        *,
        steps: int | None = None,
        max_seconds: float | None = None,
        horizon: int | None = None,
        views_per_step: int = 8,
        seed: int = 0,
        average: bool = False,
        checkpoint: Path | None = None,
        resume: bool = False,
    ) -> None:
        """
        Args:
            steps, max_seconds: what ends the run, whichever comes first; they may be changed on the way.
            horizon: of rules that have a schedule, where it is not `steps`.

        The others, and what is raised, are those of `fit`.
        """
        check_options(scene, gaussians, steps=steps, max_seconds=max_seconds, views_per_step=views_per_step, save_every=1.0)
        self.scene, self.rule, self.steps, self.max_seconds, self.folder = scene, rule, steps, max_seconds, checkpoint
        self.train = list(scene.train_idx)
        self.sampler = ViewSampler(scene.camtoworlds[self.train, :3, 3], views_per_step, torch.Generator().manual_seed(seed))
        options = {"views_per_step": self.sampler.views_per_step, "seed": seed, "average": average}
        self.identity = {**fingerprint(scene, gaussians), **rule_fingerprint(rule), **options} if checkpoint else {}
        self.loss = math.nan  # inner loss per view of the last step, before its update
        if checkpoint and resume and has_checkpoint(checkpoint):
            self._run = _load(checkpoint, self.sampler, self.identity, gaussians.means.device)
        else:
            start = gaussians.detach().clone()
            # Cameras all in one place have no extent; the subject's distance, 1 in the normalised frame, is then the natural unit.
            horizon = steps if horizon is None else horizon
            task = Task(scene.scene_scale or 1.0, self.sampler.views_per_step, horizon, len(self.train), scene.view_angle(self.train))
            state = rule.init(start, task, torch.Generator().manual_seed(seed))
            self._run = _Run(start, state, start if average else None)
        self._good = self._run  # The last state whose parameters and loss were finite.

    step = property(lambda self: self._run.step, doc="Inner steps done.")
    seconds = property(lambda self: self._run.seconds, doc="Wall clock of the steps done; evaluation and saving not counted.")
    cpu_seconds = property(lambda self: self._run.cpu_seconds, doc="Processor time of the steps done, over all threads.")
    update_seconds = property(lambda self: self._run.update_seconds, doc="The part of `seconds` that the update rule took.")
    diverged = property(lambda self: self._run.diverged, doc="Whether a parameter or the loss became non-finite.")
    curve = property(lambda self: tuple(self._run.curve), doc="Points that `evaluate` has made, in order of steps.")
    gaussians = property(lambda self: self._run.shown(), doc="What is evaluated and returned.")

    @property
    def finished(self) -> bool:
        """Whether the run has diverged, or reached its steps or seconds."""
        timed_out = self.max_seconds is not None and self.seconds >= self.max_seconds
        return self.diverged or timed_out or (self.steps is not None and self.step >= self.steps)

    def evaluate(self) -> bool:
        """Add the held-out quality of now to the curve; False if it has it already."""
        if self._run.curve and self._run.curve[-1].step == self.step:
            return False
        self._run.curve.append(CurvePoint(self.step, self.seconds, *mean_score(score(self.scene, self.gaussians))))
        return True

    def advance(self) -> None:
        """One inner step. If it yields something non-finite, the run goes back to its last sound state and has diverged."""
        run = self._run
        began, cpu_began = time.perf_counter(), time.process_time()
        views = [self.train[i] for i in self.sampler.next()]
        total, grads = loss_and_gradients(self.scene, run.gaussians, views)
        self.loss = total / len(views)
        if run.gaussians.means.is_cuda:
            torch.cuda.synchronize()  # Else the update would be charged for gradients that are still on their way; `is_finite` waits for its end.
        update_began = time.perf_counter()
        new = None
        if math.isfinite(total):
            self._good = run
            problem = (ViewsProblem(self.scene, run.gaussians, views),) if getattr(self.rule, "needs_problem", False) else ()
            new_gaussians, new_state = self.rule.step(run.gaussians, grads, run.state, *problem)
            if new_gaussians.is_finite():
                new = replace(run, gaussians=new_gaussians, state=new_state, average=_averaged(run, new_gaussians), step=run.step + 1)
        ended = time.perf_counter()
        self._run = replace(
            new or self._good,
            seconds=run.seconds + ended - began,
            cpu_seconds=run.cpu_seconds + time.process_time() - cpu_began,
            update_seconds=run.update_seconds + ended - update_began,
            curve=run.curve if new else [point for point in run.curve if point.step <= self._good.step],
            diverged=new is None,
        )

    def save(self) -> None:
        """Replace the checkpoint in the folder that was given."""
        _save(self.folder, self._run, self.sampler, self.identity)

    def result(self, interrupted: bool = False) -> FitResult:
        """What the run has reached."""
        return FitResult(self.rule.name, self.gaussians, self.curve, self.step, self.seconds, self.diverged, interrupted)


def fit(
    scene: Scene,
    gaussians: Gaussians,
    optimizer: UpdateRule | str,
    *,
    steps: int | None = None,
    max_seconds: float | None = None,
    views_per_step: int = 8,
    seed: int = 0,
    eval_at: Iterable[int] | None = None,
    average: bool = False,
    checkpoint: Path | str | None = None,
    save_every: float = 30.0,
    resume: bool = False,
    on_step: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> FitResult:
    """Optimize `gaussians` on the train photos of `scene`.

    Args:
        scene: at least one train and one held-out photo.
        gaussians: the start, in the normalised frame; their device is where everything runs. Not changed.
        optimizer: an update rule, or its name for `make_optimizer`.
        steps: stop after so many inner steps; also the horizon of rules that have a schedule.
        max_seconds: stop after so many seconds of optimization. Without either: 1000 steps.
        views_per_step: photos per inner step; all of them where the scene has fewer.
        seed: of the view sampling and of the initial state of the rule.
        eval_at: steps at which the held-out photos are scored, besides the last; default: `default_eval_steps`.
        average: return and evaluate an exponential average of the iterates (from step 100), which is less noisy.
        checkpoint: folder in which to keep a checkpoint, replaced every `save_every` seconds and at the end.
        resume: go on from that checkpoint if there is one. Steps and seconds count from the beginning of the run.
        on_step: called after every step and every evaluation.
        should_stop: asked before every step; if true, the run is saved and ends.

    Raises:
        OptionError: an option makes no sense.
        SceneError: no train or no held-out photo.
        CheckpointError: the checkpoint to resume is damaged or belongs to another run.
        SaveError: a checkpoint cannot be written; the one before is intact.
    """
    rule = make_optimizer(optimizer) if isinstance(optimizer, str) else optimizer
    steps = DEFAULT_STEPS if steps is None and max_seconds is None else steps
    check_options(scene, gaussians, steps=steps, max_seconds=max_seconds, views_per_step=views_per_step, save_every=save_every)
    is_eval_step = default_eval_steps if eval_at is None else set(eval_at).__contains__
    folder = None if checkpoint is None else Path(checkpoint)

    run = FitRun(
        scene,
        gaussians,
        rule,
        steps=steps,
        max_seconds=max_seconds,
        views_per_step=views_per_step,
        seed=seed,
        average=average,
        checkpoint=folder,
        resume=resume,
    )
    last_save = time.monotonic()

    def report() -> None:
        if on_step:
            on_step(Progress(run.step, run.seconds, run.loss, run.curve, run.gaussians))

    while True:
        finished = run.finished
        if (finished or is_eval_step(run.step)) and run.evaluate():
            report()
        interrupted = not finished and should_stop is not None and should_stop()
        if folder and (finished or interrupted or time.monotonic() - last_save >= save_every):
            run.save()
            last_save = time.monotonic()
        if finished or interrupted:
            return run.result(interrupted)
        run.advance()
        report()


def loss_and_gradients(scene: Scene, gaussians: Gaussians, views: list[int]) -> tuple[float, Gaussians]:
    """The inner loss, summed over `views` (photo positions; any sizes), and its gradient with respect to the stored fields."""
    leaves = gaussians.detach().requires_grad_()
    total = sum(photometric_loss(*render_photos(scene, leaves, same_size)) for same_size in by_size(scene, views))
    grads = torch.autograd.grad(total, list(leaves.tensors().values()))
    return float(total.detach()), Gaussians(*grads)


def _averaged(run: _Run, new: Gaussians) -> Gaussians | None:
    """The next exponential average: a decay that grows to 0.9, so that early iterates are soon forgotten."""
    if run.average is None:
        return None
    decay = min(0.9, (run.step + 1) / (run.step + 10))
    return run.average.zip_map(lambda mean, value: torch.lerp(value, mean, decay), new)


def _save(folder: Path, run: _Run, sampler: ViewSampler, identity: dict) -> None:
    """One checkpoint: everything that `_load` needs for the same bits."""
    state_tensors, state_info = run.state.state_dict()
    tensors = {
        **named("gaussians", run.gaussians.tensors()),
        **named("optimizer", state_tensors),
        **named("sampler", sampler.state_dict()),
        **(named("average", run.average.tensors()) if run.average else {}),
    }
    info = {
        "run": identity,
        "step": run.step,
        "seconds": run.seconds,
        "cpu_seconds": run.cpu_seconds,
        "update_seconds": run.update_seconds,
        "curve": [asdict(point) for point in run.curve],
        "diverged": run.diverged,
        "optimizer": state_info,
    }
    save_checkpoint(folder, tensors, info)


def _load(folder: Path, sampler: ViewSampler, identity: dict, device: torch.device) -> _Run:
    """The run of a checkpoint; the sampler is brought to where it was."""
    tensors, info = load_checkpoint(folder)
    try:
        check_same_run(info["run"], identity, folder)
        tensors = {name: tensor if name.startswith("sampler.") else tensor.to(device) for name, tensor in tensors.items()}
        sampler.load_state_dict(group(tensors, "sampler"))
        average = group(tensors, "average")
        return _Run(
            gaussians=Gaussians(**group(tensors, "gaussians")),
            state=OptState.from_state_dict(group(tensors, "optimizer"), info["optimizer"]),
            average=Gaussians(**average) if average else None,
            step=info["step"],
            seconds=info["seconds"],
            cpu_seconds=info["cpu_seconds"],
            update_seconds=info["update_seconds"],
            curve=[CurvePoint(**point) for point in info["curve"]],
            diverged=info["diverged"],
        )
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"the checkpoint in {folder} was written by another version ({error}): start again with --overwrite") from error


def check_options(
    scene: Scene, gaussians: Gaussians, *, steps: int | None, max_seconds: float | None, views_per_step: int, save_every: float
) -> None:
    """Raise what `fit` would raise for these arguments, before anything is done or written."""
    if steps is not None and steps < 0:
        raise OptionError(f"steps must be 0 or more, got {steps}")
    if max_seconds is not None and not max_seconds > 0:
        raise OptionError(f"max_seconds must be positive, got {max_seconds}")
    if views_per_step < 1:
        raise OptionError(f"views_per_step must be at least 1, got {views_per_step}")
    if not save_every > 0:
        raise OptionError(f"save_every must be positive, got {save_every}")
    if not scene.train_idx or not scene.test_idx:
        counts = f"{len(scene.train_idx)} train and {len(scene.test_idx)} held-out photos"
        raise SceneError(f"scene {scene.name} has {counts}: at least one of each is needed")
    if len(gaussians) == 0:
        raise SceneError("there are no Gaussians to optimize: the initial point cloud is empty")
    if not gaussians.is_finite():
        raise OptionError("the initial Gaussians hold NaN or infinite numbers: fit needs a finite start")
