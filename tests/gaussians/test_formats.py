"""The splat formats against gaussforge (another implementation of all of them, in C++), in pictures, and with files that lie."""

from __future__ import annotations

import gzip
import io
import json
import math
import struct
import tracemalloc
import warnings
import zipfile

import gaussforge
import numpy as np
import pytest
import torch
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from random_gaussians import random_gaussians, same_bits
from tiny_scenes import arc, blobs

from learn2splat.errors import BackendError, Learn2SplatError, OptionError, PlyError
from learn2splat.gaussians import FORMATS, Gaussians, load_splat, save_splat
from learn2splat.gaussians.formats import SUFFIXES, sog
from learn2splat.gaussians.formats._codebook import palette, scalar_codebook
from learn2splat.gaussians.formats._quantise import from_smallest_three, smallest_three
from learn2splat.losses import psnr
from learn2splat.render import render_views

THEIR_NAME = {"compressed-ply": "compressed.ply"}
# dB of the picture before to the picture after, at least; measured: inf, 50.6, 52.3, 68.2, 43.4
FAITHFUL = {"ply": math.inf, "compressed-ply": 44, "spz": 44, "sog": 50, "splat": 38}


def splat(n: int = 700) -> Gaussians:
    """Blobs whose colours depend on the view."""
    g = blobs(n, 3)
    g.log_scales -= 0.8
    g.shN = 0.05 * torch.randn(n, 15, 3, generator=torch.Generator().manual_seed(0))
    return g


def render(g: Gaussians) -> torch.Tensor:
    K = torch.tensor([[80.0, 0, 40], [0, 80, 30], [0, 0, 1]]).repeat(3, 1, 1)
    return render_views(g, torch.linalg.inv(arc(3)), K, 80, 60)


def theirs(data: bytes, name: str) -> Gaussians:
    """What gaussforge reads; its reader of .splat fails (std::bad_cast), so that is read here, number by number."""
    if name == "splat":
        rows = torch.tensor([struct.unpack_from("<6f8B", data, i) for i in range(0, len(data), 32)], dtype=torch.float64)
        quats, alphas = rows[:, 10:14] / 128 - 1, rows[:, 9].clamp(0.5, 254.5) / 255
        sh0 = (rows[:, None, 6:9] / 255 - 0.5) * 2 * math.sqrt(math.pi)
        return Gaussians(rows[:, :3], quats, rows[:, 3:6].log(), alphas.logit(), sh0, torch.zeros(len(rows), 15, 3).double()).to(torch.float32)
    read = gaussforge.GaussForge().read(data, THEIR_NAME.get(name, name))["data"]
    n = read["numPoints"]

    def field(key: str, *shape: int) -> torch.Tensor:
        return torch.from_numpy(np.frombuffer(read[key], np.float32).copy()).reshape(n, *shape)

    sh = field("sh", len(read["sh"]) // (12 * n), 3)
    shN = torch.cat([sh, torch.zeros(n, 15 - sh.shape[1], 3)], dim=1)
    return Gaussians(field("positions", 3), field("rotations", 4), field("scales", 3), field("alphas"), field("colors", 1, 3), shN)


def assert_same(a: Gaussians, b: Gaussians) -> None:
    """To the rounding of float32, up to the sign of the rotations; opacities of bytes 0 and 255 are clipped in several ways."""
    for name in ("means", "log_scales", "sh0", "shN"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(a.logit_opacities.clamp(-6, 6), b.logit_opacities.clamp(-6, 6), rtol=1e-4, atol=1e-4)
    unit = torch.nn.functional.normalize
    assert ((unit(a.quats, dim=1) * unit(b.quats, dim=1)).sum(1).abs() > 1 - 1e-5).all()


@pytest.mark.parametrize("name", FORMATS)
def test_a_round_trip_looks_the_same(tmp_path, name):
    g = splat()
    if name == "splat":
        g.shN.zero_()  # has no place for them
    path = tmp_path / f"a{SUFFIXES[name]}"
    save_splat(path, g)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert psnr(render(load_splat(path)), render(g)).min() >= FAITHFUL[name]
    assert path.stat().st_size < {"ply": 260, "splat": 33, "sog": 90}.get(name, 70) * len(g)
    again = tmp_path / f"b{SUFFIXES[name]}"
    save_splat(again, load_splat(path))
    assert psnr(render(load_splat(again)), render(load_splat(path))).min() >= FAITHFUL[name]  # what was rounded stays about where it is


@pytest.mark.parametrize("name", FORMATS)
def test_what_we_write_others_read(tmp_path, name):
    path = tmp_path / f"a{SUFFIXES[name]}"
    save_splat(path, splat(300))
    assert_same(load_splat(path), theirs(path.read_bytes(), name))


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("name", FORMATS)
def test_what_others_write_we_read(tmp_path, name, degree):
    g = splat(300)
    g.shN[:, [0, 3, 8, 15][degree] :] = 0
    save_splat(tmp_path / "a.ply", g)
    data = gaussforge.GaussForge().convert((tmp_path / "a.ply").read_bytes(), "ply", THEIR_NAME.get(name, name))["data"]
    path = tmp_path / f"b{SUFFIXES[name]}"
    path.write_bytes(data)
    assert_same(load_splat(path), theirs(data, name))


@pytest.mark.parametrize("version", [2, 3, 4])
def test_versions_of_spz(tmp_path, version, monkeypatch):
    save_splat(tmp_path / "a.ply", splat(100))
    forge = gaussforge.GaussForge()
    data = forge.convert((tmp_path / "a.ply").read_bytes(), "ply", "spz", spz_version=version)["data"]
    (tmp_path / "a.spz").write_bytes(data)
    assert_same(load_splat(tmp_path / "a.spz"), theirs(data, "spz"))
    if version == 4:
        monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
        with pytest.raises(BackendError, match="pip install zstandard"):
            load_splat(tmp_path / "a.spz")


def test_the_first_version_of_spz(tmp_path):
    """By hand: positions of float16, rotations of three bytes."""
    means = np.array([[1.5, -2, 0.25], [0, 3, -4]], "<f2")
    body = means.tobytes() + bytes([128, 255]) + bytes([0, 128, 255] * 2) + bytes([160, 0, 255] * 2) + bytes([255, 127, 127, 127, 127, 127])
    (tmp_path / "a.spz").write_bytes(gzip.compress(struct.pack("<4sIIBBBB", b"NGSP", 1, 2, 0, 12, 0, 0) + body))
    g = load_splat(tmp_path / "a.spz")
    assert g.means.tolist() == means.tolist() and g.log_scales[0].tolist() == [0, -10, 5.9375]
    torch.testing.assert_close(g.quats, torch.tensor([[0.0, 1, 0, 0], [1, 0, 0, 0]]), atol=0.005, rtol=0)


def test_the_first_version_of_sog(tmp_path):
    """By hand, as a folder: smallest and largest values in place of codebooks, opacities as logits."""

    def picture(name, pixel):
        Image.fromarray(np.array(pixel, np.uint8).reshape(1, 1, 4)).save(tmp_path / name, "WEBP", lossless=True, exact=True)

    for name, pixel in (("l", [255, 0, 0, 255]), ("u", [255, 0, 128, 255]), ("q", [255, 128, 128, 252]), ("s", [0, 255, 51, 255])):
        picture(f"{name}.webp", pixel)
    picture("c.webp", [0, 255, 0, 51])
    meta = {"means": {"shape": [1, 3], "mins": [-1, -1, -1], "maxs": [1, 1, 1], "files": ["l.webp", "u.webp"]}, "quats": {"files": ["q.webp"]}}
    meta |= {"scales": {"mins": [-5, -5, -5], "maxs": [0, 0, 0], "files": ["s.webp"]}}
    meta |= {"sh0": {"mins": [0, 0, 0, -10], "maxs": [1, 1, 1, 10], "files": ["c.webp"]}}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    for path in (tmp_path, tmp_path / "meta.json"):
        g = load_splat(path)
        torch.testing.assert_close(g.means, torch.tensor([[math.e - 1, 1 - math.e, math.expm1(2 * 32768 / 65535 - 1)]]), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(g.log_scales, torch.tensor([[-5.0, 0, -4]]))
        torch.testing.assert_close(g.logit_opacities, torch.tensor([-6.0]))
        torch.testing.assert_close(g.quats, torch.tensor([[0.5**0.5, 0.5**0.5, 0, 0]]), atol=0.01, rtol=0)
        assert g.sh0[0, 0].tolist() == [0, 1, 0]
    (tmp_path / "meta.json").write_text(json.dumps(meta | {"quats": {"files": ["../q.webp"]}}))
    with pytest.raises(PlyError, match="plain name"):
        load_splat(tmp_path)


def test_the_content_decides_and_a_foreign_file_is_named(tmp_path):
    g = random_gaussians(5)
    save_splat(tmp_path / "a.spz", g)
    (tmp_path / "a.ply").write_bytes((tmp_path / "a.spz").read_bytes())
    assert same_bits(load_splat(tmp_path / "a.ply"), load_splat(tmp_path / "a.spz"))
    (tmp_path / "a.bin").write_bytes(b"something else")
    for path, match in (("a.bin", "no splat file that can be read"), ("nowhere.spz", "no splat file at"), (".", "folder without meta.json")):
        with pytest.raises(PlyError, match=match):
            load_splat(tmp_path / path)
    with pytest.raises(OptionError, match="names no splat format"):
        save_splat(tmp_path / "a.obj", g)
    with pytest.raises(OptionError, match="format must be one of"):
        save_splat(tmp_path / "a.ply", g, "obj")
    g.means[2, 1] = torch.nan
    for name in FORMATS:
        with pytest.raises(PlyError, match="1 of 5"):
            save_splat(tmp_path / f"b{SUFFIXES[name]}", g)


def test_extreme_gaussians_stay_finite(tmp_path):
    g = random_gaussians(600)
    g.means[0] = 1e6
    g.logit_opacities[:2] = torch.tensor([40.0, -40.0])
    g.log_scales[3] = -30
    g.quats[4] = 1e-12
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in FORMATS:
            save_splat(tmp_path / f"a{SUFFIXES[name]}", g)
            again = load_splat(tmp_path / f"a{SUFFIXES[name]}")
            assert len(again) == len(g) and again.is_finite()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("name", ["compressed-ply", "spz", "sog", "splat", "spz4"])
def test_damaged_files_load_finite_or_raise(tmp_path, name, data):
    path = tmp_path / f"a{SUFFIXES.get(name, '.spz')}"
    save_splat(path, random_gaussians(7))
    if name == "spz4":
        save_splat(tmp_path / "a.ply", random_gaussians(7))
        path.write_bytes(gaussforge.GaussForge().convert((tmp_path / "a.ply").read_bytes(), "ply", "spz", spz_version=4)["data"])
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.one_of(st.just(len(raw)), st.integers(0, len(raw))))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert load_splat(path).is_finite()
        except Learn2SplatError:
            pass


def bombs():
    """Files of a few hundred bytes that ask for gigabytes."""
    header = struct.Struct("<4sIIBBBB")
    yield "a.spz", gzip.compress(header.pack(b"NGSP", 3, 2**32 - 1, 3, 12, 0, 0) + bytes(1000))
    frame = zstandard.ZstdCompressor().compress(bytes(1 << 20))
    n = 2**26
    sizes = [9 * n, n, 3 * n, 3 * n, 4 * n]
    toc = b"".join(struct.pack("<QQ", len(frame), size) for size in sizes)
    yield "b.spz", header.pack(b"NGSP", 4, n, 0, 12, 0, 5) + struct.pack("<I", 32) + bytes(12) + toc + frame * 5
    lists = "element vertex 100000000\nproperty list uchar int a\nproperty float x\n"
    for size in ("element vertex 9223372036854775808\nproperty float x\n", lists, "element vertex -3\nproperty float x\n"):
        yield f"{len(size)}.ply", f"ply\nformat binary_little_endian 1.0\n{size}end_header\n".encode() + bytes(100)
    yield "text.ply", b"ply\nformat ascii 1.0\nelement vertex 1000000000\nproperty float x\nend_header\n1\n"
    picture = io.BytesIO()
    Image.new("RGBA", (12000, 12000)).save(picture, "WEBP", lossless=True, quality=0, method=0)
    books = {"codebook": [0.0] * 256}
    meta = {"version": 2, "count": 144000000, "means": {"mins": [0] * 3, "maxs": [1] * 3, "files": ["p.webp"] * 2}}
    meta |= {"quats": {"files": ["p.webp"]}, "scales": {"files": ["p.webp"], **books}, "sh0": {"files": ["p.webp"], **books}}
    for kind, pixels in ((zipfile.ZIP_STORED, picture.getvalue()), (zipfile.ZIP_DEFLATED, bytes(80 << 20))):
        bundle = io.BytesIO()
        with zipfile.ZipFile(bundle, "w", kind) as archive:
            archive.writestr("meta.json", json.dumps(meta))
            archive.writestr("p.webp", pixels)
        yield f"{kind}.sog", bundle.getvalue()


def test_no_file_takes_more_memory_than_it_can_justify(tmp_path):
    for name, data in bombs():
        (tmp_path / name).write_bytes(data)
        tracemalloc.start()
        with pytest.raises(PlyError):
            load_splat(tmp_path / name)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 100e6, name


def test_smallest_three_is_exact():
    quats = torch.nn.functional.normalize(torch.randn(100, 4, generator=torch.Generator().manual_seed(0)), dim=1).numpy()
    back = from_smallest_three(*smallest_three(quats))
    assert np.abs(np.abs((back * quats).sum(1)) - 1).max() < 1e-6


def test_the_codebook_is_near_the_best_one():
    """Of normal numbers: the error of the best 256 levels is pi sqrt(3) / 2 / 256^2 (Panter and Dite 1951)."""
    values = np.random.default_rng(0).normal(size=200_000)
    book, labels = scalar_codebook(values)
    assert ((book[labels] - values) ** 2).mean() < 1.1 * math.pi * math.sqrt(3) / 2 / 256**2
    assert scalar_codebook(np.full((3, 2), 0.5))[0][0] == 0.5


def test_the_palette_keeps_clusters_apart():
    centres = np.random.default_rng(0).normal(size=(16, 9))
    rows = np.repeat(centres, 40, axis=0) + 1e-3 * np.random.default_rng(1).normal(size=(640, 9))
    entries, labels = palette(rows, 64)
    assert len(entries) == 64 and np.abs(entries[labels] - rows).max() < 0.01
    few, own = palette(rows[:50], 64)
    assert np.array_equal(few[own], rows[:50])


def test_a_large_splat_shares_its_palette(tmp_path, monkeypatch):
    monkeypatch.setattr(sog, "_PALETTE", 256)
    g = splat()
    save_splat(tmp_path / "a.sog", g)
    assert psnr(render(load_splat(tmp_path / "a.sog")), render(g)).min() > 30
    assert_same(load_splat(tmp_path / "a.sog"), theirs((tmp_path / "a.sog").read_bytes(), "sog"))
