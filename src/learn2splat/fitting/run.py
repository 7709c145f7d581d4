"""`FitRun`: one run in hand. Whoever holds it decides when the next step is made; `fit` makes them one after another, `bench` interleaves runs.

    place in the plan -> growth, if it is due -> views -> render -> loss (sum over views) -> gradients -> optimizer.step -> average

What it promises: the same seed on the same machine gives the same bits, also when the run was killed and resumed (where the plan goes by steps;
one that goes by seconds resumes at the same place of the plan); seconds count optimization only; held-out photos are looked at for the curve
and for nothing else; a run that diverges ends with its last finite state and says so.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import torch

from ..density import Event, Surroundings, make_density
from ..gaussians.record import Gaussians
from ..initializers import DepthMaps, depth_maps
from ..optimizers import Task, UpdateRule
from ..scenes import Scene
from ..scenes.adapt import resized
from .checkpoint import fingerprint, has_checkpoint, rule_fingerprint
from .evaluate import mean_score, score
from .gradients import loss_and_gradients, observed_gradients
from .options import check_options
from .plan import Plan
from .problem import ViewsProblem
from .records import Change, CurvePoint, FitResult
from .settled import has_settled
from .state import RunState, load_state, save_state
from .views import ViewSampler


class FitRun:
    """A run that is advanced from outside. `advance` makes one step, `evaluate` adds a point to the curve, `save` writes a checkpoint.

    After any sequence of calls its Gaussians are those of `fit` after as many steps, to the bit.
    """

    def __init__(
        self,
        scene: Scene,
        gaussians: Gaussians,
        rule: UpdateRule,
        plan: Plan,
        *,
        horizon: int | None = None,
        seed: int = 0,
        checkpoint: Path | None = None,
        resume: bool = False,
    ) -> None:
        """
        Args:
            plan: what happens when. Its `steps` and `seconds` end the run; they are copied to attributes that may be changed on the way.
            horizon: of rules that have a schedule, where it is not that of the plan.

        The others, and what is raised, are those of `fit`.
        """
        check_options(scene, gaussians, steps=plan.steps, max_seconds=plan.seconds)
        rule.world.check(scene)
        self.scene, self.rule, self.folder, self.horizon = scene, rule, checkpoint, horizon
        self.train = list(scene.train_idx)
        self.sampler = ViewSampler(scene.camtoworlds[self.train, :3, 3], plan.stages[0].views_per_step, torch.Generator().manual_seed(seed))
        self.generator = torch.Generator().manual_seed(seed)
        self.density = make_density(plan.density)
        # What was asked for and not what was planned: that depends on the budget, which may grow, and on how fast the machine was.
        options = {"density control": plan.density, "seed": seed}
        options |= {name: getattr(plan, name) for name in ("views_per_step", "num_downscales", "max_gaussians")}
        self.identity = {**fingerprint(scene, gaussians), **rule_fingerprint(rule), **options} if checkpoint else {}
        self.loss = math.nan  # inner loss per view of the last step, before its update
        if checkpoint and resume and has_checkpoint(checkpoint):
            self._run, saved = load_state(checkpoint, self.sampler, self.generator, self.identity, gaussians.means.device)
            plan = saved.extended(plan.steps, plan.seconds)
        else:
            start = rule.admit(gaussians.detach().clone())
            views = min(plan.stages[0].views_per_step, len(self.train))
            # Cameras all in one place have no extent; the subject's distance, 1 in the normalised frame, is then the natural unit.
            task = Task(scene.scene_scale or 1.0, views, horizon or plan.steps, len(self.train), scene.view_angle(self.train))
            self._run = RunState(start, rule.init(start, task, torch.Generator().manual_seed(seed)), self.density.init_stats(start))
        self.plan = plan
        if self._run.average is not None and self.progress < plan.average_from:  # it goes on with a larger budget
            self._run = replace(self._run, average=None, averaged=0)
        self.pyramid = [resized(scene, stage.long_side) for stage in plan.stages]
        self._maps: DepthMaps | None = None
        self._good = self._run  # The last state whose parameters and loss were finite.

    step = property(lambda self: self._run.step, doc="Inner steps done.")
    seconds = property(lambda self: self._run.seconds, doc="Wall clock of the steps done; evaluation and saving not counted.")
    cpu_seconds = property(lambda self: self._run.cpu_seconds, doc="Processor time of the steps done, over all threads.")
    update_seconds = property(lambda self: self._run.update_seconds, doc="The part of `seconds` that the update rule took.")
    growth_seconds = property(lambda self: self._run.growth_seconds, doc="The part of `seconds` that the density control took.")
    diverged = property(lambda self: self._run.diverged, doc="Whether a parameter or the loss became non-finite.")
    settled = property(lambda self: self._run.settled_at is not None, doc="Whether an open run was found to improve no longer.")
    curve = property(lambda self: tuple(self._run.curve), doc="Points that `evaluate` has made, in order of steps.")
    gaussians = property(lambda self: self._run.shown(), doc="What is evaluated and returned.")

    @property
    def max_seconds(self) -> float | None:
        """What ends the run, if not its steps."""
        return self.plan.seconds

    @max_seconds.setter
    def max_seconds(self, seconds: float | None) -> None:
        self.plan = replace(self.plan, seconds=seconds)

    @property
    def progress(self) -> float:
        """The place of the next step in the plan, 0 to 1."""
        return self.plan.progress(self.step, self.seconds, self._run.settled_at)

    @property
    def stage(self) -> int:
        """The number of the plan's stage that the next step belongs to."""
        return self.plan.stage(self.progress)

    @property
    def finished(self) -> bool:
        """Whether the run has diverged, or reached its end."""
        return self.diverged or self.progress >= 1

    def evaluate(self) -> bool:
        """Add the held-out quality of now to the curve, at the full size of the photos; False if it has it already."""
        if self._run.curve and self._run.curve[-1].step == self.step:
            return False
        quality = mean_score(score(self.scene, self.gaussians))
        point = CurvePoint(self.step, self.seconds, *quality, len(self._run.gaussians), self._long_side(self.stage))
        self._run.curve.append(point)
        return True

    def advance(self) -> None:
        """One inner step. If it yields something non-finite, the run goes back to its last sound state and has diverged."""
        began, cpu_began = time.perf_counter(), time.process_time()
        progress, stage = self.progress, self.stage
        scene = self.pyramid[stage]
        before = self._run = self._noted(self._grown(self._run, scene, progress), stage)  # the ungrown state is not held: memory
        run = before
        self.sampler.views_per_step = min(self.plan.stages[stage].views_per_step, len(self.train))
        views = [self.train[i] for i in self.sampler.next()]
        task = replace(run.state.task, views_per_step=len(views), steps=self._horizon(run.step, progress))
        run = replace(run, state=replace(run.state, task=task))
        if self.density.observes:
            total, grads, observations = observed_gradients(scene, run.gaussians, views, self.density.observes)
            run = replace(run, stats=self.density.observe(run.stats, observations))
        else:
            total, grads = loss_and_gradients(scene, run.gaussians, views)
        self.loss = total / len(views)
        if run.gaussians.means.is_cuda:
            torch.cuda.synchronize()  # Else the update would be charged for gradients that are still on their way; `is_finite` waits for its end.
        update_began = time.perf_counter()
        new = None
        if math.isfinite(total):
            self._good = before
            new = self._updated(run, scene, views, grads, progress, stage)
        ended = time.perf_counter()
        self._run = replace(
            new or self._good,
            seconds=before.seconds + ended - began,
            cpu_seconds=before.cpu_seconds + time.process_time() - cpu_began,
            update_seconds=before.update_seconds + ended - update_began,
            curve=before.curve if new else [point for point in before.curve if point.step <= self._good.step],
            diverged=new is None,
        )

    def save(self) -> None:
        """Replace the checkpoint in the folder that was given."""
        save_state(self.folder, self._run, self.sampler, self.generator, self.plan, self.identity)

    def result(self, interrupted: bool = False) -> FitResult:
        """What the run has reached."""
        return FitResult(
            optimizer=self.rule.name,
            gaussians=self.gaussians,
            curve=self.curve,
            steps=self.step,
            seconds=self.seconds,
            diverged=self.diverged,
            interrupted=interrupted,
            settled=self.settled,
            plan=self.plan,
            update_seconds=self.update_seconds,
            growth_seconds=self.growth_seconds,
            changes=tuple(self._run.changes),
            to_input=self.scene.to_normalised.inverse(),
            offset=self.scene.offset,
        )

    def _long_side(self, stage: int) -> int:
        return max(self.pyramid[stage].size(self.train[0]))

    def _noted(self, run: RunState, stage: int) -> RunState:
        """The run with what has changed, if something has, since the step before."""
        now = (len(run.gaussians), self._long_side(stage))
        if run.changes and (run.changes[-1].num_gaussians, run.changes[-1].long_side) == now:
            return run
        return replace(run, changes=[*run.changes, Change(run.step, run.seconds, *now)])

    def _grown(self, run: RunState, scene: Scene, progress: float) -> RunState:
        """The run after the events of growth that are due. Events that a slow machine has skipped are one."""
        due = self.plan.due(progress)
        if due <= run.events or self.plan.share(run.step) < 1:  # new Gaussians would wait for their first move
            return run
        began = time.perf_counter()
        event = Event(due - 1, len(self.plan.growth), progress, self.plan.growth[due - 1].target)
        splat = self.density.event(run.splat, event, Surroundings(scene, self.rule, self.generator, self._depths))
        new = replace(run, gaussians=self.rule.admit(splat.gaussians), state=splat.state, stats=splat.stats, average=None, averaged=0, events=due)
        return replace(new, growth_seconds=run.growth_seconds + time.perf_counter() - began)

    def _updated(self, run: RunState, scene: Scene, views: list[int], grads: Gaussians, progress: float, stage: int) -> RunState | None:
        """The run after the update of a step; None if something is not finite."""
        penalty = self.density.penalty(run.gaussians, len(views))
        if penalty is not None:
            grads = grads.zip_map(torch.add, penalty)
        problem = (ViewsProblem(scene, run.gaussians, views),) if getattr(self.rule, "needs_problem", False) else ()
        gaussians, state = self.rule.step(run.gaussians, grads, run.state, *problem)
        share = self.plan.share(run.step)
        if share < 1:
            gaussians = run.gaussians.zip_map(lambda old, new: torch.lerp(old, new, share), gaussians)
        gaussians = self.density.perturb(gaussians, progress, state.task.scene_scale, self.generator)
        if not gaussians.is_finite():
            return None
        new = replace(run, gaussians=gaussians, state=state, step=run.step + 1)
        if progress >= self.plan.average_from:
            average = gaussians if run.average is None else run.average.zip_map(lambda a, b: torch.lerp(a, b, 1 / (run.averaged + 1)), gaussians)
            new = replace(new, average=average, averaged=run.averaged + 1)
        if self.plan.open_ended and run.settled_at is None and stage == len(self.plan.stages) - 1 and run.events == len(self.plan.growth):
            losses = [*run.losses, self.loss]
            settled = has_settled(losses, len(views), len(self.train))
            new = replace(new, losses=losses, settled_at=new.step if settled else None)
        return new

    def _horizon(self, step: int, progress: float) -> int | None:
        """The length of the run for rules with a schedule: where seconds decide, such that steps done over it is the progress."""
        if self.horizon is not None or (self.plan.steps is not None and not self.plan.open_ended):
            return self.horizon or self.plan.steps
        return max(1, round(step / progress)) if progress > 0 and step else None

    def _depths(self) -> DepthMaps:
        """Multi-view depth maps of the train photos: made when growth first asks for them, in the time of the run."""
        if self._maps is None:
            self._maps = depth_maps(self.scene, self.train)
        return self._maps
