"""`learn2splat fit SCENE`: optimize the Gaussians of a scene and save everything under --out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..density import make_density
from ..errors import OptionError
from ..files import WRITTEN_BY, atomic_write, file_name, is_ours, locked
from ..fitting import FitResult, Plan, Progress, fit, make_plan, score, shows_anything
from ..fitting.checkpoint import has_checkpoint
from ..fitting.measure import measured_step_seconds
from ..fitting.options import check_options
from ..gaussians import Gaussians
from ..optimizers import make_optimizer
from ..scenes import Scene, lacks_poses
from ..scenes.context import context_scene
from ..scenes.views import Index, choose_views
from ..viewer.server import PORT, address_lines
from . import result as saved
from .common import (
    Command,
    DeviceName,
    Flag,
    Interrupted,
    MaybeFloat,
    MaybeInt,
    MaybePath,
    MaybeText,
    ScenePath,
    Settings,
    machine,
    note,
    portable_command,
    require_device,
    settings,
    stop_on_signals,
    to_json,
)
from .fit_page import ENDED, facts, fit_page
from .fit_pictures import HeldOut, held_out, held_out_in_haste
from .plan_table import plan_sentence, print_plan
from .progress import FitProgress, phase
from .sfm import scene_of_photos
from .start import initial_gaussians

OnStep = Callable[[Progress], None]
Densify = Literal["error", "default", "default-abs", "mcmc", "none"]


@dataclass(frozen=True)
class Fit(Command):
    """Fit Gaussians to the photos of a scene; every 8th photo is held out to measure the quality.

    learn2splat fit my_scene --max-seconds 60 --out out/mine        the best splat within a minute
    learn2splat fit my_scene --out out/mine --resume --max-seconds 300        and on from there
    """

    scene: ScenePath
    """Folder of COLMAP output (images, sparse/0) or with a transforms.json."""
    out: MaybePath = None
    """Folder for the results. Default: out/SCENE-OPTIMIZER, with a number if that exists."""
    optimizer: str = "learned"
    """Update rule: learned, nominal, adam, adam-auto, adam-tuned, adam-gsplat, sgd, lm, anchored, g3r or paper."""
    weights: MaybeText = None
    """Trained weights for learned, anchored, g3r or paper: a .safetensors file, the published .ckpt, or
    hf://organisation/repository/path@revision."""
    set: Settings = ()
    """Constants of the update rule, as means=2e-4 for adam, or refresh_every=100 for released weights."""
    max_seconds: MaybeFloat = None
    """The best splat within so many seconds of optimization; loading, evaluation and saving do not count. Without --max-seconds and
    --steps the run ends by itself when it no longer improves, at the latest after 1800 seconds."""
    steps: MaybeInt = None
    """The best splat within so many steps, to the same bits on every run."""
    densify: Annotated[Densify | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """How the number of Gaussians grows: error (where the render is wrong), default (clone, split and prune of 3DGS), default-abs, mcmc (3DGS-MCMC)
    or none. Default: error; none in the sparse setting."""
    max_gaussians: MaybeInt = None
    """Never more Gaussians than this. Default: as many as the time is good for."""
    num_downscales: MaybeInt = None
    """How many times the photos are halved at the start of the run: 0 to 3. Default: by their size; 0 where --init is a splat, and in the sparse
    setting."""
    long_side: MaybeInt = None
    """Shrink the photos so that the longer side has so many pixels. Default: 1600 at most; 0: never."""
    data_factor: int = 1
    """Use images_2, images_4 or images_8 in place of images."""
    max_points: MaybeInt = None
    """Start from at most so many points, drawn at random."""
    test_every: int = 8
    """Hold out the first and then every so-many-th photo of the sorted names; 0: fit all of them, and score fitted ones."""
    setting: Literal["dense", "sparse"] = "dense"
    """Fit all photos that are not held out, or only --context-views of them, all in every step; some of those between them are held out."""
    context_views: MaybeInt = None
    """Photos that are fitted in the sparse setting. Default: 8, or as --index has it."""
    index: MaybePath = None
    """Which photos these are, and which are held out: a file of learn2splat index, pixelSplat, MVSplat or DepthSplat."""
    no_masks: Flag = False
    """Fit and score also what masks (folder masks/, mask_path) or transparent pixels hide."""
    background: Annotated[Literal["white", "black"] | None, tyro.conf.arg(metavar="{white,black}", help_behavior_hint="")] = None
    """Compose transparent photos on this. Default: white for NeRF-synthetic scenes; others ignore what is transparent."""
    allow_outside: Flag = False
    """Read photos that the scene names outside of its folder."""
    init: MaybeText = None
    """Start: sfm (the points of the scene), feedforward (what a network sees in the photos), stereo (depth that the photos agree on), depth (maps
    that the scene brings), random, or a file in the frame of the scene: a splat (.ply, .compressed.ply, .spz, .sog, .splat) or a point cloud (.ply).
    Default: sfm, or feedforward where the scene has too few points, and in the sparse setting."""
    views_per_step: MaybeInt = None
    """Photos rendered in one step. Default: 8, and 4 where photos are large; all in the sparse setting."""
    seed: int = 0
    """Fixes everything that is random."""
    device: DeviceName = "cpu"
    """Where to compute."""
    sfm: Flag = False
    """Where SCENE is a folder of plain photos: find their poses first (learn2splat sfm), without asking."""
    resume: Flag = False
    """Go on with the run in --out, to the same bits as if it had never stopped. Other options as at its start;
    --steps and --max-seconds may be larger."""
    overwrite: Flag = False
    """Replace the results in --out."""
    save_every: float = 30.0
    """Seconds between two checkpoints."""
    dry_run: Flag = False
    """Show the plan of the run, and stop."""
    view: Flag = False
    """Watch it in the browser while it optimizes: pause, step, curve, photos, a race against another optimizer. A closed browser stops nothing."""
    port: int = PORT
    """Where --view serves; the next free one if it is taken."""
    no_report: Flag = False
    """Write no report.html."""
    json: Flag = False
    """Print the metrics as one line of JSON, alone on stdout."""

    def run(self) -> None:
        if lacks_poses(self.scene):
            replace(self, scene=scene_of_photos(self.scene, self.sfm)).run()
            return
        device = require_device(self.device)
        if self.resume and self.overwrite:
            raise OptionError("--resume and --overwrite exclude each other: go on with the run, or start it again")
        folder = self._choose_folder()
        rule = make_optimizer(self.optimizer, **({} if self.weights is None else {"weights": self.weights}), **settings(self.set))
        self._check()
        scene = self._open()
        scene, gaussians, finished = initial_gaussians(scene, self.init, self.max_points, self.seed, sparse=self._sparse)
        scene, gaussians = rule.world.scene(scene), rule.world.splat(gaussians, scene)
        check_options(scene, gaussians, steps=self.steps, max_seconds=self.max_seconds)
        plan = self._plan(scene, gaussians, folder, finished)
        if self.dry_run:
            print_plan(plan, scene, len(gaussians))
            return
        with locked(folder):
            self._prepare(folder, scene, gaussians, plan)
            with (
                stop_on_signals() as should_stop,
                self._viewer(scene, gaussians, plan, should_stop) as watch,
                FitProgress(f"{scene.name} {self.optimizer}", plan) as progress,
            ):
                result = fit(
                    scene,
                    gaussians.to(device),
                    rule,
                    plan=plan,
                    seed=self.seed,
                    checkpoint=folder / saved.CHECKPOINT,
                    save_every=self.save_every,
                    resume=self.resume,
                    on_step=watch(progress),
                    should_stop=should_stop,
                )
            self._save_config(folder, scene, gaussians, result.plan)  # again: a resumed run may have been given more steps
            self._save(folder, scene, result)
            if result.interrupted:
                raise Interrupted(f"stopped at step {result.steps}; everything is saved in {folder}, go on with --out {folder} --resume")
        if not shows_anything(scene, result.gaussians):
            note("note: nothing of the splat is visible in the held-out photos: poses and points do not belong together, or the run went astray")
        if self.json:
            print(to_json(saved.metrics(result)))
        else:
            _print_summary(folder, scene, result)

    @contextmanager
    def _viewer(self, scene: Scene, gaussians: Gaussians, plan: Plan, should_stop: Callable[[], bool]) -> Iterator[Callable[[OnStep], OnStep]]:
        """With --view, the viewer: what it yields makes a callback of the run tell it, too."""
        if not self.view:
            yield lambda on_step: on_step
            return
        from ..viewer.live import LiveFit  # what it needs is an extra

        live = LiveFit(scene, gaussians, plan, self.optimizer, self.seed, self.port, phase, should_stop)
        try:
            for line in address_lines(live.server):
                note(line)

            def watch(on_step: OnStep) -> OnStep:
                def both(progress: Progress) -> None:
                    on_step(progress)
                    live(progress)

                return both

            yield watch
        finally:
            live.close()

    def _check(self) -> None:
        """Raise for numbers that make no sense."""
        make_density(self._density)
        if not self._sparse and (self.context_views is not None or self.index is not None):
            option = "--index" if self.index is not None else "--context-views"
            raise OptionError(f"{option} belongs to --setting sparse: in the dense setting all photos but the held-out ones are fitted")
        if self.views_per_step is not None and self.views_per_step < 1:
            raise OptionError(f"--views-per-step must be at least 1, got {self.views_per_step}")
        if not self.save_every > 0:
            raise OptionError(f"--save-every must be positive, got {self.save_every}")

    def _plan(self, scene: Scene, gaussians: Gaussians, folder: Path, finished: bool) -> Plan:
        """What happens when. A run that is resumed has its plan in its checkpoint, so there nothing is measured.

        `finished`: the start is a splat already. It has the full size from the first step on, because small photos would undo what it knows: a
        splat of `fern` with 26.5 dB had 19.4 after ten seconds of them, and has 26.7 after fifteen at full size.
        """
        resumed = self.resume and has_checkpoint(folder / saved.CHECKPOINT)
        timed = self.max_seconds is not None and not resumed
        return make_plan(
            [scene.size(i) for i in scene.train_idx],
            len(gaussians),
            steps=self.steps,
            seconds=self.max_seconds,
            step_seconds=measured_step_seconds(scene, gaussians) if timed else None,
            views_per_step=len(scene.train_idx) if self._sparse and self.views_per_step is None else self.views_per_step,
            num_downscales=0 if (finished or self._sparse) and self.num_downscales is None else self.num_downscales,
            density=self._density,
            max_gaussians=self.max_gaussians,
            warm=finished,
        )

    @property
    def _sparse(self) -> bool:
        return self.setting == "sparse"

    @property
    def _density(self) -> str:
        return self.densify or ("none" if self._sparse else "error")

    def _open(self) -> Scene:
        """The scene with the views of the setting."""
        index = None if self.index is None else Index.read(self.index)
        scene = saved.open_scene(self.scene, self.long_side, self.data_factor, self.test_every, observations=self._sparse, **self._loading())
        if not self._sparse:
            return scene
        context, targets = choose_views(scene, 8 if self.context_views is None else self.context_views) if index is None else index.views_of(scene)
        if self.context_views not in (None, len(context)):
            raise OptionError(f"--context-views {self.context_views} contradicts --index, which has {len(context)} for {scene.name}")
        scene = context_scene(scene, context, targets)
        names = ", ".join(scene.image_names[i] for i in context[:3]) + (", ..." if len(context) > 3 else "")
        note(f"note: fits {len(context)} photo{'s' if len(context) > 1 else ''} ({names}), holds out {len(targets)}")
        return scene

    def _loading(self) -> dict[str, object]:
        return {"masks": not self.no_masks, "background": self.background, "allow_outside": self.allow_outside}

    def _choose_folder(self) -> Path:
        """Where the results go; refuses to write over those of another run."""
        folder = self.out or self._default_folder()
        self._check_folder(folder)
        return folder

    def _check_folder(self, folder: Path) -> None:
        if is_ours(folder, saved.CONFIG, saved.WRITER) and not self.resume and not self.overwrite:
            raise OptionError(f"{folder} already holds a run: add --resume to go on with it, or --overwrite to start again")

    def _default_folder(self) -> Path:
        """out/fern-adam; the first free of out/fern-adam-2, -3, ... if that is taken; with --resume or --overwrite the last one taken."""
        scene = self.scene.resolve()
        name = scene.parent.name if scene.is_file() else scene.name
        base = Path("out") / f"{name}-{file_name(self.optimizer.rpartition(':')[2])}"
        numbered, number = base, 1
        last = base
        while (numbered / saved.CONFIG).exists():
            last, number = numbered, number + 1
            numbered = base.with_name(f"{base.name}-{number}")
        return last if self.resume or self.overwrite else numbered

    def _prepare(self, folder: Path, scene: Scene, gaussians: Gaussians, plan: Plan) -> None:
        """Make the folder of a new run ready: config.json says what runs there; with --overwrite the files of the old run go, and only those."""
        self._check_folder(folder)  # again, for now nobody else can write there
        if self.resume and has_checkpoint(folder / saved.CHECKPOINT):
            return
        if self.resume:
            note(f"note: no checkpoint in {folder} yet, starting at step 0")
        saved.remove_result(folder)
        self._save_config(folder, scene, gaussians, plan)
        note(plan_sentence(plan, scene, len(gaussians)))

    def _save_config(self, folder: Path, scene: Scene, gaussians: Gaussians, plan: Plan) -> None:
        options = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}
        options["densify"] = self._density
        config = {
            WRITTEN_BY: saved.WRITER,
            "command": ["learn2splat", *portable_command(sys.argv[1:])],
            "options": options,
            "scene": {
                "name": scene.name,
                "path": str(self.scene.resolve()),
                "long_side": self.long_side,
                "data_factor": self.data_factor,
                "test_every": self.test_every,
                **self._loading(),
                "train_photos": [scene.image_names[i] for i in scene.train_idx],
                "held_out_photos": [scene.image_names[i] for i in scene.test_idx],
                **({"views": {"context": list(scene.train_idx), "target": list(scene.test_idx)}} if self._sparse else {}),
                "photo_sizes": sorted({scene.size(i) for i in range(len(scene))}),
                "to_normalised": {
                    "scale": scene.to_normalised.scale,
                    "rotation": scene.to_normalised.rotation.tolist(),
                    "translation": scene.to_normalised.translation.tolist(),
                },
                "offset": None if scene.offset is None else scene.offset.tolist(),
                "world_frame": "scene" if scene.to_normalised.is_identity() else "normalised",
                "eps2d": scene.eps2d,
            },
            "num_gaussians": len(gaussians),
            "plan": plan.to_json(),
            "machine": machine(),
        }
        atomic_write(folder / saved.CONFIG, to_json(config, indent=1))

    def _save(self, folder: Path, scene: Scene, result: FitResult) -> None:
        """The splat first: it is what the user wants most. An interrupted run is not evaluated again, so that it ends at once."""
        saved.save_gaussians(folder, scene, result.gaussians)
        pictures: list[HeldOut] = []
        if result.interrupted:
            scores = []
        elif self.no_report:
            scores = score(scene, result.gaussians)
        else:
            scores, pictures = held_out(scene, result.gaussians)
        saved.save_metrics(folder, result, scores, [] if result.interrupted else saved.render_names(scene))
        if not result.interrupted:
            saved.save_renders(folder, scene, result.gaussians)
        if not self.no_report:
            pictures = pictures or held_out_in_haste(scene, result.gaussians)
            atomic_write(folder / saved.REPORT, fit_page(scene, result, scores, pictures, facts(saved.load_config(folder))))


def _print_summary(folder: Path, scene: Scene, result: FitResult) -> None:
    held_out = f"{len(scene.test_idx)} {'fitted' if scene.fits_all else 'held-out'} photo" + ("s" if len(scene.test_idx) > 1 else "")
    print(
        f"{scene.name}: PSNR {result.psnr:.2f} dB, SSIM {result.ssim:.3f} on {held_out} after {result.steps} steps of {result.optimizer} "
        f"in {result.seconds:.1f} s ({len(result.gaussians)} Gaussians)"
    )
    if result.settled or result.diverged:
        print(ENDED[result.ended])
    report = folder / saved.REPORT
    print(f"Results in {folder}: {f'{saved.REPORT}, ' if report.exists() else ''}{saved.PLY}, {saved.METRICS}, {saved.RENDERS}/")
    print("To look at it:")
    if report.exists():
        print(f"  {report} in a browser")
    print(f"  learn2splat view {folder}    in 3D, beside the photos; learn2splat export {folder} --format html    as a page to send to people")
    print(f"  {folder / saved.PLY} in any splat viewer, such as superspl.at/editor")
    print(f"  learn2splat render {folder}    for a video")
