"""One update rule over tensors that other code owns: the core behind `Learned` and `gsplat_optimizers`.

All that the rule remembers lies in `optimizer.state[parameter]`, one row per Gaussian, where density control of other programs moves it: they index
and concatenate along dimension 0 whatever is there (but "step"), and new rows are zeros. Moments lie with their own parameter, in its shape; what
belongs to the Gaussian as a whole with the first one (`means`, unless frozen). `row` says where a row was after the last step, counted from 1:

    row == 0       a brand-new Gaussian, or one that was set to zero (`relocate`): its state is made anew
    row != place   rows have moved: positions in neighbour lists are renumbered

Integers may come back as floats, as concatenation with zeros makes them; they are turned back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import OptionError, ShapeError
from ..gaussians.record import COLUMNS, FIELDS, SHAPES, WIDTHS, Gaussians
from ..optimizers import OptState, Task, UpdateRule, make_optimizer
from .names import from_field, to_field

ROW = "row"
# Which parameter keeps what belongs to the Gaussian: the first of these that is trained. Opacities last: `reset_opa` sets their state to zero.
_HOMES = ("means", "quats", "log_scales", "sh0", "shN", "logit_opacities")


@dataclass(frozen=True)
class Slot:
    """A trained tensor: the group `index` of `optimizer`, which density control may give another parameter."""

    name: str  # There.
    optimizer: torch.optim.Optimizer
    index: int = 0

    @property
    def group(self) -> dict:
        return self.optimizer.param_groups[self.index]

    @property
    def param(self) -> Tensor:
        return self.group["params"][0]

    @property
    def state(self) -> dict:
        return self.optimizer.state[self.param]


class Joint:
    """Steps of `rule` for `slots` ({field: slot}).

    Args:
        fixed: {field: function that returns it now} of fields that are not trained; those that are nowhere are zeros.
        unit: world units; what the usual distance of a camera to what it sees is. The learned rule was trained where it is 1.
    """

    def __init__(self, rule: UpdateRule | str, task: Task, *, unit: float = 1.0, seed: int = 0) -> None:
        self.rule = make_optimizer(rule) if isinstance(rule, str) else rule
        if self.rule.needs_problem:
            raise OptionError(f"{self.rule.name} needs more than gradients: use it with learn2splat.fit")
        if not unit > 0:
            raise OptionError(f"unit must be a positive length, got {unit}")
        self.unit, self.seed = float(unit), seed
        self.task = replace(task, scene_scale=task.scene_scale / self.unit)
        self.slots: dict[str, Slot] = {}
        self.fixed: dict[str, Callable[[], Tensor]] = {}
        self._spec: OptState | None = None  # What the state consists of: one of no use but for its names, types and shapes.

    @torch.no_grad()
    def step(self, grads: dict[str, Tensor | None], visibility: Tensor | None = None) -> None:
        """One step with `grads` ({field: gradient in the shape of its parameter}); parts without one stay as they are. Rows outside of `visibility`
        (mask (N,)) count as unseen. Nothing happens where there is no gradient at all."""
        grads = {field: grad for field, grad in grads.items() if grad is not None}
        if not grads:
            return
        gaussians = self._gaussians()
        n = len(gaussians)
        gradients = Gaussians(**{field: self._gradient(field, grads.get(field), getattr(gaussians, field)) for field in FIELDS})
        if visibility is not None:
            if visibility.shape != (n,):
                raise ShapeError(f"visibility must be a mask of shape ({n},), got {tuple(visibility.shape)}")
            hidden = ~visibility.bool()
            gradients = gradients.map(lambda grad: grad.masked_fill(hidden.view(-1, *[1] * (grad.ndim - 1)), 0))
        state = self._gathered(gaussians)
        new, state = self.rule.step(gaussians, gradients, state)
        self._scatter(state)
        for field in grads:
            self._move(field, getattr(gaussians, field), getattr(new, field))

    def _gaussians(self) -> Gaussians:
        values = {field: slot.param.detach() for field, slot in self.slots.items()}
        values |= {field: read().detach() for field, read in self.fixed.items()}
        first = next(iter(values.values()))
        fields = {}
        for field in FIELDS:
            value = to_field(values[field], field) if field in values else first.new_zeros(len(first), *SHAPES[field])
            fields[field] = value if self.unit == 1 else self._scaled(field, value, 1 / self.unit)
        return Gaussians(**fields)

    @staticmethod
    def _scaled(field: str, value: Tensor, factor: float) -> Tensor:
        """A field in units that are 1 / `factor` times as long."""
        if field == "means":
            return value * factor
        return value + torch.log(value.new_tensor(factor)) if field == "log_scales" else value

    def _gradient(self, field: str, grad: Tensor | None, value: Tensor) -> Tensor:
        if grad is None:
            return torch.zeros_like(value)
        grad = to_field(grad.to_dense() if grad.is_sparse else grad, field).to(value.dtype)
        return grad * self.unit if field == "means" and self.unit != 1 else grad

    def _move(self, field: str, old: Tensor, new: Tensor) -> None:
        """The parameter goes where the rule says; a rate that is not what it was at the start (a scheduler's) scales the step."""
        slot = self.slots[field]
        gain = float(slot.group["lr"]) / slot.group["base_lr"]
        if gain != 1:
            new = old + gain * (new - old)
        if self.unit != 1:
            new = self._scaled(field, new, self.unit)
        slot.param.copy_(from_field(new, slot.param))

    @property
    def _home(self) -> Slot:
        return next(self.slots[field] for field in _HOMES if field in self.slots)

    def _columns(self, like: Tensor) -> dict[str, slice]:
        """{field: its columns} of a state tensor that holds numbers per parameter."""
        spans = {field: slice(COLUMNS[field].start, min(COLUMNS[field].stop, like.shape[1])) for field in FIELDS}
        return {field: span for field, span in spans.items() if span.start < span.stop}

    def _gathered(self, gaussians: Gaussians) -> OptState:
        """The state as the rule knows it, after whatever density control has done to it."""
        shared = self._home.state
        if self._spec is None or ROW not in shared:
            self._spec = self.rule.init(gaussians, self.task, torch.Generator().manual_seed(self.seed))
        spec, n = self._spec, len(gaussians)
        if ROW not in shared:
            return spec
        tensors = {}
        for name, like in spec.tensors.items():
            if name not in self.rule.zero_when_grown:
                tensors[name] = self._own_rows(self._home, name, n).to(like.dtype)
                continue
            parts = [self._moments(field, name, like, span, n) for field, span in self._columns(like).items()]
            tensors[name] = torch.cat(parts, dim=1).to(like.dtype)
        step = int(shared["step"])
        row = self._own_rows(self._home, ROW, n).long()
        if not torch.equal(row, torch.arange(1, n + 1, device=row.device)):
            tensors = self._rearranged(tensors, row, step)
        return replace(spec, tensors=tensors, step=step)

    def _own_rows(self, slot: Slot, name: str, n: int) -> Tensor:
        value = slot.state.get(name)
        if value is None or len(value) != n:
            found = "none" if value is None else f"{len(value)} rows"
            raise ShapeError(
                f"the optimizer state {name!r} of {slot.name} must have a row for each of {n} Gaussians, got {found}: whoever changes their number "
                "must change every tensor of optimizer.state[parameter], as gsplat's strategies do"
            )
        return value

    def _moments(self, field: str, name: str, like: Tensor, span: slice, n: int) -> Tensor:
        """(N, width of `span`), zeros where the field is not trained."""
        width = span.stop - span.start
        if field not in self.slots or name not in self.slots[field].state:
            return like.new_zeros(n, width)
        value = self._own_rows(self.slots[field], name, n).reshape(n, -1).to(like.dtype)
        return value if value.shape[1] == width else torch.cat([value, value.new_zeros(n, width - value.shape[1])], dim=1)

    def _rearranged(self, tensors: dict[str, Tensor], row: Tensor, step: int) -> dict[str, Tensor]:
        """Rows of zeros as brand-new Gaussians, and positions of others where those are now; a neighbour that is gone becomes the Gaussian itself."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        fresh = row == 0
        own = torch.arange(len(row), device=row.device)
        for name, tensor in tensors.items():
            if name in self._spec.index_tensors:
                size = max(int(row.max()), int(tensor.max()) + 1)
                place = torch.full((size + 1,), len(row), device=row.device).scatter_reduce_(0, row, own, "amin")  # entry 0: the new ones
                moved, itself = place[tensor + 1], own.view(-1, *[1] * (tensor.ndim - 1))
                lost = (moved == len(row)) | fresh.view_as(itself)
                tensors[name] = torch.where(lost, itself, moved)
            elif name not in self.rule.zero_when_grown:
                rows = self.rule.fresh_rows(name, tensor, int(fresh.sum()), generator)
                tensors[name] = tensor.clone().masked_scatter_(fresh.view(-1, *[1] * (tensor.ndim - 1)).expand_as(tensor), rows)
        return tensors

    def _scatter(self, state: OptState) -> None:
        """Every tensor to the parameters that it belongs to."""
        n = len(state)
        for name, tensor in state.tensors.items():
            if name not in self.rule.zero_when_grown:
                self._home.state[name] = tensor
                continue
            for field, span in self._columns(tensor).items():
                if field in self.slots:
                    part, param = tensor[:, span], self.slots[field].param
                    full = span.stop - span.start == WIDTHS[field]
                    self.slots[field].state[name] = from_field(part, param).contiguous() if full else part.contiguous()
        self._home.state[ROW] = torch.arange(1, n + 1, device=self._home.param.device)
        for slot in self.slots.values():
            slot.state["step"] = torch.tensor(float(state.step))
