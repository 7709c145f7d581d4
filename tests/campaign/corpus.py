"""One small whole example of every format that users bring, how it is read, and what must be true of what comes out; written.py has those that a run
leaves behind."""

from __future__ import annotations

import json
import random
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import plyfile
import torch
import written
import zstandard
from mutate import mutated
from PIL import Image
from random_gaussians import random_gaussians
from re10k_makers import write_chunks
from scene_makers import PARAMS, poses, world_spots, write_scene
from scipy.spatial.transform import Rotation
from tiny_scenes import tiny_scene

from learn2splat.bench import suites
from learn2splat.cli.camera_files import read_shots
from learn2splat.gaussians import load_cloud, load_splat, save_splat
from learn2splat.gaussians.formats import load_offset
from learn2splat.scenes import Scene, load_scene
from learn2splat.scenes.re10k import find_chunks, load_re10k
from learn2splat.scenes.views import Index

SIZE = (32, 24)


@dataclass(frozen=True)
class Format:
    """`make(folder)` writes the example; `read(folder)` reads it as the product does and raises AssertionError where what it accepts is no good.

    `seal(path)` gives a changed file checksums that fit, so that what is behind them is reached.
    """

    name: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]
    share: float = 1.0  # of the whole campaign: slow ones have fewer cases
    seal: Callable[[Path], None] | None = None


# What must be true -----------------------------------------------------------------------------------------------------------------------


def good_scene(scene: Scene) -> None:
    rotations = scene.camtoworlds[:, :3, :3]
    assert all(bool(torch.isfinite(t).all()) for t in (scene.camtoworlds, scene.Ks, scene.points, scene.background)), "numbers that are not finite"
    assert (rotations @ rotations.mT - torch.eye(3)).abs().max() < 1e-4 and bool((torch.linalg.det(rotations) > 0).all()), "no rotations"
    assert bool((scene.Ks[:, [0, 1], [0, 1]] > 0).all()), "focal lengths"
    assert np.isfinite(scene.scene_scale) and scene.train_idx and scene.test_idx, "scale or split"
    count = len(scene.images)
    assert count == len(scene.camtoworlds) == len(scene.Ks) == len(scene.image_names) and max(*scene.train_idx, *scene.test_idx) < count, "counts"
    assert scene.masks is None or [m.shape for m in scene.masks] == [i.shape[:2] for i in scene.images], "sizes of masks"
    assert all(min(image.shape[:2]) > 0 and image.dtype == torch.uint8 for image in scene.images), "photos"
    assert all("\n" not in text for text in scene.warnings), "a warning of several lines"


def _scene(folder: Path, **options: object) -> None:
    good_scene(load_scene(folder / "s", long_side=24, **options))


# Scenes ----------------------------------------------------------------------------------------------------------------------------------


def _colmap(folder: Path, *, text: bool) -> None:
    write_scene(folder / "s", "SIMPLE_RADIAL" if text else "OPENCV", count=3, sizes=(SIZE,), text=text)


def _opengl(pose: np.ndarray) -> list[list[float]]:
    whole = np.linalg.inv(np.vstack([pose, [0, 0, 0, 1]]))
    return (whole * [1, -1, -1, 1]).tolist()


def write_cloud(path: Path, points: np.ndarray) -> None:
    vertex = np.zeros(len(points), [(name, "f4") for name in "xyz"] + [(name, "u1") for name in ("red", "green", "blue")])
    vertex["x"], vertex["y"], vertex["z"] = points.T
    plyfile.PlyData([plyfile.PlyElement.describe(vertex, "vertex")]).write(str(path))


def _transforms(folder: Path) -> None:
    _colmap(folder, text=False)
    shutil.rmtree(folder / "s" / "sparse")
    write_cloud(folder / "s" / "pc.ply", world_spots())
    names = [f"images/{i:02d}.png" for i in range(3)]
    w, h = SIZE
    meta = {
        "fl_x": 25.0,
        "fl_y": 25.0,
        "cx": w / 2,
        "cy": h / 2,
        "w": w,
        "h": h,
        "k1": 0.01,
        "k2": 0.0,
        "camera_model": "OPENCV",
        "ply_file_path": "pc.ply",
        "applied_transform": np.eye(4)[:3].tolist(),
        "applied_scale": 1.0,
        "train_filenames": names[1:],
        "test_filenames": names[:1],
    }
    frames = [{"file_path": name, "transform_matrix": _opengl(pose), "colmap_im_id": 1} for name, pose in zip(names, poses(3))]
    (folder / "s" / "transforms.json").write_text(json.dumps({**meta, "frames": frames}))


def _nerf_synthetic(folder: Path) -> None:
    (folder / "s" / "train").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("test", 1)):
        (folder / "s" / split).mkdir(exist_ok=True)
        frames = []
        for i, pose in enumerate(poses(count)):
            Image.fromarray(rng.integers(0, 256, (*SIZE[::-1], 4), np.uint8)).save(folder / "s" / split / f"r_{i}.png")
            frames.append({"file_path": f"./{split}/r_{i}", "rotation": 0.01, "transform_matrix": _opengl(pose)})
        (folder / "s" / f"transforms_{split}.json").write_text(json.dumps({"camera_angle_x": 0.69, "frames": frames}))


def _masks(folder: Path) -> None:
    _colmap(folder, text=True)
    (folder / "s" / "masks").mkdir()
    for i in range(3):
        mask = np.zeros(SIZE[::-1], np.uint8)
        mask[:, i : SIZE[0] // 2] = 255
        Image.fromarray(mask).save(folder / "s" / "masks" / f"{i:02d}.png")


def _photos(folder: Path) -> None:
    """A photo of each kind."""
    _colmap(folder, text=True)
    images = folder / "s" / "images"
    colours = Image.open(images / "00.png").convert("RGB")
    colours.save(images / "00.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0")
    colours.convert("P").save(images / "01.png")
    colours.convert("LA").save(images / "02.png")
    (images / "00.png").unlink()
    path = folder / "s" / "sparse" / "0" / "images.txt"
    path.write_text(path.read_text().replace("00.png", "00.jpg"))


def _photos_of_others(folder: Path) -> None:
    """TIFF, WebP and BMP."""
    _colmap(folder, text=True)
    images, path = folder / "s" / "images", folder / "s" / "sparse" / "0" / "images.txt"
    text = path.read_text()
    for i, suffix in enumerate(("tif", "webp", "bmp")):
        Image.open(images / f"{i:02d}.png").save(images / f"{i:02d}.{suffix}")
        (images / f"{i:02d}.png").unlink()
        text = text.replace(f"{i:02d}.png", f"{i:02d}.{suffix}")
    path.write_text(text)


def _shots(centres: bool) -> dict:
    def place(pose: np.ndarray) -> list[float]:
        return (-pose[:, :3].T @ pose[:, 3] if centres else pose[:, 3]).tolist()

    return {
        f"{i:02d}.png": {"rotation": Rotation.from_matrix(p[:, :3]).as_rotvec().tolist(), "translation": place(p), "camera": "c"}
        for i, p in enumerate(poses(3))
    }


def _brown() -> dict:
    fx, fy, cx, cy, k1, k2, p1, p2 = PARAMS["OPENCV"]
    centre = {"c_x": (cx - 120) / 240, "c_y": (cy - 90) / 240}
    return {
        "projection_type": "brown",
        "width": SIZE[0],
        "height": SIZE[1],
        "focal_x": fx / 240,
        "focal_y": fy / 240,
        **centre,
        "k1": k1,
        "k2": k2,
        "k3": 0.0,
        "p1": p1,
        "p2": p2,
    }


def _opensfm(folder: Path) -> None:
    _colmap(folder, text=False)
    shutil.rmtree(folder / "s" / "sparse")
    points = {str(i): {"coordinates": xyz.tolist(), "color": [10.0 * i, 200, 5]} for i, xyz in enumerate(world_spots())}
    (folder / "s" / "reconstruction.json").write_text(json.dumps([{"cameras": {"c": _brown()}, "shots": _shots(False), "points": points}]))


def _odm(folder: Path) -> None:
    _colmap(folder, text=False)
    shutil.rmtree(folder / "s" / "sparse")
    (folder / "s" / "odm_report").mkdir()
    (folder / "s" / "cameras.json").write_text(json.dumps({"c": _brown()}))
    shots = [{"type": "Feature", "properties": {"filename": name, **shot}} for name, shot in _shots(True).items()]
    (folder / "s" / "odm_report" / "shots.geojson").write_text(json.dumps({"features": shots}))


def _polycam(folder: Path) -> None:
    _colmap(folder, text=False)
    shutil.rmtree(folder / "s" / "sparse")
    keyframes = folder / "s" / "keyframes"
    (keyframes / "cameras").mkdir(parents=True)
    shutil.move(folder / "s" / "images", keyframes / "images")
    for i, pose in enumerate(poses(3)):
        matrix = _opengl(pose)
        values = {f"t_{r}{c}": matrix[r][c] for r in range(3) for c in range(4)}
        about = {"fx": 25.0, "fy": 25.0, "cx": 15.0, "cy": 11.0, "width": SIZE[0], "height": SIZE[1], "blur_score": 3.0}
        (keyframes / "cameras" / f"{i:02d}.json").write_text(json.dumps({**values, **about}))


def _read_re10k(folder: Path) -> None:
    for key, chunk in find_chunks(folder / "s").items():
        if key == "aaa":
            good_scene(load_re10k(chunk, key))


# Splats ----------------------------------------------------------------------------------------------------------------------------------


def _splat(suffix: str, count: int = 60) -> Callable[[Path], None]:
    return lambda folder: save_splat(folder / f"a{suffix}", random_gaussians(count))


def _read_splat(folder: Path) -> None:
    path = next(path for path in sorted(folder.iterdir()) if path.is_file() or (path / "meta.json").exists())
    written.good_gaussians(load_splat(path))
    if path.suffix == ".ply":
        offset = load_offset(path)
        assert offset is None or np.isfinite(offset).all(), "an offset that is not finite"


def _ply_flavours(folder: Path) -> None:
    """As other programs write them: big-endian doubles without SH, in another order, with an offset and an element more."""
    save_splat(folder / "b.ply", random_gaussians(20))
    old = plyfile.PlyData.read(str(folder / "b.ply"))["vertex"].data
    (folder / "b.ply").unlink()
    names = [*[name for name in old.dtype.names if not name.startswith("f_rest")][::-1], "extra"]
    new = np.zeros(len(old), [(name, ">f8" if name != "extra" else ">i4") for name in names])
    for name in names[:-1]:
        new[name] = old[name]
    camera = np.zeros(1, [("fx", "f4")])
    elements = [plyfile.PlyElement.describe(new, "vertex"), plyfile.PlyElement.describe(camera, "camera")]
    plyfile.PlyData(elements, byte_order=">", comments=["offset 1.0 2.0 3.0"]).write(str(folder / "a.ply"))


def _ply_text(folder: Path) -> None:
    save_splat(folder / "b.ply", random_gaussians(5))
    plyfile.PlyData([plyfile.PlyData.read(str(folder / "b.ply"))["vertex"]], text=True).write(str(folder / "a.ply"))
    (folder / "b.ply").unlink()


def _spz_4(folder: Path) -> None:
    """Version 4: a header of 32 bytes and one zstd stream per attribute. Nothing here writes it: made from a version 3."""
    import gzip

    save_splat(folder / "b.spz", random_gaussians(40))
    data = gzip.decompress((folder / "b.spz").read_bytes())
    (folder / "b.spz").unlink()
    magic, _, n, degree, fraction, flags, _ = struct.unpack_from("<4sIIBBBB", data)
    sizes = [9 * n, n, 3 * n, 3 * n, 4 * n, 3 * n * ((degree + 1) ** 2 - 1)]
    streams, at = [], 16
    for size in sizes:
        streams.append(zstandard.compress(data[at : at + size]))
        at += size
    table = b"".join(struct.pack("<QQ", len(stream), size) for stream, size in zip(streams, sizes))
    header = struct.pack("<4sIIBBBBI12x", magic, 4, n, degree, fraction, flags, len(streams), 32)
    (folder / "a.spz").write_bytes(header + table + b"".join(streams))


def _sog_folder(folder: Path) -> None:
    import zipfile

    save_splat(folder / "a.sog", random_gaussians(40))
    with zipfile.ZipFile(folder / "a.sog") as archive:
        archive.extractall(folder / "a")
    (folder / "a.sog").unlink()


def _cloud(folder: Path) -> None:
    write_cloud(folder / "a.ply", world_spots())


def _read_cloud(folder: Path) -> None:
    found = load_cloud(folder / "a.ply")
    if found is None:  # no longer a plain cloud
        return
    points, colors = found
    assert bool(torch.isfinite(points).all()) and len(points) == len(colors) > 0, "points that are not finite"


# Small JSON ------------------------------------------------------------------------------------------------------------------------------------


def _suite_index(folder: Path) -> None:
    (folder / "index.json").write_text(json.dumps({"tiny": {"context": [1, 5], "target": [2, 3], "overlap": "large"}, "b": None}))


def _read_suite_index(folder: Path) -> None:
    index = suites.read_suite_index(folder / "index.json")
    for context, target in index.scenes.values():
        assert context and target and min(*context, *target) >= 0, "views"
    scene = tiny_scene(6)
    if "tiny" in index.scenes:
        suites.with_split(scene, suites.Views(index=index))
    Index.read(folder / "index.json").views_of(scene)


def _read_shots(folder: Path) -> None:
    for shot in read_shots(folder / "s" / "transforms.json" if (folder / "s" / "transforms.json").exists() else folder / "s"):
        resized = shot.resized(64)
        for each in (shot, resized):
            rotation = each.camtoworld[:3, :3]
            assert np.isfinite(each.camtoworld).all() and np.isfinite(each.K).all() and np.isfinite(each.K.astype(np.float32)).all(), (
                "a camera that is not finite"
            )
            assert np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-4 and min(each.K[0, 0], each.K[1, 1]) > 0, "no camera"


FORMATS = (
    Format("COLMAP, binary", lambda f: _colmap(f, text=False), _scene, 1.0),
    Format("COLMAP, text", lambda f: _colmap(f, text=True), _scene, 1.0),
    Format("transforms.json", _transforms, _scene, 1.0),
    Format("NeRF-synthetic", _nerf_synthetic, _scene, 0.5),
    Format("OpenSfM", _opensfm, _scene, 0.5),
    Format("ODM", _odm, _scene, 0.5),
    Format("Polycam", _polycam, _scene, 0.5),
    Format("masks", _masks, _scene, 0.5),
    Format("photos: JPEG, PNG", _photos, _scene, 0.7),
    Format("photos: TIFF, WebP, BMP", _photos_of_others, _scene, 0.7),
    Format("RealEstate10K", lambda f: write_chunks(f / "s", views=4, width=24, height=16), _read_re10k, 0.7),
    Format("cameras: transforms.json", _transforms, _read_shots, 2.0),
    Format("cameras: COLMAP", lambda f: _colmap(f, text=True), _read_shots, 2.0),
    Format("splat .ply", _splat(".ply"), _read_splat, 3.0),
    Format("splat .ply of others", _ply_flavours, _read_splat, 3.0),
    Format("splat .ply as text", _ply_text, _read_splat, 1.0),
    Format("splat .compressed.ply", _splat(".compressed.ply"), _read_splat, 3.0),
    Format("splat .spz", _splat(".spz"), _read_splat, 3.0),
    Format("splat .spz 4", _spz_4, _read_splat, 3.0),
    Format("splat .sog", _splat(".sog", 40), _read_splat, 1.0),
    Format("splat .sog, folder", _sog_folder, _read_splat, 1.0),
    Format("splat .splat", _splat(".splat"), _read_splat, 2.0),
    Format("cloud .ply", _cloud, _read_cloud, 2.0),
    Format("weights", written.write_weights, written.read_weights, 0.4, written.seal_weights),
    Format("published weights", written.write_published, written.read_weights, 1.5),
    Format("checkpoint", written.save_a_checkpoint, written.read_checkpoint, 0.7, written.seal_checkpoint),
    Format("save of train", written.write_meta_save, written.read_meta_save, 2.0, written.seal_checkpoint),
    Format("cells of bench", written.write_cells, written.read_report, 0.5),
    Format("index of views", _suite_index, _read_suite_index, 3.0),
    Format("result of fit", written.write_result, written.read_result, 0.3),
)
MUTABLE = {".png": 0.15, ".jpg": 0.15}  # of a scene with a model: how often its photos are what is damaged
IGNORED = ("rigs.bin", "frames.bin", "rigs.txt", "frames.txt", ".lock", "report.html", "report.md", "results.csv")


@dataclass
class Example:
    """A format's example on disk; `damage` replaces one file, `mend` puts it back."""

    format: Format
    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.format.make(self.folder)
        within = self.folder / "out" if (self.folder / "out").exists() else self.folder
        self.files = [
            p for p in sorted(within.rglob("*")) if p.is_file() and p.name not in IGNORED and p.parent.name not in ("renders", "checkpoint")
        ]
        if self.format.name == "checkpoint":
            self.files = [p for p in sorted(self.folder.rglob("*.safetensors"))]
        elif self.format.name.startswith("cameras"):
            self.files = [p for p in self.files if p.suffix in (".json", ".txt") and p.stem not in ("points3D",)]
        elif self.format.name.startswith("photos") or self.format.name == "masks":
            self.files = [p for p in self.files if p.parent.name in ("images", "masks") and (self.format.name != "masks" or p.parent.name == "masks")]
        self.whole = {path: path.read_bytes() for path in self.files}
        photos = self.format.name.startswith("photos") or self.format.name == "masks"
        self.weights = [1.0 if photos else MUTABLE.get(path.suffix, 1.0) for path in self.files]

    def damage(self, seed: int) -> Path:
        rng = random.Random(f"{self.format.name} {seed}")
        (path,) = rng.choices(self.files, self.weights)
        path.write_bytes(mutated(path.name, self.whole[path], rng))
        if self.format.seal is not None and rng.random() < 0.8:
            self.format.seal(path)
        return path

    def mend(self, path: Path) -> None:
        path.write_bytes(self.whole[path])
