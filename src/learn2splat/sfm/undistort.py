"""The result of mapping as a scene that every program reads: photos without lens distortion in images/, a model of pinhole cameras in sparse/0."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..files import atomic_produce
from ..scenes._camera import import_pycolmap
from .photos import Photo, read_pixels

if TYPE_CHECKING:
    import pycolmap

JPEG_QUALITY = 96
MAX_POINT_ERROR = 2.0  # px of mean reprojection error of a point that is kept
IMAGES, MODEL = "images", Path("sparse") / "0"


class Undistorter:
    """Goes through the photos of a model, one at a time, and then writes the model.

    Args:
        model: of mapping; its photos are numbered as `photos` are, from 1. It is changed.
        out: folder of the scene.
    """

    def __init__(self, model: pycolmap.Reconstruction, photos: list[Photo], out: Path) -> None:
        self.colmap = import_pycolmap()
        self.model, self.out = model, out
        self.photos = {number: photos[number - 1] for number in model.reg_image_ids()}
        self._options = self.colmap.UndistortCameraOptions()
        self._lenses = {number: self.colmap.Camera(camera.todict()) for number, camera in model.cameras.items()}
        self._sums = {number: np.zeros(4) for number in model.points3D}  # of red, green, blue, and how many

    def add(self, number: int) -> None:
        """Write the photo `number` without distortion, and see which colours its points have.

        Raises:
            SaveError: the disk is full, ...
        """
        photo = self.photos[number]
        image = self.model.image(number)
        lens = self._lenses[image.camera_id]
        pixels = read_pixels(photo)
        flat, pinhole = self._flat(np.ascontiguousarray(pixels[..., :3]), lens)
        picture = Image.fromarray(flat)
        if pixels.shape[2] == 4:
            alpha, _ = self._flat(np.repeat(pixels[..., 3:], 3, axis=2), lens)
            picture.putalpha(Image.fromarray(alpha[..., 0]))
        keypoints = np.array([point.xy for point in image.points2D]).reshape(-1, 2)
        flat_points = pinhole.img_from_cam(np.pad(lens.cam_from_img(keypoints), ((0, 0), (0, 1)), constant_values=1.0), check_cheirality=False)
        for point, xy in zip(image.points2D, flat_points):
            point.xy = xy
        self._see_colors(image, flat)
        image.name = photo.kept_name
        jpeg = Path(image.name).suffix.lower() != ".png"
        options = {"quality": JPEG_QUALITY, "subsampling": 0, "format": "JPEG"} if jpeg else {"format": "PNG"}
        picture = picture.convert("RGB") if jpeg else picture
        atomic_produce(self.out / IMAGES / image.name, lambda path: picture.save(path, **options))

    def finish(self) -> int:
        """Write the model; how many points it has."""
        model = self.model
        for number, lens in self._lenses.items():
            camera = model.camera(number)
            pinhole = self.colmap.undistort_camera(self._options, lens)
            camera.model, camera.width, camera.height = pinhole.model, pinhole.width, pinhole.height
            camera.params = pinhole.params
        for number, (*rgb, count) in self._sums.items():
            if count:
                model.point3D(number).color = np.round(np.array(rgb) / count).astype(np.uint8)
        for number in [number for number, point in model.points3D.items() if point.error > MAX_POINT_ERROR]:
            model.delete_point3D(number)
        folder = self.out / MODEL
        folder.mkdir(parents=True, exist_ok=True)
        model.write_binary(folder)
        return model.num_points3D()

    def _flat(self, pixels: np.ndarray, lens: pycolmap.Camera) -> tuple[np.ndarray, pycolmap.Camera]:
        bitmap, pinhole = self.colmap.undistort_image(self._options, self.colmap.Bitmap.from_array(pixels), lens)
        return bitmap.to_array(), pinhole

    def _see_colors(self, image: pycolmap.Image, flat: np.ndarray) -> None:
        for point in image.points2D:
            if point.has_point3D():
                x, y = (int(value) for value in point.xy)
                if 0 <= x < flat.shape[1] and 0 <= y < flat.shape[0]:
                    self._sums[point.point3D_id] += (*flat[y, x], 1)
