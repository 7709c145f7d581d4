"""The pieces that all HTML pages of this project are made of: one self-contained file each, nothing loaded from elsewhere, light and dark."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

NUM_COLORS = 8  # --s0 to --s7 in page.css
WIDE = ' class="wide"'
QUALITY = 82  # Of WebP: differences between optimizers stay visible, a picture of 256 px takes about 8 kB.


def page(title: str, body: str, script: str = "", *, wide: bool = False) -> str:
    """The whole file. `body` and `script` are HTML and JavaScript as they are; `wide` for tables of many columns."""
    css = Path(__file__).with_name("page.css").read_text()
    main = f"<main{WIDE if wide else ''}>{body}</main>"
    return document(title, css, main + (f"<script>{script}</script>" if script else ""))


def document(title: str, css: str, body: str) -> str:
    """A file of HTML with its style inside. `css` and `body` are taken as they are."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>
{css}</style>
</head>
<body>{body}</body>
</html>
"""


def color(position: int) -> str:
    """The CSS colour of the optimizer at `position`."""
    return f"var(--s{position % NUM_COLORS})"


def key(position: int) -> str:
    """A small square in that colour."""
    return f'<span class="key" style="background:{color(position)}"></span>'


def facts_table(facts: dict[str, str]) -> str:
    """Names and texts: machine, versions, command."""
    rows = "".join(f"<tr><td>{html.escape(name)}</td><td>{html.escape(text)}</td></tr>" for name, text in facts.items())
    return f'<table class="facts"><tbody>{rows}</tbody></table>'


def figure(image: bytes, caption: str) -> str:
    """A PNG with its caption."""
    text = html.escape(caption)
    return f'<figure><img src="{data_uri(image, "png")}" alt="{text}" loading="lazy"><figcaption>{text}</figcaption></figure>'


def data_uri(image: bytes, kind: str) -> str:
    """The image itself as an address. `kind`: png, webp."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def webp_uri(image: Image.Image, long_side: int) -> str:
    """The picture as an address, scaled down to `long_side` px."""
    image = image.convert("RGB")
    image.thumbnail((long_side, long_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY, method=4)
    return data_uri(buffer.getvalue(), "webp")


def to_picture(image: Tensor) -> Image.Image:
    """(H, W, 3) in [0, 1] as a picture of 8 bits."""
    return Image.fromarray((image * 255).round().to(torch.uint8).cpu().numpy())


def png(image: Tensor) -> bytes:
    """(H, W, 3) in [0, 1] as an 8-bit PNG."""
    buffer = io.BytesIO()
    to_picture(image).save(buffer, "PNG")
    return buffer.getvalue()
