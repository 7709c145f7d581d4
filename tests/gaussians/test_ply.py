"""3DGS PLY files against files written by hand through plyfile, round trips, and everything that can be wrong with a file."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.lib.recfunctions import repack_fields
from plyfile import PlyData, PlyElement
from random_gaussians import random_gaussians, same_bits

from learn2splat.errors import PlyError, SaveError
from learn2splat.gaussians import COLUMNS, NUM_PARAMS, Gaussians, load_cloud, load_ply, save_ply

SPLAT = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]


def write(path, names, rows, *, dtype="<f4", **options):
    """A PLY by plyfile alone: `rows` (N, len(names))."""
    data = np.zeros(len(rows), [(name, dtype) for name in names])
    for name, column in zip(names, np.asarray(rows).T):
        data[name] = column
    PlyData([PlyElement.describe(data, "vertex")], **options).write(str(path))
    return path


def test_every_attribute_lands_where_it_belongs(tmp_path):
    names = [*SPLAT, *(f"f_rest_{i}" for i in range(45))]
    row = np.arange(len(names), dtype=np.float32)
    g = load_ply(write(tmp_path / "a.ply", names, [row, row + 100]))
    assert g.means.tolist() == [[0, 1, 2], [100, 101, 102]]
    assert g.sh0[0].tolist() == [[3, 4, 5]]
    assert g.logit_opacities.tolist() == [6, 106]
    assert g.log_scales[0].tolist() == [7, 8, 9]
    assert g.quats[0].tolist() == [10, 11, 12, 13]
    assert g.shN[0, :, 0].tolist() == list(range(14, 29))  # f_rest is channel-major: 15 of red, 15 of green, 15 of blue
    assert g.shN[0, 14].tolist() == [28, 43, 58]


@pytest.mark.parametrize(("num_rest", "k"), [(0, 0), (9, 3), (24, 8)])
def test_lower_sh_degrees_are_padded_with_zeros(tmp_path, num_rest, k):
    names = [*SPLAT, *(f"f_rest_{i}" for i in range(num_rest))]
    row = np.arange(len(names), dtype=np.float32)
    g = load_ply(write(tmp_path / "a.ply", names, [row]))
    assert (g.shN[0, k:] == 0).all()
    for channel in range(3):
        assert g.shN[0, :k, channel].tolist() == [14 + channel * k + i for i in range(k)]


def test_order_type_and_encoding_do_not_matter(tmp_path):
    names = [*SPLAT, *(f"f_rest_{i}" for i in range(9))]
    rows = np.random.default_rng(0).normal(size=(5, len(names)))
    expected = load_ply(write(tmp_path / "a.ply", names, rows))
    shuffled = np.random.default_rng(1).permutation(len(names))
    other = ["nx", *(names[i] for i in shuffled), "extra"]
    filled = np.concatenate([np.ones((5, 1)), rows[:, shuffled], np.ones((5, 1))], axis=1)
    for options in ({}, {"byte_order": ">"}, {"dtype": "<f8"}, {"text": True}):
        got = load_ply(write(tmp_path / "b.ply", other, filled, **options))
        for a, b in zip(expected.tensors().values(), got.tensors().values()):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_the_written_layout_is_that_of_3dgs(tmp_path):
    g = random_gaussians(6)
    save_ply(tmp_path / "a.ply", g)
    ply = PlyData.read(str(tmp_path / "a.ply"))
    vertex = ply["vertex"]
    rest = [f"f_rest_{i}" for i in range(45)]
    assert [p.name for p in vertex.properties] == [
        *["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"], *rest, "opacity", *SPLAT[7:]
    ]  # fmt: skip
    assert ply.byte_order == "<" and not ply.text and {p.val_dtype for p in vertex.properties} == {"f4"}
    assert np.array_equal(vertex["rot_0"], g.quats[:, 0]) and np.array_equal(vertex["opacity"], g.logit_opacities)
    assert np.array_equal(vertex["f_rest_16"], g.shN[:, 1, 1]) and np.array_equal(vertex["scale_2"], g.log_scales[:, 2])
    assert not vertex["nx"].any()


FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=arrays(np.float32, st.tuples(st.integers(1, 4), st.just(NUM_PARAMS)), elements=FINITE))
def test_round_trip_keeps_every_bit(tmp_path, rows):
    rows[~rows[:, COLUMNS["quats"]].any(1), COLUMNS["quats"].start] = 1  # a rotation of length 0 is none
    g = Gaussians.unflatten(torch.from_numpy(rows.copy()))
    save_ply(tmp_path / "a.ply", g)
    assert same_bits(load_ply(tmp_path / "a.ply"), g)


def test_loaded_gaussians_are_our_own_memory(tmp_path):
    save_ply(tmp_path / "a.ply", random_gaussians(3))
    g = load_ply(tmp_path / "a.ply")
    before = (tmp_path / "a.ply").read_bytes()
    for tensor in g.tensors().values():
        assert tensor.is_contiguous()
        tensor.zero_()
    assert (tmp_path / "a.ply").read_bytes() == before


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_rows_are_left_out_with_a_note(tmp_path, bad):
    rows = np.ones((5, len(SPLAT)), np.float32)
    rows[:, 0] = range(5)
    rows[1, 3:6] = bad
    rows[4, 0] = bad
    with pytest.warns(UserWarning, match="2 of 5 Gaussians in .* left out"):
        g = load_ply(write(tmp_path / "a.ply", SPLAT, rows))
    assert g.means[:, 0].tolist() == [0, 2, 3] and g.is_finite()
    rows[:, 1] = bad
    with pytest.raises(PlyError, match="none of the 5 Gaussians"):
        load_ply(write(tmp_path / "a.ply", SPLAT, rows))


def test_infinite_opacities_scales_of_0_and_rotations_of_0_are_mended(tmp_path):
    """Converters write log 0, the logit of 1 and unset rotations."""
    rows = np.tile(np.arange(len(SPLAT), dtype=np.float32), (4, 1))
    rows[0, 6], rows[1, 6] = np.inf, -np.inf
    rows[2, 8] = -np.inf
    rows[3, 10:] = 0
    with pytest.warns(UserWarning) as notes:
        g = load_ply(write(tmp_path / "a.ply", SPLAT, rows))
    assert [str(note.message).split(" in ")[0] for note in notes] == ["1 of 4 Gaussians", "2 of 4 opacities", "1 of 4 rotations"]
    assert g.logit_opacities.sigmoid().tolist() == pytest.approx([1 - 1 / 1020, 1 / 1020, 0.9975, 0.9975], abs=1e-4)
    assert g.log_scales[2].tolist() == pytest.approx([7, 7 + np.log(0.01), 9])
    assert g.quats[3].tolist() == [1, 0, 0, 0]


def test_a_2dgs_splat_gets_a_thickness(tmp_path):
    names = [name for name in SPLAT if name != "scale_2"]
    with pytest.warns(UserWarning, match="flat Gaussians"):
        g = load_ply(write(tmp_path / "a.ply", names, [np.arange(len(names), dtype=np.float32)]))
    assert g.log_scales[0].tolist() == pytest.approx([7, 8, 7 + np.log(0.01)]) and g.quats[0].tolist() == [9, 10, 11, 12]


@pytest.mark.parametrize(
    ("names", "dtype", "values"),
    [
        (["red", "green", "blue"], "u1", [0, 51, 255]),
        (["diffuse_red", "diffuse_green", "diffuse_blue"], "<u2", [0, 13107, 65535]),
        (["r", "g", "b"], "<f4", [0, 0.2, 1]),
        (["red", "green", "blue"], "<f8", [0, 51, 255]),
    ],
)
def test_colours_in_place_of_sh(tmp_path, names, dtype, values):
    """A splat of plain colours, and a cloud of them."""
    plain = [name for name in SPLAT if not name.startswith("f_dc")]
    rows = np.ones(2, [*((name, "<f4") for name in plain), *((name, dtype) for name in names)])
    for name, value in zip(names, values):
        rows[name][0] = value
        rows[name][1] = values[2]
    PlyData([PlyElement.describe(rows, "vertex")]).write(str(tmp_path / "a.ply"))
    assert (0.5 + 0.28209479 * load_ply(tmp_path / "a.ply").sh0[0, 0]).tolist() == pytest.approx([0, 0.2, 1], abs=1e-6)
    assert load_cloud(tmp_path / "a.ply") is None
    PlyData([PlyElement.describe(repack_fields(rows[["x", "y", "z", *names]]), "vertex")]).write(str(tmp_path / "a.ply"))
    points, colours = load_cloud(tmp_path / "a.ply")
    assert points.dtype == torch.float64 and colours[0].tolist() == pytest.approx([0, 0.2, 1], abs=1e-6)
    with pytest.raises(PlyError, match="is not a 3DGS splat"):
        load_ply(tmp_path / "a.ply")


def test_sh_of_degree_4_are_cut(tmp_path):
    names = [*SPLAT, *(f"f_rest_{i}" for i in range(72))]
    with pytest.warns(UserWarning, match="degree 4"):
        g = load_ply(write(tmp_path / "a.ply", names, [np.arange(len(names), dtype=np.float32)]))
    assert g.shN[0, :, 1].tolist() == list(range(14 + 24, 14 + 24 + 15))


def test_missing_attributes_are_named(tmp_path):
    names = [name for name in SPLAT if name not in ("opacity", "rot_3")]
    with pytest.raises(PlyError, match="lacks opacity, rot_3"):
        load_ply(write(tmp_path / "a.ply", names, np.zeros((2, len(names)))))


@pytest.mark.parametrize("rest", [range(10), range(1, 10)])
def test_an_odd_number_of_sh_attributes(tmp_path, rest):
    names = [*SPLAT, *(f"f_rest_{i}" for i in rest)]
    with pytest.raises(PlyError, match="0, 9, 24 or 45"):
        load_ply(write(tmp_path / "a.ply", names, np.zeros((2, len(names)))))


def test_truncated_and_foreign_files(tmp_path):
    path = tmp_path / "a.ply"
    save_ply(path, random_gaussians(8))
    whole = path.read_bytes()
    header = whole.index(b"end_header")
    for length in (0, 3, header // 2, header + 11, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(PlyError, match="not a readable PLY"):
            load_ply(path)
    path.write_bytes(bytes(range(256)) * 20)
    with pytest.raises(PlyError, match="not a readable PLY"):
        load_ply(path)
    with pytest.raises(PlyError, match="no PLY file"):
        load_ply(tmp_path / "nowhere.ply")
    with pytest.raises(PlyError, match="not a readable PLY"):
        load_ply(tmp_path)  # a folder
    with pytest.raises(PlyError, match="no Gaussians"):
        load_ply(write(path, SPLAT, np.zeros((0, len(SPLAT)))))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 10**6), value=st.integers(0, 255), length=st.integers(0, 10**6))
def test_damaged_files_load_finite_or_raise_plyerror(tmp_path, position, value, length):
    path = tmp_path / "a.ply"
    save_ply(path, random_gaussians(3))
    raw = bytearray(path.read_bytes())
    raw[position % len(raw)] = value
    path.write_bytes(raw[: len(raw) - (length % len(raw) if length % 3 == 0 else 0)])
    try:
        assert load_ply(path).is_finite()
    except PlyError:
        pass


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.ply"
    save_ply(path, random_gaussians(3))
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SaveError, match="No space left on device"):
        save_ply(path, random_gaussians(5))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.ply"]
    monkeypatch.undo()
    with pytest.raises(SaveError, match="below"):
        save_ply(tmp_path / "a.ply" / "below.ply", random_gaussians(3))


def test_non_finite_gaussians_are_not_written(tmp_path):
    g = random_gaussians(3)
    g.log_scales[1, 0] = torch.inf
    with pytest.raises(PlyError, match="1 of 3"):
        save_ply(tmp_path / "a.ply", g)
    assert not list(tmp_path.iterdir())
