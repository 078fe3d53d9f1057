"""Targets kept for the image grid, with everything that it shows of them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gld_ros.evaluation import methods
from gld_ros.evaluation.batch import Batch
from gld_ros.evaluation.depth_metrics import median_scale
from gld_ros.evaluation.image_metrics import psnr
from gld_ros.evaluation.model_runs import ImaginedViews


@dataclass(frozen=True)
class Example:
    """One target with everything that the image grid shows of it; images (3, H, W)."""

    title: str
    references: Tensor  # (R, 3, H, W)
    colours: dict[str, Tensor]  # column title -> image
    depths: dict[str, Tensor]  # column title -> (H, W), 0 unknown; all in one unit
    hidden: Tensor | None  # (H, W) bool
    provenance: Any  # (H, W) labels, or None
    psnr: dict[str, float]  # column title -> dB


def examples_of(
    batch: Batch,
    imagined: dict[str, ImaginedViews],
    baselines: dict[str, tuple[Tensor, Tensor | None]],
    labels: list[Any] | None,
    wanted: int,
) -> list[Example]:
    """The first target of every scene, until there are as many as wanted."""
    examples, r = [], batch.num_references
    for b in range(min(wanted, len(batch.images))):
        true = batch.images[b, r]
        colours = {name: imagined[name].rgb[b, r] for name in imagined}
        colours |= {name: rgb[b, 0] for name, (rgb, _) in baselines.items()}
        generated = imagined[methods.GENERATED].depth[b, r]
        depths = {methods.GENERATED: generated}
        if batch.depth_m is not None:
            scale = median_scale(generated[None], batch.depth_m[b, r][None])
            if bool(torch.isfinite(scale).all()):
                depths[methods.GENERATED] = generated * scale
            depths["truth"] = batch.depth_m[b, r]
        quality = {n: float(psnr(c[None], true[None])) for n, c in colours.items()}
        examples.append(
            Example(
                title=batch.names[b],
                references=batch.images[b, :r].cpu(),
                colours={"truth": true.cpu()} | {n: c.cpu() for n, c in colours.items()},
                depths={n: d.cpu() for n, d in depths.items()},
                hidden=None if batch.hidden is None else batch.hidden[b, 0].cpu(),
                provenance=None if labels is None or labels[b] is None else labels[b][0],
                psnr=quality,
            )
        )
    return examples
