"""A splat as one HTML file that needs nothing else: no server, no other file, no request. It draws with WebGL 2 and sorts in a worker (*.js).

The splat is packed into 34 bytes and 9, 24 or 45 more for colours that depend on the view, then gzip, then base64.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..bench.page import document
from ..gaussians import Gaussians
from ..gaussians.record import SH_C0

MAX_LOG_SCALE = 32.0
_BANDS = (slice(0, 3), slice(3, 8), slice(8, 15))  # of shN, by degree
_EMPTY = 0.004  # a degree with no coefficient above this cannot be seen in 8 bits
_INSIGNIFICANT = 0.5 / 255  # opacity of what no pixel shows

_ICONS = {
    "home": ("Back to the start (r)", '<path d="M3 11 12 4l9 7M6 9.5V20h12V9.5"/>'),
    "full": ("Full screen (f)", '<path d="M4 9V4h5M15 4h5v5M20 15v5h-5M9 20H4v-5"/>'),
    "help": ("How to move", '<circle cx="12" cy="12" r="9"/><path d="M9.5 9.5a2.5 2.5 0 1 1 3.5 2.3c-.7.3-1 .8-1 1.7M12 17v.01"/>'),
    "previous": ("Photo before (p)", '<path d="m14.5 5-7 7 7 7"/>'),
    "next": ("Next photo (n)", '<path d="m9.5 5 7 7-7 7"/>'),
}
_KEYS = {
    "turn": "drag, one finger, arrows",
    "move": "right button or shift, two fingers",
    "zoom": "wheel, pinch, + and -",
    "look at": "double click",
    "photos": "n, p",
    "start": "r",
    "full screen": "f",
}


@dataclass(frozen=True)
class Viewpoint:
    """Where to look from: `position` (3,), `forward` (3,) unit, both in the frame of the splat; what is looked at is `distance` away."""

    name: str
    position: np.ndarray
    forward: np.ndarray
    distance: float


def splat_page(
    gaussians: Gaussians,
    title: str,
    viewpoints: list[Viewpoint],
    *,
    up: np.ndarray,
    fov: float,
    aspect: float,
    near: float = 0.05,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> str:
    """The whole file.

    Args:
        gaussians: in a frame in which what matters is about 1 away from the viewpoints, near the origin.
        viewpoints: at least one; the page opens at the first and has buttons for the others.
        up: (3,) which way is up.
        fov: vertical field of view at which photos of `aspect` (width / height) just fit into the window, radians.
        near: what is nearer than this is not drawn.
    """
    data, coefficients, scales = pack(gaussians)
    first = viewpoints[0]
    scene = {
        "count": len(data) // (34 + 3 * coefficients),
        "coefficients": coefficients,
        "shScale": scales,
        "up": _numbers(up),
        "north": _numbers(first.forward),
        "views": [
            {"name": each.name, "position": _numbers(each.position), "forward": _numbers(each.forward), "distance": float(each.distance)}
            for each in viewpoints
        ],
        "fov": float(fov),
        "aspect": float(aspect),
        "near": float(near),
        "background": [float(value) for value in background],
        "turn": 0.12 if len(viewpoints) > 1 else 0.25,  # radians per second, to and fro, until somebody takes over
    }
    text = (json.dumps(scene, ensure_ascii=True)).replace("<", "\\u003c")
    folder = Path(__file__).parent
    sorter, worker, renderer, script = ((folder / name).read_text() for name in ("sorter.js", "worker.js", "renderer.js", "page.js"))
    buttons = {name: _button(name, *icon) for name, icon in _ICONS.items()}
    keys = "".join(f"<dt>{what}</dt><dd>{how}</dd>" for what, how in _KEYS.items())
    behind = ",".join(str(round(255 * value)) for value in background)
    count = f"{scene['count']:,}".replace(",", "\u202f")
    css = f":root {{ --behind: rgb({behind}); }}\n{(folder / 'page.css').read_text()}"
    body = f"""
<canvas></canvas>
<div class="wait"><i></i><p class="trouble"></p></div>
<div class="panel title"><b>{html.escape(title)}</b><span>{count} splats</span></div>
<div class="panel hint">Drag to turn, scroll to zoom, double-click to look at something</div>
<div class="panel keys" hidden><dl>{keys}</dl></div>
<div class="panel tools"><div class="views">{buttons["previous"]}<span class="where"></span>{buttons["next"]}</div>
{buttons["home"]}{buttons["full"]}{buttons["help"]}</div>
<script type="application/octet-stream" id="splats">{base64.b64encode(gzip.compress(data, 6, mtime=0)).decode()}</script>
<script id="sorter">{sorter}</script>
<script type="text/plain" id="worker">{worker}</script>
<script>const scene = {text};</script>
<script>{renderer}</script>
<script>{script}</script>
"""
    return document(title, css, body)


def pack(gaussians: Gaussians) -> tuple[bytes, int, list[float]]:
    """(the bytes that renderer.js unpacks, 0, 3, 8 or 15 coefficients per colour, scale of each degree). What is invisible is left out."""
    g = gaussians.detach().to("cpu")
    g = g[torch.nonzero(g.logit_opacities.sigmoid() > _INSIGNIFICANT)[:, 0]]
    quats = torch.nn.functional.normalize(g.quats.double(), dim=1)
    shape = torch.cat([g.log_scales.double().clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE) * 1000, quats * 32767], dim=1)
    base = ((0.5 + SH_C0 * g.sh0[:, 0].double()) * 4096).clamp(-32768, 32767)
    opacity = g.logit_opacities.double().sigmoid() * 65535
    rest = g.shN.double().numpy()
    largest = [float(np.abs(rest[:, band]).max(initial=0.0)) for band in _BANDS]
    degree = max((d + 1 for d, value in enumerate(largest) if value > _EMPTY), default=0)
    coefficients = (0, 3, 8, 15)[degree]
    # The largest few of many thousand coefficients must not make the steps of all others coarse.
    scales = [max(float(np.quantile(np.abs(rest[:, band]), 0.9999)), _EMPTY) if len(rest) else 1.0 for band in _BANDS]
    parts = [
        g.means.float().numpy().astype("<f4"),
        np.rint(shape.numpy()).astype("<i2"),
        np.rint(base.numpy()).astype("<i2"),
        np.rint(opacity.numpy()).astype("<u2"),
    ]
    if coefficients:
        per_row = np.repeat(scales, (3, 5, 7))[:coefficients, None]
        parts.append(np.rint((rest[:, :coefficients] / per_row).clip(-1, 1) * 127).astype("i1"))
    return b"".join(part.tobytes() for part in parts), coefficients, scales


def _button(name: str, hint: str, path: str) -> str:
    return f'<button class="{name}" title="{hint}" aria-label="{hint}"><svg viewBox="0 0 24 24">{path}</svg></button>'


def _numbers(vector: np.ndarray) -> list[float]:
    return [round(float(value), 6) for value in vector]
