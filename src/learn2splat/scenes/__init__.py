"""Scenes: COLMAP folders, transforms.json and procedural ones, all as one record `Scene`."""

from .scene import Scene as Scene
from .scene import Similarity as Similarity
