"""One camera of a photo, whatever format it came from: pinhole intrinsics and the lens model of OpenCV; and the checks that every format shares.

Lenses are removed by pycolmap, which is imported when the first distorted photo asks for it: importing it takes a second and replaces the signal
handlers of the process.
"""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np

from ..errors import SceneError

# COLMAP's perspective models: where f, c and the eight coefficients of FULL_OPENCV (k1 k2 p1 p2 k3 k4 k5 k6) stand among their parameters.
_PARAMETERS = {
    "SIMPLE_PINHOLE": ("f", "cx", "cy"),
    "PINHOLE": ("fx", "fy", "cx", "cy"),
    "SIMPLE_RADIAL": ("f", "cx", "cy", "k1"),
    "RADIAL": ("f", "cx", "cy", "k1", "k2"),
    "OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2"),
    "FULL_OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
}
MODEL_NAMES = (  # by COLMAP's number
    *("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE", "FULL_OPENCV", "FOV"),
    *("SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "THIN_PRISM_FISHEYE", "RAD_TAN_THIN_PRISM_FISHEYE"),
)
SUPPORTED_MODELS = tuple(_PARAMETERS)
COEFFICIENTS = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")

MAX_SIZE = 1 << 20  # px; larger is a damaged file
MIN_FOCAL = 0.01  # of the larger side: below it a photo would show more than 178 degrees
LARGEST_INTRINSIC = 1e9  # px, and distortion coefficients: what is larger has lost its way, and may not survive float32
LARGEST_COORDINATE = 1e15  # its square still fits into float32
LENS_ITERATIONS = 50  # of `rays`; each leaves about the strength of the lens of the error
ROTATION_TOLERANCE = 1e-2  # files are written with 3 to 17 digits


@dataclass(frozen=True)
class Camera:
    """Intrinsics in px at the size of the model; `distortion` are k1 k2 p1 p2 k3 k4 k5 k6 of OpenCV's rational model."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...] = (0.0,) * 8

    @property
    def is_distorted(self) -> bool:
        return any(self.distortion)

    def at_size(self, width: int, height: int) -> Camera:
        """The same camera for a photo that was resized."""
        x, y = width / self.width, height / self.height
        return replace(self, width=width, height=height, fx=self.fx * x, fy=self.fy * y, cx=self.cx * x, cy=self.cy * y)

    def turned(self) -> Camera:
        """Width and height exchanged: what a size that belongs to the photo as it is stored becomes. Intrinsics stay."""
        return replace(self, width=self.height, height=self.width)

    def K(self) -> np.ndarray:
        """(3, 3) float64, px."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1.0]])

    def distorted(self, rays: np.ndarray) -> np.ndarray:
        """Where the lens puts points (n, 2) of the plane at depth 1, on the same plane: OpenCV's rational model."""
        k1, k2, p1, p2, k3, k4, k5, k6 = self.distortion
        x, y = rays[:, 0], rays[:, 1]
        r2 = x * x + y * y
        radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
        along = 2 * x * y
        return np.stack([x * radial + p1 * along + p2 * (r2 + 2 * x * x), y * radial + p1 * (r2 + 2 * y * y) + p2 * along], 1)

    def rays(self, xy: np.ndarray) -> np.ndarray:
        """Points (n, 2) of the plane at depth 1 that are seen at `xy` (n, 2) px: the lens removed, by fixed-point iteration."""
        seen = (xy - [self.cx, self.cy]) / [self.fx, self.fy]
        rays = seen
        for _ in range(LENS_ITERATIONS if self.is_distorted else 0):
            rays = rays + seen - self.distorted(rays)
        return rays

    def fault(self) -> str | None:
        """Why no photo can be fitted with this camera, in the words of an error message; None for a sound one."""
        numbers = (self.fx, self.fy, self.cx, self.cy, *self.distortion)
        if not np.isfinite(numbers).all():
            return "a camera that is not finite"
        if not (0 < self.width <= MAX_SIZE and 0 < self.height <= MAX_SIZE):
            return f"a camera of size {self.width} x {self.height}"
        if not min(self.fx, self.fy) >= MIN_FOCAL * max(self.width, self.height):
            return f"a camera with focal lengths {self.fx:g} and {self.fy:g} px: both must be positive, and that of a perspective photo"
        if np.abs(numbers).max() > LARGEST_INTRINSIC:
            return f"a camera with a number of {np.abs(numbers).max():.3g}"
        return None


def camera_from_colmap(model: str, width: int, height: int, params: np.ndarray) -> Camera:
    """Of a supported model, with as many parameters as `num_parameters` says."""
    values = dict(zip(_PARAMETERS[model], (float(value) for value in params)))
    fx = values.get("fx", values.get("f", 0.0))
    distortion = tuple(values.get(name, 0.0) for name in COEFFICIENTS)
    return Camera(int(width), int(height), fx, values.get("fy", fx), values["cx"], values["cy"], distortion)


def num_parameters(model: str, where: object) -> int:
    """How many numbers a camera of COLMAP's `model` has.

    Raises:
        SceneError: it is none that can be undistorted here.
    """
    if model not in _PARAMETERS:
        raise SceneError(
            f"camera model {model} in {where} is not supported (only {', '.join(SUPPORTED_MODELS)}): "
            f"run COLMAP's image_undistorter and load its output"
        )
    return len(_PARAMETERS[model])


def nearest_rotation(matrix: np.ndarray) -> np.ndarray | None:
    """The rotation nearest to a (3, 3) matrix that is one up to rounding and a uniform scale (Blender's); None for any other matrix."""
    with np.errstate(all="ignore"):
        scale = np.cbrt(abs(np.linalg.det(matrix))) if np.isfinite(matrix).all() else 0.0
        if not 0 < scale < np.inf:
            return None
        u, singular, vt = np.linalg.svd(matrix)
        if abs(singular / scale - 1).max() > ROTATION_TOLERANCE or np.linalg.det(u @ vt) < 0:
            return None
    return u @ vt


def pose_fault(camtoworld: np.ndarray) -> str | None:
    """Why a camera cannot stand at a pose (4, 4) whose rotation is one; None for a sound pose."""
    if not np.isfinite(camtoworld).all():
        return "a pose that is not finite"
    if np.abs(camtoworld[:3, 3]).max() > LARGEST_COORDINATE:
        return f"a pose {np.abs(camtoworld[:3, 3]).max():.3g} units away"
    return None


def undistort(photo: np.ndarray, camera: Camera) -> tuple[np.ndarray, Camera]:
    """(photo (H, W, 3) uint8 without lens distortion, its pinhole camera); blank borders are cropped away."""
    pycolmap = import_pycolmap()
    model = "FULL_OPENCV" if any(camera.distortion[4:]) else "OPENCV"
    coefficients = camera.distortion if model == "FULL_OPENCV" else camera.distortion[:4]
    params = [camera.fx, camera.fy, camera.cx, camera.cy, *coefficients]
    lens = pycolmap.Camera(model=model, width=camera.width, height=camera.height, params=params)
    bitmap, pinhole = pycolmap.undistort_image(pycolmap.UndistortCameraOptions(), pycolmap.Bitmap.from_array(photo), lens)
    K = pinhole.calibration_matrix()
    flat = Camera(pinhole.width, pinhole.height, float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2]))
    return bitmap.to_array(), flat


def import_pycolmap() -> ModuleType:
    """pycolmap, and the signal handlers as they were: its logging library installs its own, which print a crash report for every SIGTERM."""
    if "pycolmap" in sys.modules:
        return sys.modules["pycolmap"]
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGABRT", "SIGSEGV", "SIGILL", "SIGFPE", "SIGBUS") if hasattr(signal, name)]
    before = {signal_number: signal.getsignal(signal_number) for signal_number in numbers}
    import pycolmap

    for signal_number, handler in before.items():
        try:
            if handler is not None:
                signal.signal(signal_number, handler)
        except ValueError:  # not in the main thread: Python lets nobody else do it
            pass
    return pycolmap
