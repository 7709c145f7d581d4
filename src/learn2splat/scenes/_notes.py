"""Loose ends of an input: what was left out, guessed or mended while it was loaded, one counted sentence per kind. They end as `Scene.warnings`."""

from __future__ import annotations

NAMES_SHOWN = 3


class Notes:
    """Collects notes from any thread. `about` counts photos under one sentence; `say` takes a sentence as it is."""

    def __init__(self) -> None:
        self._photos: dict[str, list[str]] = {}

    def say(self, sentence: str) -> None:
        """One sentence, told once however often it is said."""
        self._photos.setdefault(sentence, [])

    def about(self, sentence: str, photo: str) -> None:
        """`sentence` holds `{photos}`, which becomes "photo a.jpg", or "3 photos (a.jpg, b.jpg, c.jpg)"."""
        self._photos.setdefault(sentence, []).append(photo)

    def sentences(self) -> tuple[str, ...]:
        """All notes, in the order in which their kinds came up first."""
        return tuple(sentence.replace("{photos}", _counted(photos)) for sentence, photos in self._photos.items())


def _counted(photos: list[str]) -> str:
    names = sorted(set(photos))
    if len(names) == 1:
        return f"photo {names[0]}"
    shown = ", ".join(names[:NAMES_SHOWN])
    return f"{len(names)} photos ({shown}{', ...' if len(names) > NAMES_SHOWN else ''})"
