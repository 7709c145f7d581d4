"""Fitting one scene: the loop, the choice of views, held-out metrics and checkpoints."""

from .evaluate import PhotoScore as PhotoScore
from .evaluate import mean_score as mean_score
from .evaluate import pixel_weights as pixel_weights
from .evaluate import rendered as rendered
from .evaluate import score as score
from .evaluate import score_of as score_of
from .evaluate import shows_anything as shows_anything
from .loop import fit as fit
from .plan import Plan as Plan
from .plan import flat_plan as flat_plan
from .plan import make_plan as make_plan
from .records import Change as Change
from .records import CurvePoint as CurvePoint
from .records import FitResult as FitResult
from .records import Progress as Progress
from .run import FitRun as FitRun
