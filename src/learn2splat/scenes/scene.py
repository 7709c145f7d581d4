"""The two records of this folder: `Scene` (photos, cameras, points) and `Similarity` (input frame -> normalised frame).

A scene is what a loader hands to everything else. Its cameras and points live in the *normalised frame*, in which optimization
runs; `Scene.to_normalised` leads there from the frame of the files, and its inverse leads back. Frames and units: docs/conventions.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from .angle import seen_points, view_angle
from .depth_files import DepthFile

EPS2D = 0.3  # px^2, added to the projected covariance of every Gaussian: the default of 3DGS and gsplat
STRAY = 10  # A camera farther away than so many times the 90 % quantile is none that the extent of a scene may follow.


@dataclass(frozen=True, eq=False)
class Similarity:
    """A rotation, a uniform scale and a shift: `x_out = scale * (rotation @ x_in) + translation`.

    Kept in float64, because input frames may be far from their origin (georeferenced models: 1e6 units).

    Attributes:
        scale: positive, output units per input unit.
        rotation: (3, 3) float64, orthonormal with determinant +1.
        translation: (3,) float64, output units.
    """

    scale: float
    rotation: Tensor
    translation: Tensor

    @classmethod
    def identity(cls) -> Similarity:
        """The map that changes nothing."""
        return cls(1.0, torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))

    def is_identity(self) -> bool:
        """Whether it changes nothing."""
        return self.scale == 1.0 and bool((self.rotation == torch.eye(3, dtype=self.rotation.dtype)).all()) and not bool(self.translation.any())

    def apply(self, points: Tensor) -> Tensor:
        """Map points (..., 3); computed in float64, returned in the dtype and on the device of `points`."""
        rotation, translation = self.rotation.to(points.device), self.translation.to(points.device)
        return (self.scale * (points.double() @ rotation.T) + translation).to(points.dtype)

    def apply_poses(self, camtoworlds: Tensor) -> Tensor:
        """Map camera poses (..., 4, 4): centres like points, axes only rotated (a pose stays rigid)."""
        rotation = self.rotation.to(camtoworlds.device)
        out = camtoworlds.double().clone()
        out[..., :3, :3] = rotation @ out[..., :3, :3]
        out[..., :3, 3] = self.apply(out[..., :3, 3])
        return out.to(camtoworlds.dtype)

    def inverse(self) -> Similarity:
        """The map back: `x_in = (1 / scale) * rotation^T @ (x_out - translation)`."""
        back = self.rotation.T
        return Similarity(1.0 / self.scale, back, -(back @ self.translation) / self.scale)


@dataclass(frozen=True, eq=False)
class Observed:
    """What a photo sees of the points of a scene: `points` (n,) int64, positions; `rays` (n, 2) float64, x / z and y / z in the camera frame."""

    points: Tensor
    rays: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Scene:
    """Posed photos and the points seen in them. Index i means the same photo in every list.

    Attributes:
        name: short name, for reports (the folder's).
        image_names: sorted; unique.
        images: each (H, W, 3) uint8, sRGB, without lens distortion; sizes may differ between photos.
        camtoworlds: (M, 4, 4) float32, world from camera, OpenCV axes (+x right, +y down, +z forward), normalised frame.
        Ks: (M, 3, 3) float32, px of `images[i]`; the centre of row i, column j is at (j + 0.5, i + 0.5).
        points: (P, 3) float32, normalised frame. P is 0 only for transforms.json without a point cloud.
        colors: (P, 3) uint8, sRGB.
        train_idx, test_idx: positions of the photos to fit and of those that are scored: held out, unless all are to be fitted.
        to_normalised: input frame -> normalised frame.
        background: (3,) float32 in [0, 1], the colour behind everything (white for NeRF-synthetic photos with alpha, else black).
        warnings: one sentence for each kind of thing that was left out, guessed or mended on loading.
        masks: each (H, W) bool, true where the photo is fitted and scored; None: everywhere.
        eps2d: px^2, how much every Gaussian is blurred where photos of this scene are rendered (`rasterize`).
        offset: (3,) float64, coordinates of the files = input frame + offset; None: they are the same. Georeferenced scenes have one, because
            float32 cannot hold their coordinates.
        observations: of each photo; None: the model says nothing of them, or they were not asked for.
        depth_files: the depth map that the scene brings of each photo, if any; None: of none.
    """

    name: str
    image_names: tuple[str, ...]
    images: tuple[Tensor, ...]
    camtoworlds: Tensor
    Ks: Tensor
    points: Tensor
    colors: Tensor
    train_idx: tuple[int, ...]
    test_idx: tuple[int, ...]
    to_normalised: Similarity
    background: Tensor
    warnings: tuple[str, ...] = ()
    masks: tuple[Tensor, ...] | None = None
    offset: Tensor | None = None
    eps2d: float = EPS2D
    observations: tuple[Observed, ...] | None = None
    depth_files: tuple[DepthFile | None, ...] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        sizes = sorted({self.size(i) for i in range(len(self))}, reverse=True)
        several = f" and {len(sizes) - 1} other sizes" if len(sizes) > 1 else ""
        photos = f"{len(self.train_idx)} + {len(self.test_idx)} photos of {sizes[0][0]}x{sizes[0][1]} px{several}"
        return f"Scene({self.name!r}: {photos}, {len(self.points)} points)"

    @property
    def fits_all(self) -> bool:
        """Whether the photos that are scored are fitted, too."""
        return set(self.test_idx) <= set(self.train_idx)

    @cached_property
    def viewmats(self) -> Tensor:
        """(M, 4, 4) float32, camera from world: the inverse of `camtoworlds`, exact for rigid poses."""
        rotation = self.camtoworlds[:, :3, :3].double().mT
        viewmats = torch.eye(4, dtype=torch.float64).repeat(len(rotation), 1, 1)
        viewmats[:, :3, :3] = rotation
        viewmats[:, :3, 3] = -(rotation @ self.camtoworlds[:, :3, 3:].double())[:, :, 0]
        return viewmats.float()

    @property
    def scene_scale(self) -> float:
        """Camera extent in world units: 1.1 x the largest distance of a train camera centre to their mean (3DGS), stray cameras not counted."""
        centres = self.camtoworlds[list(self.train_idx), :3, 3]
        stray = set(self.stray_cameras(centres).tolist())
        centres = centres[[i for i in range(len(centres)) if i not in stray]]
        return 1.1 * float((centres - centres.mean(0)).norm(dim=-1).max())

    @staticmethod
    def stray_cameras(centres: Tensor) -> Tensor:
        """Positions of those camera centres (M, 3) that are ten times as far from the middle as nine of ten are: failures of the reconstruction."""
        distances = (centres - centres.quantile(0.5, dim=0)).norm(dim=-1)
        usual = distances.sort().values[int(0.9 * (len(distances) - 1))]
        return (distances > STRAY * usual).nonzero()[:, 0] if usual > 0 else torch.zeros(0, dtype=torch.int64)

    def frame_of(self, offset: Tensor | None, middle: Tensor) -> Similarity:
        """The way into the normalised frame for coordinates of a file made for this scene.

        Args:
            offset: (3,) float64, what the file says must be added to its coordinates; None: it says nothing.
            middle: (3,), of its coordinates. A file that says nothing is in the frame of the files or in the input frame, whichever is nearer.
        """
        if offset is None and self.offset is not None and middle.double().norm() < (middle.double() - self.offset).norm():
            offset = self.offset
        zero = torch.zeros(3, dtype=torch.float64)
        shift = (zero if offset is None else offset) - (zero if self.offset is None else self.offset)
        moved = self.to_normalised.translation + self.to_normalised.scale * (self.to_normalised.rotation @ shift)
        return Similarity(self.to_normalised.scale, self.to_normalised.rotation, moved)

    def in_input_frame(self) -> Scene:
        """The same scene in the frame of the files (shifted by `offset`, where there is one)."""
        if self.to_normalised.is_identity():
            return self
        back = self.to_normalised.inverse()
        poses = back.apply_poses(self.camtoworlds.double()).float()
        return replace(self, camtoworlds=poses, points=back.apply(self.points.double()).float(), to_normalised=Similarity.identity())

    def view_angle(self, views: Sequence[int]) -> float | None:
        """Degrees between neighbouring ones of `views` (photo indices), as `angle.view_angle` measures them."""
        idx = list(views)
        return view_angle(self.camtoworlds[idx], self.Ks[idx], [self.size(i) for i in idx], self.points)

    def seen_points(self, views: Sequence[int]) -> Tensor:
        """(P,) bool: the points that lie inside of at least one of the photos `views`."""
        idx = list(views)
        return seen_points(self.camtoworlds[idx], self.Ks[idx], [self.size(i) for i in idx], self.points).any(0)

    def size(self, i: int) -> tuple[int, int]:
        """(width, height) of photo i in px."""
        height, width, _ = self.images[i].shape
        return width, height

    def image(self, i: int) -> Tensor:
        """Photo i as (H, W, 3) float32 in [0, 1]."""
        return self.images[i].float() / 255


def every_nth_split(count: int, test_every: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(train_idx, test_idx): photo 0 and every `test_every`-th after it are held out (the field's rule, docs/method.md section 5)."""
    test = tuple(range(0, count, test_every))
    return tuple(i for i in range(count) if i % test_every), test
