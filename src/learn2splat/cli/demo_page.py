"""The page that `learn2splat demo` writes: one self-contained HTML file, no scripts, nothing loaded from elsewhere."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..bench.chart import Series, line_chart
from ..bench.page import color, facts_table, figure, key, page, png
from ..fit import FitResult, PhotoScore
from ..scenes import Scene

TITLE = "Learn2Splat demo"


@dataclass(frozen=True)
class DemoRun:
    """One optimizer's fit, and what the page shows of it."""

    name: str
    result: FitResult
    scores: list[PhotoScore]  # of the held-out photos at the end
    renders: list[Tensor]  # (H, W, 3) of the held-out photos at the end
    stages: dict[int, tuple[Tensor, float]]  # step -> render (H, W, 3) of the first held-out photo, and its PSNR

    def psnr_at(self, step: int) -> float | None:
        """Held-out PSNR at `step`, if the curve has it."""
        return next((point.psnr for point in self.result.curve if point.step == step), None)

    @property
    def ms_per_step(self) -> float:
        return 1000 * self.result.seconds / max(self.result.steps, 1)


def render_report(scene: Scene, runs: Sequence[DemoRun], steps: Sequence[int], headline: str, facts: dict[str, str]) -> str:
    """The page.

    Args:
        steps: columns of the table and of the picture strips.
        headline: what the numbers say, in a sentence.
        facts: machine, versions, command: name -> text.
    """
    width, height = scene.size(scene.test_idx[0])
    body = f"""
<h1>Learn2Splat demo</h1>
<p>{html.escape(headline)}</p>
<p class="quiet">Every optimizer fits the same {len(runs[0].result.gaussians)} Gaussians, from the same start,
to the same {len(scene.train_idx)} photos of {width}&times;{height} px of a generated scene.
{len(scene.test_idx)} more photos are held out, and all numbers below are measured on those.</p>

<h2>Held-out PSNR in dB</h2>
<div class="card scroll">{_table(runs, steps)}</div>

<h2>How fast each one gets there</h2>
<div class="charts">
<figure class="card chart">{line_chart(_series(runs, "step"), "step (logarithmic)", "held-out PSNR, dB", log_x=True)}
<figcaption>PSNR (dB) by step</figcaption></figure>
<figure class="card chart">{line_chart(_series(runs, "seconds"), "seconds of optimization", "held-out PSNR, dB", log_x=False)}
<figcaption>PSNR (dB) by time on this machine</figcaption></figure>
</div>

<h2>Held-out photos</h2>
<p class="quiet">The photo, which no optimizer has seen, and the renders at the end.</p>
{"".join(_photo_row(scene, runs, k) for k in range(min(2, len(scene.test_idx))))}

<h2>On the way</h2>
<p class="quiet">The first of these views after the given number of steps.</p>
<div class="card scroll">{_strips(runs, steps)}</div>

<h2>Where and how this was measured</h2>
<div class="card">{facts_table(facts)}</div>
"""
    return page(TITLE, body)


def _series(runs: Sequence[DemoRun], x: str) -> list[Series]:
    return [Series(run.name, color(i), [(getattr(point, x), point.psnr) for point in run.result.curve]) for i, run in enumerate(runs)]


def _table(runs: Sequence[DemoRun], steps: Sequence[int]) -> str:
    """A row per run; the best value of every column but the first in bold."""
    columns = [[run.psnr_at(step) for run in runs] for step in steps[:-1]] + [[run.result.psnr for run in runs]]
    best = [max((value for value in column if value is not None), default=None) for column in columns]
    head = "".join(f"<th>step {step}</th>" for step in steps[:-1]) + "<th>end</th>"
    rows = []
    for i, run in enumerate(runs):
        cells = []
        for k, column in enumerate(columns):
            mark = ' class="best"' if k > 0 and column[i] == best[k] else ""
            cells.append(f"<td{mark}>{'&ndash;' if column[i] is None else f'{column[i]:.2f}'}</td>")
        more = [f"{run.result.ssim:.3f}", f"{run.result.steps}", f"{run.ms_per_step:.0f}"]
        rows.append(f"<tr><td>{key(i)}{html.escape(run.name)}</td>{''.join(cells)}{''.join(f'<td>{text}</td>' for text in more)}</tr>")
    head += "<th>SSIM, end</th><th>steps</th><th>ms per step</th>"
    return f"<table><thead><tr><th>optimizer</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _photo_row(scene: Scene, runs: Sequence[DemoRun], k: int) -> str:
    i = scene.test_idx[k]
    figures = [figure(png(scene.image(i)), f"photo {scene.image_names[i]}")]
    figures += [figure(png(run.renders[k]), f"{run.name}, {run.scores[k].psnr:.2f} dB") for run in runs]
    return f'<div class="photos">{"".join(figures)}</div>'


def _strips(runs: Sequence[DemoRun], steps: Sequence[int]) -> str:
    parts = [f'<div class="strip" style="--columns:{len(steps)}">']
    for i, run in enumerate(runs):
        parts.append(f'<div class="row">{key(i)}{html.escape(run.name)}</div>')
        end = run.result.steps
        stages = {step: picture for step, picture in run.stages.items() if step < end} | {end: (run.renders[0], run.scores[0].psnr)}
        parts += [figure(png(image), f"step {step}, {psnr:.1f} dB") for step, (image, psnr) in sorted(stages.items())]
        parts += ["<div></div>"] * (len(steps) - len(stages))  # time was up before
    return "".join(parts) + "</div>"
