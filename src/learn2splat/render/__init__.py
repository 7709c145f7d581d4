"""Rendering: `rasterize` (gsplat's call) and `render_views` (stored Gaussians to images)."""

from ._rasterize import rasterize as rasterize
from ._rasterize import render_views as render_views
