"""Masks: found under the names that programs give them, shrunk and undistorted with their photos, obeyed by the fit and by its scores."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pycolmap
import pytest
import torch
from PIL import Image
from scene_makers import PARAMS, poses, write_scene
from test_scene_transforms import opengl_pose, write_json
from tiny_scenes import blobs, tiny_scene

from learn2splat import fit
from learn2splat.errors import SceneError
from learn2splat.fitting import mean_score, score
from learn2splat.fitting.gradients import loss_and_gradients
from learn2splat.fitting.problem import ViewsProblem
from learn2splat.losses import psnr
from learn2splat.scenes import load_scene
from learn2splat.scenes.adapt import cover_and_crop, resized

pytestmark = pytest.mark.filterwarnings("ignore:.*mask")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "s"
    write_scene(folder, count=3)
    return folder


@pytest.fixture
def root(plain, tmp_path):
    return shutil.copytree(plain, tmp_path / "s")


def save_mask(path, values=None):
    """The left third is hidden."""
    mask = np.full((180, 240), 255, np.uint8)
    mask[:, :80] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask if values is None else values).save(path)


@pytest.mark.parametrize(
    "name",
    [
        *("masks/01.png.png", "masks/01.png", "masks/01.jpg", "mask/01_mask.png", "masks/01.png.mask.png"),
        *("images/01_mask.png", "images/01.png.mask.png", "Masks/01.PNG.PNG", "images/masks/01.png"),
    ],
)
def test_the_usual_names(root, name):
    save_mask(root / name)
    with pytest.warns(UserWarning, match=r"masks hide 11.1% of the pixels: neither fitted nor scored \(--no-masks to use them\)"):
        scene = load_scene(root)
    assert len(scene) == 3 and [mask.shape for mask in scene.masks] == [(180, 240)] * 3 and scene.masks[0].dtype == torch.bool
    assert scene.masks[0].all() and scene.masks[1][:, 84:].all() and not scene.masks[1][:, :76].any()
    assert load_scene(root, masks=False).masks is None


def test_masks_of_photos_in_folders(root):
    (root / "images").rename(root / "cam0")
    (root / "images").mkdir()
    (root / "cam0").rename(root / "images" / "cam0")
    reconstruction = pycolmap.Reconstruction(str(root / "sparse" / "0"))
    for image in reconstruction.images.values():
        image.name = "cam0/" + image.name
    reconstruction.write_binary(str(root / "sparse" / "0"))
    save_mask(root / "masks" / "cam0" / "02.png.png")
    masks = load_scene(root).masks
    assert masks[1].all() and not masks[2][:, :80].any()


def test_masks_that_belong_to_no_photo_and_photos_without_one(root):
    save_mask(root / "masks" / "frame_1.png")
    with pytest.warns(UserWarning, match="no mask in .*masks is named after a photo .*: all pixels count"):
        assert load_scene(root).masks is None
    save_mask(root / "masks" / "01.png")
    with pytest.warns(UserWarning, match=r"2 photos \(00.png, 02.png\): without a mask, all pixels count"):
        load_scene(root)


def test_masks_beside_photos_beside_the_model(root):
    for file in (root / "images").iterdir():
        file.rename(root / file.name)
    (root / "images").rmdir()
    save_mask(root / "masks" / "01.png")
    assert not load_scene(root).masks[1][:, :80].any()


@pytest.mark.parametrize("low, high", [(0, 1), (0, 255), (3, 250), (0, 90)])
def test_black_is_what_is_darker_than_half_of_the_brightest(root, low, high):
    values = np.full((180, 240), high, np.uint8)
    values[:, :80] = low
    save_mask(root / "masks" / "01.png", values)
    assert not load_scene(root).masks[1][:, :80].any() and load_scene(root).masks[1][:, 80:].all()


def test_mask_path_of_nerfstudio(root):
    shutil.rmtree(root / "sparse")
    save_mask(root / "hidden" / "b.png")
    frames = [{"file_path": f"images/{i:02d}.png", "transform_matrix": opengl_pose(pose).tolist()} for i, pose in enumerate(poses(3))]
    frames[1]["mask_path"] = "hidden\\b.png"
    frames[2]["mask_path"] = None
    write_json(root / "transforms.json", frames, fl_x=200, w=240, h=180)
    assert not load_scene(root).masks[1][:, :80].any()
    frames[1]["mask_path"] = "/other/machine/hidden/b.png"
    write_json(root / "transforms.json", frames, fl_x=200, w=240, h=180)
    assert not load_scene(root).masks[1][:, :80].any()
    for frame in frames:
        frame.pop("mask_path", None)
    save_mask(root / "masks" / "01.png.png")
    write_json(root / "transforms.json", frames, fl_x=200, w=240, h=180)
    assert not load_scene(root).masks[1][:, :80].any()
    frames[1]["mask_path"] = "hidden/gone.png"
    write_json(root / "transforms.json", frames, fl_x=200, w=240, h=180)
    with pytest.raises(SceneError, match=r"mask hidden/gone.png of photo images/01.png is missing.*--no-masks"):
        load_scene(root)
    assert load_scene(root, masks=False).masks is None


def with_alpha(path, hidden):
    """The photo with alpha 0 in `hidden` columns, and other colours there."""
    rgba = np.array(Image.open(path).convert("RGBA"))
    rgba[:, hidden] = [200, 10, 10, 0]
    Image.fromarray(rgba).save(path)


def test_alpha_of_a_colmap_photo_is_a_mask(root):
    with_alpha(root / "images" / "02.png", slice(0, 60))
    with pytest.warns(UserWarning, match="transparent pixels hide 8.3%.*--background white to paint them"):
        scene = load_scene(root)
    assert torch.equal(scene.background, torch.zeros(3)) and not scene.masks[2][:, :60].any() and scene.masks[2][:, 60:].all()
    assert load_scene(root, background="white").masks is None
    untouched = load_scene(root, masks=False)
    assert untouched.masks is None and untouched.images[2][0, 0].tolist() == [200, 10, 10]
    with_alpha(root / "images" / "01.png", slice(0, 0))  # alpha is there, and full
    assert load_scene(root).masks[1].all()


def test_alpha_of_nerfstudio_is_a_mask_and_of_blender_a_background(root):
    shutil.rmtree(root / "sparse")
    with_alpha(root / "images" / "02.png", slice(0, 60))
    frames = [{"file_path": f"images/{i:02d}.png", "transform_matrix": opengl_pose(pose).tolist()} for i, pose in enumerate(poses(3))]
    write_json(root / "transforms.json", frames, fl_x=200, w=240, h=180)
    scene = load_scene(root)
    assert torch.equal(scene.background, torch.zeros(3)) and not scene.masks[2][:, :60].any()
    write_json(root / "transforms.json", frames, camera_angle_x=2 * math.atan(120 / 200))
    scene = load_scene(root)
    assert torch.equal(scene.background, torch.ones(3)) and scene.masks is None and scene.images[2][0, 0].tolist() == [255] * 3
    assert torch.equal(load_scene(root, background="black").background, torch.zeros(3))


@pytest.mark.parametrize("kind", ["mask", "alpha"])
def test_a_photo_without_any_visible_pixel_is_an_error(root, kind):
    if kind == "mask":
        save_mask(root / "masks" / "01.png", np.zeros((180, 240), np.uint8))
    else:
        with_alpha(root / "images" / "01.png", slice(None))
    with pytest.raises(SceneError, match=r"photo .*01.png has no visible pixel.*--no-masks"):
        load_scene(root)


def test_masks_that_do_not_fit_or_cannot_be_read(root):
    save_mask(root / "masks" / "01.png", np.full((240, 180), 255, np.uint8))
    with pytest.raises(SceneError, match=r"the mask .*01.png has 180 x 240 px, its photo 01.png 240 x 180: .*--no-masks"):
        load_scene(root)
    (root / "masks" / "01.png").write_text("nothing")
    with pytest.raises(SceneError, match=r"the mask .*01.png is corrupt or not an image"):
        load_scene(root)
    save_mask(root / "masks" / "01.png", np.pad(np.zeros((90, 40), np.uint8), ((0, 0), (0, 80)), constant_values=255))  # half the size
    assert not load_scene(root).masks[1][:, :80].any() and load_scene(root).masks[1][:, 80:].all()


def test_masks_shrink_with_their_photos_and_grow_at_the_edge(root):
    """A small pixel counts only if nothing hidden is in it."""
    save_mask(root / "masks" / "01.png")
    small = load_scene(root, long_side=90)
    assert small.masks[1].shape == small.images[1].shape[:2]
    edge = 80 * 90 / 240
    assert not small.masks[1][:, : math.ceil(edge)].any() and small.masks[1][:, math.ceil(edge) + 1 :].all()
    again = resized(load_scene(root), 90)
    assert torch.equal(again.masks[1], small.masks[1]) and torch.equal(again.images[1], small.images[1])
    cropped = cover_and_crop(load_scene(root), 60, 60)
    assert cropped.masks[1].shape == (60, 60) and torch.equal(cropped.masks[1], resized(load_scene(root), 80).masks[1][:, 10:70])


def test_masks_are_undistorted_with_their_photos(tmp_path):
    """A mask that hides just what a photo shows dark hides it still when the lens is gone."""
    root = tmp_path / "s"
    write_scene(root, "OPENCV", count=2)
    photo = np.full((180, 240, 3), 250, np.uint8)
    photo[:, 30:60] = 0
    Image.fromarray(photo).save(root / "images" / "01.png")
    save_mask(root / "masks" / "01.png", photo[..., 0])
    scene = load_scene(root)
    assert scene.masks[1].shape == scene.images[1].shape[:2] and 0.8 < float(scene.masks[1].float().mean()) < 0.95
    assert scene.images[1][scene.masks[1]].min() > 240 and (scene.images[1][~scene.masks[1]].float().mean() < 60)
    assert PARAMS["OPENCV"][4] != 0


def masked_tiny_scene():
    """A tiny scene with a passer-by of another colour at another place in every photo, who is masked."""
    scene = tiny_scene(9)
    generator = torch.Generator().manual_seed(1)
    images, masks = [], []
    for i, image in enumerate(scene.images):
        image, mask = image.clone(), torch.ones(image.shape[:2], dtype=torch.bool)
        at = slice(7 * i % 22, 7 * i % 22 + 12)
        mask[:, at] = False
        image[:, at] = torch.randint(0, 256, (3,), generator=generator, dtype=torch.uint8)
        images.append(image)
        masks.append(mask)
    return replace(scene, images=tuple(images), masks=tuple(masks))


def test_what_is_masked_is_neither_fitted_nor_scored():
    masked = masked_tiny_scene()
    start = blobs(30, seed=5)
    loss, grads = loss_and_gradients(masked, start, [1, 2])
    hidden = tuple(torch.where(mask.unsqueeze(2), image, 0) for image, mask in zip(masked.images, masked.masks))
    other_loss, other_grads = loss_and_gradients(replace(masked, images=hidden), start, [1, 2])
    assert loss == other_loss and torch.equal(grads.flatten(), other_grads.flatten())
    truth = score(masked, blobs())
    assert min(photo.psnr for photo in truth) > 40 and mean_score(score(replace(masked, masks=None), blobs()))[0] < 15
    problem, same = ViewsProblem(masked, start, [1, 2]), ViewsProblem(replace(masked, images=hidden), start, [1, 2])
    assert torch.equal(problem.residuals, same.residuals)
    result = fit(masked, start, "nominal", steps=40)
    ignorant = fit(replace(masked, masks=None), start, "nominal", steps=40)
    assert mean_score(score(masked, result.gaussians))[0] > mean_score(score(masked, ignorant.gaussians))[0] + 1
    assert result.psnr == pytest.approx(mean_score(score(masked, result.gaussians))[0])


def test_masked_psnr_is_that_of_the_visible_pixels():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 1, 8, 9, 3, generator=generator)
    weights = torch.zeros(1, 8, 9)
    weights[0, 2:5, 3:7] = 1
    assert torch.allclose(psnr(a, b, weights), psnr(a[:, 2:5, 3:7], b[:, 2:5, 3:7]))
