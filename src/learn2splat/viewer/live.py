"""`fit --view`: the splat while it is fitted, with pause and step, the curve, the photos, and a second optimizer racing beside it.

The run calls this after every step, as it calls a progress bar, and is told nothing: what is shown is a copy, sent by a thread of its own that works
only while a browser is open. A pause ends when the last browser is closed, so that nobody's closed laptop stops a run.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable

import numpy as np

from ..errors import Learn2SplatError
from ..fitting import Plan, Progress
from ..gaussians import Gaussians
from ..scenes import Scene
from .photos import PhotoPanel
from .race import Rival
from .server import Stage, add_cameras, open_server, view_of

EVERY = 1.0  # seconds between two pictures of the splat
NOBODY = "nobody"
RIVALS = ("adam", "adam-auto", "adam-gsplat", "nominal", "learned", "sgd")
APART = 1.15  # of the width of the splat: how far aside the rival's is


class LiveFit:
    """Call it with every `Progress`; `close` it in the end.

    Args:
        start: of the run; a rival begins there, too.
        optimizer: the name of the run's.
        phase: what happens at a moment of the plan, in a word.
        should_stop: asked during a pause.
    """

    def __init__(
        self, scene: Scene, start: Gaussians, plan: Plan, optimizer: str, seed: int, port: int,
        phase: Callable[[Plan, Progress], str], should_stop: Callable[[], bool],
    ) -> None:  # fmt: skip
        self.scene, self.start, self.plan, self.optimizer, self.seed = scene, start, plan, optimizer, seed
        self.phase, self.should_stop = phase, should_stop
        self.server = open_server(port, f"learn2splat: {scene.name}")
        self.rival: Rival | None = None
        self._latest: Progress | None = None
        self._paused, self._steps = False, 0
        self._wanted = NOBODY
        self._ended = threading.Event()
        up, pose, fov = view_of(scene)
        self.stage = Stage(self.server, up)
        self.stage.start_at(pose, 1.0, up, fov)
        self._aside = _aside(start, pose, up)
        gui = self.server.gui
        self._status = gui.add_markdown(f"**{scene.name}** is about to begin")
        self._bar = gui.add_progress_bar(0.0)
        self._pause = gui.add_button("pause")
        self._step = gui.add_button("one step")
        self._race = gui.add_dropdown(
            "race against", (NOBODY, *(name for name in RIVALS if name != optimizer)), hint="from the same start, beside it"
        )
        self._plot, self._names = None, []
        self._points = (0, 0)
        cameras = add_cameras(self.server, scene)
        self.photos = PhotoPanel(self.server, scene, cameras)
        self._pause.on_click(lambda _: self.pause(not self._paused))
        self._step.on_click(lambda _: self.step())
        self._race.on_update(lambda _: self.race(self._race.value))
        self._thread = threading.Thread(target=self._publish, daemon=True)
        self._thread.start()

    def __call__(self, progress: Progress) -> None:
        self._latest = progress
        self._follow(progress)
        while self._paused and not self._steps and self.stage.watched and not self.should_stop():
            time.sleep(0.05)
        self._steps = max(0, self._steps - 1)

    def pause(self, paused: bool) -> None:
        """Stop before the next step, or go on."""
        self._paused = paused
        self._pause.label = "go on" if paused else "pause"

    def step(self) -> None:
        """One step, then pause."""
        self.pause(True)
        self._steps = 1

    def race(self, name: str) -> None:
        """From the next step on, `name` runs beside it; `NOBODY`: nobody does."""
        self._wanted = name

    def close(self) -> None:
        """End it; browsers say that the connection is lost."""
        self._ended.set()
        self._thread.join(timeout=5)
        self.stage.close()

    def _follow(self, progress: Progress) -> None:
        """The rival's steps, in the thread of the run, between two steps of it: they do not compete for the processor."""
        wanted = self._wanted
        if wanted == NOBODY:
            self.rival = None
        elif self.rival is None or self.rival.name != wanted:
            try:
                self.rival = Rival(self.scene, self.start, wanted, self.plan, self.seed)
            except Learn2SplatError as error:
                self._wanted = NOBODY
                self._status.content = f"{wanted}: {error}"
        if self.rival is not None and self.stage.watched:
            self.rival.follow(progress)

    def _publish(self) -> None:
        sent = None
        while not self._ended.wait(EVERY):
            progress, rival = self._latest, self.rival
            if progress is None or not self.stage.watched or (progress is sent and not rival):
                continue
            sent = progress
            try:
                self._send(progress, rival)
            except Exception as error:  # whatever a browser that has just been closed, or viser, makes of it: the run does not depend on it
                warnings.warn(f"the viewer missed a picture: {type(error).__name__}: {error}", stacklevel=1)

    def _send(self, progress: Progress, rival: Rival | None) -> None:
        self.stage.show("run", progress.gaussians)
        if rival is None:
            self.stage.hide("rival")
        else:
            self.stage.show("rival", rival.run.gaussians, self._aside)
        self._tell(progress, rival)

    def _tell(self, progress: Progress, rival: Rival | None) -> None:
        quality = f"{progress.curve[-1].psnr:.2f} dB" if progress.curve else "–"
        rows = [
            f"| | {self.optimizer} |" + (f" {rival.name} |" if rival else ""),
            "|---|---|" + ("---|" if rival else ""),
            f"| held-out | {quality} |" + (f" {rival.run.curve[-1].psnr:.2f} dB |" if rival else ""),
            f"| step | {progress.step} |" + (f" {rival.run.step} |" if rival else ""),
            f"| seconds | {progress.seconds:.1f} |" + (f" {rival.run.seconds:.1f} |" if rival else ""),
            f"| Gaussians | {len(progress.gaussians)} |" + (f" {len(rival.run.gaussians)} |" if rival else ""),
        ]
        phase = self.phase(self.plan, progress) or "fitting"
        self._status.content = (
            f"**{self.scene.name}**: {'paused' if self._paused else phase}, photos of {self.plan.stages[progress.stage].long_side} px\n\n"
            + ("\n".join(rows))
        )
        self._bar.value = 100 * min(1.0, progress.progress)
        points = (len(progress.curve), len(rival.run.curve) if rival else 0)
        if points != self._points:
            self._points = points
            self._draw(progress, rival)
            self.photos.update(progress.gaussians)

    def _draw(self, progress: Progress, rival: Rival | None) -> None:
        """Held-out PSNR over seconds, one line for each."""
        import viser.uplot

        curves = [(self.optimizer, "#5aa0ff", progress.curve)] + ([(rival.name, "#f0a030", rival.run.curve)] if rival else [])
        end = min((curve[-1].seconds if curve else 0.0) for _, _, curve in curves)  # uPlot draws nothing at all where a number is missing
        seconds = np.unique([point.seconds for _, _, curve in curves for point in curve if point.seconds <= end])
        if len(seconds) < 2:
            return
        lines = [np.interp(seconds, *_xy(curve)) for _, _, curve in curves]
        names = [name for name, _, _ in curves]
        if self._plot is not None and names == self._names:
            self._plot.data = (seconds, *lines)
            return
        self._names = names
        series = (viser.uplot.Series(label="s"), *(viser.uplot.Series(label=f"{name}, dB", stroke=color, width=2) for name, color, _ in curves))
        if self._plot is not None:
            self._plot.remove()
        axes = (viser.uplot.Axis(stroke="#bbb"), viser.uplot.Axis(stroke="#bbb"))
        scales = {"x": viser.uplot.Scale(time=False)}
        self._plot = self.server.gui.add_uplot(
            (seconds, *lines), series, axes=axes, scales=scales, aspect=1.7, title="held-out PSNR, dB, over seconds", order=5
        )


def _xy(curve: tuple) -> tuple[list[float], list[float]]:
    return [point.seconds for point in curve], [point.psnr for point in curve]


def _aside(gaussians: Gaussians, pose: np.ndarray, up: np.ndarray) -> tuple[float, float, float]:
    """Where the rival's splat is: to the right as seen from `pose`, by the width of what is near."""
    right = np.cross(pose[:3, 2], up)
    right /= np.linalg.norm(right) or 1.0
    along = gaussians.means.double().cpu().numpy() @ right
    low, high = np.quantile(along, [0.05, 0.95]) if len(along) else (0.0, 1.0)
    return tuple(float(value) for value in APART * min(high - low, 4.0) * right)
