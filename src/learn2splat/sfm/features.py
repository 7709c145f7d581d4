"""The database of COLMAP: a row for each camera and photo, and SIFT features of every photo."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..scenes._camera import import_pycolmap
from .photos import Photo, grey_of

LONG_SIDE = 1600  # px at which features are looked for: what a fit shrinks photos to
MAX_FEATURES = 8192  # per photo
DEFAULT_FOCAL = 1.2  # of the longer side, where EXIF does not say: 45 degrees, as COLMAP assumes
CAMERA_MODEL = "SIMPLE_RADIAL"  # f, cx, cy, k: what a phone's photos determine well


def row_name(number: int) -> str:
    """What the database calls photo `number`: lists of pairs are split at blanks, which names of photos may have."""
    return f"{number:06d}"


class Features:
    """A database that is filled photo by photo; what is in it stays, so that a killed run goes on.

    A context manager. Photos have the numbers 1, 2, ... in the order of `photos`.
    """

    def __init__(self, path: Path, photos: list[Photo]) -> None:
        self.colmap = import_pycolmap()
        self.path, self.photos = path, photos
        self.ids = {photo.name: position + 1 for position, photo in enumerate(photos)}
        options = self.colmap.FeatureExtractionOptions()
        options.sift.max_num_features = MAX_FEATURES
        options.use_gpu = False
        self._extractor = self.colmap.FeatureExtractor.create(options, self.colmap.Device.cpu)

    def __enter__(self) -> Features:
        self.database = self.colmap.Database.open(self.path)
        return self

    def __exit__(self, *exception: object) -> None:
        self.database.close()

    def has(self, photo: Photo) -> bool:
        """Whether the features of a photo are there, all of them."""
        return self.database.exists_image(self.ids[photo.name]) and self.database.exists_descriptors(self.ids[photo.name])

    def add(self, photo: Photo, pixels: np.ndarray) -> int:
        """Find and keep the features of a photo; how many there are."""
        grey, ratio = grey_of(pixels, LONG_SIDE)
        keypoints, descriptors = self._extractor.extract_from_uint8_array(grey)
        rows = self.colmap.keypoints_to_matrix(keypoints).astype(np.float32).reshape(-1, 4)
        rows[:, :3] *= ratio  # x, y, scale; pixel corners are whole numbers in COLMAP, so nothing is shifted
        number = self.ids[photo.name]
        with self.colmap.DatabaseTransaction(self.database):
            self._add_photo(photo)
            if not self.database.exists_keypoints(number):
                self.database.write_keypoints(number, rows)
            self.database.write_descriptors(number, descriptors)
        return len(rows)

    def descriptors(self, photo: Photo, at_most: int) -> np.ndarray:
        """(n, 128) float32 of the largest features, unit length."""
        number = self.ids[photo.name]
        rows = np.asarray(self.database.read_descriptors(number).data)
        if len(rows) > at_most:
            sizes = self.database.read_keypoints(number)
            scale = np.abs(sizes[:, 2] * sizes[:, -1] - sizes[:, 3] * sizes[:, 4]) if sizes.shape[1] == 6 else sizes[:, 2]
            rows = rows[np.argsort(-scale, kind="stable")[:at_most]]
        rows = rows.astype(np.float32)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)

    def _add_photo(self, photo: Photo) -> None:
        """The rows that say which camera took it, where they are missing: camera and rig, then image and frame, which COLMAP 4 wants as well."""
        colmap, number = self.colmap, self.ids[photo.name]
        camera_id = 1 + min(i for i, other in enumerate(self.photos) if other.camera == photo.camera)
        sensor = colmap.sensor_t(colmap.SensorType.CAMERA, camera_id)
        if not self.database.exists_camera(camera_id):
            focal = photo.focal or DEFAULT_FOCAL * max(photo.size)
            camera = colmap.Camera.create_from_model_name(camera_id, CAMERA_MODEL, focal, *photo.size)
            camera.has_prior_focal_length = photo.focal is not None
            self.database.write_camera(camera, use_camera_id=True)
            rig = colmap.Rig(rig_id=camera_id)
            rig.add_ref_sensor(sensor)
            self.database.write_rig(rig, use_rig_id=True)
        if not self.database.exists_image(number):
            image = colmap.Image(name=row_name(number), camera_id=camera_id, image_id=number)
            frame = colmap.Frame(frame_id=number, rig_id=camera_id)
            frame.add_data_id(image.data_id)
            image.frame_id = number
            self.database.write_frame(frame, use_frame_id=True)
            self.database.write_image(image, use_image_id=True)
