"""How good the model is at pixels that no reference sees, and how certain it is of them.

Owns the figures for hidden pixels alone, next to warp-and-fill, mean colour and mean depth, and the
spread between seeds in visible and hidden pixels: a well-calibrated spread is large only in hidden
pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gld_ros.evaluation.figures import Figures
from gld_ros.evaluation.methods import GENERATED, MEAN_COLOUR, MEAN_DEPTH, WARP


@dataclass
class SeedSpread:
    """Variances between samples of different seeds, summed over visible and hidden pixels."""

    seeds: int = 0
    pixels: dict[str, int] = field(default_factory=lambda: {"visible": 0, "hidden": 0})
    colour: dict[str, float] = field(default_factory=lambda: {"visible": 0.0, "hidden": 0.0})
    log_depth: dict[str, float] = field(default_factory=lambda: {"visible": 0.0, "hidden": 0.0})

    def add(
        self,
        rgb: Sequence[Tensor],
        depth: Sequence[Tensor],
        visible: Tensor,
        hidden: Tensor,
        num_references: int,
    ) -> None:
        """Add a batch: per seed rgb (B, V, 3, H, W) and depth (B, V, H, W); masks (B, T, H, W).

        Every sample has its own unit of length; dividing by the median depth of its references,
        which show the same, removes it. Raises ValueError for fewer than two seeds.
        """
        if len(rgb) < 2:
            raise ValueError(f"the spread between seeds needs two or more, got {len(rgb)}")
        self.seeds = len(rgb)
        colour = torch.stack(list(rgb))[:, :, num_references:].var(0).mean(2)
        log_depth = torch.stack(list(depth)).clamp_min(1e-12).log()
        unit = log_depth[:, :, :num_references].flatten(2).median(2).values
        log_depth = (log_depth - unit[:, :, None, None, None])[:, :, num_references:].var(0)
        for name, mask in (("visible", visible), ("hidden", hidden)):
            self.pixels[name] += int(mask.sum())
            self.colour[name] += float(colour[mask].sum())
            self.log_depth[name] += float(log_depth[mask].sum())

    def to_json(self) -> dict[str, Any] | None:
        """Mean variance over pixels, its root, and hidden over visible; None for one seed."""
        if self.seeds < 2:
            return None
        figures: dict[str, Any] = {"seeds": self.seeds}
        for quantity, sums in (("colour", self.colour), ("log_depth", self.log_depth)):
            variance = {
                name: sums[name] / count if count else None for name, count in self.pixels.items()
            }
            hidden, visible = variance["hidden"], variance["visible"]
            figures[quantity] = {
                "variance_visible": visible,
                "variance_hidden": hidden,
                "std_visible": None if visible is None else visible**0.5,
                "std_hidden": None if hidden is None else hidden**0.5,
                "variance_ratio": hidden / visible if hidden is not None and visible else None,
            }
        return figures


def imagination_report(figures: Figures, hidden_share: float | None) -> dict[str, Any] | None:
    """Generated against the guesses, on hidden pixels alone; None where nothing is known hidden.

    `beats` says for each baseline by how much the mean is better, and in what share of the views.
    """
    if hidden_share is None or figures.mean(GENERATED, "psnr_hidden") is None:
        return None
    beats: dict[str, Any] = {}
    for metric, baselines in (
        ("psnr_hidden", (WARP, MEAN_COLOUR)),
        ("ordinal_hidden", (WARP, MEAN_DEPTH)),
    ):
        ours = figures.mean(GENERATED, metric)
        for baseline in baselines:
            theirs = figures.mean(baseline, metric)
            if ours is not None and theirs is not None:
                beats[f"{metric}: {baseline}"] = {
                    "difference": ours - theirs,
                    "share_of_views": figures.share_better(metric, GENERATED, baseline),
                }
    return {"hidden_share": hidden_share, "beats": beats}
