"""Codebooks for SOG: 256 numbers that stand for all scalars, and a palette of vectors that stands for all SH coefficients."""

from __future__ import annotations

import numpy as np

SIZE = 256
_BINS = 1 << 14
_ROUNDS = 12


def scalar_codebook(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(codebook (256,) float32 ascending, labels uint8 of the shape of `values`): least squares, by Lloyd's iterations on a histogram. They start
    from the density of code words that is best for many words, the cube root of the density of values (Panter and Dite 1951)."""
    flat = values.reshape(-1).astype(np.float64)
    low, high = float(flat.min()), float(flat.max())
    if not high > low:
        return np.full(SIZE, low, np.float32), np.zeros(values.shape, np.uint8)
    counts, edges = np.histogram(flat, _BINS, (low, high))
    sums = np.histogram(flat, _BINS, (low, high), weights=flat)[0]
    smooth = np.convolve(counts, np.ones(65) / 65, mode="same") + 1e-9 * len(flat)
    share = np.concatenate([[0], np.cumsum(np.cbrt(smooth))])
    book = np.interp((np.arange(SIZE) + 0.5) / SIZE * share[-1], share, edges)
    count, total = np.concatenate([[0], np.cumsum(counts)]), np.concatenate([[0], np.cumsum(sums)])
    for _ in range(_ROUNDS):
        borders = np.concatenate([[0], np.searchsorted(edges, (book[1:] + book[:-1]) / 2), [_BINS]]).clip(0, _BINS)
        inside = np.diff(count[borders])
        book = np.sort(np.where(inside > 0, np.diff(total[borders]) / np.maximum(inside, 1), book))
    book = book.astype(np.float32)
    return book, np.searchsorted((book[1:] + book[:-1]) / 2, values).astype(np.uint8)


def palette(vectors: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(palette (P, D), labels (N,)) with P <= `size`, a power of two, for `vectors` (N, D): the vectors themselves where they are few enough, else
    the means of cells that are halved at the median of their widest direction. N log P, where k-means would take N P."""
    if len(vectors) <= size:
        return vectors, np.arange(len(vectors))
    cells = np.zeros(len(vectors), np.int64)
    for _ in range(int(size).bit_length() - 1):
        n = int(cells.max()) + 1
        counts = np.bincount(cells, minlength=n)
        mean = _sums(vectors, cells, n) / np.maximum(counts, 1)[:, None]
        spread = _sums((vectors - mean[cells]) ** 2, cells, n)
        along = np.take_along_axis(vectors, spread.argmax(1)[cells][:, None], 1)[:, 0]
        order = np.lexsort((along, cells))
        rank = np.empty(len(vectors), np.int64)
        rank[order] = np.arange(len(vectors)) - np.repeat(np.cumsum(counts) - counts, counts)
        cells = 2 * cells + (rank >= counts[cells] // 2)
    kept, labels = np.unique(cells, return_inverse=True)
    return _sums(vectors, labels, len(kept)) / np.bincount(labels)[:, None], labels


def _sums(rows: np.ndarray, cells: np.ndarray, n: int) -> np.ndarray:
    """Sum of the rows (N, D) of each of n cells."""
    return np.stack([np.bincount(cells, weights=column, minlength=n) for column in rows.T], axis=1)
