"""Scenes made of nothing but a seed: layouts and objects, a ray caster, and SfM-like points. `make_procedural_scene` is the way in."""

from .make import LAYOUTS as LAYOUTS
from .make import Layout as Layout
from .make import make_procedural_scene as make_procedural_scene
