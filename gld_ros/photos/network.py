"""A geometry backbone on photos: one call for Depth Anything 3 and VGGT."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gld_ros.backbones.da3.model import PUBLISHED_PROCESS_RES
from gld_ros.backbones.da3.preprocess import prepare_images
from gld_ros.geometry.rigid import invert_rigid
from gld_ros.pretrained import DepthAnything3, Vggt

Backbone = DepthAnything3 | Vggt


@dataclass(frozen=True, eq=False)
class NetworkViews:
    """What a backbone says of V photos, all in its own unit of length.

    images (V, H, W, 3) uint8, as the network saw them; depth and confidence (V, H, W), confidence
    at least 1; K_px (V, 3, 3) in pixels of `images`; T_model_cam (V, 4, 4), view 0 at the origin.
    """

    images: NDArray[np.uint8]
    depth: NDArray[np.float32]
    confidence: NDArray[np.float32]
    K_px: NDArray[np.float64]
    T_model_cam: NDArray[np.float64]


def own_longest_side_px(network: Backbone) -> int:
    """The longest side of photos as the network sees them unless another is asked for."""
    side_px = network.config.image_size
    return side_px if isinstance(network, Vggt) else min(PUBLISHED_PROCESS_RES, side_px)


def run_network(
    network: Backbone,
    photos: Sequence[NDArray[np.uint8]],
    K_px: NDArray[np.float64] | None,
    T_world_cam: NDArray[np.float64] | None,
    longest_side_px: int,
) -> NetworkViews:
    """Run `network` on photos (H_i, W_i, 3), given their cameras if known.

    Depth Anything 3 reads known cameras, and its depth leans on them; VGGT takes none, and K_px is
    only passed on. Raises ValueError for cameras that do not fit, and for a VGGT without camera
    head.
    """
    if isinstance(network, Vggt):
        return _run_vggt(network, photos, K_px, longest_side_px)
    T_cam_world = None if T_world_cam is None else np.linalg.inv(T_world_cam)
    result = network.infer(photos, T_cam_world, K_px, process_res=longest_side_px)
    # Depth in the network's own unit: which scale the given cameras have is decided elsewhere.
    depth = result.depth if result.depth_scale is None else result.depth / result.depth_scale
    return NetworkViews(
        result.images,
        depth.astype(np.float32),
        result.depth_confidence,
        result.K_px.astype(np.float64),
        _from_first_view(torch.from_numpy(result.T_cam_world_predicted)),
    )


@torch.inference_mode()
def _run_vggt(
    network: Vggt,
    photos: Sequence[NDArray[np.uint8]],
    K_px: NDArray[np.float64] | None,
    longest_side_px: int,
) -> NetworkViews:
    prepared = prepare_images(
        photos,
        K_px,
        process_res=longest_side_px,
        patch_size=network.patch_size,
    )
    device = next(network.parameters()).device
    pixels = torch.from_numpy(prepared.images).to(device).permute(0, 3, 1, 2)[None] / 255
    prediction = network(pixels)
    if prediction.T_cam_world is None or prediction.K_px is None:
        raise ValueError(
            "this VGGT has no camera head, so it recovers no cameras; use a bundle that has one "
            "(gld-ros weights fetch vggt-1b)"
        )
    predicted_K = prediction.K_px[0].double().cpu().numpy()
    return NetworkViews(
        prepared.images,
        prediction.depth[0].cpu().numpy(),
        prediction.depth_confidence[0].cpu().numpy(),
        predicted_K if prepared.K_px is None else prepared.K_px,
        _from_first_view(prediction.T_cam_world[0].cpu()),
    )


def _from_first_view(T_cam_world: torch.Tensor) -> NDArray[np.float64]:
    T_world_cam = invert_rigid(T_cam_world.double())
    return (invert_rigid(T_world_cam[:1]) @ T_world_cam).numpy()
