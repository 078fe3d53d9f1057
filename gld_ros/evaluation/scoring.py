"""Predicted views of one batch measured against the withheld ones."""

from dataclasses import dataclass

from torch import Tensor

from gld_ros.evaluation.batch import Batch
from gld_ros.evaluation.depth_metrics import depth_errors, median_scale, ordinal_accuracy
from gld_ros.evaluation.figures import Figures
from gld_ros.evaluation.image_metrics import PerceptualDistance, psnr, ssim


@dataclass(frozen=True)
class Scorer:
    """Measures views of one batch against its truth."""

    batch: Batch
    perceptual: PerceptualDistance
    figures: Figures

    def colour(self, method: str, rgb: Tensor) -> None:
        """Judge target images (B, T, 3, H, W)."""
        batch = self.batch
        predicted, true = rgb.flatten(0, 1), batch.true_rgb.flatten(0, 1)
        values = {"psnr": psnr(predicted, true)}
        for name, mask in (("visible", batch.visible), ("hidden", batch.hidden)):
            if mask is not None:
                values[f"psnr_{name}"] = psnr(predicted, true, mask.flatten(0, 1))
        values["ssim"] = ssim(predicted, true)
        values["perceptual"] = self.perceptual.distance(predicted, true)
        self._add(method, values)

    def depth(self, method: str, depth: Tensor, camera_scale: Tensor | None = None) -> None:
        """Judge target depths (B, T, H, W); camera_scale (B,): world units per model unit."""
        batch = self.batch
        if batch.true_depth_m is None or batch.visible is None or batch.hidden is None:
            return
        predicted, true = depth.flatten(0, 1), batch.true_depth_m.flatten(0, 1)
        visible, hidden = batch.visible.flatten(0, 1), batch.hidden.flatten(0, 1)
        values = {
            "ordinal": ordinal_accuracy(predicted, true),
            "ordinal_visible": ordinal_accuracy(predicted, true, visible),
            "ordinal_hidden": ordinal_accuracy(predicted, true, hidden),
        }
        scaled = predicted * median_scale(predicted, true)[:, None, None]
        values |= {f"{k}_median": v for k, v in depth_errors(scaled, true).items()}
        values["abs_rel_median_hidden"] = depth_errors(scaled, true, hidden)["abs_rel"]
        values |= {f"{k}_unscaled": v for k, v in depth_errors(predicted, true).items()}
        if camera_scale is not None:
            scale = camera_scale.to(predicted).repeat_interleave(batch.num_targets)
            metric = depth_errors(predicted * scale[:, None, None], true)
            values |= {f"{k}_cameras": v for k, v in metric.items()}
        self._add(method, values)

    def _add(self, method: str, values: dict[str, Tensor]) -> None:
        for metric, value in values.items():
            self.figures.add(method, metric, value, self.batch.num_targets)
