"""What the tensors of a splat are called in other programs, which of ours they are, and how their shapes translate.

| here | gsplat | nerfstudio | INRIA | shape there |
|---|---|---|---|---|
| `means` | means | means | xyz | (N, 3) |
| `quats` | quats | quats | rotation | (N, 4) wxyz |
| `log_scales` | scales | scales | scaling | (N, 3) |
| `logit_opacities` | opacities | opacities | opacity | (N,) or (N, 1) |
| `sh0` | sh0, colors | features_dc | f_dc | (N, 1, 3) or (N, 3) |
| `shN` | shN | features_rest | f_rest | (N, K, 3), K up to 15 |

gsplat's `colors` are logits of RGB, whose slope around grey is 0.25 where that of `sh0` is 0.28: one serves for the other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import OptionError, ShapeError
from ..gaussians.record import FIELDS, SHAPES, WIDTHS

FIELD_OF = {field: field for field in FIELDS}
FIELD_OF |= {"scales": "log_scales", "opacities": "logit_opacities", "colors": "sh0"}
FIELD_OF |= {"features_dc": "sh0", "features_rest": "shN"}
FIELD_OF |= {"xyz": "means", "rotation": "quats", "scaling": "log_scales", "opacity": "logit_opacities", "f_dc": "sh0", "f_rest": "shN"}


def fields_of(names: list[str]) -> dict[str, str]:
    """{field: name} of those of `names` that are a part of a splat.

    Raises:
        OptionError: two of them are the same part.
    """
    found: dict[str, str] = {}
    for name in names:
        field = FIELD_OF.get(name)
        if field in found:
            raise OptionError(f"{found[field]} and {name} are both {field}: expected one of them")
        if field is not None:
            found[field] = name
    return found


def to_field(tensor: Tensor, field: str) -> Tensor:
    """`tensor` in the shape of `field`; SH coefficients that are not there are zeros.

    Raises:
        ShapeError: it has another number of values per Gaussian.
    """
    n, width = len(tensor), WIDTHS[field]
    if tensor.numel() == n * width:
        return tensor.reshape(n, *SHAPES[field])
    if field == "shN" and tensor.ndim == 3 and tensor.shape[2] == 3 and tensor.shape[1] < width // 3:
        return torch.cat([tensor, tensor.new_zeros(n, width // 3 - tensor.shape[1], 3)], dim=1)
    raise ShapeError(f"{field} must have {width} values for each of N = {n} Gaussians, got shape {tuple(tensor.shape)}")


def from_field(value: Tensor, like: Tensor) -> Tensor:
    """The inverse of `to_field`: the part of a field (or of a state of that field) that a tensor shaped as `like` holds."""
    return value.reshape(len(value), -1)[:, : like[:1].numel()].reshape(len(value), *like.shape[1:])
