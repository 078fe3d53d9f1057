"""Targets from what a depth camera on the references would have measured, and the rest filled.

Owns the measured surfaces of a batch, as a robot renders them, and what is made of them with and
without a model. The rendering and joining themselves are `gld_ros.measuring`.

Shapes: B scenes, R references, T targets.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gld_ros.evaluation.batch import Batch
from gld_ros.evaluation.model_runs import ImaginedViews
from gld_ros.measured_latents import RenderedMeasurements, stacked_measurements
from gld_ros.measuring.joining import inpainted_view, join_view
from gld_ros.measuring.rendering import RenderedView, render_views
from gld_ros.measuring.scale_field import aligned_depth
from gld_ros.measuring.surfaces import FloatImage, Surface


@dataclass(frozen=True)
class MeasuredTargets:
    """The references' surfaces in the targets of a batch, T views for each of B scenes."""

    views: list[list[RenderedView]]

    def tensors(self) -> RenderedMeasurements:
        """The same for a denoiser that reads measurements."""
        return stacked_measurements(self.views)


def measured_targets(batch: Batch) -> MeasuredTargets:
    """What the targets show of the references' true depth, all of it sure.

    Raises ValueError for a batch without depth.
    """
    if batch.depth_m is None:
        raise ValueError("the data has no depth, so the references have measured nothing")
    views = []
    for b in range(len(batch.images)):
        K_px, T_world_cam = (x[b].double().cpu().numpy() for x in (batch.K_px, batch.T_world_cam))
        cameras = list(zip(K_px, T_world_cam, strict=True))
        surfaces = []
        for v in range(batch.num_references):
            depth_m = batch.depth_m[b, v].float().cpu().numpy()
            known = np.where(depth_m > 0, depth_m, np.float32(np.nan))
            image = batch.images[b, v].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0)
            sure = np.ones(known.shape, np.float32)
            surfaces.append(Surface(image.cpu().numpy(), *cameras[v], known, sure))
        targets = cameras[batch.num_references :]
        views.append(render_views(surfaces, targets, batch.image_hw))
    return MeasuredTargets(views)


def inpainted(measured: MeasuredTargets) -> tuple[Tensor, Tensor]:
    """Colours (B, T, 3, H, W) and depth (B, T, H, W), 0 unknown, without a network."""
    return _of_each(measured, lambda b, t, rendered: inpainted_view(rendered))


def joined(
    measured: MeasuredTargets, imagined: ImaginedViews, batch: Batch
) -> tuple[Tensor, Tensor]:
    """What a robot would publish: measured pixels, and the model's made to meet them.

    Colours (B, T, 3, H, W) and depth in metres (B, T, H, W), 0 unknown. The scale of a scene is
    that of the references' depth.
    """
    references = batch.num_references
    rgb, depth = (x[:, references:].float().cpu().numpy() for x in (imagined.rgb, imagined.depth))
    assert batch.depth_m is not None  # something was measured
    true = batch.depth_m[:, :references].cpu()
    ratio = torch.where(true > 0, true / imagined.depth[:, :references].float().cpu(), torch.nan)
    scale = ratio.flatten(1).nanmedian(1).values.tolist()

    def join(b: int, t: int, rendered: RenderedView) -> tuple[np.ndarray, FloatImage]:
        aligned = aligned_depth(depth[b, t], rendered.depth_m, rendered.weight, scale[b], 0.0)
        view = join_view(rendered, rgb[b, t].transpose(1, 2, 0), aligned)
        return view.color, view.depth_m

    return _of_each(measured, join)


def _of_each(
    measured: MeasuredTargets,
    make: Callable[[int, int, RenderedView], tuple[np.ndarray, FloatImage]],
) -> tuple[Tensor, Tensor]:
    made = [
        [make(b, t, rendered) for t, rendered in enumerate(scene)]
        for b, scene in enumerate(measured.views)
    ]
    color = torch.from_numpy(np.stack([[color for color, _ in scene] for scene in made]))
    depth = torch.from_numpy(np.stack([[depth for _, depth in scene] for scene in made]))
    return color.permute(0, 1, 4, 2, 3).float() / 255, depth.nan_to_num(0.0)
