"""The plan of a run in words: a short table for `fit --dry-run` and the report, and a sentence for the start of a run."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from ..fitting.plan import OPEN_STEPS, Plan
from ..scenes import Scene
from .progress import duration

HEAD = ("from", "photos", "photos per step", "Gaussians")
MOST_GROWTH_ROWS = 10  # Density controls with more events grow a little at a time: the first and the last tell it all.


def plan_rows(plan: Plan, num_gaussians: int) -> list[tuple[str, str, str, str]]:
    """One row per change, columns as in `HEAD`: from when on, the size of the photos, photos per step, Gaussians."""
    starts = [0.0, *(stage.until for stage in plan.stages[:-1])]
    shown = plan.growth if len(plan.growth) <= MOST_GROWTH_ROWS else (plan.growth[0], plan.growth[-1])
    rows = []
    for at in sorted({*starts, *(growth.at for growth in shown)}):
        stage = plan.stages[plan.stage(at)]
        due = plan.due(at)
        count = plan.growth[due - 1].target if due else num_gaussians
        rows.append((_when(plan, at), f"{stage.long_side} px", str(stage.views_per_step), f"{'' if not due else 'up to '}{count}"))
    if plan.average_from < 1:
        rows.append((_when(plan, plan.average_from), "", "", "averaged"))
    return rows


def plan_sentence(plan: Plan, scene: Scene, num_gaussians: int) -> str:
    """Two lines: "fern: 17 photos fitted, 3 held out; 160 to 640 px; 3128 to at most 21000 Gaussians" and "Ends after 60 s"."""
    first, last = plan.stages[0].long_side, plan.stages[-1].long_side
    sizes = f"{last} px" if first == last else f"{first} to {last} px"
    full = max(max(scene.size(i)) for i in scene.train_idx)
    if last < full:
        sizes += f" (of {full}: the time does not suffice for more)"
    most = max((growth.target for growth in plan.growth), default=num_gaussians)
    counts = f"{num_gaussians} Gaussians" if most <= num_gaussians else f"{num_gaussians} to at most {most} Gaussians"
    scored = f"{len(scene.test_idx)} {'of them scored' if scene.fits_all else 'held out'}"
    return f"{scene.name}: {len(scene.train_idx)} photos fitted, {scored}; {sizes}; {counts}\nEnds {plan_end(plan)}"


def plan_end(plan: Plan) -> str:
    """When a run ends: "after 60 s"."""
    limits = [] if plan.steps is None else [f"{plan.steps} step" + ("" if plan.steps == 1 else "s")]
    if plan.seconds is not None:
        limits.append(duration(plan.seconds) if plan.open_ended else f"{plan.seconds:g} s")
    if plan.open_ended:
        return f"when it no longer improves, at the latest after {limits[0]}"
    return f"after {' or '.join(limits)}" + (", whichever comes first" if len(limits) > 1 else "")


def print_plan(plan: Plan, scene: Scene, num_gaussians: int) -> None:
    """The table, and the sentence."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in HEAD:
        table.add_column(name, justify="right")
    for row in plan_rows(plan, num_gaussians):
        table.add_row(*row)
    Console().print(table)
    print(plan_sentence(plan, scene, num_gaussians))


def _when(plan: Plan, progress: float) -> str:
    if plan.open_ended:
        return f"step {round(progress / plan.average_from * OPEN_STEPS)}" if progress < plan.average_from else "the end"
    if plan.steps is not None and plan.seconds is None:
        return f"step {round(progress * plan.steps)}"
    if plan.steps is not None:
        return f"{100 * progress:.0f} %"
    return f"{progress * (plan.seconds or 0):.1f} s"
