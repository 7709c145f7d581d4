"""Which train views are rendered in a step: every view once before any repeats, and the views of one step far apart.

A round is a pass over all train views. Each step takes its views from those that are left in the round: one at random, then again and
again the one farthest from those already taken (farthest-point sampling on the camera centres). The sum of their gradients then
sees the scene from all sides, which is what makes it steadier than that of views drawn at random.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import CheckpointError


class ViewSampler:
    """An endless stream of train view positions, `views_per_step` at a time. All that changes is in `state_dict`."""

    def __init__(self, centres: Tensor, views_per_step: int, generator: torch.Generator) -> None:
        """
        Args:
            centres: (M, 3) camera centres of the train views, any unit.
            views_per_step: how many views a step gets, at least 1; all M where there are fewer.
            generator: on the CPU; the only source of randomness.
        """
        centres = centres.detach().double().cpu()
        self.distances = torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist")
        self.views_per_step = min(views_per_step, len(centres))
        self.generator = generator
        self.left: list[int] = []  # Views that this round has not shown yet.

    def next(self) -> list[int]:
        """Positions 0..M-1 of the views of the next step, all different. A round that ends within a step is followed by the next round."""
        chosen: list[int] = []
        while len(chosen) < self.views_per_step:
            if not self.left:
                self.left = list(range(len(self.distances)))
            candidates = [view for view in self.left if view not in chosen]  # never the same view twice in a step
            view = self._pick(candidates, chosen)
            self.left.remove(view)
            chosen.append(view)
        return chosen

    def _pick(self, candidates: list[int], chosen: list[int]) -> int:
        """The candidate farthest from `chosen`; at random among equals, and if nothing is chosen yet."""
        shuffled = torch.tensor(candidates)[torch.randperm(len(candidates), generator=self.generator)]
        if not chosen:
            return int(shuffled[0])
        nearest = self.distances[shuffled][:, chosen].min(dim=1).values
        return int(shuffled[int(torch.argmax(nearest))])

    def state_dict(self) -> dict[str, Tensor]:
        """Everything needed to go on with the same views."""
        return {"generator": self.generator.get_state(), "left": torch.tensor(self.left, dtype=torch.int64)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state_dict`.

        Raises:
            CheckpointError: it is that of another scene, or of another version of torch.
        """
        try:
            self.generator.set_state(state["generator"])
            left = [int(view) for view in state["left"]]
        except (KeyError, RuntimeError, TypeError) as error:
            raise CheckpointError(f"the state of the view sampler is unreadable ({error}): start the run again without --resume") from error
        if any(not 0 <= view < len(self.distances) for view in left):
            raise CheckpointError(f"the view sampler of the checkpoint knows more views than the {len(self.distances)} train views of this scene")
        self.left = left
