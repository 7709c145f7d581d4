"""The page that `learn2splat fit` writes: what became of the held-out photos, how it went, and how to get it again. One self-contained file."""

from __future__ import annotations

import html
import shlex
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from ..bench.chart import Series, line_chart
from ..bench.page import color, facts_table, page
from ..fitting import FitResult, PhotoScore, Plan
from ..scenes import Scene
from .common import machine_text, versions_text, weights_text
from .fit_pictures import ERROR_COLORS, LARGEST_ERROR, HeldOut
from .plan_table import HEAD, plan_end, plan_rows
from .progress import duration
from .result import time_shares

ENDED = {
    "steps": "It ended after the steps that it was given.",
    "seconds": "It ended when its time was over.",
    "settled": "It ended by itself, because the loss no longer improved.",
    "interrupted": "It was stopped before its end: this is where it was at that moment. Fit with --resume goes on from here.",
    "diverged": "It diverged: a number was no longer finite, and this is what there was just before.",
}
TIMES = {"render_loss_gradients": "render, loss, gradients", "update": "update", "growth": "growth"}
CHART, SMALL_CHART = 300, 142  # px; two small ones and the caption between them are as high as a large one
BLUE, ORANGE, GREEN = color(2), color(1), color(3)


def fit_page(scene: Scene, result: FitResult, scores: Sequence[PhotoScore], pictures: Sequence[HeldOut], facts: dict[str, str]) -> str:
    """The page.

    Args:
        scores: of the held-out photos; empty for a run that was stopped.
        pictures: of some or all of them.
        facts: command, machine, versions: name -> text.
    """
    number = len(scene.test_idx)
    judges = "1 held-out photo, which it has not seen, tells" if number == 1 else f"{number} held-out photos, which it has not seen, tell"
    judges = f"{judges} how good it is" if not scene.fits_all else f"scores are of {number} of these, so they do not tell how good it is in between"
    largest = max(max(scene.size(i)) for i in scene.train_idx)
    start = result.changes[0].num_gaussians if result.changes else len(result.gaussians)
    wrong = ' class="wrong"' if result.ended in ("interrupted", "diverged") else ""
    body = f"""
<h1>{html.escape(scene.name)}</h1>
<p class="quiet">Fitted by learn2splat with the optimizer {html.escape(result.optimizer)}
to {len(scene.train_idx)} photos of up to {largest} px; {judges}.</p>
{_tiles(result)}
<p{wrong}>{html.escape(ENDED[result.ended])}</p>
{_pictures(pictures, bool(scores))}
{_charts(result)}
<h2>Where the time went</h2>
{_time(result)}
<div class="charts">
<div><h2>The plan</h2>
<div class="card scroll">{plan_html(result.plan, start)}<p class="note">Ends {html.escape(plan_end(result.plan))}.</p></div></div>
{_scores(scores)}
</div>
<h2>Where and how this was made</h2>
<div class="card">{facts_table(facts)}</div>
"""
    return page(f"{scene.name}, {result.optimizer}", body, Path(__file__).with_name("fit_page.js").read_text() if pictures else "")


def facts(config: dict) -> dict[str, str]:
    """Where and how a run was made, from its config.json."""
    options, scene, here = config["options"], config["scene"], config["machine"]
    split = f"every {scene['test_every']}th held out" if scene["test_every"] else "none held out"
    weights = weights_text(options["optimizer"], options["weights"])
    return {
        "scene": f"{scene['name']}: {len(scene['train_photos'])} photos fitted, {split}",
        "optimizer": options["optimizer"] + (f", weights {weights}" if weights else ""),
        "start": f"{options['init']}, {config['num_gaussians']} Gaussians; density control {options['densify']}; seed {options['seed']}",
        "command": shlex.join(config["command"]),
        "machine": machine_text(here),
        "versions": versions_text(here),
    }


def _tiles(result: FitResult) -> str:
    """The numbers that matter, large. A run that was stopped was last scored some steps before."""
    quality = result.curve[-1] if result.curve else None
    then = "" if quality is None or quality.step == result.steps else f" at step {quality.step}"
    tiles = (
        (f"PSNR{then}", "–" if quality is None else f"{quality.psnr:.2f} dB"),
        (f"SSIM{then}", "–" if quality is None else f"{quality.ssim:.3f}"),
        ("Gaussians", f"{len(result.gaussians):,}".replace(",", "\u202f")),
        ("optimization", duration(result.seconds)),
        ("steps", str(result.steps)),
    )
    return f'<dl class="tiles">{"".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in tiles)}</dl>'


def _pictures(pictures: Sequence[HeldOut], scored: bool) -> str:
    """The frame of the comparison; fit_page.js fills it from the pictures of the buttons."""
    if not pictures:
        return ""
    picks = []
    for each in pictures:
        name = html.escape(each.name)
        score = "" if each.score is None else f"{each.score.psnr:.2f} dB"
        images = f'<img class="render" src="{each.render}" alt="">' + "".join(
            f'<img class="{kind}" src="{source}" alt="" hidden>' for kind, source in (("photo", each.photo), ("difference", each.difference))
        )
        caption = f"{name}{score and ', '}{score}"
        picks.append(f'<button class="pick" type="button" data-caption="{caption}" title="{caption}">{images}<span>{score or name}</span></button>')
    ramp = ", ".join(f"rgb{channels}" for channels in ERROR_COLORS)
    hint = "Drag the divider" + ("." if len(pictures) == 1 else "; choose another photo below.")
    hint += "" if scored else " The run was stopped, so only these were rendered, in a small size and without scores."
    return f"""
<h2>Held-out photos</h2>
<p class="quiet">{hint}</p>
<div class="card compare held-out">
<div class="views">
<figure class="view">
<div class="stack"><img class="under" alt="photo"><img class="over" alt="render">
<input class="wipe" type="range" min="0" max="100" step="0.5" value="50" aria-label="divider between photo and render"><span class="bar"></span></div>
<figcaption class="captions"><span>photo</span><span class="name"></span><span>render</span></figcaption>
</figure>
<figure class="view"><img class="error" alt="difference">
<figcaption class="captions"><span>difference</span><span>0 <span class="ramp" style="background:linear-gradient(90deg, {ramp})"></span>
{LARGEST_ERROR:g} and more</span></figcaption></figure>
</div>
<div class="picks"{" hidden" if len(pictures) == 1 else ""}>{"".join(picks)}</div>
</div>"""


def _charts(result: FitResult) -> str:
    """PSNR, Gaussians and photo size over the seconds of the run."""
    charts = []
    if len(result.curve) > 1:
        line = Series(f"{result.psnr:.2f} dB", BLUE, [(point.seconds, point.psnr) for point in result.curve])
        psnr = line_chart([line], "seconds of optimization", "held-out PSNR, dB", log_x=False, height=CHART)
        charts.append(f'<figure class="card chart"><figcaption>Held-out PSNR at full size, dB</figcaption>{psnr}</figure>')
    if result.changes:
        last = result.changes[-1]
        counts = Series(f"{last.num_gaussians}", ORANGE, _stairs(result, "num_gaussians"), dots=False)
        sides = Series(f"{last.long_side} px", GREEN, _stairs(result, "long_side"), dots=False)
        options = {"log_x": False, "height": SMALL_CHART, "from_zero": True}
        small = [
            (line_chart([counts], "seconds", "Gaussians", **options), "Gaussians"),
            (line_chart([sides], "seconds", "photo size, px", **options), "Longer side of the photos, px"),
        ]
        figures = "".join(f"<figure><figcaption>{name}</figcaption>{svg}</figure>" for svg, name in small)
        charts.append(f'<div class="card chart">{figures}</div>')
    return f'<h2>On the way</h2><div class="charts">{"".join(charts)}</div>' if charts else ""


def _stairs(result: FitResult, name: str) -> list[tuple[float, float]]:
    """The corners of what stays as it is from one change to the next, until the end of the run."""
    values = [(change.seconds, getattr(change, name)) for change in result.changes]
    corners = [values[0]]
    for (_, before), (seconds, value) in pairwise(values):
        corners += [(seconds, before), (seconds, value)]
    return [*corners, (result.seconds, values[-1][1])]


def _time(result: FitResult) -> str:
    """A bar with the parts of the run's seconds."""
    shares = time_shares(result)
    total = sum(shares.values()) or 1.0
    parts, legend = [], []
    for css_color, (name, seconds) in zip((BLUE, ORANGE, GREEN), shares.items()):
        parts.append(f'<span style="width:{100 * seconds / total:.2f}%;background:{css_color}"></span>')
        swatch = f'<span class="key" style="background:{css_color}"></span>'
        legend.append(f"<span>{swatch}{TIMES[name]}: {duration(seconds)} ({100 * seconds / total:.0f} %)</span>")
    per_step = f"{result.seconds / result.steps:.2g} s per step in the mean. " if result.steps else ""
    note = f'<p class="note">{per_step}Evaluation, saving and loading are not counted.</p>'
    return f'<div class="card"><div class="shares">{"".join(parts)}</div><div class="legend">{"".join(legend)}</div>{note}</div>'


def plan_html(plan: Plan, num_gaussians: int) -> str:
    """The plan of a run that starts with so many Gaussians, as a table."""
    head = "".join(f"<th>{name}</th>" for name in HEAD)
    rows = "".join(f"<tr>{''.join(f'<td>{html.escape(text)}</td>' for text in row)}</tr>" for row in plan_rows(plan, num_gaussians))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _scores(scores: Sequence[PhotoScore]) -> str:
    """A row per held-out photo, and the mean."""
    if not scores:
        return ""
    best = [max(score.psnr for score in scores), max(score.ssim for score in scores)]
    rows = []
    for score in scores:
        marks = [' class="best"' if value == top and len(scores) > 1 else "" for value, top in zip((score.psnr, score.ssim), best)]
        rows.append(f"<tr><td>{html.escape(score.name)}</td><td{marks[0]}>{score.psnr:.2f}</td><td{marks[1]}>{score.ssim:.3f}</td></tr>")
    mean = [sum(values) / len(scores) for values in ([score.psnr for score in scores], [score.ssim for score in scores])]
    if len(scores) > 1:
        rows.append(f"<tr><td>mean</td><td>{mean[0]:.2f}</td><td>{mean[1]:.3f}</td></tr>")
    head = "<thead><tr><th>held-out photo</th><th>PSNR, dB</th><th>SSIM</th></tr></thead>"
    return f'<div><h2>Scores</h2><div class="card scroll tall"><table>{head}<tbody>{"".join(rows)}</tbody></table></div></div>'
