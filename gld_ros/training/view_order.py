"""Which views of a scene are references: they come first, the targets after them."""

import torch

from gld_ros.training.randomness import generator_for


def draw_reference_count(seed: int, step: int, weights: tuple[float, ...]) -> int:
    """Draw the number of references of a whole batch; `weights[i]` is the weight of i + 1."""
    generator = generator_for(seed, step, "reference count")
    return int(torch.multinomial(torch.tensor(weights), 1, generator=generator)) + 1


def draw_view_order(
    views: int, references: int, interpolate_probability: float, generator: torch.Generator
) -> list[int]:
    """Return a permutation of the views of a path with the references first.

    With `interpolate_probability` and two or more references these are spread evenly over the
    path; otherwise they are a random subset. Both groups are in random order.
    """
    spread = references >= 2 and bool(torch.rand((), generator=generator) < interpolate_probability)
    if spread:
        chosen = evenly_spaced(views, references)
        chosen = [chosen[i] for i in torch.randperm(references, generator=generator)]
    else:
        chosen = torch.randperm(views, generator=generator)[:references].tolist()
    rest = [v for v in range(views) if v not in chosen]
    return chosen + [rest[i] for i in torch.randperm(len(rest), generator=generator)]


def evenly_spaced(views: int, references: int) -> list[int]:
    """Return `references` positions from the first to the last of `views`; [0] for one."""
    if references == 1:
        return [0]
    return [round(i * (views - 1) / (references - 1)) for i in range(references)]
