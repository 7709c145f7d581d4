"""Photos that were taken with the camera on its side, turned by quarter turns like the others: what the network compares does not turn by itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor

QUARTER = torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]], dtype=torch.float64)  # of camera coordinates, with a photo turned by rot90


def quarter_turns(viewmats: Tensor) -> list[int]:
    """How many times `torch.rot90` makes each photo stand like the first one, 0 to 3; viewmats (M, 4, 4) float64.

    Each photo is turned like the one, of those that have been dealt with, that looks most nearly the same way.
    """
    rotations = viewmats[:, :3, :3]
    alike = rotations[:, 2] @ rotations[:, 2].mT
    turns = {0: 0} if len(viewmats) else {}
    while len(turns) < len(viewmats):
        done, left = list(turns), [i for i in range(len(viewmats)) if i not in turns]
        best = alike[left][:, done]
        at = int(best.argmax())
        i, j = left[at // len(done)], done[at % len(done)]
        relative = rotations[i] @ rotations[j].mT
        roll = math.atan2(float(relative[1, 0] - relative[0, 1]), float(relative[0, 0] + relative[1, 1]))
        turns[i] = (turns[j] + round(roll / (math.pi / 2))) % 4
    return [turns[i] for i in range(len(viewmats))]


def turned(photo: Tensor, K: Tensor, viewmat: Tensor, turns: int) -> tuple[Tensor, Tensor, Tensor]:
    """A photo (3, H, W) after `turns` quarter turns, with its K (3, 3) and viewmat (4, 4)."""
    for _ in range(turns):
        width = photo.shape[2]
        photo = photo.rot90(1, (1, 2))
        fx, fy, cx, cy = (float(K[at]) for at in ((0, 0), (1, 1), (0, 2), (1, 2)))
        K = torch.tensor([[fy, 0, cy], [0, fx, width - cx], [0, 0, 1]], dtype=K.dtype)
        viewmat = viewmat.clone()
        viewmat[:3] = QUARTER @ viewmat[:3]
    return photo.contiguous(), K, viewmat
