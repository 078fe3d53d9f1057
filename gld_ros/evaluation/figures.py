"""Figures of many views, by method and metric, and their summary.

A figure that is not defined for a view is NaN; one that is defined nowhere has no value (None),
which reports print as "no truth", never as 0.
"""

import math
from dataclasses import dataclass, field
from typing import TypedDict

import torch
from torch import Tensor


class Summary(TypedDict):
    """Mean and standard deviation over scenes (of each scene's mean over views), and views used."""

    mean: float | None
    std: float | None
    views: int


@dataclass
class Figures:
    """Values (scenes, targets) of every method and metric, batch by batch."""

    values: dict[str, dict[str, list[Tensor]]] = field(default_factory=dict)

    def add(self, method: str, metric: str, values: Tensor, num_targets: int) -> None:
        """Append values (B * T,) or (B, T) of one batch."""
        row = self.values.setdefault(method, {}).setdefault(metric, [])
        row.append(values.detach().float().cpu().reshape(-1, num_targets))

    def all(self, method: str, metric: str) -> Tensor | None:
        """All values (scenes, targets) so far, None if there are none."""
        rows = self.values.get(method, {}).get(metric)
        return torch.cat(rows) if rows else None

    def mean(self, method: str, metric: str) -> float | None:
        """Mean of a figure, None where it is not defined anywhere."""
        return self.summary(method, metric)["mean"]

    def summary(self, method: str, metric: str) -> Summary:
        """Summary of one figure over all scenes."""
        values = self.all(method, metric)
        if values is None:
            return {"mean": None, "std": None, "views": 0}
        per_scene = values.nanmean(1)
        per_scene = per_scene[torch.isfinite(per_scene)]
        if not len(per_scene):
            return {"mean": None, "std": None, "views": 0}
        std = float(per_scene.std()) if len(per_scene) > 1 else None
        return {
            "mean": float(per_scene.mean()),
            "std": std,
            "views": int(torch.isfinite(values).sum()),
        }

    def share_better(self, metric: str, method: str, other: str) -> float | None:
        """Share of views in which `method` has the higher figure; None without comparable views."""
        ours, theirs = self.all(method, metric), self.all(other, metric)
        if ours is None or theirs is None or ours.shape != theirs.shape:
            return None
        both = torch.isfinite(ours) & torch.isfinite(theirs)
        if not bool(both.any()):
            return None
        return float((ours > theirs)[both].float().mean())

    def to_json(self) -> dict[str, dict[str, Summary]]:
        """All summaries, by method and metric."""
        return {
            method: {metric: self.summary(method, metric) for metric in metrics}
            for method, metrics in self.values.items()
        }


def known(value: float | None) -> float | None:
    """The value, or None where it is NaN or infinite: JSON knows neither."""
    return value if value is not None and math.isfinite(value) else None
