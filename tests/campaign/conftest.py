"""Where the scenes, cells and configurations of other tests are."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / folder) for folder in ("campaign", "scenes", "bench", "meta")]
