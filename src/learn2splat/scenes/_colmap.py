"""From a COLMAP model to views: poses checked, photos and masks found, loose ends noted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import SceneError
from ._camera import pose_fault
from ._cloud import CLOUD_NAMES, is_splat, read_cloud
from ._colmap_binary import read_binary
from ._colmap_files import ColmapImage, ColmapModel, ColmapPoints
from ._colmap_text import read_text_model
from ._find import FoundModel, holds_photos, image_folders
from ._masks import MaskFinder, is_mask_name
from ._names import Finder
from ._normalise import sample_of
from ._notes import Notes
from ._raw import LoadOptions, RawModel, RawView
from .depth_files import DepthFile, find_depths

NORM_TOLERANCE = 0.1  # of quaternions: rounding gives 0.01 at most; swapped columns give anything


def read_colmap(root: Path, found: FoundModel, options: LoadOptions, notes: Notes) -> RawModel:
    """The model with the photos that belong to it.

    Raises:
        SceneError: a file of it is damaged, a camera model is not supported, or there are no photos at all.
    """
    folder = found.folder
    model = (read_binary if found.suffix == ".bin" else read_text_model)(folder, keypoints=options.observations)
    if not model.images:
        raise SceneError(f"the COLMAP model in {folder} has no photos: map them again")
    points, rgb, seen_of, observed_of = _points_and_tracks(model, folder, notes)
    photos = _Photos(root, folder, options, notes, [image.name for image in model.images])
    _require_rotations(model.images, folder, notes)
    views = []
    for image in model.images:
        camera = model.cameras[image.camera_id]
        camtoworld = camtoworld_of(image)
        fault = pose_fault(camtoworld) or camera.fault()
        path, data_factor, mask, missing = photos.of(image.name)
        fault = f"it has {fault}" if fault else missing
        views.append(RawView(image.name, path, camtoworld, camera, data_factor, seen_of(image), None, mask, fault, observed_of(image)))
    photos.masks.note(notes)
    depths = find_depths(root, [view.path for view in views])
    views = [view if path is None else replace(view, depth=DepthFile(path, view.camera)) for view, path in zip(views, depths)]
    return RawModel(root, views, points, rgb, notes)


def _require_rotations(images: list[ColmapImage], folder: Path, notes: Notes) -> None:
    """
    Raises:
        SceneError: lengths of quaternions that are far from 1, and from each other, say that these columns hold something else.
    """
    norms = np.array([np.linalg.norm(image.quat) for image in images])
    with np.errstate(invalid="ignore"):
        sound = np.isfinite(norms) & (norms > 0)
        odd = sound & (abs(norms - 1) > NORM_TOLERANCE)
        uniform = sound.any() and bool((abs(norms[sound] / np.median(norms[sound]) - 1) < 0.02).all())  # one scale for all: nobody normalised them
        # Translation first: then the last four columns are the rotation.
        exchanged = abs(np.array([np.linalg.norm([image.quat[3], *image.translation]) for image in images]) - 1) < NORM_TOLERANCE
    if odd.any() and (not uniform or exchanged[sound].all()):
        image = images[int(odd.argmax())]
        raise SceneError(
            f"photo {image.name} in {folder} has a rotation of length {norms[odd.argmax()]:.3g}, expected a unit quaternion: "
            f"the columns must be IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME"
        )
    for image, norm in zip(images, norms):
        if np.isfinite(norm) and norm > 0 and abs(norm - 1) > 0.01:
            notes.about("normalised the rotation of {photos}, whose quaternion had not the length 1", image.name)


def camtoworld_of(image: ColmapImage) -> np.ndarray:
    """(4, 4) float64, NaN where the pose is none."""
    pose = np.full((4, 4), np.nan)
    norm = float(np.linalg.norm(image.quat))
    if not (np.isfinite(norm) and norm > 0 and np.isfinite(image.translation).all()):
        return pose
    w, x, y, z = image.quat / norm
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)],
            [2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)],
            [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)],
        ]
    )  # world from camera: the transpose of what the quaternion says
    pose[:3, :3], pose[:3, 3], pose[3] = rotation, -rotation @ image.translation, (0, 0, 0, 1)
    return pose


Seen = Callable[[ColmapImage], np.ndarray | None]
Observed = Callable[[ColmapImage], tuple[np.ndarray, np.ndarray] | None]


def _points_and_tracks(model: ColmapModel, folder: Path, notes: Notes) -> tuple[np.ndarray, np.ndarray, Seen, Observed]:
    """(points, colours, functions from a photo to the positions of the points seen in it, and to these with where they are seen, or to None)."""
    nothing = (lambda image: None, lambda image: None)
    points = model.points
    if not len(points.ids):
        for cloud in (folder / name for name in CLOUD_NAMES):
            if cloud.is_file() and not is_splat(cloud):
                notes.say(f"the model in {folder} has no points: took those of {cloud.name} beside it")
                return *read_cloud(cloud), *nothing
        return points.xyz, points.rgb, *nothing
    if not points.track_lengths.any():
        return points.xyz, points.rgb, *nothing
    # A point of one observation has no depth. Models without any tracks are converted ones: all of their points are kept.
    reliable = points.track_lengths >= 2
    if not reliable.all():
        points = ColmapPoints(points.ids[reliable], points.xyz[reliable], points.rgb[reliable], points.track_lengths[reliable])
    if not any(len(image.point_ids) for image in model.images):  # tracks whose photos lost their keypoints say nothing of what a photo sees
        return points.xyz, points.rgb, *nothing
    ids = points.ids

    def seen_of(image: ColmapImage) -> np.ndarray:
        seen = np.unique(image.point_ids)
        seen = seen[sample_of(len(seen), len(model.images))]
        position = np.searchsorted(ids, seen)
        known = position < len(ids)
        return position[known][ids[position[known]] == seen[known]]

    def observed_of(image: ColmapImage) -> tuple[np.ndarray, np.ndarray] | None:
        if image.xy is None:
            return None
        position = np.searchsorted(ids, image.point_ids).clip(0, len(ids) - 1)
        known = (ids[position] == image.point_ids) & np.isfinite(image.xy).all(1)
        return position[known], image.xy[known]

    return points.xyz, points.rgb, seen_of, observed_of


class _Photos:
    """Where the photos of a model are, their masks, and how much they are still to be shrunk."""

    def __init__(self, root: Path, model: Path, options: LoadOptions, notes: Notes, names: list[str]) -> None:
        self.options, factor = options, options.data_factor
        self.masks = MaskFinder(root)
        named = image_folders(root, model)
        smaller = [folder.with_name(f"{folder.name}_{factor}") for folder in named or [root / "images"]]
        smaller = [folder for folder in smaller if factor > 1 and folder.is_dir()]
        folders = _best_folder(root, names, [folder for folder in named if holds_photos(folder)], options)
        folders = folders or [place for place in dict.fromkeys((root, model)) if holds_photos(place)]
        if not folders and not smaller:
            raise SceneError(f"no folder images/ in {root}: put the photos that COLMAP was given there")
        self.shrunk = Finder(root, smaller, allow_outside=options.allow_outside).find_all(names, Notes()) if smaller else {}
        finder = Finder(root, folders, allow_outside=options.allow_outside)
        rest = [name for name in names if self.shrunk.get(name) is None]
        self.full = finder.find_all(rest, notes)
        self.folders, self.ambiguous = [*smaller, *folders], finder.ambiguous
        self.looked_in = ", ".join(str(folder) for folder in self.folders)
        if not self.shrunk:
            _note_unposed(finder, self.full, notes)

    def of(self, name: str) -> tuple[Path | None, float, Path | None, str | None]:
        """(file, factor left, mask, why there is no file)."""
        path, factor = self.shrunk.get(name), 1.0
        if path is None:
            path, factor = self.full.get(name), float(self.options.data_factor)
        if path is None:
            reason = "several files would fit its name" if name in self.ambiguous else "it is missing"
            return None, factor, None, f"{reason} (looked in {self.looked_in})"
        if not self.options.masks:
            return path, factor, None, None
        folder = next((folder for folder in self.folders if folder in path.parents), path.parent)
        return path, factor, self.masks.of(name, path, folder), None


def _best_folder(root: Path, names: list[str], folders: list[Path], options: LoadOptions) -> list[Path]:
    """The folder in which most names are found as they are; all of them where none is. (input/ may hold the same names before undistortion.)"""
    finders = [Finder(root, [folder], allow_outside=options.allow_outside) for folder in folders]
    scores = [sum((finder.exactly(name) or finder.with_another_extension(name)) is not None for name in names) for finder in finders]
    return [folders[scores.index(max(scores))]] if any(scores) else folders


def _note_unposed(finder: Finder, used: dict[str, Path | None], notes: Notes) -> None:
    """Photos that the model says nothing of: mapping lost them, or this is not the model of all."""
    files = [file for file in finder.files() if not is_mask_name(file)]
    posed = {file.resolve() for file in used.values() if file is not None}
    unposed = sum(file.resolve() not in posed for file in files)
    if unposed:
        where = ", ".join(str(folder) for folder in finder.folders)
        notes.say(f"{unposed} of {len(files)} photos in {where} have no pose in the model: they take no part")
