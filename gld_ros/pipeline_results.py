"""From the decoders' output to the requested views: pixel grids, cameras, spreads.

Owns the last step of `gld_ros.pipeline`; the resampling itself is `geometry.crop_resize`.
"""

import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gld_ros.backbones.interface import Geometry, GeometryBackbone, LevelTokens
from gld_ros.geometry.crop_resize import (
    resample_confidence,
    resample_depth,
    resample_image,
    rescale_intrinsics,
)
from gld_ros.geometry.rays import RecoveredCameras
from gld_ros.novel_view_stages import DecodedViews, unit_confidence, view_confidence
from gld_ros.pipeline_plan import ViewPlan
from gld_ros.view_request import View

_log = logging.getLogger(__name__)


def views_of(
    plan: ViewPlan, decoded: list[DecodedViews], cameras: RecoveredCameras | None
) -> list[View]:
    """All views of the first sample on the grids that were asked for, with its cameras."""
    first = decoded[0]
    confidence = _numpy(view_confidence(first.geometry))[0]
    rgb = _numpy(first.rgb.clamp(0, 1).permute(0, 1, 3, 4, 2))[0]
    depth = _numpy(first.geometry.depth)[0]
    spreads = _spreads(decoded, plan.num_references)
    ray_confidence = first.geometry.ray_confidence
    views = []
    for i, hw in enumerate(plan.view_hw):
        K_model, K_view = plan.model_K_px[i], plan.view_K_px[i]
        coloured = i >= plan.num_references or plan.request.reference_colours
        nothing = np.full((*hw, 3), np.nan, np.float32)
        views.append(
            View(
                rgb=resample_image(rgb[i], K_model, K_view, hw) if coloured else nothing,
                depth=resample_depth(depth[i], K_model, K_view, hw),
                confidence=resample_confidence(confidence[i], K_model, K_view, hw),
                K_px=K_view,
                T_world_cam=plan.T_world_cam[i],
                T_model_cam=None if cameras is None else _numpy(cameras.T_model_cam[0, i]),
                recovered_K_px=None
                if cameras is None
                else rescale_intrinsics(_numpy(cameras.K_px_per_view[0, i]), K_model, K_view),
                ray_confidence_mean=None
                if ray_confidence is None
                else float(unit_confidence(ray_confidence[0, i]).mean()),
                **{
                    name: resample_confidence(_numpy(maps[0, i]), K_model, K_view, hw)
                    for name, maps in spreads.items()
                    if i >= plan.num_references
                },
            )
        )
    return views


@torch.no_grad()
def recovered_cameras(
    backbone: GeometryBackbone,
    geometry: Geometry,
    last_level: LevelTokens,
    image_hw: tuple[int, int],
) -> RecoveredCameras | None:
    """The cameras that a result describes; None, with a warning, where it describes none."""
    try:
        return backbone.recover_cameras(geometry, last_level, image_hw)
    except ValueError as error:
        _log.warning("no cameras recovered: %s", error)
        return None


def _spreads(decoded: list[DecodedViews], num_references: int) -> dict[str, Tensor]:
    """Standard deviation (1, V, H, W) over samples of log-depth and colour; empty for one sample.

    Every sample has its own unit of length; the median depth of the reference views, which all
    samples share, removes it.
    """
    if len(decoded) < 2:
        return {}
    log_depth = torch.stack([d.geometry.depth.clamp(min=1e-12).log() for d in decoded])
    unit = log_depth[:, :, :num_references].flatten(1).median(dim=1).values
    rgb = torch.stack([d.rgb.clamp(0, 1) for d in decoded])
    return {
        "spread": (log_depth - unit[:, None, None, None, None]).std(0),
        "rgb_spread": rgb.std(0).mean(2),
    }


def _numpy(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.cpu().numpy()
    return array
