"""Scenes: COLMAP folders, transforms.json and procedural ones, all as one record `Scene`."""

from .angle import view_angle as view_angle
from .load import lacks_poses as lacks_poses
from .load import load_scene as load_scene
from .procedural import make_procedural_scene as make_procedural_scene
from .scene import Scene as Scene
from .scene import Similarity as Similarity
