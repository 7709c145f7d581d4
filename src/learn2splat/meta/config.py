"""What a meta-training run is made of: one frozen record, and the presets of the command line."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ..errors import OptionError

Scheme = Literal["greedy", "horizon"]
Architecture = Literal["anchored", "paper", "g3r"]


@dataclass(frozen=True)
class MetaConfig:
    """Everything that decides the weights, apart from the scenes. Ranges are inclusive.

    A *slot* is one of the `scenes_per_step` scenes whose gradients are averaged in a meta-step; it has its own buffer and its own random numbers, so
    that it does not matter which process it runs in.
    """

    scheme: Scheme = "horizon"
    architecture: Architecture = "anchored"
    width: int = 64  # Of the network; its other sizes are those of its configuration class.
    blocks: int = 1
    magnitude: bool = True  # Anchored: with its magnitude path, the counterpart of the paper's state scale.
    few_age: float = 300.0  # Anchored: the age from which on steps shrink where views are few.
    pull_age: float = 50.0  # Anchored: the age at which corrections that pull without a gradient have lost half of their strength.
    trust_age: float = 100.0  # Anchored: the age at which nominal decides by half where views are many and close.
    decay_anisotropy: float = 0.01  # Anchored: see AnchoredConfig.
    decay_shN: float = 0.01  # Likewise.
    seed: int = 0
    meta_steps: int = 4000
    scenes_per_step: int = 2

    # The scenes (tasks.py).
    long_sides: tuple[int, ...] = (64, 96, 128, 192, 256)  # px. Small ones are quick, but on them noise counts for more and progress ends sooner.
    points: tuple[int, int] = (300, 4000)  # Drawn log-uniformly.
    views_per_step: tuple[int, int] = (2, 8)
    sparse_share: float = 0.5  # Of the scenes: a few fixed close-by views; the others are dense.
    sparse_views: tuple[int, int] = (3, 8)
    dense_views: tuple[int, int] = (6, 64)  # Context views of a dense scene, drawn log-uniformly: with few of them, it shows what overfits.
    augment: Literal["turn", "flip"] = "turn"  # Turned at random, some starts disturbed; or mirrored with p = 0.5 (as published).
    points_share: tuple[float, float] | None = None  # Kept of a dense scene's points but black ones, at most `points[1]`; None: `points`.
    procedural_share: float = 0.5  # Of the scenes, where there are others too.
    procedural_pool: int = 400  # Different procedural scenes.
    held_out: int = 4  # One of so many views of a dense scene is a target: more of them make the meta-gradient steadier than more context does.
    target_views: int = 8  # Held-out views in the meta-loss ...
    context_views: int = 4  # ... and views that the inner steps may see.

    # Episodes that follow a plan of `fit` (courses.py): from coarse to fine, with growth.
    plan_share: float = 0.0  # Of the episodes.
    plan_steps: tuple[int, int] = (60, 600)  # Their budget, drawn log-uniformly.
    plan_gaussians: tuple[int, int] = (8_000, 20_000)  # The most Gaussians of an episode: at the first meta-step, and at the last.
    late_target_views: int = 16  # In the second half of a plan the meta-loss is that of so many held-out views alone.

    # Inner steps.
    unroll: tuple[int, int] = (8, 32)  # Uniform: back-propagated inner steps.
    late_unroll: int = 128  # Horizon: the bounds grow to this and its half with the age, because late progress is slow and noise is not.
    max_graph: int = 80_000  # Gaussians times unrolled steps: bounds memory, and the time of one meta-step.
    rollout: int = 48  # At most so many steps with frozen weights before an episode is stored; 0: no rollout.
    rollout_growth: int = 1  # Meta-steps over which that bound grows from 1.

    # Checkpoint buffer (buffer.py). Horizon: `log_ages` decides what is stored again.
    buffer: int = 12  # Episodes per slot; 0: no buffer.
    fill_first: bool = False  # Resume only when the buffer is full (the paper), else as soon as there is anything in it.
    resume_probability: float = 0.75
    insert_probability: float = 1.0  # Of a new episode where the buffer is full; else it is inserted, and resumed ones always return.
    epoch: int = 0  # Meta-steps after which the buffer is emptied; 0: never.
    log_ages: bool = True  # Drop episodes so that ages come out log-uniform up to `max_age`.
    max_age: int = 2000

    # Meta-loss (schemes.py): L1 + SSIM, because weights of LPIPS cannot be had offline.
    ssim_weight: float = 0.2
    psnr_weight: float = 0.04  # Per e-fold of the mean squared error of a view: about as much as L1 + SSIM where that is 0.08.
    advantage: bool = False  # Horizon: the loss relative to what `nominal` reaches from the same state, else to the piece's own gain.
    advantage_floor: float = 0.01  # Of the loss at the start: below it gains are noise.
    intermediate: float = 0.3  # Horizon: weight of the same loss after a log-uniformly drawn step of the unroll; 0: at the end only.
    step_decay: float = 0.9  # Greedy: weight of the loss i steps before the last is this to the power i.
    delta_weight: float = 0.0  # Greedy: delta loss, ...
    delta_from: int = 100  # ... from this meta-step.
    stability_weight: float = 0.0  # Greedy.

    imitation: int = 0  # Meta-steps at the start in which the rule learns to take the steps of `nominal`: a network that starts from nothing.

    bf16: bool = False  # Greedy: the network in bf16 on a GPU.

    # Meta-optimizer: AdamW, one cycle.
    lr: float = 1e-3
    final_lr: float = 0.05  # Share of `lr` at the end.
    warmup: float = 0.01  # Share of the meta-steps.
    weight_decay: float = 0.01
    clip: float = 0.5  # Norm of the gradient of each slot.
    ema: float = 0.99  # Decay of the average of the weights that is saved; 0: the last weights.

    def __post_init__(self) -> None:
        for name in ("points", "views_per_step", "sparse_views", "dense_views", "unroll", "plan_steps", "plan_gaussians"):
            low, high = getattr(self, name)
            if not 1 <= low <= high:
                raise OptionError(f"{name} must be a range from at least 1, got {low} to {high}")
        positive = ("meta_steps", "scenes_per_step", "procedural_pool", "target_views", "late_target_views", "held_out", "rollout_growth", "max_age")
        for name in (*positive, "width"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, got {getattr(self, name)}")
        shares = ("sparse_share", "procedural_share", "plan_share", "resume_probability", "insert_probability")
        for name in (*shares, "ssim_weight", "warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(f"{name} must be within [0, 1], got {getattr(self, name)}")
        if not self.lr > 0 or not self.clip > 0 or not 0 <= self.ema < 1 or min(self.buffer, self.rollout, self.imitation) < 0:
            raise OptionError(f"lr and clip must be above 0, ema within [0, 1), buffer, rollout and imitation 0 or more, got {self}")
        if self.plan_share and (self.scheme != "horizon" or self.imitation):
            raise OptionError("episodes that follow a plan are judged by the scheme horizon, without imitation: use another preset")
        if self.architecture == "g3r" and (self.scheme != "greedy" or self.buffer or self.delta_weight or self.stability_weight):
            raise OptionError("the baseline g3r is trained greedily over a fixed horizon, without buffer, delta and stability loss: use its preset")


def with_scheme(config: MetaConfig, scheme: Scheme) -> MetaConfig:
    """The objective and the buffer of `scheme` at the sizes of `config`."""
    if scheme == "greedy":
        return _greedy(config)
    own = (
        "unroll", "late_unroll", "rollout", "rollout_growth", "buffer", "fill_first", "resume_probability", "insert_probability",
        "epoch", "augment", "bf16", "log_ages", "delta_weight", "stability_weight", "target_views", "context_views", "psnr_weight",
    )  # fmt: skip
    default = MetaConfig()
    return replace(config, scheme=scheme, **{name: getattr(default, name) for name in own})


def with_architecture(config: MetaConfig, architecture: Architecture) -> MetaConfig:
    """`config` for another network; `paper` as narrow as a CPU can train it, and with a warm start, for it begins by moving nothing."""
    if architecture == "paper" and config.architecture != "paper":
        return replace(config, architecture="paper", width=96, blocks=2, imitation=200)
    return replace(config, architecture=architecture)


def _greedy(config: MetaConfig) -> MetaConfig:
    """docs/method.md section 4."""
    return replace(
        config,
        scheme="greedy",
        unroll=(1, 6),
        late_unroll=6,
        rollout=50,
        rollout_growth=10_000,
        buffer=20,
        fill_first=True,
        resume_probability=0.7,
        insert_probability=0.7,
        epoch=20_000,
        augment="flip",
        bf16=True,
        log_ages=False,
        delta_weight=2.0,
        stability_weight=1.0,
        target_views=6,
        context_views=4,
        psnr_weight=0.0,
    )


PRESETS: dict[str, MetaConfig] = {
    "cpu": MetaConfig(),
    # In the regime of use: most episodes follow a plan. Their late pieces need many held-out views, their photos and Gaussians more time.
    "grow": replace(
        MetaConfig(),
        long_sides=(64, 96, 128, 192, 256, 320),
        points=(500, 5000),
        sparse_share=0.2,
        dense_views=(10, 64),
        held_out=3,
        max_graph=64_000,
        buffer=16,
        resume_probability=0.85,  # An episode needs about six visits to come to the end of its plan.
        plan_share=0.75,
    ),
    "paper": replace(
        _greedy(MetaConfig()),
        architecture="paper",
        width=256,
        blocks=4,
        meta_steps=150_000,
        scenes_per_step=4,
        long_sides=(448,),
        points=(7_000, 70_000),
        points_share=(0.1, 1.0),
        views_per_step=(8, 8),
        sparse_views=(8, 8),
        max_graph=70_000 * 6,
        dense_views=(64, 64),
        lr=1e-4,
        final_lr=0.0,
        ema=0.999,
    ),
    # The baseline G3R* (docs/method.md section 5) at the sizes of `cpu`: always from the start, over the whole horizon, nothing stored.
    "g3r": replace(
        _greedy(MetaConfig()),
        architecture="g3r",
        blocks=2,
        unroll=(24, 24),
        late_unroll=24,
        buffer=0,
        rollout=0,
        delta_weight=0.0,
        stability_weight=0.0,
    ),
}
