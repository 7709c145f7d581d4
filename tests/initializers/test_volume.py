"""Warping and correlation of the cascade against `grid_sample`, loops and a closed form."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from learn2splat.initializers._volume import GROUPS, Seen, correlate, correlate_in_torch, patches_of, project_planes, unit_groups, warp

SIZE = (48, 32)  # px


def look_at(x, angle):
    """Camera from world: at (x, 0, 0), turned about y."""
    c, s = np.cos(angle), np.sin(angle)
    viewmat = torch.eye(4, dtype=torch.float64)
    viewmat[:3, :3] = torch.tensor([[c, 0, -s], [0, 1, 0], [s, 0, c]], dtype=torch.float64)
    viewmat[:3, 3] = -viewmat[:3, :3] @ torch.tensor([x, 0.1 * x, 0], dtype=torch.float64)
    return viewmat


def made(count=3, size=SIZE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    K = torch.tensor([[40.0, 0, 23], [0, 42, 17], [0, 0, 1]], dtype=torch.float64)
    photos = torch.rand(count, 3, size[1], size[0], generator=generator)
    features = unit_groups(torch.randn(count, 8 * GROUPS, size[1] // 4, size[0] // 4, generator=generator))
    patches = patches_of(photos.mean(1))
    viewmats = [look_at(0.3 * i, 0.1 * i) for i in range(count)]
    return [Seen(size, K + i * torch.diag(torch.tensor([1.0, 0, 0])), viewmats[i], features[i], patches[i], features[i]) for i in range(count)]


def test_points_are_seen_where_the_cameras_say():
    photo, neighbour, _ = made()
    depths = 1 + torch.rand(5, 8, 12, generator=torch.Generator().manual_seed(1))
    at, inside = project_planes(photo, neighbour, depths)
    for d, i, j in ((0, 0, 0), (4, 7, 11), (2, 3, 6)):
        pixel = torch.tensor([(j + 0.5) * 4, (i + 0.5) * 4, 1], dtype=torch.float64)
        p_cam = torch.linalg.inv(photo.K) @ pixel * depths[d, i, j].double()
        world = torch.linalg.inv(photo.viewmat) @ torch.cat([p_cam, torch.ones(1, dtype=torch.float64)])
        p = neighbour.K @ (neighbour.viewmat @ world)[:3]
        uv = p[:2] / p[2]
        expected = uv / torch.tensor(SIZE) * 2 - 1
        assert bool(inside[d, i, j]) == bool((expected.abs() <= 1).all())
        if inside[d, i, j]:
            assert torch.allclose(at[d, i, j].double(), expected, atol=1e-5)


def test_warping_is_grid_sample_at_every_depth():
    photo, neighbour, _ = made()
    depths = 1 + torch.rand(3, 8, 12, generator=torch.Generator().manual_seed(1))
    at, _ = project_planes(photo, neighbour, depths)
    warped = warp(neighbour.features, at)
    for d in range(3):
        expected = F.grid_sample(neighbour.features[None], at[d : d + 1], padding_mode="border", align_corners=False)[0]
        assert torch.equal(warped[:, d], expected)


def test_correlation_of_patches_is_that_of_numpy():
    grey = torch.rand(2, 12, 14, generator=torch.Generator().manual_seed(3))
    patches = patches_of(grey)
    for y, x in ((2, 2), (6, 7), (9, 11)):
        a, b = (grey[i, y - 2 : y + 3, x - 2 : x + 3].flatten().numpy() for i in range(2))
        assert np.isclose(float((patches[0, :, y, x] * patches[1, :, y, x]).sum()), np.corrcoef(a, b)[0, 1], atol=2e-3)


def test_a_photo_is_like_itself_and_the_share_of_neighbours_is_told():
    photo = made()[0]
    depths = torch.ones(2, 8, 12)
    volume = correlate(photo, [photo, photo, photo], depths)
    assert volume.shape == (GROUPS + 4, 2, 8, 12)
    assert torch.allclose(volume[: GROUPS + 1], torch.ones(1), atol=1e-4)  # the same features at the same place
    assert (volume[-1] == 1).all()
    behind = Seen(photo.size, photo.K, torch.diag(torch.tensor([-1.0, 1, -1, 1], dtype=torch.float64)), photo.features, photo.patches, photo.context)
    half = correlate(photo, [photo, behind], depths)
    assert (half[-1] == 0.5).all() and torch.allclose(half[:GROUPS], volume[:GROUPS], atol=1e-5)
    none = correlate(photo, [behind], depths)
    assert (none == 0).all()


def test_native_code_equals_torch():
    for size in ((48, 32), (32, 64)):
        photo, *neighbours = made(4, size)
        depths = 0.2 + 2 * torch.rand(6, size[1] // 4, size[0] // 4, generator=torch.Generator().manual_seed(2))
        for count in (1, 2, 3):
            expected = correlate_in_torch(photo, neighbours[:count], depths)
            with torch.no_grad():
                native = correlate(photo, neighbours[:count], depths)
            close = torch.isclose(native, expected, atol=2e-5)
            assert close.float().mean() > 0.998  # a point on the border of a photo may be in or out
            assert 0.1 < expected[-1].mean() < 1


def test_nothing_depends_on_the_unit_of_length_or_the_frame():
    seen = made()
    depths = 1 + torch.rand(4, 8, 12, generator=torch.Generator().manual_seed(1))
    before = correlate(seen[0], seen[1:], depths)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64))[0]
    for scale in (0.001, 1000.0):
        moved = []
        for one in seen:
            camtoworld = torch.linalg.inv(one.viewmat)
            camtoworld[:3] = rotation @ camtoworld[:3]
            camtoworld[:3, 3] = scale * (camtoworld[:3, 3] + torch.tensor([3.0, -2.0, 5.0], dtype=torch.float64))
            moved.append(Seen(one.size, one.K, torch.linalg.inv(camtoworld), one.features, one.patches, one.context))
        after = correlate(moved[0], moved[1:], scale * depths)
        assert torch.isclose(before, after, atol=1e-3).float().mean() > 0.99
