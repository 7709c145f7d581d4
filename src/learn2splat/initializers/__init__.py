"""Where a run may start from, and grow at, besides SfM points: the depth of the photos themselves."""

from .stereo import DepthMaps as DepthMaps
from .stereo import depth_maps as depth_maps
from .stereo import stereo_init as stereo_init
