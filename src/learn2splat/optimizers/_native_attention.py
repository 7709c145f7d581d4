"""The attention of `attention.KnnAttention` between its two linear layers as one native call, for float32 on the CPU: forward and backward."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..threads import num_threads


def applies(qkv: Tensor, bias: Tensor | None) -> bool:
    """Whether the native code can take it."""
    return all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in (qkv, bias) if tensor is not None)


def attend(qkv: Tensor, neighbours: Tensor, exists: Tensor, bias: Tensor | None, heads: int) -> Tensor:
    """qkv (n, 3 heads head_dim), neighbours (n, k) int64, exists (n, k) bool, bias (n, k, heads) or None -> (n, heads head_dim)."""
    return _Attend.apply(qkv, neighbours, exists, bias, heads)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx, qkv: Tensor, neighbours: Tensor, exists: Tensor, bias: Tensor | None, heads: int) -> Tensor:
        from .. import _native

        inputs = [None if tensor is None else tensor.detach().contiguous() for tensor in (qkv, neighbours, exists, bias)]
        ctx.save_for_backward(*inputs)
        ctx.heads = heads
        mixed = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
        _native.attend(*(None if tensor is None else tensor.numpy() for tensor in inputs), heads, mixed.numpy(), num_threads())
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx, v_mixed: Tensor) -> tuple[Tensor | None, ...]:
        from .. import _native

        qkv, _, _, bias = inputs = ctx.saved_tensors
        v_qkv, v_bias = torch.zeros_like(qkv), None if bias is None else torch.empty_like(bias)
        arrays = [None if tensor is None else tensor.numpy() for tensor in (*inputs, v_mixed.contiguous(), v_qkv, v_bias)]
        _native.attend_backward(*arrays[:4], ctx.heads, *arrays[4:])
        return v_qkv, None, None, v_bias, None
