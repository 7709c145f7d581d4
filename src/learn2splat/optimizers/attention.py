"""Attention among neighbouring Gaussians: who attends to whom in this step, and the layer itself.

Unseen Gaussians are left out of a step altogether (docs/method.md section 3), so they cannot be attended to either: `seen_neighbours` takes, from a
longer list of candidates that is refreshed every few steps, the first k that are seen. Where the list holds at least k seen ones (nearly always: it
is `NUM_CANDIDATES` long), that is the exact search among the seen Gaussians, as old as the list.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..gaussians import knn
from . import _native_attention

NUM_CANDIDATES = 12  # For k = 4: on real scenes 60-100 % of the Gaussians are seen per step, so a list holds k seen ones but in rare cases.


def refreshed_candidates(means: Tensor, num_candidates: int) -> Tensor:
    """Candidate lists (N, num_candidates) int64, nearest first, the Gaussian itself in column 0.

    A diverged run has non-finite means, for which no neighbours exist: such a Gaussian is put at the origin, so that the others go on.
    """
    return knn(torch.nan_to_num(means.detach(), nan=0.0, posinf=0.0, neginf=0.0), num_candidates)[0]


def seen_neighbours(candidates: Tensor, seen: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest *seen* neighbours of every seen Gaussian, itself first.

    Args:
        candidates: (N, K) int64, nearest first. An entry equal to its own row after column 0 means "none" (gone, or fewer than K points).
        seen: (N,) bool, n of them True.
        k: neighbours per Gaussian, itself included.

    Returns:
        (n, k) int64 positions *among the seen Gaussians*, and (n, k) bool, True where there is a neighbour (else the position is the Gaussian's own).
    """
    k = min(k, candidates.shape[1])
    rows = torch.nonzero(seen).squeeze(1)
    position = torch.cumsum(seen, 0) - 1  # of a seen Gaussian among the seen ones
    candidates = candidates[rows]
    usable = seen[candidates] & (candidates != rows.unsqueeze(1))
    usable[:, 0] = True  # the Gaussian itself, whatever the list says
    own = torch.arange(len(rows), device=seen.device).unsqueeze(1)
    found = position[candidates]
    found[:, 0] = own[:, 0]
    if bool(usable[:, :k].all()):  # the common case: nothing to skip
        return found[:, :k].contiguous(), usable[:, :k].contiguous()
    rank = torch.cumsum(usable, 1) - 1
    slot = torch.where(usable & (rank < k), rank, k)  # column k collects what is not taken
    chosen = own.repeat(1, k + 1).scatter_(1, slot, found)[:, :k].contiguous()
    return chosen, torch.arange(k, device=seen.device) < usable.sum(1, keepdim=True)


class KnnAttention(nn.Module):
    """Softmax attention of each row to a given list of rows: qkv without bias, scale 1/sqrt(head_dim), no positional encoding.

    Gathers k rows per row and never builds an (n, n) matrix: time and memory are O(n k heads head_dim).
    """

    def __init__(self, width: int, head_dim: int, heads: int = 1) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.qkv = nn.Linear(width, 3 * heads * head_dim, bias=False)
        self.proj = nn.Linear(heads * head_dim, width)

    def forward(self, x: Tensor, neighbours: Tensor, exists: Tensor, bias: Tensor | None = None) -> Tensor:
        """x (n, width), neighbours (n, k) int64 rows of x, exists (n, k) bool, bias (n, k, heads) added to the logits -> (n, width)."""
        n, k = neighbours.shape
        inner = self.heads * self.head_dim
        qkv = self.qkv(x)
        if _native_attention.applies(qkv, bias):
            return self.proj(_native_attention.attend(qkv, neighbours, exists, bias, self.heads))
        q, kv = qkv.split([inner, 2 * inner], dim=1)
        kv = F.embedding(neighbours.reshape(-1), kv).view(n, k, 2, self.heads, self.head_dim)  # the fastest gather of rows on a CPU
        logits = (kv[:, :, 0] * q.view(n, 1, self.heads, self.head_dim)).sum(-1) * self.head_dim**-0.5
        if bias is not None:
            logits = logits + bias
        weights = logits.masked_fill(~exists.unsqueeze(-1), float("-inf")).softmax(dim=1)  # column 0 always exists, so no row is empty
        return self.proj((weights.unsqueeze(-1) * kv[:, :, 1]).sum(1).reshape(n, inner))


class Mlp(nn.Module):
    """Linear, activation, Linear, with the names of the released network."""

    def __init__(self, width: int, hidden: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block: u += Attn(LN(u)); u += MLP(LN(u)). docs/method.md section 3, point 5."""

    def __init__(self, width: int, head_dim: int, heads: int, mlp_hidden: int, activation: Callable[[Tensor], Tensor] = F.gelu) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = KnnAttention(width, head_dim, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, mlp_hidden, activation)

    def forward(self, u: Tensor, neighbours: Tensor, exists: Tensor, bias: Tensor | None = None) -> Tensor:
        u = u + self.attn(self.norm1(u), neighbours, exists, bias)
        return u + self.mlp(self.norm2(u))
