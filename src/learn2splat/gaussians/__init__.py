"""Gaussians: the record, initialisation, k nearest neighbours, splat files, similarity transforms."""

from ._knn import knn as knn
from .formats import FORMATS as FORMATS
from .formats import load_cloud as load_cloud
from .formats import load_offset as load_offset
from .formats import load_ply as load_ply
from .formats import load_splat as load_splat
from .formats import save_ply as save_ply
from .formats import save_splat as save_splat
from .init import init_from_points as init_from_points
from .init import init_random as init_random
from .record import COLUMNS as COLUMNS
from .record import FIELDS as FIELDS
from .record import NUM_PARAMS as NUM_PARAMS
from .record import SH_C0 as SH_C0
from .record import SH_DEGREE as SH_DEGREE
from .record import Gaussians as Gaussians
from .transform import sh_basis as sh_basis
from .transform import sh_rotation as sh_rotation
from .transform import transform_gaussians as transform_gaussians
