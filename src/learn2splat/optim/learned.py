"""`Learned`: the learned optimizer (or any update rule) as one `torch.optim.Optimizer`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from ..errors import OptionError
from ..gaussians.record import Gaussians
from ..optimizers import Task, UpdateRule
from .joint import Joint, Slot
from .names import FIELD_OF, fields_of


class Learned(torch.optim.Optimizer):
    """An update rule for the tensors of a splat, in a loop of your own: any loss, any renderer.

        optimizer = Learned({"means": means, "quats": quats, "log_scales": log_scales, ...}, num_views=len(photos))
        loss.backward(); optimizer.step(); optimizer.zero_grad()

    The loss may have any scale. One group per tensor, called by its name; `lr` is 1 and a factor on the steps of that group, for schedulers.

    Args:
        params: {name: leaf tensor}, a `Gaussians` whose fields are leaves, or groups [{"params": [tensor], "name": name}, ...]. Names as in
            `names.py` (gsplat's, nerfstudio's and INRIA's too), stored values (log scales, logits). Those with requires_grad False stay as they are;
            missing SH are zeros.
        scene_scale: world units, the extent of the cameras (1.1 x the largest distance of one to their mean).
        num_views, view_angle: how many photos there are, and degrees between neighbouring ones, if known: few and far apart need caution.
        views_per_step: photos whose losses one step sees.
        steps: horizon, for rules with a schedule; the learned one has none.
        unit: world units; the usual distance of a camera to what it sees. The learned rule was trained where it is 1.
        rule: the name of an update rule (`make_optimizer`) or one.
        seed: of what is random in a rule's state (nothing in `learned`).

    Raises:
        OptionError: unknown or doubled names, or options that make no sense.
        ShapeError: a tensor has another shape than its name says.
    """

    def __init__(
        self,
        params: Mapping[str, Tensor] | Gaussians | Iterable[dict],
        *,
        scene_scale: float = 1.0,
        num_views: int | None = None,
        view_angle: float | None = None,
        views_per_step: int = 1,
        steps: int | None = None,
        unit: float = 1.0,
        rule: UpdateRule | str = "learned",
        seed: int = 0,
    ) -> None:
        tensors = _named(params)
        fields = fields_of(list(tensors))
        unknown = sorted(set(tensors) - set(fields.values()))
        if unknown or "means" not in fields:
            raise OptionError(f"expected the tensors of a splat, means among them, by names out of {', '.join(FIELD_OF)}; got {', '.join(tensors)}")
        self.joint = Joint(rule, Task(scene_scale, views_per_step, steps, num_views, view_angle), unit=unit, seed=seed)
        trained = {field: name for field, name in fields.items() if tensors[name].requires_grad}
        if not trained:
            raise OptionError("none of the tensors has requires_grad set: there is nothing to optimize")
        super().__init__([{"params": [tensors[name]], "name": name, "lr": 1.0, "base_lr": 1.0} for name in trained.values()], {})
        self.joint.slots = {field: Slot(name, self, index) for index, (field, name) in enumerate(trained.items())}
        self.joint.fixed = {field: lambda tensor=tensors[name]: tensor for field, name in fields.items() if field not in trained}

    def step(self, visibility: Tensor | Callable[[], Tensor] | None = None, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step with the gradients in `.grad`. `visibility`: mask (N,), all other Gaussians count as unseen."""
        visibility, loss = _called(visibility, closure)
        self.joint.step({field: slot.param.grad for field, slot in self.joint.slots.items()}, visibility)
        return loss


def _called(visibility: Tensor | Callable | None, closure: Callable | None) -> tuple[Tensor | None, Tensor | None]:
    """(visibility, loss): `step(closure)` is torch's way, `step(visibility)` gsplat's."""
    if callable(visibility) and not isinstance(visibility, Tensor):
        visibility, closure = None, visibility
    if closure is None:
        return visibility, None
    with torch.enable_grad():
        return visibility, closure()


def _named(params: Mapping[str, Tensor] | Gaussians | Iterable[dict]) -> dict[str, Tensor]:
    if isinstance(params, Gaussians):
        return params.tensors()
    if hasattr(params, "items"):
        return dict(params.items())
    tensors = {}
    for group in params:
        if not isinstance(group, dict) or "name" not in group or len(list(group["params"])) != 1:
            raise OptionError("expected named tensors: a dictionary, or groups {'params': [tensor], 'name': name} with one tensor each")
        tensors[group["name"]] = next(iter(group["params"]))
    return tensors
