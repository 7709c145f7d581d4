"""Several processes, one run: each computes the gradients of its share of the slots, all apply the same sum.

`torchrun --nproc-per-node 2 --no-python learn2splat train ...` sets the environment; gloo needs nothing but the network. Slots have their own buffers
and random numbers, so one process with all slots computes the same numbers up to the order of the sum (with two slots: the same bits).
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import OptionError


def is_first_process() -> bool:
    """Whether this process speaks for all: writes the log, talks to the user."""
    return os.environ.get("RANK", "0") == "0"


class Workers:
    """This process among `count`."""

    def __init__(self) -> None:
        self.count, self.rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
        if self.count > 1 and not dist.is_initialized():
            dist.init_process_group("gloo")

    @property
    def first(self) -> bool:
        return is_first_process()

    def slots(self, number: int) -> list[int]:
        """The slots of this process.

        Raises:
            OptionError: they cannot be shared evenly.
        """
        if number % self.count:
            raise OptionError(f"{number} scenes per meta-step cannot be shared by {self.count} processes: make it a multiple with --scenes-per-step")
        share = number // self.count
        return list(range(self.rank * share, (self.rank + 1) * share))

    def sum(self, values: Tensor) -> Tensor:
        """Over all processes, in place."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        if self.count > 1:
            dist.barrier()

    def leave(self) -> None:
        if self.count > 1:
            dist.destroy_process_group()


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
