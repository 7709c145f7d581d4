"""Raw data of Polycam, and projects of OpenSfM and WebODM (ODM), as the frames of a transforms.json.

Polycam: `keyframes/images/*.jpg` and `keyframes/cameras/*.json` (or `corrected_images`, `corrected_cameras` after its bundle adjustment): fx fy cx cy
in px and camera-to-world `t_00 ... t_23`, OpenGL axes. No points.

OpenSfM: `reconstruction.json`, alone or in `opensfm/`: cameras in units of the photo's larger side, shots with an angle-axis and a shift, camera from
world, OpenCV axes; points with colours (https://opensfm.org/docs/dataset.html). ODM's results hold `cameras.json` with the same cameras and
`odm_report/shots.geojson`, whose translations are camera centres; no points that are sure to be in their frame.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SceneError
from ._find import holds_photos, image_folders
from ._notes import Notes
from ._raw import LoadOptions, RawModel
from ._text import read_json, read_text
from ._transforms import read_frames

_LENSES = ("perspective", "brown", "simple_radial", "radial")


def read_app(root: Path, options: LoadOptions, notes: Notes) -> RawModel | None:
    """The scene in `root` if it is one of these; None if not.

    Raises:
        SceneError: it is, and damaged.
    """
    for keyframes in (root / "keyframes", root):
        for prefix in ("corrected_", ""):
            if (keyframes / f"{prefix}images").is_dir() and _is_polycam(keyframes / f"{prefix}cameras"):
                return _read_polycam(root, keyframes, prefix, options, notes)
    for file in (root / "opensfm" / "reconstruction.json", root / "reconstruction.json"):
        if file.is_file():
            return _read_opensfm(root, file, options, notes)
    shots = root / "odm_report" / "shots.geojson"
    if shots.is_file() and (root / "cameras.json").is_file():
        return _read_odm(root, shots, options, notes)
    return None


def _is_polycam(cameras: Path) -> bool:
    first = next(iter(sorted(cameras.glob("*.json"))), None)
    return first is not None and "t_00" in read_text(first)


def _read_polycam(root: Path, keyframes: Path, prefix: str, options: LoadOptions, notes: Notes) -> RawModel:
    cameras = keyframes / f"{prefix}cameras"
    frames = []
    for file in sorted(cameras.glob("*.json")):
        values = read_json(file, "camera of Polycam")
        try:
            matrix = [[float(values[f"t_{i}{j}"]) for j in range(4)] for i in range(3)]
            intrinsics = {
                to: values[key] for key, to in (("fx", "fl_x"), ("fy", "fl_y"), ("cx", "cx"), ("cy", "cy"), ("width", "w"), ("height", "h"))
            }
        except (KeyError, TypeError, ValueError) as error:
            raise SceneError(f"{file} is no camera of Polycam: it lacks {error}") from error
        frames.append({"file_path": f"{prefix}images/{file.stem}", "transform_matrix": matrix, **intrinsics})
    return read_frames(root, keyframes, [(cameras, {"frames": frames}, None)], options, notes)


def _read_opensfm(root: Path, file: Path, options: LoadOptions, notes: Notes) -> RawModel:
    content = read_json(file, "reconstruction of OpenSfM", top=list)
    parts = [part for part in content if isinstance(part, dict) and isinstance(part.get("shots"), dict)]
    if not parts:
        raise SceneError(f"{file} is no reconstruction of OpenSfM: expected a list of objects with shots")
    best = max(parts, key=lambda part: len(part["shots"]))
    if len(parts) > 1:
        counts = ", ".join(str(len(part["shots"])) for part in parts)
        notes.say(f"the reconstruction fell into {len(parts)} models (of {counts} photos): took the one with most")
    frames = []
    try:
        for name, shot in best["shots"].items():
            pose = np.eye(4)
            pose[:3, :3] = _rotation(shot["rotation"]).T
            pose[:3, 3] = -pose[:3, :3] @ _vector(shot["translation"])
            frames.append({"file_path": name, "transform_matrix": _opengl(pose), **_camera(best["cameras"][shot["camera"]], file)})
        points = best.get("points", {}).values()
        xyz = np.array([_vector(point["coordinates"]) for point in points]).reshape(-1, 3)
        rgb = np.array([_vector(point.get("color", (128, 128, 128))) for point in points]).reshape(-1, 3)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise SceneError(f"{file} is no reconstruction of OpenSfM ({type(error).__name__}: {error})") from error
    model = read_frames(root, _photos(root, file.parent), [(file, {"frames": frames}, None)], options, notes)
    return replace(model, points=xyz, colors=np.nan_to_num(rgb).clip(0, 255).astype(np.uint8))


def _read_odm(root: Path, file: Path, options: LoadOptions, notes: Notes) -> RawModel:
    cameras, shots = read_json(root / "cameras.json", "list of cameras of ODM"), read_json(file, "list of shots of ODM")
    frames = []
    try:
        for shot in shots["features"]:
            values = shot["properties"]
            pose = np.eye(4)
            pose[:3, :3], pose[:3, 3] = _rotation(values["rotation"]).T, _vector(values["translation"])
            camera = cameras[values["camera"]] if len(cameras) > 1 else next(iter(cameras.values()))
            frames.append({"file_path": values["filename"], "transform_matrix": _opengl(pose), **_camera(camera, root / "cameras.json")})
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration, OverflowError) as error:
        raise SceneError(f"{file} and cameras.json are no results of ODM ({type(error).__name__}: {error})") from error
    return read_frames(root, _photos(root, root), [(file, {"frames": frames}, None)], options, notes)


def _photos(root: Path, folder: Path) -> Path:
    return next((place for place in image_folders(root, folder) if holds_photos(place)), root)


def _camera(camera: dict[str, Any], file: Path) -> dict[str, Any]:
    """Intrinsics in px; lengths of the file are in units of the larger side, from the middle of the photo."""
    lens = camera.get("projection_type", "perspective")
    if lens not in _LENSES:
        raise SceneError(f"lens {lens} in {file} is not supported (only {', '.join(_LENSES)}): undistort the photos first")
    width, height = float(camera["width"]), float(camera["height"])
    side = max(width, height)
    focal = camera.get("focal_x", camera.get("focal"))
    return {
        "w": width,
        "h": height,
        "fl_x": float(focal) * side,
        "fl_y": float(camera.get("focal_y", focal)) * side,
        "cx": float(camera.get("c_x", 0)) * side + width / 2,
        "cy": float(camera.get("c_y", 0)) * side + height / 2,
        **{key: float(camera.get(key, 0)) for key in ("k1", "k2", "k3", "p1", "p2")},
    }


def _opengl(pose: np.ndarray) -> list[list[float]]:
    return (pose * [1, -1, -1, 1]).tolist()


def _vector(values: Any) -> np.ndarray:
    vector = np.array(values, np.float64)
    if vector.shape != (3,):
        raise ValueError(f"expected three numbers, got {str(values)[:40]}")
    return vector


def _rotation(angle_axis: Any) -> np.ndarray:
    """(3, 3) of an angle-axis vector: exp([v]x), Rodrigues."""
    x, y, z = vector = _vector(angle_axis)
    angle = float(np.linalg.norm(vector))
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    if angle < 1e-8:
        return np.eye(3) + cross
    return np.eye(3) + np.sin(angle) / angle * cross + (1 - np.cos(angle)) / angle**2 * cross @ cross
