"""Photos of an exact size, whose cameras still say where things are; random points that lie on the rays of the photos that are fitted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_scenes import tiny_scene

from learn2splat.errors import OptionError, SceneError
from learn2splat.scenes.adapt import cover_and_crop, with_random_points


def ramp(rows: int = 90, columns: int = 160):
    """A scene whose red is the column and whose green is the row of each pixel."""
    scene = tiny_scene(3)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    photo = torch.stack([x, y, 0 * x], dim=-1).to(torch.uint8)
    K = torch.tensor([[120.0, 0, 83.0], [0, 125.0, 41.0], [0, 0, 1]])
    return replace(scene, images=(photo,) * 3, Ks=K.repeat(3, 1, 1))


@pytest.mark.parametrize("size", [(45, 60), (45, 80), (30, 80), (90, 160), (37, 64), (50, 50)])  # height, width
def test_the_camera_follows_the_pixels(size):
    before = ramp()
    after = cover_and_crop(before, *size)
    photo, K, old = after.images[1].double(), after.Ks[1].double(), before.Ks[1].double()
    assert photo.shape == (*size, 3)
    for row, column in ((2, 3), (size[0] // 2, size[1] // 2), (size[0] - 3, size[1] - 3)):
        ray = torch.linalg.inv(K) @ torch.tensor([column + 0.5, row + 0.5, 1.0], dtype=torch.float64)
        x, y, _ = old @ ray
        # The ramp's value at position x is x - 0.5; it is rounded once, and resized values are rounded again.
        assert abs(float(photo[row, column, 0]) - (float(x) - 0.5)) < 0.8 and abs(float(photo[row, column, 1]) - (float(y) - 0.5)) < 0.8


def test_nothing_is_enlarged():
    with pytest.raises(SceneError, match=r"has 90 x 160 px \(height x width\), fewer than 91 x 100"):
        cover_and_crop(ramp(), 91, 100)


def test_random_points_lie_on_rays_of_fitted_photos_with_their_colours():
    scene = tiny_scene(6)
    scene = replace(
        scene,
        images=tuple(torch.full((24, 32, 3), 20 * i, dtype=torch.uint8) for i in range(6)),  # the colour tells the photo
        points=scene.points[:0],
        colors=scene.colors[:0],
        train_idx=(1, 3, 4),
        test_idx=(0, 2),
    )
    result = with_random_points(scene, 500, (1.0, 100.0))
    centres = scene.camtoworlds[[1, 3, 4], :3, 3]
    unit = float(torch.cdist(centres, centres).max())
    scale = result.to_normalised.scale  # the tiny scene's frame is its input frame
    depths = []
    for i in (1, 3, 4):
        mine = result.points[(result.colors == 20 * i).all(1)]
        assert len(mine) > 100
        in_camera = (torch.cat([mine, torch.ones(len(mine), 1)], dim=1) @ torch.linalg.inv(result.camtoworlds[i]).T)[:, :3]
        xy = (in_camera @ result.Ks[i].T)[:, :2] / in_camera[:, 2:]
        assert (xy > -0.01).all() and (xy < torch.tensor([32.01, 24.01])).all()
        depths.append(in_camera[:, 2])
    depths = torch.cat(depths)
    assert len(depths) == 500  # no point has the colour of a photo that is not fitted
    assert float(depths.min() / scale) > 0.999 * unit and float(depths.max() / scale) < 100.1 * unit
    assert float(depths.median()) == pytest.approx(1, rel=0.02) and float(result.points.median(0).values.abs().max()) < 0.02
    # The normalised frame still leads back to where the cameras were.
    torch.testing.assert_close(result.to_normalised.inverse().apply_poses(result.camtoworlds), scene.camtoworlds, rtol=0, atol=1e-4)
    assert "starts from 500 random ones on the rays of 3 photos" in result.warnings[-1]
    assert torch.equal(result.points, with_random_points(scene, 500, (1.0, 100.0)).points)


def test_random_points_that_make_no_sense():
    scene = tiny_scene(6)
    with pytest.raises(OptionError, match="positive count"):
        with_random_points(scene, 0, (1.0, 2.0))
    with pytest.raises(SceneError, match="at one place"):
        with_random_points(replace(scene, train_idx=(1,)), 10, (1.0, 2.0))
