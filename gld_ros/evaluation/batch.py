"""Scenes of one evaluation batch on the device, and which target pixels their references see."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gld_ros.diffusion.conditioning import camera_conditions
from gld_ros.evaluation.held_out import HeldOutScenes
from gld_ros.evaluation.model_runs import EvaluatedModel, ImaginedViews
from gld_ros.evaluation.pose_metrics import scale_from_baselines
from gld_ros.scenes.visibility import DepthViews, visible_from


@dataclass(frozen=True)
class Batch:
    """B scenes on the device, references first."""

    images: Tensor  # (B, V, 3, H, W)
    K_px: Tensor
    T_world_cam: Tensor
    depth_m: Tensor | None  # (B, V, H, W), 0 unknown
    metric: bool
    names: list[str]
    numbers: list[int]  # positions of the scenes in the evaluation, for their noise
    num_references: int
    visible: Tensor | None  # (B, T, H, W) bool
    hidden: Tensor | None

    @property
    def image_hw(self) -> tuple[int, int]:
        return self.images.shape[-2], self.images.shape[-1]

    @property
    def num_targets(self) -> int:
        return self.images.shape[1] - self.num_references

    @property
    def true_rgb(self) -> Tensor:
        return self.images[:, self.num_references :]

    @property
    def true_depth_m(self) -> Tensor | None:
        return None if self.depth_m is None else self.depth_m[:, self.num_references :]


class UsableSamples:
    """Samples whose cameras the model can work with; the others are counted."""

    def __init__(self, model: EvaluatedModel, held_out: HeldOutScenes, references: int) -> None:
        self.model, self.held_out, self.references = model, held_out, references

    def __iter__(self) -> Iterator[dict[str, Any]]:
        config = self.model.bundle.config
        for sample in self.held_out.samples:
            image_hw = (sample["images"].shape[-2], sample["images"].shape[-1])
            try:
                camera_conditions(
                    sample["T_world_cam"][None],
                    sample["K_px"][None],
                    image_hw,
                    self.references,
                    ray_grid=config.ray_grid,
                    pose_scale=config.pose_scale,
                )
            except ValueError as error:
                self.held_out.skipped[f"sample: {error}"] += 1
                continue
            yield sample


def collate(
    samples: Sequence[dict[str, Any]], first: int, references: int, device: torch.device
) -> Batch:
    """Stack samples, the first of which is number `first` of the evaluation, on the device."""

    def stacked(name: str) -> Tensor:
        return torch.stack([sample[name] for sample in samples]).to(device)

    depth_m = None
    if any("depth_m" in sample for sample in samples):
        # Scenes without depth get "unknown everywhere", and with it no depth figures.
        depth_m = torch.stack(
            [
                s["depth_m"] if "depth_m" in s else torch.zeros_like(s["images"][:, 0])
                for s in samples
            ]
        ).to(device)
    K_px, T_world_cam = stacked("K_px"), stacked("T_world_cam")
    visible = hidden = None
    if depth_m is not None:
        shown, withheld = (
            DepthViews(depth_m[:, part], K_px[:, part], T_world_cam[:, part])
            for part in (slice(None, references), slice(references, None))
        )
        visible = visible_from(shown, withheld)
        hidden = ~visible & (withheld.depth_m > 0)
    return Batch(
        stacked("images"),
        K_px,
        T_world_cam,
        depth_m,
        all(sample["metric"] for sample in samples),
        [s["scene_id"] for s in samples],
        list(range(first, first + len(samples))),
        references,
        visible,
        hidden,
    )


def camera_scales(views: ImaginedViews, batch: Batch) -> Tensor:
    """World units per model unit (B,), from the baselines of the references (of all views for one).

    NaN where no cameras were recovered, or the node would reject the scale.
    """
    taken = batch.num_references if batch.num_references > 1 else batch.images.shape[1]
    scales = [
        scale_from_baselines(
            T.cpu().double().numpy(), T_model.numpy(), float(depth.median()), metric=batch.metric
        )
        if bool(torch.isfinite(T_model).all())
        else float("nan")
        for T, T_model, depth in zip(
            batch.T_world_cam[:, :taken],
            views.T_model_cam[:, :taken],
            views.depth[:, :taken],
            strict=True,
        )
    ]
    return torch.tensor(scales)
