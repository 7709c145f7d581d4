"""What a folder of results becomes: report.html (one file, nothing loaded from elsewhere), report.md and results.csv beside it."""

from __future__ import annotations

import html
import json
import math
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..errors import OptionError
from ..files import atomic_write, locked
from . import tables
from .chart import line_chart
from .csv_rows import to_csv
from .curves import Axis, curves
from .page import facts_table, key, page
from .pictures import picture_data
from .stats import Comparison, comparisons
from .store import read_cells
from .tables import Table

HTML, MARKDOWN, CSV = "report.html", "report.md", "results.csv"


def write_report(out: Path) -> list[Comparison]:
    """Read the cells in `out` and write the three files there; may be called while a benchmark runs.

    Raises:
        OptionError: `out` holds no results.
        SaveError: the files cannot be written.
    """
    found = comparisons(read_cells(out))
    if not found:
        raise OptionError(f"no results in {out}: expected what learn2splat bench --out {out} writes")
    with locked(out, ".report.lock", leftovers=(".report.*", ".results.csv.*"), wait=60.0):
        atomic_write(out / HTML, html_report(found, out))
        atomic_write(out / MARKDOWN, markdown_report(found))
        atomic_write(out / CSV, to_csv(found))
    return found


def check_folder(out: Path) -> None:
    """
    Raises:
        OptionError: `out` holds one of the three files and nothing that `bench` writes: it is somebody else's.
    """
    foreign = [name for name in (HTML, MARKDOWN, CSV) if (out / name).exists()]
    if foreign and not any(out.glob("*/*/views.json")) and not any(out.glob("*/*/*/seed*.jsonl")):
        raise OptionError(f"{out} holds a {foreign[0]} that learn2splat bench did not write: choose another folder for --out")


def report_tables(c: Comparison) -> list[Table]:
    """In the order of the report. With one scene, the table by scenes would repeat the first."""
    by_scene = [tables.scenes_table(c)] if len(c.scenes) > 1 else []
    return [tables.quality_table(c), tables.cost_table(c), *by_scene, tables.steps_table(c), tables.seconds_table(c)]


def facts(c: Comparison) -> dict[str, str]:
    """Protocol, machine, versions and command, each with how many cells it is true of where that is not all."""
    p, cells = c.protocol, list(c.cells.values())
    points = "all points" if p["max_points"] is None else f"at most {p['max_points']} points"
    if p.get("index"):
        views = f"views of the evaluation index {p['index']}"
    else:
        views = f"every {p['test_every']}th photo held out" + ("" if p["context_views"] is None else f", {p['context_views']} of the others fitted")
    metrics = "" if p.get("metrics", "ours") == "ours" else f"; PSNR and SSIM as {p['metrics']} computes them"
    machines = [cell.header["machine"] for cell in cells]

    def each(texts: Sequence[str]) -> str:
        counts = Counter(texts)
        return "; ".join(text if len(counts) == 1 else f"{text} ({count} of {len(texts)} runs)" for text, count in counts.most_common())

    loads = tables.median_load(c)
    scenes = {}
    for cell in cells:
        s = cell.header["scene"]
        sizes = " and ".join(f"{w}x{h}" for w, h in s["photo_sizes"][:3])
        scenes[s["name"]] = f"{s['name']} ({s['context']} fitted and {s['held_out']} held-out photos of {sizes} px, {s['gaussians']} Gaussians)"
    return {
        "protocol": f"{p['name']}, budget {p['budget']}; {p['setting']}; photos: {_size(p)}; {points}; {views}; "
        f"{_views_per_step(p)}{metrics}; {_growth(p)}; "
        f"slices of {p['slice_seconds']:g} s in turn, {p['warm_up_steps']} steps of warm-up not counted; device {p['device']}",
        "scenes": ", ".join(scenes[name] for name in c.scenes),
        "seeds": ", ".join(str(seed) for seed in sorted({cell.seed for cell in cells})),
        "machine": each([_machine(m) for m in machines]) + ("" if math.isnan(loads) else f"; median load {loads:.1f}"),
        "versions": each([f"learn2splat {m['learn2splat']}, torch {m['torch']}, Python {m['python']}, {m['system']}" for m in machines]),
        "commit": each([cell.header["commit"] or "not from a checkout" for cell in cells]),
        "command": each([shlex.join(cell.header["command"]) or "from Python" for cell in cells]),
    }


def markdown_report(found: Sequence[Comparison]) -> str:
    """The tables and facts of all comparisons."""
    parts = ["# Comparison of optimizers\n"]
    for c in found:
        parts.append(f"## {_title(c)}\n\n{tables.headline(c)}\n")
        for table in report_tables(c):
            meanings = "".join(f"\n- {name}: {text}" for name, text in tables.notes(c, table))
            parts.append(f"### {table.title}\n\n{table.markdown()}\n{meanings and meanings + chr(10)}")
        if wrong := tables.unfinished(c):
            parts.append("### Not as planned\n\n" + "\n".join(f"- {line}" for line in wrong) + "\n")
        parts.append("### Where and how\n\n" + "\n".join(f"- {name}: {text}" for name, text in facts(c).items()) + "\n")
    return "\n".join(parts)


def html_report(found: Sequence[Comparison], out: Path) -> str:
    """The page."""
    pictures = [picture_data(c, out) for c in found]
    sections = [_section(i, c, data) for i, (c, data) in enumerate(zip(found, pictures))]
    body = '<h1>Comparison of optimizers</h1>\n<p class="quiet">3D Gaussian Splatting, made by learn2splat bench</p>' + "\n".join(sections)
    return page("Comparison of optimizers", body, comparison_script(pictures), wide=True)


def comparison_script(pictures: Sequence[list[dict]]) -> str:
    """What moves the sliders of all `comparison_frame`s of a page; `pictures`: for each the data that `picture_data` makes."""
    data = json.dumps(pictures, allow_nan=False).replace("<", "\\u003c")  # no text can end the script or open a comment in it
    return f"const COMPARISONS = {data};\n{Path(__file__).with_name('report.js').read_text()}"


def _section(i: int, c: Comparison, pictures: list[dict]) -> str:
    first, *more = report_tables(c)
    wrong = tables.unfinished(c)
    return f"""
<section>
<h2 class="protocol">{html.escape(_title(c))}</h2>
<p class="headline">{html.escape(tables.headline(c))}</p>
{_table(c, first)}
{f'<ul class="wrong">{"".join(f"<li>{html.escape(line)}</li>" for line in wrong)}</ul>' if wrong else ""}
{comparison_frame(i) if pictures else ""}
<h3>How fast each one gets there</h3>
<p class="quiet">Held-out PSNR in dB; lines are means over seeds, bands go from the lowest to the highest seed.</p>
<div class="charts pairs">{"".join(_charts(c, scene) for scene in c.scenes)}</div>
{"".join(f"<h3>{html.escape(table.title)}</h3>{_table(c, table)}" for table in more)}
<h3>Where and how this was measured</h3>
<div class="card">{facts_table(facts(c))}</div>
</section>"""


def _table(c: Comparison, table: Table) -> str:
    """In a card, with what its columns mean below."""
    place = {label: position for position, label in enumerate(c.labels)}
    rows = []
    for i, (label, *texts) in enumerate(table.rows):
        cells = []
        for k, text in enumerate(texts, 1):
            mark = ' class="best"' if (i, k) in table.best else ' class="second"' if (i, k) in table.second else ""
            cells.append(f"<td{mark}>{html.escape(text)}</td>")
        rows.append(f"<tr><td>{key(place[label])}{html.escape(label)}</td>{''.join(cells)}</tr>")
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.head)
    meanings = "; ".join(f"<b>{html.escape(name)}</b> {html.escape(text)}" for name, text in tables.notes(c, table))
    return (
        f'<div class="card"><div class="scroll"><table class="results"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        f"{f'<p class={chr(34)}note{chr(34)}>{meanings}.</p>' if meanings else ''}</div>"
    )


def _charts(c: Comparison, scene: str) -> str:
    axes: tuple[tuple[Axis, str, str], ...] = (("seconds", "seconds of optimization", "by time"), ("step", "step", "by step"))
    figures = []
    for axis, x_label, caption in axes:
        lines = [line for line in curves(c, scene, axis) if line.points]
        if any(x > 0 for line in lines for x, _ in line.points):
            chart = line_chart(lines, f"{x_label} (logarithmic)", f"held-out PSNR of {scene}, dB", log_x=True)
            figures.append(f'<figure class="card chart">{chart}<figcaption><b>{html.escape(scene)}</b>, {caption}</figcaption></figure>')
    return "".join(figures)


def comparison_frame(i: int, scene: str = "scene") -> str:
    """The frame of a slider; report.js fills it. `scene`: what its scenes are called."""
    return f"""
<h3>The same held-out view</h3>
<div class="card compare" data-comparison="{i}">
<div class="controls">
<label>{scene}<select class="scene"></select></label>
<label>left<select class="left"></select></label>
<label>right<select class="right"></select></label>
<label>at equal<select class="axis"><option value="seconds">time</option><option value="step">steps</option></select></label>
</div>
<div class="timeline"><button class="play" type="button" aria-label="play">&#9654;</button>
<input class="when" type="range" min="0" step="1" aria-label="how far the optimization is"><output class="now"></output></div>
<div class="views">
<figure class="view"><img class="photo" alt="the photo"><figcaption>photo (held out)</figcaption></figure>
<figure class="view">
<div class="stack"><img class="under" alt="left render"><img class="over" alt="right render">
<input class="wipe" type="range" min="0" max="100" step="0.5" value="50" aria-label="divider between left and right"><span class="bar"></span></div>
<figcaption class="captions"><span class="caption-left"></span><span class="caption-right"></span></figcaption>
</figure>
</div>
</div>"""


def _title(c: Comparison) -> str:
    p = c.protocol
    suite = f"{p['suite']}: " if p.get("suite") else ""
    views = "" if p["context_views"] is None else f", {p['context_views']} views"
    equal = "steps" if p["budget"].startswith("steps:") else "time"
    metrics = "" if p.get("metrics", "ours") == "ours" else f", metrics of {p['metrics']}"
    setting = p["setting"] if suite else p["setting"].capitalize()
    return f"{suite}{setting}{views}, {_size(p)}, equal {equal} ({p['budget']}){metrics}"


def _size(p: dict) -> str:
    if p.get("size"):
        return f"{p['size'][1]}x{p['size'][0]} px"
    return "full size" if p["long_side"] is None else f"{p['long_side']} px"


def _machine(m: dict) -> str:
    gpu = f", {m['gpu']}" if m.get("gpu") else ""
    return f"{m['cpu']}{gpu}, {m['threads']} of {m['cores']} cores"


def _views_per_step(p: dict) -> str:
    return "views per step as planned" if p["views_per_step"] is None else f"{p['views_per_step']} views per step"


def _growth(p: dict) -> str:
    """What the runs did with their time, in words."""
    if p.get("density", "none") == "none":
        grown = "no density control"
    else:
        grown = f"density control {p['density']}" + (f" up to {p['max_gaussians']} Gaussians" if p.get("max_gaussians") else "")
    halvings = p.get("num_downscales", 0)
    sizes = "" if halvings == 0 else ", coarse to fine" + ("" if halvings is None else f" from 1/{2**halvings}")
    return grown + sizes
