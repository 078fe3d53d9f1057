"""Known-token guidance against composing alone: hidden pixels of any bundle.

    python benchmark/known_tokens.py --bundle tiny --data rooms:look_around:16

Where measured pixels cover a target's patch, its features are known: those of the rendered image,
encoded beside the references. At each time of the flow they are held at that time's noise level,
by the share of the patch that is covered, so that what is sampled continues what was measured. With
`--withheld`, one in four blocks of 2 x 2 patches is not shown to the model. The rows "shown
measurements" are with it, those above without; "measured, ..." are joined as a robot publishes
them. The references' true depth is what was measured. The pipeline does not do this; why not is
in docs/target_views.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import measurements
import torch
import torch.nn.functional as F
from torch import Tensor

from gld_ros.diffusion.conditioning import camera_conditions
from gld_ros.diffusion.flow import time_shift
from gld_ros.diffusion.guidance import guided_velocity
from gld_ros.diffusion.solvers import integrate, sampling_grid
from gld_ros.evaluation.held_out import ViewPlan, open_held_out
from gld_ros.evaluation.model_runs import EvaluatedModel, ImaginedViews
from gld_ros.evaluation.run import evaluate
from gld_ros.evaluation.totals import EvaluationSettings
from gld_ros.measured_latents import RenderedMeasurements, fill_holes
from gld_ros.novel_view_stages import (
    EncodedReferences,
    Sampling,
    feature_encoder,
    level_tokens,
    sampling_conditions,
)
from gld_ros.weights.bundle import Bundle


@dataclass(frozen=True)
class Known:
    """Latents (B, V, C, h, w) and how far [0, 1] each patch is held to them (B, V, 1, h, w)."""

    latent: Tensor
    weight: Tensor


class HeldModel(EvaluatedModel):
    """A model whose sampling is held to the measurements it is given; without any it is itself."""

    def __init__(self, bundle: Bundle, *, withheld: bool) -> None:
        super().__init__(bundle, torch.device("cpu"), torch.float32)
        if list(self.denoisers) != ["level1"]:
            raise SystemExit("known tokens are held in one denoiser; the bundle has more")
        self.reads_measurements = True
        self._withheld = withheld

    def imagine(
        self,
        encoded: EncodedReferences,
        T_world_cam: Tensor,
        K_px: Tensor,
        image_hw: tuple[int, int],
        noise: Mapping[str, Tensor],
        *,
        num_references: int,
        sampling: Sampling,
        after_step: Callable[[], None] = lambda: None,
        measured: RenderedMeasurements | None = None,
        reference_images: Tensor | None = None,
    ) -> ImaginedViews:
        """See `EvaluatedModel`."""
        given: dict[str, Any] = {
            "num_references": num_references,
            "sampling": sampling,
            "after_step": after_step,
        }
        if measured is None or reference_images is None:
            return super().imagine(encoded, T_world_cam, K_px, image_hw, noise, **given)
        config = self.bundle.config
        level, denoiser = config.boundary_level, self.denoisers["level1"]
        camera_map, viewmats, _ = camera_conditions(
            T_world_cam,
            K_px,
            image_hw,
            num_references,
            ray_grid=config.ray_grid,
            pose_scale=config.pose_scale,
        )
        conditions = sampling_conditions(
            denoiser, encoded.latents[level], camera_map, viewmats, K_px
        )
        known, start = self._known(measured, reference_images, level), noise["level1"]
        shift = config.denoisers["level1"].time_shift
        if shift is None:
            rows, columns = start.shape[-2:]
            shift = time_shift(start.shape[2], rows, columns, start.shape[1])
        grid, shift = sampling_grid(sampling.num_steps, shift, sampling.solver)
        free = guided_velocity(denoiser, conditions, sampling.guidance, times=grid[:-1])

        def held(latent: Tensor, t: float) -> Tensor:
            # Along noise - known a latent is at each time what is known, noised to that time.
            return torch.lerp(free(latent, t).float(), start - known.latent, known.weight)

        *_, last = integrate(held, start, grid, solver=sampling.solver, shift=shift)
        latents = {level: last.latent}
        tokens = level_tokens(self.backbone, self.statistics, latents, encoded.special, level)
        return self._decoded(tokens, image_hw)

    @torch.no_grad()
    def _known(self, measured: RenderedMeasurements, reference_images: Tensor, level: int) -> Known:
        encode = feature_encoder(self.backbone, self.statistics[level], level)
        filled = fill_holes(measured.rgb, measured.covered)
        latent = encode(torch.cat((reference_images, filled), dim=1))
        rows, columns = latent.shape[-2:]
        patch = measured.covered.shape[-2] // rows
        weight = latent.new_zeros(*latent.shape[:2], 1, rows, columns)
        share = F.avg_pool2d(measured.covered.float(), patch)
        if self._withheld:
            row, column = torch.arange(rows)[:, None] // 2, torch.arange(columns) // 2
            share = share * ((row % 2 == 1) | (column % 2 == 1))
        weight[:, reference_images.shape[1] :, 0] = share
        return Known(latent, weight)


def main() -> None:
    """Evaluate on every data set and print one table each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", default="tiny", help="folder or name (default: %(default)s)")
    parser.add_argument("--data", nargs="+", required=True, help="as of gld-ros eval")
    parser.add_argument("--withheld", action="store_true", help="hold only three in four blocks")
    args = parser.parse_args()
    bundle = Bundle.open(args.bundle)
    model = HeldModel(bundle, withheld=args.withheld)
    for data in args.data:
        held_out = open_held_out(data, ViewPlan(2, 2), bundle.config.resolutions_hw)
        report = evaluate(model, held_out, EvaluationSettings(measurements=True)).report
        print(measurements.table(report), flush=True)


if __name__ == "__main__":
    main()
