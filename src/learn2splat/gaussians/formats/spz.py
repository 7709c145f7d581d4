"""Niantic's SPZ: 24-bit positions, bytes for everything else, all compressed. github.com/nianticlabs/spz.

Header: magic NGSP, version, count, SH degree, fraction bits of the positions, flags. Then, one after another for all Gaussians: positions (3 x 24
bits; version 1: float16), opacities, colours, log scales (16 (s + 10)), rotations (versions 1 and 2: xyz in bytes; later: two bits for the largest of
xyzw, sign and 9 bits for each of the others), SH (128 (c + 1), colour fastest). Versions 1 to 3 are one gzip stream. Version 4 is a plain header of
32 bytes and one zstd stream per attribute, for which Python needs the package zstandard. Written as version 3, which every reader takes. Frames are
neither asked nor changed: what comes in goes out, as in Niantic's own tools.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np

from ...errors import BackendError, PlyError
from ..record import Gaussians
from ._file import read_bytes, require_justified, write_atomically
from ._quantise import COEFFICIENTS, bytes_of_logits, from_smallest_three, logits_of_bytes, smallest_three, used_degree
from ._repair import arrays, finite_rows, note, to_gaussians

MAGIC = b"NGSP"
GZIP = b"\x1f\x8b"
_HEADER = struct.Struct("<4sIIBBBB")
_COLOUR = 0.15  # colour byte = 255 (0.15 sh0 + 0.5): wider than sRGB
_SH_OF = {**COEFFICIENTS, 4: 24}
_MAX_FRACTION = 20


def load_spz(path: str | os.PathLike) -> Gaussians:
    """
    Raises:
        PlyError: the file is missing, damaged, or of an unknown version.
        BackendError: version 4, and the package zstandard is not installed.
    """
    path = Path(path)
    data = read_bytes(path)
    if data.startswith(MAGIC):
        version, n, degree, fraction, sections = _open_zstd(path, data)
    elif data.startswith(GZIP):
        version, n, degree, fraction, sections = _open_gzip(path, data)
    else:
        raise PlyError(f"{path} is not an SPZ file: expected it to begin as gzip or with {MAGIC.decode()}")
    positions, alphas, colours, scales, rotations, sh = (np.frombuffer(section, np.uint8).reshape(n, -1) for section in sections)
    if version == 1:
        means = np.ascontiguousarray(positions).view("<f2").astype(np.float64)
    else:
        low, middle, high = (positions.reshape(n, 3, 3)[..., i].astype(np.int32) for i in range(3))
        means = ((low | middle << 8 | high << 16) ^ 0x800000) - 0x800000  # sign of 24 bits
        means = means / float(1 << fraction)
    if degree > 3:
        note(f"{path} has spherical harmonics of degree {degree}: used up to degree 3")
    return to_gaussians(
        path,
        means,
        _unpack_rotations(rotations),
        scales / 16.0 - 10,
        logits_of_bytes(alphas[:, 0]),
        (colours / 255.0 - 0.5) / _COLOUR,
        (sh.reshape(n, -1, 3)[:, :15] - 128.0) / 128,
    )


def save_spz(path: str | os.PathLike, gaussians: Gaussians) -> None:
    """Write version 3, with SH up to the degree in use.

    Raises:
        SaveError, PlyError: as `save_ply`.
    """
    path = Path(path)
    g = finite_rows(path, gaussians)
    means, quats, log_scales, logits, sh0, shN = arrays(g)
    n, degree = len(g), used_degree(shN)
    outside = int(((log_scales < -10.1) | (log_scales > 6)).any(1).sum())
    if outside > n // 100:
        note(f"{outside} of {n} Gaussians are smaller or larger than SPZ can say (log scales from -10 to 5.9): clipped in {path}")
    fraction = _fraction_bits(means, log_scales)
    fixed = np.clip(np.round(means.astype(np.float64) * (1 << fraction)), -(1 << 23), (1 << 23) - 1).astype("<i4")
    largest, others = smallest_three(quats[:, [1, 2, 3, 0]])  # SPZ: xyzw
    magnitude = np.floor(np.abs(others) * np.sqrt(2) * 511 + 0.5).clip(0, 511).astype(np.uint32)
    code = (others < 0).astype(np.uint32) << 9 | magnitude
    packed = largest.astype(np.uint32) << 30 | code[:, 0] << 20 | code[:, 1] << 10 | code[:, 2]
    # All 8 bits of a coefficient. Niantic's tools keep 5 or 4, which saves 40 % of the file and costs 1.6 dB against the photos of `fern`.
    sh = np.clip(np.round(shN[:, : COEFFICIENTS[degree]] * 128) + 128, 0, 255)
    sections = [
        fixed.view(np.uint8).reshape(n, 3, 4)[..., :3],
        bytes_of_logits(logits),
        np.clip(np.round(255 * (_COLOUR * sh0[:, 0] + 0.5)), 0, 255),
        np.clip(np.round(16 * (log_scales + 10)), 0, 255),
        packed.astype("<u4").view(np.uint8),
        sh,
    ]
    payload = b"".join(section.astype(np.uint8).tobytes() for section in sections)
    write_atomically(path, gzip.compress(_HEADER.pack(MAGIC, 3, n, degree, fraction, 0, 0) + payload, mtime=0))


def _fraction_bits(means: np.ndarray, log_scales: np.ndarray) -> int:
    """As many as keep an error of a 32nd of the usual smallest side, if the largest coordinate then still fits."""
    wanted = np.ceil(5 - np.log2(np.exp(np.median(log_scales.min(1)))))
    fits = np.floor(23 - np.log2(max(float(np.abs(means).max()), 1e-9) + 1e-9))
    return int(np.clip(min(wanted, fits), 0, _MAX_FRACTION))


def _sizes(path: Path, version: int, n: int, degree: int, fraction: int) -> list[int]:
    """Bytes of the six sections."""
    if not 1 <= version <= 4 or degree not in _SH_OF or fraction > 24 or n == 0:
        raise PlyError(f"{path} is damaged or too new: SPZ version {version}, SH degree {degree}, {fraction} fraction bits, {n} Gaussians")
    return [size * n for size in (6 if version == 1 else 9, 1, 3, 3, 4 if version >= 3 else 3, 3 * _SH_OF[degree])]


def _open_gzip(path: Path, data: bytes) -> tuple[int, int, int, int, list[bytes]]:
    """(version, count, degree, fraction bits, sections) of versions 1 to 3. Unpacks the header first, and then no more than it asks for."""
    stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        head = stream.decompress(data, _HEADER.size)
        if len(head) < _HEADER.size or not head.startswith(MAGIC):
            raise PlyError(f"{path} is not an SPZ file: it unpacks to something else")
        _, version, n, degree, fraction, _, _ = _HEADER.unpack(head)
        sizes = _sizes(path, version, n, degree, fraction)
        require_justified(path, sum(sizes), len(data))
        payload = stream.decompress(stream.unconsumed_tail, sum(sizes))
    except zlib.error as error:
        raise PlyError(f"{path} is damaged ({error}): copy or export it again") from error
    if len(payload) < sum(sizes):
        raise PlyError(f"{path} is truncated: {n} Gaussians need {sum(sizes)} bytes, and it unpacks to {len(payload)}")
    ends = np.cumsum([0, *sizes])
    return version, n, degree, fraction, [payload[a:b] for a, b in pairwise(ends)]


def _open_zstd(path: Path, data: bytes) -> tuple[int, int, int, int, list[bytes]]:
    """The same of version 4."""
    try:
        import zstandard
    except ImportError as error:
        raise BackendError(f"{path} is SPZ of version 4, compressed with zstd: pip install zstandard") from error
    if len(data) < 32:
        raise PlyError(f"{path} is truncated: it ends within its header")
    _, version, n, degree, fraction, _, streams = _HEADER.unpack_from(data)
    sizes = _sizes(path, version, n, degree, fraction)
    require_justified(path, sum(sizes), len(data))
    used = [size for size in sizes if size]
    table = struct.unpack_from("<I", data, 16)[0]
    begin = table + 16 * len(used)
    if streams != len(used) or not 32 <= table or begin > len(data):
        raise PlyError(f"{path} is damaged: expected {len(used)} streams, got {streams}")
    sections = []
    for i, size in enumerate(used):
        packed, unpacked = struct.unpack_from("<QQ", data, table + 16 * i)
        frame, section = data[begin : begin + packed], b""
        try:
            if unpacked == size and zstandard.frame_content_size(frame) in (size, -1):  # what a frame claims is allocated, whatever the maximum
                section = zstandard.ZstdDecompressor().decompress(frame, max_output_size=size)
        except zstandard.ZstdError as error:
            raise PlyError(f"{path} is damaged ({error}): copy or export it again") from error
        if len(section) != size:
            raise PlyError(f"{path} is damaged: a stream for {n} Gaussians must unpack to {size} bytes")
        sections.append(section)
        begin += packed
    return version, n, degree, fraction, [*sections, *[b""] * (len(sizes) - len(sections))]


def _unpack_rotations(packed: np.ndarray) -> np.ndarray:
    """wxyz (N, 4)."""
    if packed.shape[1] == 3:
        xyz = packed / 127.5 - 1
        return np.concatenate([np.sqrt(np.maximum(0, 1 - (xyz**2).sum(1, keepdims=True))), xyz], axis=1)
    word = np.ascontiguousarray(packed).view("<u4")[:, 0]
    codes = np.stack([word >> 20, word >> 10, word], axis=1)
    others = (codes & 511) / (511 * np.sqrt(2)) * np.where(codes & 512, -1, 1)
    return from_smallest_three((word >> 30).astype(np.int64), others)[:, [3, 0, 1, 2]]
