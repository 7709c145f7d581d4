"""The sweep and its refinement against float64 references of the same definition and exact depths of procedural scenes; and what must not matter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from instruction_sets import LOWER, results_of_lower

from learn2splat import _native
from learn2splat.errors import OptionError, SceneError
from learn2splat.initializers import depth_maps, stereo_init
from learn2splat.initializers._neighbours import surroundings
from learn2splat.scenes import make_procedural_scene

FLOOR = 4e-5


def sample(picture, u, v):
    """Bilinear, float64; NaN outside of the pixel centres."""
    height, width = picture.shape
    if not (0 <= u <= width - 1 and 0 <= v <= height - 1):
        return np.nan
    j, i = min(int(u), width - 2), min(int(v), height - 2)
    a, b = u - j, v - i
    return (1 - b) * ((1 - a) * picture[i, j] + a * picture[i, j + 1]) + b * ((1 - a) * picture[i + 1, j] + a * picture[i + 1, j + 1])


def reference_scores(photo, others, warps, inverse_depths, best):
    """(D, h, w) float64 scores by loops over the definition in native/sweep.hpp."""
    height, width = photo.shape
    scores = np.full((len(inverse_depths), height, width), -1.0)
    for d, rho in enumerate(inverse_depths):
        correlations = np.full((len(others), height, width), -1.0)
        for n, (other, warp) in enumerate(zip(others, warps.astype(np.float64))):
            warped = np.full((height, width), np.nan)
            for i in range(height):
                for j in range(width):
                    p = warp[:9].reshape(3, 3) @ [j + 0.5, i + 0.5, 1] + rho * warp[9:]
                    if p[2] > 0:
                        warped[i, j] = sample(other.astype(np.float64), p[0] / p[2] - 0.5, p[1] / p[2] - 0.5)
            for i in range(height):
                for j in range(width):
                    window = np.s_[max(i - 2, 0) : i + 3, max(j - 2, 0) : j + 3]
                    x, y = photo[window].astype(np.float64), warped[window]
                    if np.isfinite(y).all():
                        covariance = (x * y).mean() - x.mean() * y.mean()
                        correlations[n, i, j] = covariance / np.sqrt((x.var() + FLOOR) * (y.var() + FLOOR))
        scores[d] = np.sort(correlations, 0)[::-1][:best].mean(0)
    return scores


def swept(pictures, neighbours, warps, ranges, count, best, threads=1):
    outputs = [[np.empty(picture.shape, np.float32) for picture in pictures] for _ in range(2)]
    _native.sweep(pictures, neighbours, warps, ranges, best, *outputs, count, threads)
    return outputs


def random_case():
    """Three pictures of different sizes, smooth enough that neighbours resemble each other, and warps that reach beyond the borders."""
    rng = np.random.default_rng(0)
    pictures = []
    for height, width in ((17, 21), (19, 18), (16, 23)):
        y, x = np.mgrid[:height, :width]
        waves = [np.sin(a * x + b * y + c) for a, b, c in rng.uniform(0.3, 1.5, (4, 3))]
        pictures.append((0.5 + 0.1 * sum(waves) + 0.02 * rng.standard_normal((height, width))).clip(0, 1).astype(np.float32))
    neighbours = np.array([[1, 2], [0, 2], [1, -1]], np.int32)
    warps = np.zeros((3, 2, 12), np.float32)
    warps[:, :, :9] = np.eye(3).reshape(-1) + rng.normal(0, 1, (3, 2, 9)) * np.array([0.05, 0.05, 1, 0.05, 0.05, 1, 1e-3, 1e-3, 0.02])
    warps[:, :, 9:] = rng.uniform(-6, 6, (3, 2, 3)) * [1, 1, 0.03]
    ranges = np.array([[0.2, 0.15], [0.1, 0.2], [0.3, 0.1]], np.float32)
    return pictures, neighbours, warps, ranges


@pytest.mark.parametrize("best", [1, 2])
def test_sweep_equals_loops_over_its_definition(best):
    pictures, neighbours, warps, ranges = random_case()
    count = 6
    inverse_depths, scores = swept(pictures, neighbours, warps, ranges, count, best)
    compared = 0
    for i, photo in enumerate(pictures):
        chosen = [n for n in neighbours[i] if n >= 0]
        rhos = ranges[i, 0] + np.arange(count) * ranges[i, 1].astype(np.float64)
        expected = reference_scores(photo, [pictures[n] for n in chosen], warps[i], rhos, min(best, len(chosen)))
        peak = expected.max(0)
        # A pixel that touches the border of a neighbour by a rounding error is in or out: such windows are few.
        assert (np.abs(scores[i] - peak) < 2e-4).mean() > 0.99
        assert (np.isnan(inverse_depths[i]) == (peak <= -1)).mean() > 0.99
        order = np.sort(expected, 0)
        clear = (order[-1] - order[-2] > 1e-3) & (peak > -1)
        at = expected.argmax(0)
        inner = clear & (at > 0) & (at < count - 1)
        before, after = (np.take_along_axis(expected, (at + side).clip(0, count - 1)[None], 0)[0] for side in (-1, 1))
        inner &= (before > -1) & (after > -1)
        offset = np.zeros_like(peak)
        offset[inner] = 0.5 * (before - after)[inner] / (before - 2 * peak + after)[inner]
        error = np.abs(inverse_depths[i] - (ranges[i, 0] + (at + offset) * ranges[i, 1]))[clear]
        assert (error < 0.01 * ranges[i, 1]).mean() > 0.98
        compared += clear.sum()
    assert compared > 300


def refined_case():
    """The pictures of `random_case`, smooth maps of about half their size to start from, and what `refine` makes of these."""
    pictures, neighbours, warps, ranges = random_case()
    rng = np.random.default_rng(1)
    maps = []
    for (first, step), (height, width) in zip(ranges, ((8, 11), (10, 9), (8, 11))):
        y, x = np.mgrid[:height, :width]
        rho = first + step * (2.5 + 0.2 * np.sin(x / 2) + 0.3 * y + 0.4 * (x > 5) + 0.1 * rng.standard_normal((height, width)))
        rho[rng.random((height, width)) < 0.05] = np.nan
        maps.append(rho.astype(np.float32))
    inverse_depths, scores = [rho.copy() for rho in maps], [np.full(rho.shape, -1, np.float32) for rho in maps]
    _native.refine(pictures, neighbours, warps, ranges, 2, inverse_depths, scores, 1)
    return pictures, neighbours, warps, ranges, maps, inverse_depths, scores


def reference_slopes(rho, row, column, step):
    """Least squares, with a ridge of 1, of the rises to the 5x5 pixels around that are no steeper than a step per pixel."""
    rows, rises = [], []
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            y, x = row + dy, column + dx
            if 0 <= y < rho.shape[0] and 0 <= x < rho.shape[1] and abs(rho[y, x] - rho[row, column]) <= step * (0.5 + max(abs(dx), abs(dy))):
                rows.append([dx, dy])
                rises.append(rho[y, x] - rho[row, column])
    A, b = np.array(rows, np.float64), np.array(rises, np.float64)
    return np.linalg.solve(A.T @ A + np.eye(2), A.T @ b)


def reference_refined(photo, others, warps, rho, row, column, step):
    """(5,) float64 scores of one pixel of the map by the definition in native/sweep.hpp."""
    columns, rows = photo.shape[1] / rho.shape[1], photo.shape[0] / rho.shape[0]
    slopes = reference_slopes(rho.astype(np.float64), row, column, float(step)) / [columns, rows]
    x, y = (column + 0.5) * columns, (row + 0.5) * rows
    offsets = [(dx, dy) for dy in range(-2, 3) for dx in range(-2, 3)]
    own = np.array([sample(photo.astype(np.float64), x + dx - 0.5, y + dy - 0.5) for dx, dy in offsets])
    scores = np.full((5, len(others)), -1.0)
    for t in range(5):
        for n, (other, warp) in enumerate(zip(others, warps.astype(np.float64))):
            values = []
            for dx, dy in offsets:
                at = rho[row, column] + (t - 2) * 0.6 * float(step) + slopes @ [dx, dy]
                p = warp[:9].reshape(3, 3) @ [x + dx, y + dy, 1] + at * warp[9:]
                values.append(sample(other.astype(np.float64), p[0] / p[2] - 0.5, p[1] / p[2] - 0.5) if p[2] > 0 else np.nan)
            if np.isfinite([*own, *values]).all():
                covariance = (own * values).mean() - own.mean() * np.mean(values)
                scores[t, n] = covariance / np.sqrt((own.var() + FLOOR) * (np.var(values) + FLOOR))
    return np.sort(scores, 1)[:, ::-1][:, :2].mean(1)


def test_refinement_equals_loops_over_its_definition():
    pictures, neighbours, warps, ranges, maps, inverse_depths, scores = refined_case()
    right, compared = 0, 0
    for i, rho in enumerate(maps):
        chosen = [n for n in neighbours[i] if n >= 0]
        step = ranges[i, 1]
        for row, column in np.argwhere(np.isfinite(rho)):
            expected = reference_refined(pictures[i], [pictures[n] for n in chosen], warps[i], rho, row, column, step)
            if expected.max() <= -1:
                right += scores[i][row, column] == -1 and inverse_depths[i][row, column] == rho[row, column]  # keeps what it had
            else:
                at = int(expected.argmax())
                before, middle, after = expected[at - 1] if at else -1, expected[at], expected[at + 1] if at < 4 else -1
                offset = 0.5 * (before - after) / (before - 2 * middle + after) if min(before, after) > -1 else 0
                there = rho[row, column] + (at - 2 + offset) * 0.6 * step
                right += abs(scores[i][row, column] - middle) < 2e-4 and abs(inverse_depths[i][row, column] - there) < 0.01 * step
            compared += 1
        assert np.isnan(inverse_depths[i][np.isnan(rho)]).all()
    # A place that rounding moves across the border of a picture, and two tries that are equally good, may go either way.
    assert compared > 200 and right > 0.98 * compared
    assert sum((score > -1).sum() for score in scores) > 60


def made_for_lower():
    made = {"swept": swept(*random_case(), 6, 2), "refined": refined_case()[-2:]}
    arrays = {f"{name}{kind}{i}": outputs[kind][i] for name, outputs in made.items() for kind in range(2) for i in range(3)}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


@pytest.mark.parametrize("isa", LOWER)
def test_instruction_sets_agree(isa, tmp_path):
    there = results_of_lower(isa, "test_stereo", "made_for_lower", tmp_path)
    for name, here in made_for_lower().items():
        assert torch.isclose(here, there[name], rtol=1e-3, atol=1e-4, equal_nan=True).double().mean() > 0.99, name


@pytest.fixture(scope="module", params=["room", "orbit", "forward"])
def known(request):
    """(scene, exact depths (M, H, W)); photos of the orbit stand 12 degrees apart."""
    views = 30 if request.param == "orbit" else 12
    return make_procedural_scene(7, layout=request.param, num_views=views, width=128, height=96, num_points=800, return_depth=True)


def relative_errors(maps, exact):
    """Of all confirmed pixels; and the share of pixels that are confirmed."""
    errors = []
    for i, depth, confirmed in zip(maps.idx, maps.depths, maps.confirmed):
        there = torch.nn.functional.interpolate(exact[i][None, None], size=depth.shape, mode="nearest-exact")[0, 0]
        errors.append((depth / there - 1).abs()[confirmed])
    return torch.cat(errors), float(torch.cat([c.flatten() for c in maps.confirmed]).float().mean())


def test_confirmed_depths_are_right(known):
    scene, exact = known
    errors, share = relative_errors(depth_maps(scene, scene.train_idx), exact)
    assert share > 0.5
    assert errors.median() < 0.012 and (errors < 0.05).float().mean() > 0.75


def test_without_points_the_cameras_give_the_range(known):
    scene, exact = known
    bare = replace(scene, points=scene.points[:0], colors=scene.colors[:0])
    errors, share = relative_errors(depth_maps(bare, scene.train_idx), exact)
    assert share > 0.3
    assert errors.median() < 0.03 and (errors < 0.05).float().mean() > 0.7


@pytest.mark.parametrize("scale", [0.001, 1 / 1024, 1000.0])
@pytest.mark.parametrize("with_points", [True, False])
def test_the_unit_of_length_does_not_matter(scale, with_points):
    scene = make_procedural_scene(1, num_views=6, width=64, height=48, num_points=300)
    if not with_points:
        scene = replace(scene, points=scene.points[:0], colors=scene.colors[:0])
    camtoworlds = scene.camtoworlds.clone()
    camtoworlds[:, :3, 3] *= scale
    scaled = replace(scene, camtoworlds=camtoworlds, points=scene.points * scale)
    here, there = (depth_maps(s, scene.train_idx) for s in (scene, scaled))
    for a, b, x, y in zip(here.depths, there.depths, here.confirmed, there.confirmed):
        if scale == 1 / 1024:  # every number is rounded alike
            assert torch.equal((a * scale).nan_to_num(), b.nan_to_num()) and torch.equal(x, y)
        assert (x == y).float().mean() > 0.999
        assert torch.isclose(a * scale, b, rtol=1e-3)[x & y].float().mean() > 0.995


def test_photos_of_any_size_and_orientation_work_together():
    scene, exact = make_procedural_scene(2, layout="orbit", num_views=24, width=128, height=96, num_points=500, return_depth=True)
    plain = depth_maps(scene, scene.train_idx, long_side=96)
    images, Ks, camtoworlds = list(scene.images), scene.Ks.clone(), scene.camtoworlds.clone()
    for i in range(1, 24, 3):  # every third photo turned by 90 degrees: x' = height - y, y' = x
        K = Ks[i].clone()
        images[i] = images[i].rot90(-1, (0, 1)).contiguous()
        Ks[i] = torch.tensor([[K[1, 1], 0, 96 - K[1, 2]], [0, K[0, 0], K[0, 2]], [0, 0, 1]])
        camtoworlds[i, :3, 0], camtoworlds[i, :3, 1] = -scene.camtoworlds[i, :3, 1], scene.camtoworlds[i, :3, 0]
    for i in range(2, 24, 3):  # and every third cropped
        images[i] = images[i][8:, 20:].contiguous()
        Ks[i, 0, 2] -= 20
        Ks[i, 1, 2] -= 8
    mixed = depth_maps(replace(scene, images=tuple(images), Ks=Ks, camtoworlds=camtoworlds), scene.train_idx, long_side=96)
    share, errors = [], []
    for i, depth, confirmed, before in zip(mixed.idx, mixed.depths, mixed.confirmed, plain.confirmed):
        truth = exact[i].rot90(-1, (0, 1)) if i % 3 == 1 else exact[i][8:, 20:] if i % 3 == 2 else exact[i]
        truth = torch.nn.functional.interpolate(truth[None, None], size=depth.shape, mode="nearest-exact")[0, 0]
        errors.append((depth / truth - 1).abs()[confirmed])
        share.append(confirmed.float().mean() / before.float().mean())
    assert {tuple(depth.shape) for depth in mixed.depths} == {(72, 96), (96, 72), (78, 96)}
    assert min(share) > 0.8
    assert torch.cat(errors).median() < 0.015 and (torch.cat(errors) < 0.05).float().mean() > 0.75


def test_points_are_where_the_exact_ones_are(known):
    scene, exact = known
    maps = depth_maps(scene, scene.train_idx)
    i = scene.train_idx[2]
    K, pose = scene.Ks[i], scene.camtoworlds[i]
    y, x = torch.meshgrid(torch.arange(96) + 0.5, torch.arange(128) + 0.5, indexing="ij")
    rays = torch.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], torch.ones_like(x)], 2)
    expected = (rays * exact[i][..., None]) @ pose[:3, :3].T + pose[:3, 3]
    difference = (maps.points(2) - expected).norm(dim=2)[maps.confirmed[2]]
    assert difference.median() < 0.03 * float(exact[i].median())


def test_bits_do_not_depend_on_the_thread_count(monkeypatch):
    scene = make_procedural_scene(1, num_views=6, width=100, height=75, num_points=300)
    results = []
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("LEARN2SPLAT_NUM_THREADS", threads)
        results.append(depth_maps(scene, scene.train_idx))
    for other in results[1:]:
        for name in ("depths", "scores", "confirmed"):
            assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(getattr(results[0], name), getattr(other, name)))


def test_only_the_given_photos_are_looked_at():
    scene = make_procedural_scene(4, num_views=9, width=64, height=48, num_points=300)
    spoiled = tuple(image if i in scene.train_idx else torch.zeros_like(image) for i, image in enumerate(scene.images))
    here, there = (depth_maps(s, scene.train_idx) for s in (scene, replace(scene, images=spoiled)))
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(here.depths, there.depths))


def test_photos_without_a_neighbour_have_no_depth():
    scene = make_procedural_scene(4, num_views=6, width=64, height=48, num_points=300)
    alone = depth_maps(scene, [2])
    assert alone.depths[0].isnan().all() and (alone.scores[0] == -1).all() and not alone.confirmed[0].any()
    still = depth_maps(replace(scene, camtoworlds=scene.camtoworlds[:1].repeat(6, 1, 1)), scene.train_idx)  # no parallax
    assert not any(confirmed.any() for confirmed in still.confirmed)
    nothing = depth_maps(scene, [])
    assert nothing.depths == () and nothing.Ks.shape == (0, 3, 3)


def test_neighbours_have_parallax_and_overlap():
    """Cameras on a line that look along +z, 1 degree apart at the points: those 5 degrees away are best; one that looks back is none."""
    viewmats = torch.eye(4, dtype=torch.float64).repeat(14, 1, 1)
    step = float(np.tan(np.radians(1.0)))
    viewmats[:13, 0, 3] = -step * (torch.arange(13) - 6)
    viewmats[13, :3, :3] = torch.diag(torch.tensor([-1.0, 1.0, -1.0]))
    Ks = torch.tensor([[100.0, 0, 50], [0, 100, 50], [0, 0, 1]], dtype=torch.float64).repeat(14, 1, 1)
    points = torch.tensor([[x, y, 1.0] for x in np.linspace(-0.2, 0.2, 8) for y in np.linspace(-0.2, 0.2, 8)])
    around = surroundings(viewmats, Ks, torch.full((14, 2), 100.0, dtype=torch.float64), points, 4)
    assert set(around.neighbours[6].tolist()) == {1, 11, 0, 12} or set(around.neighbours[6].tolist()) == {1, 11, 2, 10}
    assert not (around.neighbours == 13).any()
    assert float(around.near[6]) < 1 < float(around.far[6])


@pytest.mark.parametrize(
    "options", [{"long_side": 4}, {"num_depths": 1}, {"best": 0}, {"best": 7}, {"num_neighbours": 9}, {"idx": [0, 0]}, {"idx": [99]}, {"idx": [-1]}]
)
def test_mistakes_are_named(options):
    scene = make_procedural_scene(4, num_views=6, width=64, height=48, num_points=300)
    with pytest.raises(OptionError, match="got"):
        depth_maps(scene, **{"idx": [0, 1], **options})


def test_a_start_without_points_lies_on_the_surfaces(known):
    scene, exact = known
    bare = replace(scene, points=scene.points[:0], colors=scene.colors[:0])
    gaussians = stereo_init(bare, max_points=2000, generator=torch.Generator().manual_seed(0))
    assert len(gaussians) == 2000 and gaussians.is_finite()
    view = scene.test_idx[1]  # was not used; here a Gaussian is at its surface or behind it, seen from elsewhere
    p_cam = gaussians.means @ scene.viewmats[view, :3, :3].T + scene.viewmats[view, :3, 3]
    uv = ((p_cam @ scene.Ks[view].T)[:, :2] / p_cam[:, 2:]).floor().long()
    inside = (p_cam[:, 2] > 0) & (uv >= 0).all(1) & (uv[:, 0] < 128) & (uv[:, 1] < 96)
    there = exact[view][uv[inside, 1], uv[inside, 0]]
    ratio = p_cam[inside, 2] / there
    assert inside.sum() > 300
    assert ((ratio - 1).abs() < 0.05).float().mean() > 0.25 and (ratio < 0.95).float().mean() < 0.25


def test_a_start_needs_pixels_that_are_confirmed():
    scene = make_procedural_scene(4, num_views=6, width=64, height=48, num_points=300)
    blank = replace(scene, images=tuple(torch.zeros_like(image) for image in scene.images))
    with pytest.raises(SceneError, match="no depth that two of the 5 photos agree on"):
        stereo_init(blank, generator=torch.Generator())
