"""The pictures of a comparison, small enough for a page: what the slider of the report moves through."""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image

from ..files import file_name
from .page import webp_uri
from .protocol import is_mark
from .stats import Comparison

LONG_SIDES = ((150, 640), (400, 448), (1000, 320))  # (pictures up to, px of the longer side): a page of at most some 10 MB, ...
LAST_LONG_SIDE = 224  # ... and for more pictures than that


def picture_data(c: Comparison, out: Path) -> list[dict]:
    """For each scene with pictures: `name`, `photo` (address of the held-out photo) and `lanes`, of which each has `label`, `position` (of the
    optimizer's colour) and `frames` in order of time, with `step`, `seconds`, `psnr` and `src`.

    Frames are those at marks of steps and the last one. Pictures that are missing or damaged are left out.
    """
    chosen: dict[str, list[tuple[int, str, list]]] = {}
    for position, label in enumerate(c.labels):
        for scene in c.scenes:
            cells = [cell for (name, where, _), cell in sorted(c.cells.items()) if name == label and where == scene]
            cell = next((cell for cell in cells if any(point.picture for point in cell.points)), None)
            if cell is not None:
                points = [point for point in cell.points if point.picture and (is_mark(point.step) or point is cell.points[-1])]
                frames = [(point, cell.path.with_name(Path(point.picture).name)) for point in points]  # never outside the folder
                chosen.setdefault(scene, []).append((position, label, frames))
    count = sum(len(frames) for lanes in chosen.values() for _, _, frames in lanes)
    side = next((side for most, side in LONG_SIDES if count <= most), LAST_LONG_SIDE)
    scenes = []
    for scene, lanes in chosen.items():
        folder = next(cell.path.parents[1] for cell in c.cells.values() if cell.scene == scene)
        photo = webp(folder / "photo.png", side)
        rows = []
        for position, label, frames in lanes:
            row = [
                {"step": point.step, "seconds": round(point.seconds, 3), "psnr": None if math.isnan(point.psnr) else round(point.psnr, 2), "src": src}
                for point, path in frames
                if (src := webp(path, side))
            ]
            if row:
                rows.append({"label": label, "position": position, "frames": row})
        if photo and rows:
            scenes.append({"name": scene, "id": file_name(scene), "photo": photo, "lanes": rows})
    return scenes


def webp(path: Path, long_side: int) -> str | None:
    """The picture as an address, scaled down to `long_side` px; None where there is none that can be read."""
    try:
        with Image.open(path) as image:
            return webp_uri(image, long_side)
    except (OSError, ValueError):
        return None
