"""When has a run without a budget reached its end? Judged by the loss of the photos that are fitted, never by a held-out one."""

from __future__ import annotations

from collections.abc import Sequence

WINDOW = 0.25  # the last quarter of the steps is compared with the quarter before it, ...
LEAST_ROUNDS = 3  # ... each of at least so many rounds over all photos, because photos differ in how well they can be fitted, ...
LEAST_STEPS = 50  # ... and so many steps
IMPROVEMENT = 0.01  # a run whose loss has fallen by less than this share between the two has settled; 1 % is 0.04 to 0.09 dB


def has_settled(losses: Sequence[float], views_per_step: int, num_views: int) -> bool:
    """Whether the inner loss has stopped improving.

    Args:
        losses: per view, one number per step, all at the same photo size and with no growth between them.
        views_per_step: photos per step, of `num_views` that are shown in rounds.
    """
    window = max(round(WINDOW * len(losses)), LEAST_STEPS, -(-LEAST_ROUNDS * num_views // views_per_step))
    if len(losses) < 2 * window or len(losses) % 10:
        return False
    earlier, later = losses[-2 * window : -window], losses[-window:]
    return sum(later) > (1 - IMPROVEMENT) * sum(earlier)
