"""Which photos to compare with which. All with all costs the square of their number; more than a few are compared with those that look alike.

Alike are photos whose features have the same distribution: VLAD (Jegou et al., CVPR 2010), with a vocabulary made of these photos' own features, so
that nothing has to be downloaded.
"""

from __future__ import annotations

import re
from typing import Literal

import numpy as np

Matching = Literal["auto", "exhaustive", "retrieval", "sequential"]
ALL_UP_TO = 60  # photos: 1770 pairs
VIDEO_FROM = 400  # photos whose names are numbers without gaps are then taken to be frames
ALIKE = 30  # photos that each is compared with, ...
NEXT = 4  # ... and its neighbours by name, which people take one after another
OVERLAP = 12  # frames of a video that each is compared with, and the 16th, 32nd, ... after it
LOOP_EVERY = 10  # frames, of which one is also compared with those that look alike
WORDS = 64  # of the vocabulary
SAMPLE = 20_000  # features that it is made of
ROUNDS = 8  # of Lloyd's algorithm


def choose(names: list[str]) -> Matching:
    """What `auto` means for photos of these names."""
    if len(names) <= ALL_UP_TO:
        return "exhaustive"
    return "sequential" if len(names) >= VIDEO_FROM and _numbered(names) else "retrieval"


def exhaustive(count: int) -> list[tuple[int, int]]:
    """All pairs of positions, first < second, those near each other by name first: mapping can make something of them at once."""
    return [(i, i + gap) for gap in range(1, count) for i in range(count - gap)]


def sequential(count: int, alike: np.ndarray) -> list[tuple[int, int]]:
    """Each with the next ones, with some at growing distance, and now and then with those that look alike, where a path closes."""
    gaps = [*range(1, OVERLAP + 1), *(2**k for k in range(4, 8))]
    pairs = {(i, i + gap) for gap in gaps for i in range(count - gap)}
    pairs |= {_ordered(i, int(j)) for i in range(0, count, LOOP_EVERY) for j in _most(alike[i], i, ALIKE)}
    return sorted(pairs)


def retrieval(alike: np.ndarray) -> list[tuple[int, int]]:
    """Each with those that look most alike, (count, count) similarities, and with its neighbours by name."""
    count = len(alike)
    pairs = {(i, i + gap) for gap in range(1, NEXT + 1) for i in range(count - gap)}
    pairs |= {_ordered(i, int(j)) for i in range(count) for j in _most(alike[i], i, ALIKE)}
    return sorted(pairs)


def similarities(descriptors: list[np.ndarray], seed: int = 0) -> np.ndarray:
    """(count, count) float32, cosines of the VLAD vectors of photos with descriptors (n, 128) each; a photo without features is like no other."""
    rng = np.random.default_rng(seed)
    everything = np.concatenate(descriptors)
    if not len(everything):
        return np.zeros((len(descriptors), len(descriptors)), np.float32)
    sample = everything[rng.choice(len(everything), min(SAMPLE, len(everything)), replace=False)]
    words = sample[:WORDS]
    for _ in range(ROUNDS):
        nearest = _nearest(sample, words)
        counts = np.bincount(nearest, minlength=len(words))[:, None]
        words = np.where(counts > 0, _sums(nearest, sample, len(words)) / np.maximum(counts, 1), words)
    vectors = np.stack([_vlad(rows, words) for rows in descriptors])
    return vectors @ vectors.T


def _vlad(rows: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Sum of the residuals at each word; each of length 1, then all of it, so that repeated texture does not outweigh the rest."""
    nearest = _nearest(rows, words)
    sums = _sums(nearest, rows - words[nearest], len(words))
    sums /= np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-6)
    vector = sums.ravel()
    return (vector / max(float(np.linalg.norm(vector)), 1e-6)).astype(np.float32)


def _nearest(rows: np.ndarray, words: np.ndarray) -> np.ndarray:
    """(n,) position of the word nearest to each row."""
    return (2 * rows @ words.T - (words**2).sum(axis=1)).argmax(axis=1)


def _sums(nearest: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """(count, 128) float32, sum of the rows of each word."""
    return (np.arange(count)[:, None] == nearest[None]).astype(np.float32) @ rows


def _most(row: np.ndarray, own: int, count: int) -> np.ndarray:
    order = np.argsort(-row, kind="stable")
    return order[order != own][:count]


def _ordered(i: int, j: int) -> tuple[int, int]:
    return (i, j) if i < j else (j, i)


def _numbered(names: list[str]) -> bool:
    """frame_0001.jpg, frame_0002.jpg, ...: one text with one number that runs on, in steps that are all alike."""
    parts = [re.fullmatch(r"(.*?)(\d+)(\.\w+)", name) for name in names]
    if any(part is None for part in parts) or len({(part[1], part[3]) for part in parts}) > 1:
        return False
    numbers = np.diff(sorted(int(part[2]) for part in parts))
    return bool((numbers == np.median(numbers)).mean() > 0.95)
