"""Update rules: Adam and its relatives, SGD, the hand-made `nominal` rule and the learned ones."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from ..errors import OptionError
from ._external import import_factory
from .adam import AUTO, GSPLAT, TUNED, Adam, AdamConfig
from .base import OptState as OptState
from .base import Problem as Problem
from .base import Task as Task
from .base import UpdateRule as UpdateRule
from .lm import LM, LMConfig
from .nominal import Nominal, NominalConfig
from .sgd import SGD, SGDConfig

# What `make_optimizer` knows: name -> what it is, in one line.
OPTIMIZERS: dict[str, str] = {
    "adam": "Adam with the learning rates of 3DGS; means decayed to 1 %",
    "adam-tuned": "Adam, all learning rates x5, means not decayed, beta1 0.99",
    "adam-gsplat": "Adam with gsplat's batch-size scaling of rates, betas and eps",
    "adam-auto": "Adam with learning rates per group searched once on training scenes",
    "sgd": "plain gradient descent with hand-set rates",
    "lm": "Levenberg-Marquardt by conjugate gradients: second order, a step costs about twelve of Adam's",
    "nominal": "hand-made scale-free Adam per Gaussian that knows the local spacing",
    "learned": "the learned optimizer: the anchored network with the weights that ship with the package",
    "anchored": "nominal times learned gains plus a bounded correction (kNN-attention network); untrained it is nominal",
    "g3r": "the baseline G3R*: the paper's network fed with normalised gradients and a clock; needs weights of `train --preset g3r`",
    "resplat": "the baseline ReSplat: a recurrent network driven by the render's error in feature space; takes the packaged weights of that name",
    "paper": "the network of the Learn2Splat paper: point transformer with latent state",
}


def register_optimizer(name: str, factory: Callable[..., UpdateRule]) -> None:
    """Make `make_optimizer(name, **options)` return `factory(**options)`, so that `fit` and `bench` know the rule by this name.

    Registering a name again replaces the factory, except those of `OPTIMIZERS`.

    Raises:
        OptionError: the name is taken by this package, or is not one that fits into lists and file names.
    """
    if name in OPTIMIZERS:
        raise OptionError(f"the name {name!r} belongs to an optimizer of this package: register yours under another name")
    if not name.replace("-", "").replace("_", "").isalnum():
        raise OptionError(f"the name of an optimizer is made of letters, digits, '-' and '_', got {name!r}")
    _REGISTERED[name] = factory


def make_optimizer(name: str, **options: object) -> UpdateRule:
    """The update rule called `name`: a key of `OPTIMIZERS`, with trained weights as `learned@file`, a registered name, or where its factory is:
    `module:factory` or `path/to/file.py:factory`
    (which runs that code).

    Args:
        options: replace constants of the rule, by the field names of its configuration (`AdamConfig`, `SGDConfig`, `NominalConfig`, `LMConfig`);
            for the learned rules those of `weights.make_learned`: `weights` (a file), `seed`, and the fields of `AnchoredConfig`, `PaperConfig` or
            `G3RConfig` or `ReSplatConfig`.

    Raises:
        OptionError: unknown name or option, or a value that makes no sense.
    """
    head, at, weights = name.partition("@")
    if at and head in OPTIMIZERS:
        name, options = head, {"weights": weights, **options}
    if name in OPTIMIZERS:
        build = _build
    elif name in _REGISTERED or ":" in name:
        build = _build_external
    else:
        raise OptionError(f"unknown optimizer {name!r}: choose one of {', '.join([*OPTIMIZERS, *_REGISTERED])}, or module:factory")
    try:
        return build(name, options)
    except TypeError as error:  # an unknown keyword, named in the error's text
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown is None:
            raise OptionError(f"optimizer {name}: {error}; see its configuration class for the options") from error
        if unknown[1] == "weights":
            raise OptionError(f"{name} has no weights: they go with learned, anchored, g3r or paper") from error
        if unknown[1] == "lr":
            raise OptionError(f"{name} has no single learning rate: its constants are named after what they move, as means, quats, sh0") from error
        raise OptionError(f"optimizer {name} has no option {unknown[1]}: see its configuration class for those that it has") from error


def _build(name: str, options: dict) -> UpdateRule:
    # The learned rules are imported on use: plain rules need neither their modules nor their weights.
    if name in ("learned", "anchored", "g3r", "resplat", "paper"):
        from .weights import make_learned

        return make_learned(name, **options)
    return _PLAIN[name](options)


def _build_external(name: str, options: dict) -> UpdateRule:
    """A rule from outside this package."""
    factory = _REGISTERED[name] if name in _REGISTERED else import_factory(name)
    rule = factory(**options)
    if not isinstance(rule, UpdateRule):
        raise OptionError(f"optimizer {name}: its factory must return a learn2splat.optimizers.UpdateRule, got {type(rule).__name__}")
    return rule


_REGISTERED: dict[str, Callable[..., UpdateRule]] = {}
_PLAIN: dict[str, Callable[[dict], UpdateRule]] = {
    "adam": lambda options: Adam(AdamConfig(**options)),
    "adam-tuned": lambda options: Adam(replace(TUNED, **options), "adam-tuned"),
    "adam-gsplat": lambda options: Adam(replace(GSPLAT, **options), "adam-gsplat"),
    "adam-auto": lambda options: Adam(replace(AUTO, **options), "adam-auto"),
    "sgd": lambda options: SGD(SGDConfig(**options)),
    "lm": lambda options: LM(LMConfig(**options)),
    "nominal": lambda options: Nominal(NominalConfig(**options)),
}
