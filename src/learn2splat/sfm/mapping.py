"""Comparing photos and placing them: COLMAP's matching, geometric verification and incremental mapping, in pieces that a progress bar can follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..scenes._camera import import_pycolmap
from .features import row_name

if TYPE_CHECKING:
    import pycolmap

PAIRS_AT_ONCE = 40  # compared between two looks at the clock: about two seconds
SEED = 1
MIN_MODEL = 3  # photos
MIN_MATCHES = 15  # of a pair of photos, for it to say anything


def match(database: Path, pairs: list[tuple[int, int]], folder: Path) -> Iterator[int]:
    """Compare the features of pairs of photos, by position; yields now and then how many are done. What had been compared before costs nothing."""
    colmap = import_pycolmap()
    matching, verification = colmap.FeatureMatchingOptions(), colmap.TwoViewGeometryOptions()
    matching.use_gpu = False
    verification.ransac.random_seed = SEED
    verification.min_num_inliers = MIN_MATCHES
    pairing = colmap.ImportedPairingOptions()
    pairing.match_list_path = folder / "pairs.txt"
    for begin in range(0, len(pairs), PAIRS_AT_ONCE):
        chunk = pairs[begin : begin + PAIRS_AT_ONCE]
        pairing.match_list_path.write_text("".join(f"{row_name(i + 1)} {row_name(j + 1)}\n" for i, j in chunk), "utf-8")
        colmap.match_image_pairs(database, matching, pairing, verification, colmap.Device.cpu)
        yield begin + len(chunk)


def place(database: Path, folder: Path, count: int, on_photos: Callable[[int], None]) -> list[pycolmap.Reconstruction]:
    """The models that `count` photos give, the one with most photos first; no colours.

    Where COLMAP's usual thresholds leave photos out, lower ones are tried, too, and the result with more photos in one model is taken: of the 24
    photos of `kitchen`, at 637 px, the usual ones place 18 and the lower ones all.

    Args:
        folder: COLMAP writes its models there.
        on_photos: told how many were placed just now, and a negative number where it begins again; it may raise.
    """
    colmap = import_pycolmap()
    folder.mkdir(exist_ok=True)
    best: list[pycolmap.Reconstruction] = []
    for lower in (False, True):
        placed = 0

        def on_photo(number: int) -> None:
            nonlocal placed
            placed += number
            on_photos(number)

        models = colmap.incremental_mapping(
            database, folder, folder, _options(lower),
            initial_image_pair_callback=lambda: on_photo(2), next_image_callback=lambda: on_photo(1),
        )  # fmt: skip
        found = sorted(models.values(), key=lambda model: (-model.num_reg_images(), -model.num_points3D()))
        if found and (not best or found[0].num_reg_images() > best[0].num_reg_images()):
            best = found
        if best and best[0].num_reg_images() == count:
            break
        if not lower:
            on_photos(-placed)
    return best


def _options(lower: bool) -> pycolmap.IncrementalPipelineOptions:
    """COLMAP's own, but repeatable and for models of three photos and more; `lower` asks for fewer features in common."""
    options = import_pycolmap().IncrementalPipelineOptions()
    options.min_model_size = MIN_MODEL
    options.min_num_matches = MIN_MATCHES
    options.extract_colors = False
    if lower:
        options.min_num_matches = 10
        options.mapper.init_min_tri_angle = 8.0  # degrees
        options.mapper.abs_pose_min_num_inliers = 15
        options.mapper.abs_pose_min_inlier_ratio = 0.15
    for part in (options, options.mapper, options.triangulation):
        part.random_seed = SEED
    return options


def quiet() -> None:
    """COLMAP logs every step; only what is fatal is of interest here."""
    colmap = import_pycolmap()
    colmap.logging.minloglevel = colmap.logging.FATAL
    colmap.logging.logtostderr = False
