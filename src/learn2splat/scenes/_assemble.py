"""From what a model says (poses, cameras, points) to a `Scene`: split, load the photos, leave out what cannot be fitted, normalise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import OptionError, SceneError
from ._camera import import_pycolmap
from ._normalise import (
    CHUNK,
    depths_inside,
    depths_of,
    finite_points,
    first_depths_inside,
    local_origin,
    sample_of,
    similarity_from_cameras,
    similarity_from_points,
)
from ._notes import Notes
from ._photos import LoadedPhoto, UnusablePhoto, in_threads, load_photo
from ._raw import LoadOptions, RawModel, RawView
from .scene import Observed, Scene, Similarity, every_nth_split

SCORED_EVERY = 8  # of the photos that are fitted, where all are
DEFAULT_LONG_SIDE = 1600  # px, as 3DGS shrinks what is larger
BACKGROUNDS = {"white": 1.0, "black": 0.0}


def check_options(options: LoadOptions) -> None:
    """Raise OptionError for a value that makes no sense."""
    if options.data_factor < 1 or int(options.data_factor) != options.data_factor:
        raise OptionError(f"data_factor must be a whole number of at least 1, got {options.data_factor}")
    if options.test_every < 2 and options.test_every != 0:
        raise OptionError(f"test_every must be at least 2 (1 would hold every photo out), or 0 to fit all photos, got {options.test_every}")
    if options.long_side is not None and options.long_side < 0:
        raise OptionError(f"long_side must be at least 1 px, or 0 to keep the photos as they are, got {options.long_side}")
    if options.background is not None and options.background not in BACKGROUNDS:
        raise OptionError(f"background must be white or black, got {options.background}")


def assemble(model: RawModel, options: LoadOptions) -> Scene:
    """Load the photos of `model` and bring everything into the normalised frame (docs/conventions.md).

    Raises:
        SceneError: too little of it can be used, or a mask hides a whole photo.
    """
    notes = model.notes
    views = _split(sorted(model.views, key=lambda view: view.name), options.test_every)  # before any is left out: the field's rule
    views = _without_faulty(views, notes)
    require_two_views(views, model.source, notes)
    background = BACKGROUNDS[options.background] if options.background else 1.0 if model.alpha_is_background else None
    views, photos = _load(views, options, background, notes)
    require_two_views(views, model.source, notes)
    _note_photos(views, photos, background, notes)

    finite = finite_points(model.points)
    points = model.points if finite.all() else model.points[finite]
    if len(finite) and not len(points):
        raise SceneError(f"no point of {model.source} is finite: the reconstruction has failed, run it again")
    if len(points) < len(finite):
        notes.say(f"left out {len(finite) - len(points)} points of {model.source} that are not finite")
    keep, depths = _overlaps(model, points, finite, views, photos, notes)
    views, photos = [views[i] for i in keep], [photos[i] for i in keep]
    require_two_views(views, model.source, notes)

    poses = np.stack([view.camtoworld for view in views])
    to_normalised = similarity_from_points(points[sample_of(len(points), 1)], depths) if len(points) else similarity_from_cameras(poses)
    origin = local_origin(to_normalised)
    if origin is not None:
        to_normalised = replace(to_normalised, translation=to_normalised.translation + to_normalised.scale * torch.from_numpy(origin))
        poses[:, :3, 3] -= origin
        where = ", ".join(f"{value:.10g}" for value in origin)
        notes.say(f"coordinates are too far from the origin for float32: results are in a local frame; add ({where}) to get the frame of the files")
    camtoworlds = to_normalised.apply_poses(torch.from_numpy(poses)).float()
    _note_stray_cameras(camtoworlds, views, notes)
    train_idx, test_idx = _positions(views, model.source, options.test_every, notes)
    if options.test_every == 0:
        train_idx = tuple(range(len(views)))
        notes.say("all photos are fitted: scores are of fitted photos, every 8th, and say nothing of views in between")
    masks = [photo.mask for photo in photos]
    white = options.background == "white" or (background == 1.0 and any(photo.has_alpha for photo in photos))
    return Scene(
        name=(model.source if model.source.is_dir() else model.source.parent).resolve().name,
        image_names=tuple(view.name for view in views),
        images=tuple(photo.image for photo in photos),
        camtoworlds=camtoworlds,
        Ks=torch.from_numpy(np.stack([photo.K for photo in photos])).float(),
        points=_normalised(points, origin, to_normalised),
        colors=torch.from_numpy(np.ascontiguousarray(model.colors if len(points) == len(finite) else model.colors[finite])),
        train_idx=train_idx,
        test_idx=test_idx,
        to_normalised=to_normalised,
        background=torch.full((3,), float(white)),
        warnings=notes.sentences(),
        masks=None if all(mask is None for mask in masks) else tuple(_mask_of(photo) for photo in photos),
        offset=None if origin is None else torch.from_numpy(origin),
        observations=_observations(views, finite),
        depth_files=None if all(view.depth is None for view in views) else tuple(view.depth for view in views),
    )


def require_two_views(views: list[RawView], source: Path, notes: Notes) -> None:
    """Raise SceneError for fewer than two; it tells what became of the others."""
    if len(views) < 2:
        told = "".join(f"; {note}" for note in notes.sentences())
        expected = "expected at least one to fit and one to hold out"
        raise SceneError(f"{source} has fewer than two usable photos with a pose ({len(views)}), {expected}{told}")


def _split(views: list[RawView], test_every: int) -> list[RawView]:
    """Every view told whether it is held out: by the format, else by its place among the sorted names."""
    if test_every and all(view.held_out is not None for view in views):
        return views
    test = set(every_nth_split(len(views), test_every or SCORED_EVERY)[1])
    return [replace(view, held_out=i in test) for i, view in enumerate(views)]


def _without_faulty(views: list[RawView], notes: Notes) -> list[RawView]:
    for view in views:
        if view.fault:
            notes.about(f"left out {{photos}}: {view.fault}", view.name)
    return [view for view in views if not view.fault]


def _load(views: list[RawView], options: LoadOptions, background: float | None, notes: Notes) -> tuple[list[RawView], list[LoadedPhoto]]:
    """The photos, and the views that have one."""
    if any(view.camera.is_distorted for view in views):
        import_pycolmap()  # in this thread, which may set signal handlers
    long_side = options.long_side or None
    if options.long_side is None and options.data_factor == 1:
        long_side = DEFAULT_LONG_SIDE

    def load(view: RawView) -> LoadedPhoto | str:
        try:
            return load_photo(
                view.path,
                view.camera,
                data_factor=view.data_factor,
                long_side=long_side,
                mask=view.mask,
                alpha_hides=options.masks,
                background=background,
            )
        except UnusablePhoto as error:
            return str(error)

    loaded = in_threads(load, views)
    for view, photo in zip(views, loaded):
        if isinstance(photo, str):
            notes.about(f"left out {{photos}}: {photo}", view.name)
    good = [(view, photo) for view, photo in zip(views, loaded) if not isinstance(photo, str)]
    return [view for view, _ in good], [photo for _, photo in good]


def _note_photos(views: list[RawView], photos: list[LoadedPhoto], background: float | None, notes: Notes) -> None:
    shrunk = [photo.shrunk_from for photo in photos if photo.shrunk_from]
    longest = max((max(photo.image.shape[:2]) for photo in photos), default=0)
    if shrunk and longest == DEFAULT_LONG_SIDE:
        notes.say(f"shrunk {len(shrunk)} photos of up to {max(shrunk)} px to {longest} px, as 3DGS does: --long-side 0 keeps their size")
    for view, photo in zip(views, photos):
        if photo.turned:
            notes.about("turned {photos} as EXIF says, because only that fits to the camera", view.name)
        if photo.ambiguous:
            notes.about("EXIF says that {photos} must be turned by 180 degrees or mirrored: used as stored", view.name)
    masked = [photo for photo in photos if photo.mask is not None]
    if masked:
        hidden = sum(float(1 - photo.mask.float().mean()) for photo in masked) / len(photos)
        by_alpha = any(photo.has_alpha for photo in masked) and background is None
        source = "masks and transparent pixels" if by_alpha else "masks"
        notes.say(
            f"{source} hide {hidden:.1%} of the pixels: neither fitted nor scored (--no-masks to use them"
            + (", --background white to paint them)" if by_alpha else ")")
        )


def _overlaps(
    model: RawModel, points: np.ndarray, finite: np.ndarray, views: list[RawView], photos: list[LoadedPhoto], notes: Notes
) -> tuple[list[int], np.ndarray]:
    """(positions of the views that see any point, depths of the points seen in each view, in units of the files)."""
    sample = points[sample_of(len(points), len(views))]
    keep, depths = [], []
    for i, (view, photo) in enumerate(zip(views, photos)):
        size = (photo.image.shape[1], photo.image.shape[0])
        if view.seen is not None and len(view.seen):
            depth = depths_of(model.points[view.seen][finite[view.seen]], view.camtoworld)
            overlaps = bool((depth > 0).any())
            depths.append(depth[depth > 0])
        else:  # no tracks, or a photo that was posed by other means
            depth = depths_inside(sample, view.camtoworld, photo.K, size)
            if not len(depth) and len(sample) < len(points):
                depth = first_depths_inside(points, view.camtoworld, photo.K, size)
            overlaps = len(depth) > 0
            if view.seen is None:
                depths.append(depth)
        if overlaps or not len(finite):
            keep.append(i)
        else:
            notes.about(f"left out {{photos}}: none of the {len(finite)} points is in front of it and inside its frame", view.name)
    return keep, np.concatenate(depths) if depths else np.zeros(0)


def _note_stray_cameras(camtoworlds: Tensor, views: list[RawView], notes: Notes) -> None:
    for i in Scene.stray_cameras(camtoworlds[:, :3, 3]).tolist():
        notes.about("{photos}: its camera is more than ten times as far away as the others; its pose may be wrong", views[i].name)


def _positions(views: list[RawView], source: Path, test_every: int, notes: Notes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(train_idx, test_idx) of the views that are left."""
    train = tuple(i for i, view in enumerate(views) if not view.held_out)
    test = tuple(i for i, view in enumerate(views) if view.held_out)
    if not train:
        raise SceneError(f"{source} has no training photo with overlap: its train split is empty")
    if not test:
        notes.say("all photos that were to be held out are left out: held out every so-many-th of the others instead")
        train, test = every_nth_split(len(views), test_every or SCORED_EVERY)
    return train, test


def _normalised(points: np.ndarray, origin: np.ndarray | None, to_normalised: Similarity) -> Tensor:
    """(P, 3) float32; shifted and scaled in float64, part by part."""
    result = torch.empty(len(points), 3)
    for first in range(0, len(points), CHUNK):
        part = points[first : first + CHUNK] if origin is None else points[first : first + CHUNK] - origin
        result[first : first + CHUNK] = to_normalised.apply(torch.from_numpy(np.ascontiguousarray(part)))
    return result


def _observations(views: list[RawView], finite: np.ndarray) -> tuple[Observed, ...] | None:
    """With positions among the points that are kept, and lenses removed; None where no photo has any."""
    if all(view.observed is None for view in views):
        return None
    position = np.cumsum(finite) - 1
    result = []
    for view in views:
        points, xy = view.observed or (np.zeros(0, np.int64), np.zeros((0, 2)))
        there = finite[points]
        rays = view.camera.rays(xy[there].astype(np.float64))
        result.append(Observed(torch.from_numpy(position[points[there]].astype(np.int64)), torch.from_numpy(rays)))
    return tuple(result)


def _mask_of(photo: LoadedPhoto) -> Tensor:
    return torch.ones(photo.image.shape[:2], dtype=torch.bool) if photo.mask is None else photo.mask
