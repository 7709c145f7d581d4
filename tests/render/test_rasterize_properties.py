"""The native rasterizer by properties: order, absence, frames, crops."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_scenes import GAUSSIAN_KEYS, GRAD_KEYS, assert_same, permuted, random_scene, relative_error, render_with_grads

from learn2splat.render import rasterize
from learn2splat.render.reference import rasterize_reference

FEW = settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@FEW
@given(seed=st.integers(0, 1000), n=st.integers(1, 60), sh=st.sampled_from([None, 2]))
def test_order_of_gaussians_does_not_matter(seed, n, sh):
    scene = random_scene(seed, n, cameras=2, sh_degree=sh)  # random depths: no ties
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    renders, _, _, grads = render_with_grads(rasterize, scene)
    renders_p, _, _, grads_p = render_with_grads(rasterize, permuted(scene, order))
    assert relative_error(renders_p, renders) < 1e-13
    for key in GRAD_KEYS:
        assert relative_error(grads_p[key], grads[key][order] if key in GAUSSIAN_KEYS else grads[key]) < 1e-11, key


def test_ties_in_depth_go_by_index():
    scene = random_scene(16, 40, width=20, height=20, size=0.3)
    scene["means"][:, 2] = 0.0
    scene["viewmats"][:, :3, :3] = torch.eye(3)
    scene["viewmats"][:, :3, 3] = torch.tensor([0.0, 0.0, 4.0])
    assert_same(render_with_grads(rasterize, scene), render_with_grads(rasterize_reference, scene))


@FEW
@given(seed=st.integers(0, 1000), n=st.integers(1, 40))
def test_opacity_zero_is_absence(seed, n):
    scene = random_scene(seed, n + 5)
    scene["opacities"][2:7] = 0
    keep = [i for i in range(n + 5) if not 2 <= i < 7]
    renders, alphas, meta, grads = render_with_grads(rasterize, scene)
    renders_k, alphas_k, _, grads_k = render_with_grads(rasterize, permuted(scene, keep))
    assert relative_error(renders, renders_k) < 1e-14 and relative_error(alphas, alphas_k) < 1e-14
    assert (meta["radii"][:, 2:7] == 0).all()
    for key in GAUSSIAN_KEYS:
        assert relative_error(grads[key][keep], grads_k[key]) < 1e-12, key
        assert (grads[key][2:7] == 0).all(), key


@FEW
@given(seed=st.integers(0, 1000), n=st.integers(1, 40))
def test_moving_world_and_cameras_together_changes_nothing(seed, n):
    scene = random_scene(seed, n, cameras=2)  # colours, not SH: those would have to be rotated too
    g = torch.Generator().manual_seed(seed)
    motion = torch.eye(4, dtype=torch.float64)
    q = torch.nn.functional.normalize(torch.randn(4, generator=g, dtype=torch.float64), dim=0)
    w, x, y, z = q.tolist()
    left = torch.tensor([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]], dtype=torch.float64)  # quaternion product q * .
    vec, skew = q[1:], torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)  # rotation by q: Rodrigues
    motion[:3, :3] = (w * w - vec @ vec) * torch.eye(3, dtype=torch.float64) + 2 * torch.outer(vec, vec) + 2 * w * skew
    motion[:3, 3] = torch.randn(3, generator=g, dtype=torch.float64)
    moved = {**scene, "means": scene["means"] @ motion[:3, :3].T + motion[:3, 3], "quats": scene["quats"] @ left.T,
             "viewmats": scene["viewmats"] @ torch.linalg.inv(motion)}  # fmt: skip
    renders, alphas, _, grads = render_with_grads(rasterize, scene)
    renders_m, alphas_m, _, grads_m = render_with_grads(rasterize, moved)
    assert relative_error(renders_m, renders) < 1e-11 and relative_error(alphas_m, alphas) < 1e-11
    for key in ("scales", "opacities", "colors", "backgrounds"):
        assert relative_error(grads_m[key], grads[key]) < 1e-9, key
    assert relative_error(grads_m["means"] @ motion[:3, :3], grads["means"]) < 1e-9
    assert relative_error(grads_m["quats"] @ left, grads["quats"]) < 1e-9


@FEW
@given(seed=st.integers(0, 1000), left=st.integers(0, 15), right=st.integers(0, 15), top=st.integers(0, 12), bottom=st.integers(0, 12))
def test_shifting_the_intrinsics_crops_the_image(seed, left, right, top, bottom):
    scene = random_scene(seed, 40, width=45, height=40)
    scene["means"] *= 0.02  # all project near the centre, which every crop holds: no Jacobian is clamped
    scene["scales"] *= 2
    scene["Ks"][:, 0, 2], scene["Ks"][:, 1, 2] = 22.5, 20.0
    crop = {**scene, "width": 45 - left - right, "height": 40 - top - bottom, "Ks": scene["Ks"].clone()}
    crop["Ks"][:, 0, 2] -= left
    crop["Ks"][:, 1, 2] -= top
    whole = rasterize(**scene)
    part = rasterize(**crop)
    box = (slice(None), slice(top, 40 - bottom), slice(left, 45 - right))
    assert relative_error(part[0], whole[0][box]) < 1e-12 and relative_error(part[1], whole[1][box]) < 1e-12
    assert whole[1][box].max() > 0.5
