"""The record of N Gaussians, as stored: every field before its activation, as in a 3DGS PLY.

| field | shape | space |
|---|---|---|
| `means` | (N, 3) | world units |
| `quats` | (N, 4) | wxyz, any non-zero length; normalised on use |
| `log_scales` | (N, 3) | log of world units |
| `logit_opacities` | (N,) | logit |
| `sh0` | (N, 1, 3) | SH coefficient of degree 0, RGB last |
| `shN` | (N, 15, 3) | SH coefficients of degrees 1 to 3; zeros where a lower degree is meant |

`flatten` lays the same numbers out as one (N, 59) matrix in this order (shN: coefficient-major, RGB fastest); `COLUMNS` names its
columns. Update rules work on that matrix. Gradients and updates use the same record: one number per parameter.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ShapeError

SH_C0 = 0.28209479177387814  # 1 / (2 sqrt(pi)): the SH basis function of degree 0; colour = 0.5 + SH_C0 * sh0
SH_DEGREE = 3

FIELDS = ("means", "quats", "log_scales", "logit_opacities", "sh0", "shN")
SHAPES: dict[str, tuple[int, ...]] = {"means": (3,), "quats": (4,), "log_scales": (3,), "logit_opacities": (), "sh0": (1, 3), "shN": (15, 3)}
WIDTHS = {"means": 3, "quats": 4, "log_scales": 3, "logit_opacities": 1, "sh0": 3, "shN": 45}  # columns of `flatten`
COLUMNS = {name: slice(sum(list(WIDTHS.values())[:i]), sum(list(WIDTHS.values())[: i + 1])) for i, name in enumerate(FIELDS)}
NUM_PARAMS = sum(WIDTHS.values())  # 59


@dataclass(eq=False, repr=False)
class Gaussians:
    """N Gaussians. Shapes are checked on construction.

    Raises:
        ShapeError: a field has another shape, dtype (one floating type for all) or device than the table above asks for.
    """

    means: Tensor
    quats: Tensor
    log_scales: Tensor
    logit_opacities: Tensor
    sh0: Tensor
    shN: Tensor

    def __post_init__(self) -> None:
        n = self.means.shape[0] if self.means.ndim else 0
        dtype, device = self.means.dtype, self.means.device
        for name, shape in SHAPES.items():
            tensor = getattr(self, name)
            if tensor.shape != (n, *shape):
                expected = ", ".join(["N", *map(str, shape)])
                raise ShapeError(f"{name} must have shape ({expected}) with N = {n} (from means), got {tuple(tensor.shape)}")
            if tensor.dtype != dtype or tensor.device != device or not dtype.is_floating_point:
                found = f"means is {dtype} on {device}, {name} is {tensor.dtype} on {tensor.device}"
                raise ShapeError(f"all fields must share one floating dtype and one device: {found}")

    def __repr__(self) -> str:
        return f"Gaussians({len(self)}, {str(self.means.dtype).removeprefix('torch.')} on {self.means.device})"

    def __len__(self) -> int:
        return len(self.means)

    def __getitem__(self, idx: Tensor | slice | int) -> Gaussians:
        """The Gaussians at `idx`: positions, a mask (N,), a slice, or one position, which keeps its dimension N = 1. The order is that of `idx`.

        Raises:
            IndexError: a position is not in -N to N - 1.
        """
        if hasattr(idx, "__index__") and getattr(idx, "ndim", 0) == 0:  # an integer, of Python, NumPy or torch
            position = operator.index(idx)
            if not -len(self) <= position < len(self):  # also what ends `for gaussian in gaussians`
                raise IndexError(f"there are {len(self)} Gaussians, none at position {position}")
            idx = slice(position, position + 1 or None)
        return self.map(lambda tensor: tensor[idx])

    def tensors(self) -> dict[str, Tensor]:
        """The fields by name, in the order of `FIELDS`; no copies."""
        return {name: getattr(self, name) for name in FIELDS}

    def map(self, fn: Callable[[Tensor], Tensor]) -> Gaussians:
        """A new record with `fn` of every field."""
        return Gaussians(*(fn(getattr(self, name)) for name in FIELDS))

    def zip_map(self, fn: Callable[[Tensor, Tensor], Tensor], other: Gaussians) -> Gaussians:
        """A new record with `fn(field of self, field of other)`."""
        return Gaussians(*(fn(getattr(self, name), getattr(other, name)) for name in FIELDS))

    @staticmethod
    def cat(parts: Sequence[Gaussians]) -> Gaussians:
        """All Gaussians of `parts`, in order."""
        return Gaussians(*(torch.cat([getattr(part, name) for part in parts]) for name in FIELDS))

    def detach(self) -> Gaussians:
        return self.map(Tensor.detach)

    def clone(self) -> Gaussians:
        return self.map(Tensor.clone)

    def to(self, *args: object, **kwargs: object) -> Gaussians:
        """As `Tensor.to`, for every field."""
        return self.map(lambda tensor: tensor.to(*args, **kwargs))

    def requires_grad_(self, requires_grad: bool = True) -> Gaussians:
        """Sets the flag on every field in place and returns self."""
        for name in FIELDS:
            getattr(self, name).requires_grad_(requires_grad)
        return self

    def sh(self) -> Tensor:
        """All SH coefficients (N, 16, 3)."""
        return torch.cat([self.sh0, self.shN], dim=1)

    def is_finite(self) -> bool:
        """Whether no field holds a NaN or an infinity."""
        # A sum is not finite where one of its numbers is not, and takes a fifteenth of the time. Where it overflows, or is not, all are looked at.
        return all(math.isfinite(float(tensor.detach().sum())) or bool(torch.isfinite(tensor).all()) for tensor in self.tensors().values())

    def flatten(self) -> Tensor:
        """The numbers as one new (N, 59) matrix; `COLUMNS` says what is where."""
        n = len(self)
        return torch.cat([getattr(self, name).reshape(n, WIDTHS[name]) for name in FIELDS], dim=1)

    @staticmethod
    def unflatten(flat: Tensor) -> Gaussians:
        """The inverse of `flatten`: contiguous fields, copied from `flat` (N, 59)."""
        if flat.ndim != 2 or flat.shape[1] != NUM_PARAMS:
            raise ShapeError(f"flat must have shape (N, {NUM_PARAMS}), got {tuple(flat.shape)}")
        n = len(flat)
        return Gaussians(*(flat[:, COLUMNS[name]].contiguous().view(n, *SHAPES[name]) for name in FIELDS))
