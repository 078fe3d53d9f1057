"""Learning-rate schedule: linear warm-up, then a cosine down to a fraction of the peak."""

import math


def learning_rate(
    step: int, *, peak: float, warmup_steps: int, total_steps: int, final_fraction: float
) -> float:
    """Return the learning rate of 0-based `step`.

    `final_fraction` 1 keeps the rate constant after the warm-up (the official diffusion setting).
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return peak * (final_fraction + (1 - final_fraction) * cosine)
