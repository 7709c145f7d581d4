"""The native rasterizer given what it should not be given: a finite image, or one sentence."""

from __future__ import annotations

import os

import numpy
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_scenes import GAUSSIAN_KEYS, permuted, random_scene, relative_error, render_with_grads

from learn2splat.errors import OptionError, ShapeError
from learn2splat.render import rasterize
from learn2splat.render.reference import rasterize_reference

FEW = settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

NAN, INF = float("nan"), float("inf")


def assert_finite(result):
    renders, alphas, _, grads = result
    assert torch.isfinite(renders).all() and torch.isfinite(alphas).all()
    assert ((alphas >= 0) & (alphas <= 1)).all()
    assert all(torch.isfinite(grad).all() for grad in grads.values()), [k for k, g in grads.items() if not torch.isfinite(g).all()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("key", "column", "value"),
    [(k, c, v) for k in GAUSSIAN_KEYS for c in (0, -1) for v in (NAN, INF, -INF)] + [("quats", slice(None), 0.0)],
)
def test_a_broken_gaussian_is_absent(key, column, value, dtype):
    scene = random_scene(20, 30, cameras=2, sh_degree=3, dtype=dtype)
    bad = 7
    scene[key].view(30, -1)[bad, column] = value
    keep = [i for i in range(30) if i != bad]
    result = render_with_grads(rasterize, scene, absgrad=True)
    expected = render_with_grads(rasterize, permuted(scene, keep), absgrad=True)
    assert_finite(result)
    assert torch.allclose(result[0], expected[0], rtol=0, atol=1e-6)
    assert (result[2]["radii"][:, bad] == 0).all()
    for name in GAUSSIAN_KEYS:
        assert (result[3][name][bad] == 0).all(), name
        assert relative_error(result[3][name][keep], expected[3][name]) < (1e-4 if dtype == torch.float32 else 1e-12), name


CORNERS = {
    "zero scales": {"scales": 0.0},
    "one zero scale": {"scales": [0.1, 0.0, 0.1]},
    "tiny scales": {"scales": 1e-30},
    "huge scales": {"scales": 1e10},
    "overflowing scales": {"scales": 1e30},
    "negative scales": {"scales": -0.1},
    "needle": {"scales": [1e-6, 1e-6, 1e3]},
    "tiny quaternion": {"quats": 1e-30},
    "huge quaternion": {"quats": 1e30},
    "far away": {"means": [0.0, 0.0, 1e20]},
    "beside the camera": {"means": [5.0, 0.0, -4.0]},
    "just before the near plane": {"means": [0.0, 0.0, -3.98], "scales": 5.0},
    "just behind the near plane": {"means": [1.0, 1.0, -3.9999], "scales": 5.0},
    "behind the camera": {"means": [0.0, 0.0, -9.0]},
    "at the camera": {"means": [0.0, 0.0, -4.0], "scales": 10.0},
    "opacity above one": {"opacities": 7.0},
    "opacity below zero": {"opacities": -1.0},
    "huge colours": {"colors": 1e8},
}


@pytest.mark.parametrize("rasterize_mode", ["classic", "antialiased"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("corner", CORNERS)
def test_corner_cases_stay_finite(corner, dtype, rasterize_mode):
    scene = random_scene(21, 20, width=25, height=18, dtype=dtype)
    scene["viewmats"][0] = torch.eye(4)
    scene["viewmats"][0, 2, 3] = 4.0
    for key, value in CORNERS[corner].items():
        scene[key][3:6] = torch.tensor(value, dtype=dtype)
    result = render_with_grads(rasterize, scene, render_mode="RGB+ED", rasterize_mode=rasterize_mode, absgrad=True)
    assert_finite(result)
    if dtype == torch.float64:  # and right, as far as the reference itself is finite
        expected = render_with_grads(rasterize_reference, scene, render_mode="RGB+ED", rasterize_mode=rasterize_mode, absgrad=True)
        assert relative_error(result[0], expected[0]) < 1e-9


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data(), dtype=st.sampled_from([torch.float32, torch.float64]), antialiased=st.booleans())
def test_any_numbers_give_a_finite_image(data, dtype, antialiased):
    number = st.one_of(st.floats(-3, 3), st.sampled_from([0.0, 1.0, 1e-30, 1e-8, 1e5, 1e10, 1e19, 1e38, -1e19, NAN, INF, -INF]))
    n = data.draw(st.integers(0, 4))
    scene = random_scene(0, n, width=9, height=7, dtype=dtype)
    for key in ("means", "quats", "scales", "opacities"):
        flat = scene[key].view(-1)
        for i in data.draw(st.lists(st.integers(0, max(0, len(flat) - 1)), max_size=6)) if n else []:
            flat[i] = data.draw(number)
    mode = "antialiased" if antialiased else "classic"
    assert_finite(render_with_grads(rasterize, scene, render_mode="RGB+D" if data.draw(st.booleans()) else "ED", rasterize_mode=mode, absgrad=True))


BAD_SHAPES = {
    "means": torch.zeros(10, 2),
    "quats": torch.zeros(9, 4),
    "scales": torch.zeros(10),
    "opacities": torch.zeros(10, 1),
    "colors": torch.zeros(9, 3),
    "viewmats": torch.eye(4),
    "Ks": torch.eye(3)[None].repeat(3, 1, 1),
    "backgrounds": torch.zeros(3),
}


@pytest.mark.parametrize("key", BAD_SHAPES)
def test_wrong_shapes_name_the_argument(key):
    scene = random_scene(0, 10, cameras=2, dtype=torch.float32)
    with pytest.raises(ShapeError, match=rf"{key}.*{tuple(BAD_SHAPES[key].shape)}".replace("(", r"\(").replace(")", r"\)")):
        rasterize(**{**scene, key: BAD_SHAPES[key]})


def test_mixed_dtypes_and_bad_options_are_refused():
    scene = random_scene(0, 10, dtype=torch.float32)
    with pytest.raises(ShapeError, match=r"quats.*float32.*float64"):
        rasterize(**{**scene, "quats": scene["quats"].double()})
    with pytest.raises(ShapeError, match=r"means.*float16"):
        rasterize(**{k: v.half() if isinstance(v, torch.Tensor) else v for k, v in scene.items()})
    with pytest.raises(ShapeError, match="colors"):
        rasterize(**{**scene, "sh_degree": 2})  # (N, 3) colours are no SH
    with pytest.raises((OptionError, ShapeError), match=r"sh_degree|colors"):
        rasterize(**{**random_scene(0, 10, sh_degree=1), "sh_degree": 3})  # 4 coefficients are too few
    with pytest.raises(OptionError, match=r"render_mode.*RGBA"):
        rasterize(**scene, render_mode="RGBA")
    with pytest.raises(OptionError, match=r"rasterize_mode.*smooth"):
        rasterize(**scene, rasterize_mode="smooth")
    with pytest.raises((OptionError, ShapeError), match="width"):
        rasterize(**{**scene, "width": 0})


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"width": 32.0}, "width"), ({"height": "8"}, "height"), ({"width": None}, "width"), ({"sh_degree": "3"}, "sh_degree"),
        ({"near_plane": float("nan")}, "near_plane"), ({"far_plane": float("nan")}, "far_plane"), ({"far_plane": 0.001}, "far_plane"),
        ({"eps2d": -0.1}, "eps2d"), ({"eps2d": float("inf")}, "eps2d"),
    ],
)  # fmt: skip
def test_numbers_that_make_no_sense_are_refused(change, word):
    with pytest.raises(OptionError, match=word):
        rasterize(**{**random_scene(0, 10, dtype=torch.float32), **change})


def test_what_is_no_dense_tensor_is_refused():
    scene = random_scene(0, 10, dtype=torch.float32)
    for name, value in (("means", scene["means"].numpy()), ("opacities", scene["opacities"].to_sparse()), ("Ks", [[1.0]])):
        with pytest.raises(ShapeError, match=rf"{name} must be a dense torch tensor"):
            rasterize(**{**scene, name: value})


def test_nothing_is_seen_through_a_singular_camera():
    """With spherical harmonics its centre would be needed, which it does not have."""
    scene = random_scene(0, 10, dtype=torch.float32)
    scene["viewmats"] = torch.zeros_like(scene["viewmats"])
    scene.update(colors=torch.rand(len(scene["means"]), 16, 3), sh_degree=3)
    assert not rasterize(**scene)[1].any()


def test_whole_numbers_of_numpy_are_sizes():
    scene = random_scene(0, 10, dtype=torch.float32)
    assert torch.equal(rasterize(**{**scene, "width": numpy.int64(scene["width"])})[0], rasterize(**scene)[0])


def test_lists_that_do_not_fit_are_refused():
    """2^32 (block, Gaussian) pairs in one strip: their count must not wrap, and nothing of that size may be allocated first."""
    n, width = 2**17, 262_144
    scene = {**random_scene(0, 1, dtype=torch.float32), "width": width, "height": 1, "backgrounds": None}
    Ks = torch.tensor([[[float(width), 0.0, width / 2], [0.0, float(width), 0.5], [0.0, 0.0, 1.0]]])
    everywhere = {"means": torch.tensor([[0.0, 0.0, 2.0]]), "quats": torch.tensor([[1.0, 0.0, 0.0, 0.0]]), "scales": torch.full((1, 3), 3.0),
                  "opacities": torch.full((1,), 0.9), "colors": torch.ones(1, 3)}  # fmt: skip
    scene |= {"viewmats": torch.eye(4)[None], "Ks": Ks, **{key: value.expand(n, *value.shape[1:]) for key, value in everywhere.items()}}
    with pytest.raises(OptionError, match=rf"{n} Gaussians .* {width} x 1 px"):
        rasterize(**scene)
    with pytest.raises(OptionError, match="wide"):
        rasterize(**{**scene, "width": 2**20})


def test_the_last_column_of_the_widest_image_is_rendered():
    width = 65_535 * 8
    scene = {**random_scene(0, 1, dtype=torch.float32), "width": width, "height": 1, "backgrounds": None}
    Ks = torch.tensor([[[float(width), 0.0, width / 2], [0.0, float(width), 0.5], [0.0, 0.0, 1.0]]])
    scene |= {"means": torch.tensor([[0.0, 0.0, 2.0]]), "scales": torch.full((1, 3), 3.0), "opacities": torch.full((1,), 0.9)}
    scene |= {"viewmats": torch.eye(4)[None], "Ks": Ks}
    assert (rasterize(**scene)[1] > 0.8).all()


def test_thread_variable_is_checked(monkeypatch):
    monkeypatch.setitem(os.environ, "LEARN2SPLAT_NUM_THREADS", "0")
    with pytest.raises(OptionError, match="LEARN2SPLAT_NUM_THREADS"):
        rasterize(**random_scene(0, 10))


def test_calls_written_for_gsplat_run():
    """Its positional planes, its tuning arguments, and colours of any number of channels, three at a time."""
    scene = random_scene(30, 40, cameras=2, sh_degree=3)
    splat = [scene[key] for key in ("means", "quats", "scales", "opacities")]
    camera = [scene[key] for key in ("viewmats", "Ks", "width", "height")]
    plain = rasterize(*splat, scene["colors"], *camera, sh_degree=3)[0]
    assert torch.equal(rasterize(*splat, scene["colors"], *camera, 0.01, 1e10, 0.0, 0.3, 3, True, 8, sparse_grad=True)[0], plain)
    with pytest.raises(OptionError, match="radius_clip"):
        rasterize(*splat, scene["colors"], *camera, radius_clip=1.0, sh_degree=3)
    channels = torch.rand(40, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    behind = torch.rand(2, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    render, alpha, _ = rasterize(*splat, channels, *camera, backgrounds=behind, render_mode="RGB+D")
    assert render.shape[-1] == 8
    for columns in ([0, 1, 2], [2, 3, 4], [6, 6, 6]):
        three, background = channels[:, columns].contiguous(), behind[:, columns].contiguous()
        expected, same, _ = rasterize(*splat, three, *camera, backgrounds=background, render_mode="RGB+D")
        torch.testing.assert_close(render[..., columns], expected[..., :3], rtol=0, atol=1e-12)
        assert torch.equal(alpha, same) and torch.equal(render[..., -1], expected[..., -1])
