"""Density control: which Gaussians there are."""

from .base import DensityControl as DensityControl
from .base import Event as Event
from .base import Observation as Observation
from .base import Splat as Splat
from .base import Surroundings as Surroundings
