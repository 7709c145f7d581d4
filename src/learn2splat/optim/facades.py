"""`gsplat_optimizers`: an update rule in the shape of what gsplat's and nerfstudio's trainers have, one `torch.optim.Optimizer` per tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..errors import OptionError
from ..optimizers import Task, UpdateRule
from .joint import Joint, Slot
from .learned import _called
from .names import FIELD_OF, fields_of

# gsplat's rates (means: times scene_scale). To the rule only their changes count, by a scheduler; `MCMCStrategy` reads that of the means.
RATES = {"means": 1.6e-4, "quats": 1e-3, "log_scales": 5e-3, "logit_opacities": 5e-2, "sh0": 2.5e-3, "shN": 2.5e-3 / 20}
OTHER_RATE = 2.5e-3  # gsplat's of `features`.


class Facade(torch.optim.Optimizer):
    """The optimizer of one tensor; the step of the rule happens when the last of its siblings is stepped.

    A gradient is taken when `step` is called, so that it may be cleared right after it.
    """

    def __init__(self, round_: Round, field: str, name: str, param: Tensor, lr: float) -> None:
        super().__init__([{"params": [param], "name": name, "lr": lr, "base_lr": lr}], {})
        self._round, self._field = round_, field

    def step(self, visibility: Tensor | Callable[[], Tensor] | None = None, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Hand the gradient in. `visibility`: mask (N,), all other Gaussians count as unseen."""
        visibility, loss = _called(visibility, closure)
        self._round.hand_in(self._field, self.param_groups[0]["params"][0].grad, visibility)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """A gradient that has been handed in is not overwritten: the parameter gets another one."""
        param = self.param_groups[0]["params"][0]
        param.grad = None if set_to_none or param.grad is None else torch.zeros_like(param.grad)


class Round:
    """Collects the gradients of one step. Siblings that are never stepped are not waited for a second time."""

    def __init__(self, joint: Joint) -> None:
        self.joint = joint
        self.awaited: set[str] = set()
        self.handed_in: dict[str, Tensor | None] = {}
        self.visibility: Tensor | None = None

    def hand_in(self, field: str, grad: Tensor | None, visibility: Tensor | None) -> None:
        if field in self.handed_in:  # it is stepped again before the others: those are left alone
            self.awaited = set(self.handed_in)
            self._finish()
        elif field not in self.awaited:  # it comes back, after its siblings have gone on without it: from the next step on
            self.awaited.add(field)
            return
        self.handed_in[field] = grad
        self.visibility = self.visibility if visibility is None else visibility
        if self.awaited == set(self.handed_in):
            self._finish()

    def _finish(self) -> None:
        grads, visibility = self.handed_in, self.visibility
        self.handed_in, self.visibility = {}, None
        self.joint.step(grads, visibility)


def gsplat_optimizers(
    splats: Mapping[str, Tensor],
    *,
    scene_scale: float = 1.0,
    num_views: int | None = None,
    view_angle: float | None = None,
    views_per_step: int = 1,
    steps: int | None = None,
    unit: float = 1.0,
    rule: UpdateRule | str = "learned",
    seed: int = 0,
) -> dict[str, torch.optim.Optimizer]:
    """The dictionary of optimizers that gsplat's trainer makes, with the learned optimizer behind it. Step all of them after each backward pass.

    gsplat's strategies work on it unmodified. `lr` of a group begins at gsplat's rate; a scheduler that changes it scales the steps of that group
    by as much. The learned optimizer needs no schedule.

    Args:
        splats: {name: parameter} as in gsplat's trainer (`means, scales, quats, opacities, sh0, shN`; or `colors` for RGB) or nerfstudio's. Those
            with requires_grad False get no optimizer and stay as they are. Others that are no part of a splat (`features`) get Adam, as there.
        scene_scale, num_views, view_angle, views_per_step, steps, unit, rule, seed: those of `Learned`. Both trainers normalise their scenes, so that
            `unit` is 1; for a scene in other units say how far the cameras are from the subject.

    Raises:
        OptionError: there are no means, doubled names, or options that make no sense.
        ShapeError: on the first step: a tensor has another shape than its name says.
    """
    fields = fields_of(list(splats.keys()))
    if "means" not in fields:
        raise OptionError(f"expected the tensors of a splat, means among them, by names out of {', '.join(FIELD_OF)}; got {', '.join(splats.keys())}")
    joint = Joint(rule, Task(scene_scale, views_per_step, steps, num_views, view_angle), unit=unit, seed=seed)
    round_ = Round(joint)
    optimizers: dict[str, torch.optim.Optimizer] = {}
    by_name = {name: field for field, name in fields.items()}
    for name, param in splats.items():
        field = by_name.get(name)
        if not param.requires_grad:
            if field is not None:
                joint.fixed[field] = lambda name=name: splats[name]  # looked up anew: density control replaces it
        elif field is None:
            optimizers[name] = torch.optim.Adam([{"params": [param], "lr": OTHER_RATE, "name": name}], eps=1e-15)
        else:
            rate = RATES[field] * (scene_scale if field == "means" else 1)
            optimizers[name] = Facade(round_, field, name, param, rate)
            joint.slots[field] = Slot(name, optimizers[name])
            round_.awaited.add(field)
    if not joint.slots:
        raise OptionError("none of the tensors has requires_grad set: there is nothing to optimize")
    return optimizers
