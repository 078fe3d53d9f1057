"""VGGT's dense heads: four levels -> depth or points, with confidence.

Owns the decoder around the shared parts of `gld_ros.backbones.dpt`. Parameter names are those of
the published checkpoint.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from gld_ros.backbones.dpt import (
    FusionBlock,
    PyramidHead,
    add_coordinates,
    init_convolutions,
    resize,
)
from gld_ros.backbones.interface import NUM_LEVELS
from gld_ros.full_precision import full_precision

# Views are independent here; decoding a few at a time bounds the memory of the large maps.
VIEWS_PER_SLICE = 8

Activation = Literal["exp", "inv_log"]


class Scratch(nn.Module):
    """The fusion chain and the output layers.

    The published model's rectifiers overwrite their input, so that the skip of a residual unit
    carries the rectified map; its weights depend on it.
    """

    def __init__(
        self, features: int, in_channels: Sequence[int], outputs: int, hidden_features: int
    ) -> None:
        super().__init__()
        for stage, channels in enumerate(in_channels, start=1):
            self.add_module(
                f"layer{stage}_rn", nn.Conv2d(channels, features, 3, padding=1, bias=False)
            )
            self.add_module(
                f"refinenet{stage}",
                FusionBlock(features, lateral=stage < NUM_LEVELS, rectified_skip=True),
            )
        half = features // 2
        self.output_conv1 = nn.Conv2d(features, half, 3, padding=1)
        self.output_conv2 = nn.Sequential(
            nn.Conv2d(half, hidden_features, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden_features, outputs, 1),
        )


class DptHead(PyramidHead):
    """Dense prediction of `outputs` numbers per pixel, the last of which is a confidence."""

    scratch: Scratch
    runs_in_float32 = True  # read by gld_ros.weights

    def __init__(
        self,
        channels: int,
        features: int,
        out_channels: Sequence[int],
        *,
        outputs: int,
        activation: Activation,
        hidden_features: int = 32,
        patch_size: int = 14,
    ) -> None:
        super().__init__(channels, out_channels, patch_size)
        if activation not in ("exp", "inv_log"):
            raise ValueError(f'activation is {activation!r}; use "exp" or "inv_log"')
        self.activation = activation
        self.scratch = Scratch(features, out_channels, outputs, hidden_features)
        init_convolutions(self)

    def forward(self, levels: Sequence[Tensor], image_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Values (B, V, H, W, outputs - 1) and confidence (B, V, H, W) >= 1, float32.

        levels: raw patches of levels 0..3, each (B, V, N, C), of images of size image_hw.
        """
        grid_hw = self.grid_of(levels, image_hw)
        num_scenes, num_views = levels[0].shape[:2]
        folded = [level.flatten(0, 1).float() for level in levels]
        total = num_scenes * num_views
        # Gradients keep every slice's maps alive, so slicing would save nothing there.
        step = total if torch.is_grad_enabled() else VIEWS_PER_SLICE
        with full_precision(folded[0].device):
            maps = torch.cat(
                [
                    self._decode([level[i : i + step] for level in folded], grid_hw, image_hw)
                    for i in range(0, total, step)
                ]
            )
        maps = maps.unflatten(0, (num_scenes, num_views)).permute(0, 1, 3, 4, 2)
        values, confidence = maps[..., :-1], maps[..., -1]
        if self.activation == "exp":
            values = values.exp()
        else:
            values = values.sign() * values.abs().expm1()
        return values, confidence.exp() + 1

    def _decode(
        self, levels: Sequence[Tensor], grid_hw: tuple[int, int], image_hw: tuple[int, int]
    ) -> Tensor:
        aspect = image_hw[1] / image_hw[0]
        pyramid = self.pyramid(levels, grid_hw, aspect)
        fine_hw = 2 * pyramid[0].shape[2], 2 * pyramid[0].shape[3]
        scratch = self.scratch
        x = scratch.output_conv1(self.fuse(pyramid, fine_hw))
        return scratch.output_conv2(add_coordinates(resize(x, image_hw), aspect))
