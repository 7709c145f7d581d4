"""Which train views are rendered in a step: every view once before any repeats, and the views of one step far apart.

A round is a pass over all train views. Each step takes its views from those that are left in the round: one at random, then again and
again the one farthest from those already taken (farthest-point sampling on the camera centres). The sum of their gradients then
sees the scene from all sides, which is what makes it steadier than that of views drawn at random.
"""

from __future__ import annotations

import numpy as np
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
        self.centres = centres.detach().cpu().double().numpy()
        self.views_per_step = min(views_per_step, len(self.centres))
        self.generator = generator
        self.left = np.zeros(len(self.centres), bool)  # Views that this round has not shown yet.

    def next(self) -> list[int]:
        """Positions 0..M-1 of the views of the next step, all different. A round that ends within a step is followed by the next round."""
        count = len(self.centres)
        order = torch.randperm(count, generator=self.generator).numpy()  # decides the first view, and between views equally far
        nearest = np.full(count, np.inf)  # from each view to the nearest chosen one
        chosen: list[int] = []
        free = np.ones(count, bool)  # never the same view twice in a step
        while len(chosen) < self.views_per_step:
            if not self.left.any():
                self.left[:] = True
            distances = np.where(self.left & free, nearest, -1.0)[order]
            view = int(order[distances.argmax()])  # the first of the largest
            self.left[view] = free[view] = False
            chosen.append(view)
            nearest = np.minimum(nearest, np.linalg.norm(self.centres - self.centres[view], axis=1))
        return chosen

    def state_dict(self) -> dict[str, Tensor]:
        """Everything needed to go on with the same views."""
        return {"generator": self.generator.get_state(), "left": torch.from_numpy(self.left.nonzero()[0])}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state_dict`.

        Raises:
            CheckpointError: it is that of another scene, or of another version of torch.
        """
        try:
            self.generator.set_state(state["generator"])
            left = state["left"].to(torch.int64).flatten().tolist()
        except (KeyError, RuntimeError, TypeError, AttributeError) as error:
            raise CheckpointError(f"the state of the view sampler is unreadable ({error}): start the run again without --resume") from error
        if any(not 0 <= view < len(self.centres) for view in left):
            raise CheckpointError(f"the view sampler of the checkpoint knows more views than the {len(self.centres)} train views of this scene")
        self.left[:] = False
        self.left[left] = True
