"""Update rules: Adam and its relatives, SGD, the hand-made `nominal` rule and the learned ones."""

from .base import OptState as OptState
from .base import Task as Task
from .base import UpdateRule as UpdateRule
from .base import seen_rows as seen_rows
