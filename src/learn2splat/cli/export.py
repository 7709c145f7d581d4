"""`learn2splat export`: a saved result or any splat file in another format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..errors import OptionError
from ..files import atomic_write
from ..gaussians import load_offset, save_ply, save_splat
from ..gaussians.formats import FORMATS, SUFFIXES, FormatName, format_of
from . import result as saved
from .common import Command, MaybePath, SplatPath, note
from .splat_html import html_of

HTML = "html"
MaybeFormat = Annotated[FormatName | Literal["html"] | None, tyro.conf.arg(metavar="FORMAT", help_behavior_hint="")]


@dataclass(frozen=True)
class Export(Command):
    """Write a saved result, or any splat file, in another format; the frame stays that of the input."""

    splat: SplatPath
    """Folder that learn2splat fit has written, or a splat file (.ply, .compressed.ply, .spz, .sog, .splat)."""
    format: MaybeFormat = None
    """ply: everything, for every program. compressed-ply, sog: small, for PlayCanvas and SuperSplat. spz: small, for Niantic, Scaniverse and Spark.
    splat: for old viewers, without colours that depend on the view. html: one page that shows it in any browser, by itself; to send to people.
    Default: by the suffix of --out."""
    out: MaybePath = None
    """The file to write. Default: the name of the input with the suffix of the format."""

    def run(self) -> None:
        if self.format is None and self.out is None:
            raise OptionError(f"say --format ({', '.join([*FORMATS, HTML])}) or --out FILE")
        gaussians = saved.open_splat(self.splat)
        source = self.splat if self.splat.is_file() else self.splat / saved.PLY
        form = self.format or (HTML if self.out.suffix.lower() in (".html", ".htm") else format_of(self.out))
        out = self.out or _renamed(source, SUFFIXES.get(form, ".html"))
        if out.exists() and source.exists() and out.samefile(source):
            raise OptionError(f"{out} is the input: say where to write with --out")
        offset = load_offset(source)
        if offset is not None and form != "ply":
            where = ", ".join(f"{value:.10g}" for value in offset)
            note(f"note: {form} has no place for the offset of a georeferenced splat: add ({where}) to its positions")
        if form == HTML:
            atomic_write(out, html_of(gaussians, self.splat))
            print(f"{len(gaussians)} Gaussians in {out} ({out.stat().st_size / 1e6:.2f} MB): open it in a browser, or send it to somebody")
            return
        saved.with_notes(lambda: save_ply(out, gaussians, offset=offset) if form == "ply" else save_splat(out, gaussians, form))
        print(f"{len(gaussians)} Gaussians in {out} ({out.stat().st_size / 1e6:.2f} MB, {out.stat().st_size / len(gaussians):.0f} bytes each)")


def _renamed(source: Path, suffix: str) -> Path:
    """`a/b.compressed.ply` -> `a/b.spz`."""
    name = next((source.name[: -len(known)] for known in sorted(SUFFIXES.values(), key=len, reverse=True) if source.name.lower().endswith(known)), "")
    return source.with_name((name or source.stem) + suffix)
