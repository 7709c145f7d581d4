"""PlayCanvas's SOG: everything in lossless WebP pictures, one pixel per Gaussian, and a meta.json; a zip file, or a folder. developer.playcanvas.com.

    means_l, means_u   low and high bytes of x y z: 16 bits over [mins, maxs] of sign(x) ln(1 + |x|)
    quats              three smallest components over [-1/sqrt(2), 1/sqrt(2)]; alpha: 252 + which of wxyz is the largest
    scales, sh0        positions in codebooks of 256 log scales and SH coefficients; alpha of sh0: opacity
    shN_labels         16-bit position in a palette of SH coefficients
    shN_centroids      that palette, 64 entries per row, one pixel per coefficient: positions in a codebook of 256

Version 1 has smallest and largest values in place of codebooks, and opacities as logits. Written as version 2, in Morton order.
"""

from __future__ import annotations

import io
import json
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from ...errors import PlyError
from ..record import Gaussians
from ._codebook import SIZE, palette, scalar_codebook
from ._file import brief, read_bytes, require_justified, write_atomically
from ._quantise import COEFFICIENTS, bytes_of_logits, from_smallest_three, logits_of_bytes, morton_order, smallest_three, to_unorm, used_degree
from ._repair import arrays, finite_rows, to_gaussians

META = "meta.json"
_PALETTE = 1 << 16
_PER_ROW = 64
_MAX_SIDE = 16383  # px, of WebP
_WEBP = {"lossless": True, "quality": 75, "method": 4, "exact": True}  # exact: colours count where alpha is 0
# What zipfile, json and PIL raise, and what follows where meta.json holds something else than it should. RuntimeError: an encrypted zip, or
# (NotImplementedError, RecursionError) one of an unknown kind, or JSON nested without end.
_BROKEN = (zipfile.BadZipFile, zlib.error, Image.DecompressionBombError, OSError, EOFError, RuntimeError)
_BROKEN += (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError)
_FILES = ("means_l", "means_u", "quats", "scales", "sh0", "shN_centroids", "shN_labels")


def load_sog(path: str | os.PathLike) -> Gaussians:
    """Gaussians of a .sog file, a meta.json beside its pictures, or the folder of those.

    Raises:
        PlyError: it is missing, damaged, or of an unknown version.
    """
    path = Path(path)
    try:
        if path.is_dir() or path.suffix.lower() == ".json":
            folder, name = (path, META) if path.is_dir() else (path.parent, path.name)
            return _decode(path, json.loads(read_bytes(folder / name)), lambda file: read_bytes(folder / _plain(file)))
        data = read_bytes(path)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:

            def read(file: str) -> bytes:
                require_justified(path, archive.getinfo(_plain(file)).file_size, len(data))
                return archive.read(_plain(file))

            return _decode(path, json.loads(read(META)), read)
    except PlyError:
        raise
    except _BROKEN as error:
        raise PlyError(f"{path} is not a readable SOG file ({brief(error)}): copy or export it again") from error


def save_sog(path: str | os.PathLike, gaussians: Gaussians) -> None:
    """Write a .sog file, with SH up to the degree in use; the order of the Gaussians changes.

    Raises:
        SaveError: as `save_ply`.
        PlyError: as `save_ply`, or there are more than 268 million.
    """
    path = Path(path)
    g = finite_rows(path, gaussians)
    means, quats, log_scales, logits, sh0, shN = arrays(g, morton_order(g.means.numpy()))
    n, degree = len(g), used_degree(shN)
    width = -(-int(np.ceil(np.sqrt(n))) // 4) * 4
    height = -(-n // (4 * width)) * 4
    if width > _MAX_SIDE:
        raise PlyError(f"{n} Gaussians are too many for a SOG file: at most {_MAX_SIDE}^2")

    logs = np.sign(means) * np.log1p(np.abs(means.astype(np.float64)))
    low, high = logs.min(0), logs.max(0)
    fixed = to_unorm((logs - low) / np.where(high > low, high - low, 1), 16)
    largest, others = smallest_three(quats)
    scale_book, scale_labels = scalar_codebook(log_scales)
    colour_book, colour_labels = scalar_codebook(sh0[:, 0])
    pixels = {
        "means_l": fixed & 255,
        "means_u": fixed >> 8,
        "quats": np.concatenate([to_unorm(others / np.sqrt(2) + 0.5, 8), 252 + largest[:, None]], axis=1),
        "scales": scale_labels,
        "sh0": np.concatenate([colour_labels, bytes_of_logits(logits)[:, None]], axis=1),
    }
    meta: dict[str, Any] = {
        "version": 2,
        "asset": {"generator": "learn2splat"},
        "count": n,
        "means": {"mins": low.tolist(), "maxs": high.tolist(), "files": ["means_l.webp", "means_u.webp"]},
        "scales": {"codebook": scale_book.tolist(), "files": ["scales.webp"]},
        "quats": {"files": ["quats.webp"]},
        "sh0": {"codebook": colour_book.tolist(), "files": ["sh0.webp"]},
    }
    pictures = {name: _picture(values, width, height) for name, values in pixels.items()}
    if degree:
        k = COEFFICIENTS[degree]
        entries, labels = palette(shN[:, :k].reshape(n, 3 * k), _PALETTE)
        book, codes = scalar_codebook(entries)
        pictures["shN_labels"] = _picture(np.stack([labels & 255, labels >> 8], axis=1), width, height)
        pictures["shN_centroids"] = _picture(codes.reshape(-1, 3), _PER_ROW * k, -(-len(entries) // _PER_ROW))
        files = ["shN_centroids.webp", "shN_labels.webp"]
        meta["shN"] = {"count": len(entries), "bands": degree, "codebook": book.tolist(), "files": files}

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:  # WebP does not shrink further, and readers may map what is stored
        for name in _FILES:
            if name in pictures:
                webp = io.BytesIO()
                Image.fromarray(pictures[name]).save(webp, "WEBP", **_WEBP)
                archive.writestr(zipfile.ZipInfo(f"{name}.webp"), webp.getvalue())
        archive.writestr(zipfile.ZipInfo(META), json.dumps(meta))
    write_atomically(path, buffer.getbuffer())


def _picture(values: np.ndarray, width: int, height: int) -> np.ndarray:
    """(height, width, 4) uint8 with `values` (N, 2, 3 or 4) in its first pixels; alpha 255 where they say nothing else."""
    rgba = np.zeros((height * width, 4), np.uint8)
    rgba[:, 3] = 255
    rgba[: len(values), : values.shape[1]] = values
    return rgba.reshape(height, width, 4)


def _plain(name: Any) -> str:
    """A file name of meta.json, which may not lead out of its folder."""
    if not isinstance(name, str) or name != PurePosixPath(name).name or "\\" in name:
        raise PlyError(f"a SOG file names {name!r}: expected the plain name of a picture beside {META}")
    return name


def _numbers(values: Any, count: int) -> np.ndarray:
    numbers = np.asarray(values, np.float64)
    if numbers.shape != (count,):
        raise ValueError(f"expected {count} numbers, got shape {numbers.shape}")
    return numbers


def _decode(path: Path, meta: dict[str, Any], read: Callable[[str], bytes]) -> Gaussians:
    version = meta.get("version", 1)
    if version not in (1, 2):
        raise PlyError(f"{path} is SOG of version {version}: versions 1 and 2 can be read")
    n = int(meta["count"] if version == 2 else meta["means"]["shape"][0])
    if n < 1:
        raise PlyError(f"{path} holds no Gaussians")

    def pixels(group: str, file: int = 0, at_least: int = n) -> tuple[np.ndarray, int]:
        """((N, 4) uint8, width) of a picture."""
        data = read(meta[group]["files"][file])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `require_justified` has looked
            with Image.open(io.BytesIO(data), formats=["WEBP", "PNG"]) as picture:
                require_justified(path, 4 * picture.width * picture.height, len(data))
                rgba = np.asarray(picture.convert("RGBA")).reshape(-1, 4)
                if len(rgba) < at_least:
                    raise ValueError(f"a picture of {group} has {len(rgba)} pixels for {at_least} Gaussians")
                return rgba[:n] if at_least == n else rgba, picture.width

    def levels(group: str, channels: int) -> np.ndarray:
        """What bytes mean: (256, channels)."""
        if version == 2:
            return np.repeat(_numbers(meta[group]["codebook"], SIZE)[:, None], channels, 1)
        low, high = (np.broadcast_to(np.asarray(meta[group][end], np.float64), channels) for end in ("mins", "maxs"))
        return low + (high - low) * (np.arange(256) / 255)[:, None]

    low, high = (_numbers(meta["means"][end], 3) for end in ("mins", "maxs"))
    words = pixels("means")[0][:, :3].astype(np.uint32) | pixels("means", 1)[0][:, :3].astype(np.uint32) << 8
    logs = low + (high - low) * (words / 65535)
    tagged = pixels("quats")[0]
    quats = from_smallest_three(np.maximum(tagged[:, 3].astype(np.int64) - 252, 0), (tagged[:, :3] / 127.5 - 1) / np.sqrt(2))
    quats[tagged[:, 3] < 252] = [1, 0, 0, 0]
    scales, colours = pixels("scales")[0], pixels("sh0")[0]
    colour_levels = levels("sh0", 3 if version == 2 else 4)
    sh0 = np.take_along_axis(colour_levels[:, :3], colours[:, :3].astype(np.int64), 0)
    logits = logits_of_bytes(colours[:, 3]) if version == 2 else colour_levels[colours[:, 3], 3]
    log_scales = np.take_along_axis(levels("scales", 3), scales[:, :3].astype(np.int64), 0)
    shN = np.zeros((n, 0, 3))
    if meta.get("shN"):
        entries, width = pixels("shN", 0, 0)
        k = width // _PER_ROW
        if k not in (3, 8, 15) or width % _PER_ROW:
            raise ValueError(f"its palette is {width} px wide, expected {_PER_ROW} times 3, 8 or 15")
        table = levels("shN", 1)[:, 0][entries[:, :3]].reshape(-1, k, 3)
        labels = pixels("shN", 1)[0].astype(np.int64)
        labels = labels[:, 0] | labels[:, 1] << 8
        known = labels < len(table)
        shN = np.where(known[:, None, None], table[np.where(known, labels, 0)], 0.0)
    means = np.sign(logs) * np.expm1(np.abs(logs).clip(max=80))  # beyond float32, and left out
    return to_gaussians(path, means, quats, log_scales, logits, sh0, shN)
