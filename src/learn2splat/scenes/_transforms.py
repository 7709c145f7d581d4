"""Reads transforms.json: NeRF-synthetic (transforms_train.json ...), instant-ngp and nerfstudio flavours.

Poses are OpenGL camera-to-world (+x right, +y up, looking along -z); flipping the camera's y and z axes makes them OpenCV. Intrinsics may
stand in the file or in each frame: `fl_x fl_y cx cy w h k1 k2 k3 p1 p2`, or `camera_angle_x` (radians) alone.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SceneError
from ._camera import COEFFICIENTS, ROTATION_TOLERANCE, Camera, nearest_rotation, pose_fault
from ._cloud import CLOUD_NAMES, is_splat, read_cloud
from ._masks import MaskFinder
from ._names import Finder, cleaned
from ._notes import Notes
from ._photos import UnusablePhoto, in_threads, photo_size
from ._raw import LoadOptions, RawModel, RawView
from ._text import read_json
from .depth_files import DepthFile, find_depths

# COLMAP's names as nerfstudio writes them; instant-ngp writes none. All but fisheyes are special cases of FULL_OPENCV.
_PERSPECTIVE = ("OPENCV", "FULL_OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")
_SPLITS = ("train_filenames", "test_filenames", "val_filenames")


def read_transforms(root: Path, files: list[tuple[Path, bool | None]], options: LoadOptions, notes: Notes) -> RawModel:
    """The cameras, photos and points that `files` (of one folder) name.

    Raises:
        SceneError: a file is malformed, a lens is not perspective, or the named point cloud is missing.
    """
    return read_frames(root, files[0][0].parent, [(file, read_json(file, "transforms.json"), held_out) for file, held_out in files], options, notes)


def read_frames(root: Path, folder: Path, sources: list[tuple[Path, dict[str, Any], bool | None]], options: LoadOptions, notes: Notes) -> RawModel:
    """`read_transforms` of what has been read already, or made of another format.

    Args:
        folder: in which photos and masks are named.
        sources: (file, for messages; content as that of a transforms.json; whether its photos are held out).
    """
    files, metas = [(file, held_out) for file, _, held_out in sources], [meta for _, meta, _ in sources]
    points, colors = np.zeros((0, 3)), np.zeros((0, 3), np.uint8)
    frames: list[_Frame] = []
    for file, meta, held_out in sources:
        found = meta.get("frames")
        if not isinstance(found, list):
            raise SceneError(f"{file} is malformed: expected a list under the key 'frames'")
        undo = _inverse_applied_transform(meta, file)
        frames += [_read_frame(frame, meta, file, undo, held_out) for frame in found]
        cloud = _cloud_of(meta, file, notes) if not len(points) else None
        if cloud is not None:
            points, colors = read_cloud(cloud)
            points = points @ undo[:3, :3].T + undo[:3, 3]
    twice = [name for name, count in Counter(frame.name for frame in frames).items() if count > 1]
    if twice:
        raise SceneError(f"photo {twice[0]} has several poses in {files[0][0]}, expected one each")
    finder = Finder(root if root.is_dir() else folder, [folder], allow_outside=options.allow_outside)
    shrunk = {frame.name: path for frame in frames if (path := _shrunk(frame.name, finder, options.data_factor)) is not None}
    paths = finder.find_all([frame.name for frame in frames if frame.name not in shrunk], notes)
    paths |= shrunk
    masks = _masks_of(frames, paths, folder, finder, options, notes)
    found = [(frame, paths[frame.name], 1.0 if frame.name in shrunk else float(options.data_factor), masks.get(frame.name)) for frame in frames]
    views = in_threads(lambda item: _view(*item, folder, finder), found)
    views = _with_depths(views, frames, folder, finder)
    views = _with_splits(views, metas[0], files[0][0], notes)
    return RawModel(root, views, points, colors, notes, alpha_is_background=_is_nerf_synthetic(files, metas))


class _Frame:
    """One entry of `frames`, with the file that it is of."""

    def __init__(self, name: str, entry: dict[str, Any], meta: dict[str, Any], file: Path, camtoworld: np.ndarray, held_out: bool | None) -> None:
        self.name, self.entry, self.meta, self.file, self.camtoworld, self.held_out = name, entry, meta, file, camtoworld, held_out

    def value(self, key: str, default: Any = None) -> Any:
        """What stands in the frame goes before what stands in the file."""
        return self.entry.get(key, self.meta.get(key, default))

    def number(self, key: str, default: float | None = None) -> float | None:
        value = self.value(key, default)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value)):
            raise SceneError(f"{self.file} is malformed: {key} must be a finite number, got {str(value)[:40]!r}")
        return value


def _read_frame(entry: Any, meta: dict[str, Any], file: Path, undo: np.ndarray, held_out: bool | None) -> _Frame:
    if not isinstance(entry, dict) or not isinstance(entry.get("file_path"), str) or "transform_matrix" not in entry:
        raise SceneError(f"{file} is malformed: every frame needs the keys 'file_path' and 'transform_matrix'")
    name = str(cleaned(entry["file_path"]))
    what = f"transform_matrix of {name}"
    matrix = _matrix(entry["transform_matrix"], what, file)
    pose = undo @ _rigid(matrix, what, file) if np.isfinite(matrix).all() else matrix
    pose[:3, 1:3] *= -1  # OpenGL to OpenCV: y and z of the camera point the other way
    return _Frame(name, entry, meta, file, pose, held_out)


def _shrunk(name: str, finder: Finder, factor: int) -> Path | None:
    """The photo in images_4/ in place of images/ for factor 4, if there is one."""
    path = cleaned(name)
    if factor == 1 or not path.parent.name:
        return None
    smaller = str(path.parent.with_name(f"{path.parent.name}_{factor}") / path.name)
    return finder.exactly(smaller) or finder.with_another_extension(smaller)


def _view(frame: _Frame, path: Path | None, factor: float, mask: Path | None, folder: Path, finder: Finder) -> RawView:
    fault = pose_fault(frame.camtoworld)
    fault = f"it has {fault}" if fault else None
    if path is None:
        reason = "several files would fit its name" if frame.name in finder.ambiguous else "it is missing"
        fault = fault or f"{reason} (looked in {folder}, with and without extension)"
        return RawView(frame.name, None, frame.camtoworld, _NO_CAMERA, 1.0, None, frame.held_out, None, fault)
    try:
        camera = _camera(frame, path)
    except UnusablePhoto as error:
        return RawView(frame.name, path, frame.camtoworld, _NO_CAMERA, 1.0, None, frame.held_out, None, fault or str(error))
    return RawView(frame.name, path, frame.camtoworld, camera, factor, None, frame.held_out, mask, fault)


_NO_CAMERA = Camera(1, 1, 1.0, 1.0, 0.5, 0.5)  # of photos that are left out for another reason


def _camera(frame: _Frame, path: Path) -> Camera:
    number, file = frame.number, frame.file
    model = frame.value("camera_model", "OPENCV")
    distortion = [number(key, 0.0) or 0.0 for key in COEFFICIENTS]
    rational = model == "FULL_OPENCV"
    unsupported = [] if rational else [key for key in ("k4", "k5", "k6") if number(key)]  # k4 of nerfstudio is not the k4 of OpenCV
    if model not in _PERSPECTIVE or unsupported or frame.value("is_fisheye", False):
        found = f"camera model {model}" + (f" with {', '.join(unsupported)}" if unsupported else "")
        raise SceneError(f"{found} in {file} is not supported (only perspective with k1, k2, k3, p1, p2): undistort the photos first")
    width, height = number("w"), number("h")
    if width is None or height is None:
        width, height = photo_size(path)
    fx, fy = number("fl_x"), number("fl_y")
    if fx is None:
        angle_x, angle_y = number("camera_angle_x"), number("camera_angle_y")
        if angle_x is None or not 0 < angle_x < math.pi:
            raise SceneError(f"{file} is malformed: expected fl_x or camera_angle_x (radians), for the file or for each frame")
        fx = 0.5 * width / math.tan(0.5 * angle_x)
        fy = 0.5 * height / math.tan(0.5 * angle_y) if angle_y is not None and 0 < angle_y < math.pi else fx
    fy = fx if fy is None else fy
    if not (width >= 1 and height >= 1 and fx > 0 and fy > 0):
        raise SceneError(f"{file} is malformed: w, h, fl_x and fl_y must be positive, got {width}, {height}, {fx}, {fy}")
    camera = Camera(int(width), int(height), fx, fy, number("cx", width / 2), number("cy", height / 2), tuple(map(float, distortion)))
    if camera.fault():
        raise UnusablePhoto(f"it has {camera.fault()}")
    return camera


def _masks_of(
    frames: list[_Frame], paths: dict[str, Path | None], folder: Path, finder: Finder, options: LoadOptions, notes: Notes
) -> dict[str, Path | None]:
    """Files of the `mask_path` entries; without any such entry, those that are named after the photos.

    Raises:
        SceneError: one that is named is missing: without it, what it hides would be fitted.
    """
    if not options.masks:
        return {}
    named = {frame.name: str(frame.entry["mask_path"]) for frame in frames if frame.entry.get("mask_path")}
    found: dict[str, Path | None] = {}
    if not named:
        masks = MaskFinder(finder.root)
        for name, path in paths.items():
            if path is not None:
                top = next((place for place in path.parents if place.parent == folder), path.parent)  # images/ of images/cam0/001.jpg
                found[name] = masks.of(name, path, top)
        masks.note(notes)
        return found
    for name, mask in named.items():
        path = finder.exactly(str(cleaned(mask))) or finder.with_another_extension(str(cleaned(mask)))
        if path is None:
            ends = [finder.exactly("/".join(cleaned(mask).parts[-k:])) for k in range(len(cleaned(mask).parts), 0, -1)]
            path = next((end for end in ends if end is not None), None)
        if path is None:
            raise SceneError(f"mask {mask} of photo {name} is missing: copy the masks too, or load the scene with --no-masks")
        found[name] = path
    return found


def _with_depths(views: list[RawView], frames: list[_Frame], folder: Path, finder: Finder) -> list[RawView]:
    """The `depth_file_path` of every frame; where no frame has one, the files of a folder depth/ that are named after the photos."""
    named = {frame.name: cleaned(str(frame.entry["depth_file_path"])) for frame in frames if frame.entry.get("depth_file_path")}
    beside = [None] * len(views) if named else find_depths(finder.root, [view.path for view in views])
    result = []
    for view, frame, path in zip(views, frames, beside):
        name = named.get(frame.name)
        found = path if name is None else finder.exactly(str(name))
        if found is None and name is None:
            result.append(view)
            continue
        unit = frame.number("depth_unit_scale_factor")
        file = DepthFile(folder / name.name if found is None else found, view.camera, unit, missing=found is None)
        result.append(replace(view, depth=file))
    return result


def _with_splits(views: list[RawView], meta: dict[str, Any], file: Path, notes: Notes) -> list[RawView]:
    """The split of nerfstudio's `train_filenames`, `test_filenames` (without them `val_filenames`), where the file has one."""
    lists = {key: meta[key] for key in _SPLITS if key in meta}
    for key, names in lists.items():
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise SceneError(f"{file} is malformed: {key} must be a list of photo names")
    known = {view.name for view in views}
    splits = {key: {_known_name(str(cleaned(name)), known) for name in names} for key, names in lists.items() if names}
    if not splits:
        return views
    test = splits.get("test_filenames") or splits.get("val_filenames") or set()
    train = splits.get("train_filenames") or (known - test - splits.get("val_filenames", set()))
    if not test:
        test = known - train
    unknown = (train | test) - known
    if unknown:
        notes.say(f"{len(unknown)} of the photos in train_filenames and test_filenames are not among the frames ({sorted(unknown)[0]}, ...)")
    both = train & test
    if both:
        notes.say(f"{len(both)} photos are in train_filenames and in test_filenames: held out")
    result = []
    for view in views:
        if view.name not in train | test:
            notes.about("left out {photos}: neither in train_filenames nor in test_filenames", view.name)
        else:
            result.append(replace(view, held_out=view.name in test))
    return result


def _known_name(name: str, known: set[str]) -> str:
    """The frame that an entry of a split means: that name, else the only one that ends with it or that it ends with."""
    if name in known:
        return name
    ends = [other for other in known if other.endswith("/" + name) or name.endswith("/" + other)]
    return ends[0] if len(ends) == 1 else name


def _cloud_of(meta: dict[str, Any], file: Path, notes: Notes) -> Path | None:
    """The point cloud that the file names, else one of the usual names beside it.

    Raises:
        SceneError: the named one is missing.
    """
    if "ply_file_path" in meta:
        name = cleaned(str(meta["ply_file_path"]))
        ends = ["/".join(name.parts[-k:]) for k in range(len(name.parts), 0, -1)]
        finder = Finder(file.parent, [file.parent], suffixes=(".ply",))
        found = next((path for end in ends if (path := finder.exactly(end)) is not None), None)
        found = found or finder.find_all([str(name)], Notes())[str(name)]
        if found is None:
            raise SceneError(f"the point cloud {file.parent / name} (ply_file_path) is missing")
        return found
    for name in CLOUD_NAMES:
        path = file.parent / name
        if path.is_file() and not is_splat(path):
            notes.say(f"{file.name} names no point cloud: took {name} beside it")
            return path
    return None


def _is_nerf_synthetic(files: list[tuple[Path, bool | None]], metas: list[dict[str, Any]]) -> bool:
    """Blender's renders, whose alpha shows a background: split files, or one angle as the only intrinsics."""
    only_angle = all("camera_angle_x" in meta and "fl_x" not in meta and "w" not in meta for meta in metas)
    return only_angle or files[0][0].name.startswith("transforms_train")


def _matrix(value: Any, what: str, file: Path) -> np.ndarray:
    """A (4, 4) float64 from nested lists with 3 or 4 rows."""
    try:
        matrix = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise SceneError(f"{file} is malformed: {what} must be 4 x 4 numbers") from error
    if matrix.shape not in ((4, 4), (3, 4)):
        raise SceneError(f"{file} is malformed: {what} must have 4 x 4 or 3 x 4 numbers, got shape {matrix.shape}")
    if len(matrix) == 4 and np.isfinite(matrix).all() and np.abs(matrix[3] - [0, 0, 0, 1]).max() > ROTATION_TOLERANCE:
        last = " ".join(f"{value:.4g}" for value in matrix[3])
        raise SceneError(f"{file} is malformed: the last row of {what} must be 0 0 0 1, got {last}: it is transposed, or no pose")
    return np.vstack([matrix[:3], [0, 0, 0, 1]])


def _rigid(matrix: np.ndarray, what: str, file: Path) -> np.ndarray:
    """`matrix` with its 3 x 3 part replaced by the nearest rotation; a uniform scale of the axes (Blender) is dropped."""
    rotation = nearest_rotation(matrix[:3, :3])
    if rotation is None:
        raise SceneError(f"{file} is malformed: the 3 x 3 part of {what} is not a rotation")
    rigid = matrix.copy()
    rigid[:3, :3] = rotation
    return rigid


def _inverse_applied_transform(meta: dict[str, Any], file: Path) -> np.ndarray:
    """(4, 4), from the file's frame to the frame before nerfstudio's `applied_transform`; identity without one."""
    if "applied_transform" not in meta:
        return np.eye(4)
    matrix = _matrix(meta["applied_transform"], "applied_transform", file)
    if not np.isfinite(matrix).all():
        raise SceneError(f"{file} is malformed: applied_transform has a NaN or infinite entry")
    return np.linalg.inv(_rigid(matrix, "applied_transform", file))
