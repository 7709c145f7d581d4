"""Meta-training: how the weights of the learned optimizer come about. The loop is `trainer.py`; its two objectives are in `schemes.py`.

The initializer is trained by `depth_trainer.py`.
"""

from .config import PRESETS as PRESETS
from .config import MetaConfig as MetaConfig
from .config import with_architecture as with_architecture
from .config import with_scheme as with_scheme
from .depth_trainer import DepthStep as DepthStep
from .depth_trainer import InitializerConfig as InitializerConfig
from .depth_trainer import train_initializer as train_initializer
from .resume import remove_saves as remove_saves
from .tasks import find_scenes as find_scenes
from .trainer import MetaStep as MetaStep
from .trainer import TrainResult as TrainResult
from .trainer import has_save as has_save
from .trainer import train as train
from .workers import is_first_process as is_first_process
