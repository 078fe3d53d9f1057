"""The sample dictionary that every dataset produces, and its check.

    images            (V, 3, H, W) float32 in [0, 1], RGB
    K_px              (V, 3, 3) float32, pixels of images, pixel centres at integers
    T_world_cam       (V, 4, 4) float32 camera-to-world, OpenCV axes
    depth_m           (V, H, W) float32 z-depth, 0 = unknown; absent where a dataset has none
    visible_fraction  (V,) optional: share of a view that the scene's references see
    scene_id          str
    metric            bool: whether lengths are metres

A batch has one more leading axis, and a list of scene ids.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gld_ros.geometry.intrinsics import require_intrinsics
from gld_ros.geometry.rigid import require_rigid


class SampleError(ValueError):
    """A sample that no model should see; the message names the scene and what is wrong."""


def validate_sample(sample: Mapping[str, Any]) -> None:
    """Raise SampleError unless the sample has the shapes, types and ranges of this file's head."""
    scene = sample.get("scene_id", "(no scene_id)")
    for name in ("images", "K_px", "T_world_cam", "scene_id", "metric"):
        if name not in sample:
            raise SampleError(f"scene {scene}: sample has no {name!r}; it has {sorted(sample)}")
    images = sample["images"]
    if images.ndim != 4 or images.shape[1] != 3:
        raise SampleError(f"scene {scene}: images are {tuple(images.shape)}, not (V, 3, H, W)")
    views, _, height, width = images.shape
    shapes = {
        "K_px": (views, 3, 3),
        "T_world_cam": (views, 4, 4),
        "depth_m": (views, height, width),
        "visible_fraction": (views,),
    }
    for name, shape in shapes.items():
        if name in sample and tuple(sample[name].shape) != shape:
            raise SampleError(
                f"scene {scene}: {name} is {tuple(sample[name].shape)}; expected {shape}"
            )
    for name in ("images", *shapes):
        value = sample.get(name)
        if value is not None and value.dtype != torch.float32:
            raise SampleError(f"scene {scene}: {name} is {value.dtype}; expected torch.float32")
        if value is not None and not bool(torch.isfinite(value).all()):
            raise SampleError(f"scene {scene}: {name} has values that are not finite")
    low, high = float(images.min()), float(images.max())
    if low < 0.0 or high > 1.0:
        raise SampleError(f"scene {scene}: images range over [{low}, {high}], not within [0, 1]")
    if "depth_m" in sample and float(sample["depth_m"].min()) < 0.0:
        raise SampleError(f"scene {scene}: depth_m has negative values")
    try:
        require_intrinsics(sample["K_px"], "K_px")
        require_rigid(sample["T_world_cam"], "T_world_cam")
    except ValueError as error:
        raise SampleError(f"scene {scene}: {error}") from error


def batch_samples(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stack samples of one size; what some of them lack (depth) the batch lacks too.

    Raises SampleError when views or sizes differ.
    """
    if not samples:
        raise SampleError("no samples to make a batch of")
    shapes = {tuple(sample["images"].shape) for sample in samples}
    if len(shapes) > 1:
        raise SampleError(f"samples of one batch differ in views or size: {sorted(shapes)}")
    batch: dict[str, Any] = {
        "scene_id": [sample["scene_id"] for sample in samples],
        "metric": all(sample["metric"] for sample in samples),
    }
    for name in ("images", "K_px", "T_world_cam", "depth_m", "visible_fraction"):
        if all(name in sample for sample in samples):
            columns: list[Tensor] = [sample[name] for sample in samples]
            batch[name] = torch.stack(columns)
    return batch
