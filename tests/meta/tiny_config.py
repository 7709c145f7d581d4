"""Fields of a `MetaConfig` with which a meta-step on the tiny photo scene takes milliseconds. Plain data, so that scripts of tests can hold it."""

TINY = {
    "width": 8,
    "seed": 3,
    "meta_steps": 6,
    "scenes_per_step": 2,
    "long_sides": (24, 32),
    "points": (20, 40),
    "views_per_step": (2, 3),
    "procedural_share": 0.0,
    "procedural_pool": 3,
    "unroll": (2, 4),
    "late_unroll": 4,
    "rollout": 3,
    "buffer": 3,
    "lr": 3e-3,
}
