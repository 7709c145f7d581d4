"""`reconstruct`: a folder of photos becomes a scene.

    photos -> features -> pairs -> matches -> models -> the largest one, undistorted

What was computed is kept in `out/.sfm/` until the scene is there, so that the same call goes on after a kill. Mapping alone starts again.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import OptionError, SceneError
from ..files import WRITTEN_BY, atomic_write, is_ours, locked, read_json, to_json
from ..scenes._photos import UnusablePhoto
from . import pairs as pairing
from .features import Features
from .mapping import match, place, quiet
from .pairs import Matching
from .photos import Photo, open_photo, read_pixels, require_photos
from .undistort import IMAGES, Undistorter

WRITER = "learn2splat sfm"
MARKER, WORK = "sfm.json", ".sfm"
LEAST_PHOTOS, LEAST_SHARE = 3, 0.25  # registered, for a scene to be written
DESCRIBED_BY = 1500  # features of a photo that say what it looks like
HELP = (
    "what helps: more photos with more overlap (every detail in three or more, a step to the side between two of them and not only a turn), "
    "no blurred ones, one zoom, a subject with texture that does not move"
)

OnProgress = Callable[[str, int, int], None]  # (what is done, how many of it are done, of how many)


class SfmStopped(Exception):
    """Between two pieces of work `should_stop` said so; the same call goes on."""


@dataclass(frozen=True)
class Outcome:
    """What became of the photos.

    Attributes:
        num_photos: found in the folder.
        registered: names of those that have a pose, as they are called in the scene.
        lost: names of those that could be read and have none.
        bad: name -> why it could not be read.
        models: photos in each model that mapping gave, the largest first; it is the one that was taken.
        num_points: of the scene.
        error: mean reprojection error, px.
        matching: how pairs were chosen.
        focal_known: for how many photos EXIF told the focal length.
    """

    num_photos: int
    registered: tuple[str, ...]
    lost: tuple[str, ...]
    bad: dict[str, str]
    models: tuple[int, ...]
    num_points: int
    error: float
    matching: str
    focal_known: int


def reconstruct(
    folder: Path,
    out: Path,
    *,
    matching: Matching = "auto",
    overwrite: bool = False,
    on_progress: OnProgress = lambda *_: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Find the poses of photos, and write the scene (images/ without distortion, sparse/0) into `out`.

    Args:
        folder: of photos of one thing or place.
        out: empty, not there yet, or begun by the same call before, which then goes on.
        matching: which photos are compared with which; `auto` decides by their number and names.
        overwrite: begin again.
        on_progress: called often; may raise to stop.
        should_stop: asked between two pieces of work.

    Raises:
        SceneError: too few photos, or too few of them belong together.
        OptionError: `out` holds something else.
        SaveError: `out` cannot be written.
        SfmStopped: `should_stop` said so.
    """
    paths = require_photos(folder)
    is_ours(out, MARKER, WRITER)
    with locked(out):
        asked = {WRITTEN_BY: WRITER, "photos": str(folder.resolve()), "matching": matching, "identity": _identity(folder, paths)}
        before = read_json(out / MARKER) if is_ours(out, MARKER, WRITER) else None
        if before is not None and not overwrite:
            if any(before.get(key) != value for key, value in asked.items()):
                raise OptionError(f"{out} holds a scene of other photos or options: add --overwrite to replace it, or choose another --out")
            if before.get("outcome"):
                return _outcome(before["outcome"])
        if overwrite:
            _remove(out)
        atomic_write(out / MARKER, to_json(asked, indent=1))
        (out / WORK).mkdir(exist_ok=True)
        quiet()
        outcome = _Run(folder, paths, out, matching, on_progress, should_stop).all()
        atomic_write(out / MARKER, to_json({**asked, "outcome": asdict(outcome)}, indent=1))
        shutil.rmtree(out / WORK, ignore_errors=True)
    return outcome


class _Run:
    """The steps, one after another."""

    def __init__(self, folder: Path, paths: list[Path], out: Path, matching: Matching, tell: OnProgress, should_stop: Callable[[], bool]) -> None:
        self.out, self.work, self.num_photos = out, out / WORK, len(paths)
        self.on_progress, self.should_stop = tell, should_stop
        self.bad: dict[str, str] = {}
        self.photos: list[Photo] = []
        for path in paths:
            try:
                self.photos.append(open_photo(folder, path))
            except (UnusablePhoto, SceneError) as error:
                self.bad[path.relative_to(folder).as_posix()] = _clause(error)
        clashing = {photo.kept_name for photo in self.photos if sum(other.kept_name == photo.kept_name for other in self.photos) > 1}
        for photo in [photo for photo in self.photos if photo.kept_name in clashing and photo.kept_name != photo.name]:
            self.bad[photo.name] = f"there is a {photo.kept_name} as well"
            self.photos.remove(photo)
        self.matching = pairing.choose([photo.name for photo in self.photos]) if matching == "auto" else matching

    def all(self) -> Outcome:
        database = self.work / "database.db"
        readable, pairs = self._features(database)
        for done in match(database, pairs, self.work):
            self._tell("comparing photos", done, len(pairs))
        placed = 0

        def on_photos(count: int) -> None:
            nonlocal placed
            placed += count
            self._tell("placing photos", min(placed, len(readable)), len(readable))

        models = place(database, self.work / "models", len(readable), on_photos)
        registered = models[0].num_reg_images() if models else 0
        if registered < max(LEAST_PHOTOS, LEAST_SHARE * len(readable)):
            raise SceneError(f"only {registered} of {len(readable)} photos could be placed: {HELP}{self._other_matching()}")
        return self._write(models, readable)

    def _features(self, database: Path) -> tuple[list[Photo], list[tuple[int, int]]]:
        """Features of all photos into the database; (those that could be read, the pairs to compare, by position among all)."""
        self._tell("finding features", 0, len(self.photos))
        with Features(database, self.photos) as features:
            for i, photo in enumerate(self.photos):
                if not features.has(photo):
                    try:
                        features.add(photo, read_pixels(photo))
                    except (UnusablePhoto, SceneError) as error:
                        self.bad[photo.name] = _clause(error)
                self._tell("finding features", i + 1, len(self.photos))
            usable = [i for i, photo in enumerate(self.photos) if photo.name not in self.bad]
            if len(usable) < LEAST_PHOTOS:
                raise SceneError(f"{len(usable)} of {self.num_photos} photos can be read, {LEAST_PHOTOS} are needed ({_reasons(self.bad)})")
            if self.matching == "exhaustive":
                chosen = pairing.exhaustive(len(usable))
            else:
                alike = pairing.similarities([features.descriptors(self.photos[i], DESCRIBED_BY) for i in usable])
                chosen = pairing.retrieval(alike) if self.matching == "retrieval" else pairing.sequential(len(usable), alike)
        return [self.photos[i] for i in usable], [(usable[i], usable[j]) for i, j in chosen]

    def _write(self, models: list, readable: list[Photo]) -> Outcome:
        error, sizes = models[0].compute_mean_reprojection_error(), tuple(model.num_reg_images() for model in models)
        undistorter = Undistorter(models[0], self.photos, self.out)
        shutil.rmtree(self.out / IMAGES, ignore_errors=True)  # of a run that was killed here: mapping may have changed its mind
        numbers = sorted(undistorter.photos)
        for i, number in enumerate(numbers):
            undistorter.add(number)
            self._tell("removing lens distortion", i + 1, len(numbers))
        registered = [undistorter.photos[number] for number in numbers]
        return Outcome(
            num_photos=self.num_photos,
            registered=tuple(photo.kept_name for photo in registered),
            lost=tuple(photo.name for photo in readable if photo not in registered),
            bad=self.bad,
            models=sizes,
            num_points=undistorter.finish(),
            error=error,
            matching=self.matching,
            focal_known=sum(photo.focal is not None for photo in readable),
        )

    def _tell(self, stage: str, done: int, total: int) -> None:
        self.on_progress(stage, done, total)
        if self.should_stop():
            raise SfmStopped

    def _other_matching(self) -> str:
        return "" if self.matching == "exhaustive" else "; and --matching exhaustive, which compares all photos with all"


def _identity(folder: Path, paths: list[Path]) -> str:
    """Of the photos: names, sizes and times, without reading them."""
    facts = [(path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _outcome(saved: dict) -> Outcome:
    lists = {name: tuple(saved[name]) for name in ("registered", "lost", "models")}
    return Outcome(**{**saved, **lists})


def _remove(out: Path) -> None:
    """What a call before has written, and nothing else."""
    for name in (IMAGES, "sparse", WORK):
        shutil.rmtree(out / name, ignore_errors=True)


def _clause(error: Exception) -> str:
    return " ".join(str(error).split())


def _reasons(bad: dict[str, str]) -> str:
    return "; ".join(f"{name}: {why}" for name, why in list(bad.items())[:3])
