"""The plan of a run as a short table: `fit --dry-run`."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from ..fit.plan import OPEN_STEPS, Plan
from ..scenes import Scene


def print_plan(plan: Plan, scene: Scene, num_gaussians: int) -> None:
    """One line per change: from when on, the size of the photos, photos per step, Gaussians."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in ("from", "photos", "photos per step", "Gaussians"):
        table.add_column(name, justify="right")
    starts = [0.0, *(stage.until for stage in plan.stages[:-1])]
    moments = sorted({*starts, *(growth.at for growth in plan.growth)})
    for at in moments:
        stage = plan.stages[plan.stage(at)]
        due = plan.due(at)
        count = plan.growth[due - 1].target if due else num_gaussians
        table.add_row(_when(plan, at), f"{stage.long_side} px", str(stage.views_per_step), f"{'' if not due else 'up to '}{count}")
    if plan.average_from < 1:
        table.add_row(_when(plan, plan.average_from), "", "", "averaged from here on")
    Console().print(table)
    end = f"{plan.seconds:g} s" if plan.seconds is not None else f"{plan.steps} steps"
    when = f"when it no longer improves, at the latest after {end}" if plan.open_ended else f"after {end}"
    print(f"{scene.name}, {len(scene.train_idx)} photos: ends {when}")


def _when(plan: Plan, progress: float) -> str:
    if plan.open_ended:
        return f"step {round(progress / plan.average_from * OPEN_STEPS)}" if progress < plan.average_from else "the end"
    if plan.steps is not None and plan.seconds is None:
        return f"step {round(progress * plan.steps)}"
    return f"{progress * (plan.seconds or 0):.1f} s"
