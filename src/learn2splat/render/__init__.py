"""Rendering: `rasterize` (gsplat's call) and `render_views` (stored Gaussians to images)."""

from .rasterize import rasterize as rasterize
from .rasterize import render_views as render_views
