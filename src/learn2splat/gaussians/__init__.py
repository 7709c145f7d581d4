"""Gaussians: the record, initialisation, k nearest neighbours, PLY, similarity transforms."""

from .knn import knn as knn
from .record import COLUMNS as COLUMNS
from .record import FIELDS as FIELDS
from .record import NUM_PARAMS as NUM_PARAMS
from .record import SH_C0 as SH_C0
from .record import SH_DEGREE as SH_DEGREE
from .record import Gaussians as Gaussians
