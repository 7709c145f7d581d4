"""Where a run may start from, and grow at, besides SfM points: the depth of the photos themselves."""

from .depth import depth_init as depth_init
from .feedforward import PredictedDepth as PredictedDepth
from .feedforward import feedforward_init as feedforward_init
from .feedforward import feedforward_start as feedforward_start
from .feedforward import few_points as few_points
from .feedforward import predict_depth as predict_depth
from .starts import STARTS as STARTS
from .starts import make_start as make_start
from .starts import sparse_start as sparse_start
from .stereo import DepthMaps as DepthMaps
from .stereo import depth_maps as depth_maps
from .stereo import stereo_init as stereo_init
