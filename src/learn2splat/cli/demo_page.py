"""The page that `learn2splat demo` writes: one self-contained HTML file, nothing loaded from elsewhere."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..bench.chart import Series, line_chart
from ..bench.page import color, facts_table, key, page, to_picture, webp_uri
from ..bench.report import comparison_frame, comparison_script
from ..fitting import CurvePoint, FitResult
from ..gaussians import Gaussians
from ..scenes import Scene
from .fit_page import plan_html

TITLE = "learn2splat demo"


@dataclass(frozen=True, eq=False)
class Moment:
    """A run just after it passed `mark` seconds: its score, and its renders (H, W, 3) of the held-out photos."""

    mark: float
    point: CurvePoint
    renders: list[Tensor]


@dataclass(frozen=True, eq=False)
class DemoRun:
    """One optimizer's fit, and what the page shows of it."""

    name: str
    result: FitResult
    moments: list[Moment]

    def psnr_at(self, mark: float) -> float | None:
        """Held-out PSNR just after `mark` seconds; None if the run did not come so far."""
        return next((moment.point.psnr for moment in self.moments if moment.mark == mark), None)


def label(mark: float) -> str:
    """What a mark is called: start, 0.5 s, 1 s, 15 s."""
    return f"{mark:.3g} s" if mark else "start"


def demo_page(scene: Scene, start: Gaussians, runs: Sequence[DemoRun], marks: Sequence[float], headline: str, facts: dict[str, str]) -> str:
    """The page.

    Args:
        start: what all runs begin with.
        marks: seconds; columns of the table and of the strips of pictures.
        headline: what the numbers say, in a sentence.
        facts: machine, versions, command: name -> text.
    """
    width, height = scene.size(scene.test_idx[0])
    body = f"""
<h1>{TITLE}</h1>
<p>{html.escape(headline)}</p>
<p class="quiet">Every optimizer starts with the same {len(start)} Gaussians, has the same time (they take turns) and follows the same plan:
photos from coarse to fine, and more Gaussians where the render is wrong. They fit {len(scene.train_idx)} photos of {width}&times;{height} px of a
generated scene; {len(scene.test_idx)} more photos are held out, and all numbers and pictures below are of those.</p>
{comparison_frame(0, "photo")}

<h2>Held-out PSNR in dB after so many seconds</h2>
<div class="card scroll">{_table(runs, marks)}</div>

<h2>How fast each one gets there</h2>
<div class="charts">
<figure class="card chart">{line_chart(_series(runs, "seconds"), "seconds (logarithmic)", "held-out PSNR, dB", log_x=True)}
<figcaption>PSNR (dB) by time on this machine</figcaption></figure>
<figure class="card chart">{line_chart(_series(runs, "step"), "step (logarithmic)", "held-out PSNR, dB", log_x=True)}
<figcaption>PSNR (dB) by step</figcaption></figure>
</div>

<h2>On the way</h2>
<p class="quiet">The first held-out photo after so many seconds.</p>
<div class="card scroll">{_strips(scene, runs, marks)}</div>

<h2>The plan</h2>
<div class="card scroll">{plan_html(runs[0].result.plan, len(start))}</div>

<h2>Where and how this was measured</h2>
<div class="card">{facts_table(facts)}</div>
"""
    return page(TITLE, body, comparison_script([_comparison(scene, runs)]))


def _comparison(scene: Scene, runs: Sequence[DemoRun]) -> list[dict]:
    """The data of the slider, as `bench.pictures.picture_data` makes them: what is a scene there is a photo here."""
    photos = []
    for k, i in enumerate(scene.test_idx):
        lanes = []
        for position, run in enumerate(runs):
            frames = [
                {"step": m.point.step, "seconds": m.point.seconds, "mark": m.mark, "psnr": round(m.point.psnr, 2), "src": _uri(m.renders[k])}
                for m in run.moments
            ]
            lanes.append({"label": run.name, "position": position, "frames": frames})
        name = scene.image_names[i]
        photos.append({"name": name, "id": name, "photo": _uri(scene.image(i)), "lanes": lanes})
    return photos


def _uri(image: Tensor) -> str:
    return webp_uri(to_picture(image), max(image.shape))


def _series(runs: Sequence[DemoRun], x: str) -> list[Series]:
    return [Series(run.name, color(i), [(getattr(point, x), point.psnr) for point in run.result.curve]) for i, run in enumerate(runs)]


def _table(runs: Sequence[DemoRun], marks: Sequence[float]) -> str:
    """A row per run; the best value of every column but the first in bold."""
    columns = [[run.psnr_at(mark) for run in runs] for mark in marks]
    texts = [["&ndash;" if value is None else f"{value:.2f}" for value in column] for column in columns]
    columns.append([run.result.ssim for run in runs])
    texts.append([f"{value:.3f}" for value in columns[-1]])
    best = [max((value for value in column if value is not None), default=None) for column in columns]
    rows = []
    for i, run in enumerate(runs):
        marked = ["", *(' class="best"' if column[i] == top else "" for column, top in zip(columns[1:], best[1:]))]
        cells = "".join(f"<td{mark}>{column[i]}</td>" for mark, column in zip(marked, texts))
        more = f"<td>{run.result.steps}</td><td>{len(run.result.gaussians)}</td>"
        rows.append(f"<tr><td>{key(i)}{html.escape(run.name)}</td>{cells}{more}</tr>")
    head = "".join(f"<th>{name}</th>" for name in ("optimizer", *map(label, marks), "SSIM", "steps", "Gaussians"))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _strips(scene: Scene, runs: Sequence[DemoRun], marks: Sequence[float]) -> str:
    parts = [f'<div class="strip" style="--columns:{len(marks)}">']
    for i, run in enumerate(runs):
        parts.append(f'<div class="row">{key(i)}{html.escape(run.name)}</div>')
        by_mark = {moment.mark: moment for moment in run.moments}
        for mark in marks:
            if mark not in by_mark:  # it was stopped before
                parts.append("<div></div>")
                continue
            caption = f"{label(mark)}, {by_mark[mark].point.psnr:.1f} dB"
            parts.append(f'<figure><img src="{_uri(by_mark[mark].renders[0])}" alt="{caption}"><figcaption>{caption}</figcaption></figure>')
    return "".join(parts) + "</div>"
