"""Poses from photos against the poses that the photos were made with; what becomes of bad photos, kills and photos that do not belong together."""

import json

import numpy as np
import pytest
from odd_names import NAMES
from PIL import Image

from learn2splat.errors import OptionError, SceneError
from learn2splat.scenes import lacks_poses, load_scene
from learn2splat.sfm import SfmStopped, reconstruct
from learn2splat.sfm.features import Features


def aligned(points, targets):
    """`points` (N, 3) after the similarity that brings them nearest to `targets` (Umeyama 1991)."""
    a, b = points - points.mean(0), targets - targets.mean(0)
    u, singular, vt = np.linalg.svd(b.T @ a)
    sign = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ sign @ vt
    return (singular * np.diag(sign)).sum() / (a**2).sum() * a @ rotation.T + targets.mean(0)


def test_poses_are_those_that_the_photos_were_made_with(world, found):
    out, outcome, _ = found
    scene = load_scene(out)
    assert list(scene.image_names) == sorted(NAMES) and outcome.registered == tuple(sorted(NAMES))
    order = [NAMES.index(name) for name in scene.image_names]
    true = world.camtoworlds.numpy()[order].astype(np.float64)
    ours = scene.camtoworlds.numpy().astype(np.float64)
    centres = aligned(ours[:, :3, 3], true[:, :3, 3])
    extent = np.ptp(true[:, :3, 3], axis=0).max()
    assert np.abs(centres - true[:, :3, 3]).max() < 0.02 * extent
    turns = [poses[0, :3, :3].T @ poses[1:, :3, :3] for poses in (ours, true)]  # from the first photo to the others
    between = turns[0].transpose(0, 2, 1) @ turns[1]
    angles = np.degrees(np.arccos(((np.trace(between, axis1=1, axis2=2) - 1) / 2).clip(-1, 1)))
    assert angles.max() < 0.5
    fields = [float(k[0, 0] / size) for k, size in ((scene.Ks[0], scene.size(0)[0]), (world.Ks[0], world.size(0)[0]))]
    assert fields[0] == pytest.approx(fields[1], rel=0.03)


def test_points_have_the_colours_of_the_photos(found):
    scene = load_scene(found[0])
    assert len(scene.points) == found[1].num_points > 200
    errors = []
    for i in range(len(scene)):
        points = scene.points @ scene.viewmats[i, :3, :3].T + scene.viewmats[i, :3, 3]
        xy = (points @ scene.Ks[i].T)[:, :2] / points[:, 2:]
        inside = ((xy >= 0) & (xy < xy.new_tensor(scene.size(i)))).all(1) & (points[:, 2] > 0)
        x, y = xy[inside].long().T
        errors.append((scene.images[i][y, x].float() - scene.colors[inside].float()).abs().median())
    assert np.median(errors) < 20  # of 255, points that something hides included; colours of other points differ by 60


def test_what_is_told_and_kept(photos, found):
    out, outcome, stages = found
    assert outcome.num_photos == 9 and list(outcome.bad) == ["broken.jpg"] and outcome.lost == () and outcome.matching == "exhaustive"
    assert list(stages) == ["finding features", "comparing photos", "placing photos", "removing lens distortion"]
    assert all(done == total for done, total in stages.values())
    assert sorted(path.name for path in out.iterdir() if path.name != ".lock") == ["images", "sfm.json", "sparse"]
    assert json.loads((out / "sfm.json").read_text())["outcome"]["registered"] == sorted(NAMES)
    before = (out / "sparse/0/images.bin").stat().st_mtime_ns
    assert reconstruct(photos, out) == outcome and (out / "sparse/0/images.bin").stat().st_mtime_ns == before  # finished: left as it is
    assert lacks_poses(photos) and not lacks_poses(out)
    with pytest.raises(OptionError, match="other photos or options: add --overwrite"):
        reconstruct(photos, out, matching="retrieval")


def test_a_stopped_run_goes_on(photos, tmp_path, monkeypatch):
    added, add = [], Features.add
    monkeypatch.setattr(Features, "add", lambda self, photo, pixels: added.append(photo.name) or add(self, photo, pixels))
    out = tmp_path / "scene"
    with pytest.raises(SfmStopped):
        reconstruct(photos, out, should_stop=lambda: len(added) >= 5)
    assert len(added) == 5 and not (out / "sparse").exists()

    def stop_while_placing(stage, done, _total):
        if stage == "placing photos" and done == 3:
            raise SfmStopped

    with pytest.raises(SfmStopped):
        reconstruct(photos, out, on_progress=stop_while_placing)
    outcome = reconstruct(photos, out)
    assert sorted(added) == sorted(NAMES)  # no photo twice
    assert len(outcome.registered) == 8 and not (out / ".sfm").exists()


def test_photos_that_do_not_belong_together_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "noise"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8)).resize((160, 120)).save(folder / f"{i}.png")
    with pytest.raises(SceneError, match="only 0 of 3 photos could be placed: what helps: more photos with more overlap"):
        reconstruct(folder, tmp_path / "out")
    (tmp_path / "out" / "mine.txt").write_text("not ours")
    with pytest.raises(SceneError, match="only 0 of 3"):
        reconstruct(folder, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "mine.txt").exists()
    with pytest.raises(OptionError, match="did not write"):
        reconstruct(folder, folder)
    (folder / "2.png").unlink()
    with pytest.raises(SceneError, match=r"2 photos in .* need at least 3"):
        reconstruct(folder, tmp_path / "out2")
    with pytest.raises(SceneError, match="is no folder"):
        reconstruct(folder / "0.png", tmp_path / "out2")
