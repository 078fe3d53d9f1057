"""Bundles of published weights before anything is fetched: all their sizes, none of their values.

What is asked before a download (does a run fit, how long will it take) is so answered by the code
that runs the bundle later. The sizes are those of the published files, which a conversion reads off
their tensors (`convert`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gld_ros.backbones.da3.config import DA3_BASE
from gld_ros.backbones.vggt.config import VGGT_1B
from gld_ros.decoders.rgb import RgbDecoderConfig
from gld_ros.diffusion.config import (
    GLD_DA3_CASCADE,
    GLD_DA3_LEVEL1,
    GLD_VGGT_CASCADE,
    GLD_VGGT_LEVEL1,
    DenoiserConfig,
)
from gld_ros.weights.bundle import Bundle
from gld_ros.weights.bundle_config import BundleConfig, FileRecord
from gld_ros.weights.catalog import PublishedModel
from gld_ros.weights.convert import converted_config
from gld_ros.weights.families import FAMILIES
from gld_ros.weights.published_diffusion import reference_depth
from gld_ros.weights.statistics import LevelStatistics
from gld_ros.weights.tensor_file import module_layout
from gld_ros.weights.without_storage import without_storage


@dataclass(frozen=True)
class PublishedSizes:
    """Sizes of the networks in the published files of a family."""

    backbone: Any
    rgb_decoder: RgbDecoderConfig | None
    denoisers: Mapping[str, DenoiserConfig]


PUBLISHED: dict[str, PublishedSizes] = {
    "gld-da3": PublishedSizes(
        DA3_BASE,
        RgbDecoderConfig(in_channels=4 * DA3_BASE.channels),
        {"level1": GLD_DA3_LEVEL1, "cascade": GLD_DA3_CASCADE},
    ),
    "gld-vggt": PublishedSizes(
        replace(VGGT_1B, camera_head=True),
        RgbDecoderConfig(in_channels=4 * VGGT_1B.channels),
        {"level1": GLD_VGGT_LEVEL1, "cascade": GLD_VGGT_CASCADE},
    ),
    "da3": PublishedSizes(DA3_BASE, None, {}),
    "vggt": PublishedSizes(replace(VGGT_1B, camera_head=True, point_head=True), None, {}),
}


class UnfetchedBundle(Bundle):
    """Answers what a pipeline asks before it reads weights; reading these raises."""

    def __init__(
        self, model: PublishedModel, *, variant: str | None = None, dtype: str = "float32"
    ) -> None:
        """The bundle that `model` will be; variant and stored dtype as for `convert`."""
        super().__init__(Path(model.name), _config(model, variant, dtype))

    def statistics(self, level: int) -> LevelStatistics:
        """Statistics of the right width, without values."""
        channels = self.config.denoisers[self.config.base_denoiser].config.channels
        values = torch.empty(channels, device="meta")
        return LevelStatistics(values, values, LevelStatistics(values, values))


def _config(model: PublishedModel, variant: str | None, dtype: str) -> BundleConfig:
    sizes = PUBLISHED[model.kind]
    denoisers = dict(sizes.denoisers)
    if variant == "reference":
        denoisers["cascade"] = replace(
            denoisers["cascade"], depth=reference_depth(denoisers["cascade"].depth)
        )
    config = converted_config(
        FAMILIES[model.kind], model.name, sizes.backbone, sizes.rgb_decoder, denoisers
    )
    records = {}
    for name in config.module_names:
        with without_storage():
            layout = module_layout(config.build_module(name))
        count = sum(torch.Size(shape).numel() for shape in layout.values())
        size = count * getattr(torch, dtype).itemsize
        records[f"{name}.safetensors"] = FileRecord("", size, len(layout), count, dtype)
    return replace(config, files=records)
