"""The dual DPT head: four levels of decoder inputs -> depth, ray map and their confidences.

Owns the two chains and their outputs; the pyramid they share is in `gld_ros.backbones.dpt`. Turning
rays into cameras is `ray_cameras.py` (DA3's routine) or `gld_ros.geometry.rays` (GLD's). Parameter
names are those of the published checkpoints.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from gld_ros.backbones.dpt import (
    FusionBlock,
    PyramidHead,
    add_coordinates,
    init_convolutions,
    resize,
)
from gld_ros.backbones.interface import NUM_LEVELS, Geometry
from gld_ros.full_precision import full_precision

# Views are independent here; decoding a few at a time bounds the memory of the large maps.
VIEWS_PER_SLICE = 8
HIDDEN_FEATURES = 32
RAY_CHANNELS = 6
ORIGIN_CHANNELS = slice(3, 6)
ORIGIN_SPREAD = 0.1  # of the initial origins, in units of the initial directions


class Scratch(nn.Module):
    """The part of the head that was trained from scratch: fusion chains and output layers.

    Of the four ray outputs only the last, at the finest map, is ever used. The others are kept
    because published checkpoints carry them.
    """

    def __init__(self, features: int, in_channels: Sequence[int]) -> None:
        super().__init__()
        for stage, channels in enumerate(in_channels, start=1):
            lateral = stage < NUM_LEVELS
            self.add_module(
                f"layer{stage}_rn", nn.Conv2d(channels, features, 3, padding=1, bias=False)
            )
            self.add_module(f"refinenet{stage}", FusionBlock(features, lateral=lateral))
            self.add_module(f"refinenet{stage}_aux", FusionBlock(features, lateral=lateral))
        half = features // 2
        self.output_conv1 = nn.Conv2d(features, half, 3, padding=1)
        self.output_conv2 = nn.Sequential(
            nn.Conv2d(half, HIDDEN_FEATURES, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(HIDDEN_FEATURES, 2, 1),
        )
        self.output_conv1_aux = nn.ModuleList(_ray_neck(features) for _ in range(NUM_LEVELS))
        self.output_conv2_aux = nn.ModuleList(_ray_output(half) for _ in range(NUM_LEVELS))


class DualDptHead(PyramidHead):
    """Dense prediction with a shared pyramid, one fusion chain for depth and one for rays."""

    scratch: Scratch
    runs_in_float32 = True  # read by gld_ros.weights

    def __init__(
        self,
        channels: int,
        features: int,
        out_channels: Sequence[int],
        *,
        patch_size: int = 14,
        output_scale: int = 1,
    ) -> None:
        super().__init__(channels, out_channels, patch_size)
        self.output_scale = output_scale
        self.scratch = Scratch(features, out_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start with ray origins that are small, as centres of neighbouring cameras are.

        Large random ones would be trained away first, and with them the weights through which
        their gradient reaches the features.
        """
        init_convolutions(self)
        *_, weight, _bias = self.scratch.output_conv2_aux[-1].parameters()
        with torch.no_grad():
            weight[ORIGIN_CHANNELS] *= ORIGIN_SPREAD

    def forward(self, decoder_levels: Sequence[Tensor], image_hw: tuple[int, int]) -> Geometry:
        """Decode four (B, V, N, C) decoder inputs of images of size image_hw, in float32.

        With output_scale 1 rays are 8/14 of the image's size, with output_scale 2 they are 4/14.
        """
        grid_hw = self.grid_of(decoder_levels, image_hw)
        num_scenes, num_views = decoder_levels[0].shape[:2]
        folded = [level.flatten(0, 1) for level in decoder_levels]
        total = num_scenes * num_views
        # Gradients keep every slice's maps alive, so slicing would save nothing there.
        step = total if torch.is_grad_enabled() else VIEWS_PER_SLICE
        with full_precision(folded[0].device):
            slices = [
                self._decode([level[i : i + step].float() for level in folded], grid_hw, image_hw)
                for i in range(0, total, step)
            ]
        depth_logits, ray_logits = (
            (maps[0] if len(maps) == 1 else torch.cat(maps)).unflatten(0, (num_scenes, num_views))
            for maps in zip(*slices, strict=True)
        )
        depth, confidence = depth_logits.exp().unbind(2)
        if self.output_scale > 1:
            both = torch.stack([depth, confidence], dim=2).flatten(0, 1)
            both = resize(both, image_hw).unflatten(0, (num_scenes, num_views))
            depth, confidence = both.unbind(2)
        ray_logits = ray_logits.permute(0, 1, 3, 4, 2)
        return Geometry(
            depth=depth,
            depth_confidence=confidence + 1,
            ray=ray_logits[..., :RAY_CHANNELS],
            ray_confidence=ray_logits[..., RAY_CHANNELS].exp() + 1,
        )

    def _decode(
        self, levels: Sequence[Tensor], grid_hw: tuple[int, int], image_hw: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        aspect = image_hw[1] / image_hw[0]
        scratch = self.scratch
        pyramid = self.pyramid(levels, grid_hw, aspect)
        upsample = 2 // self.output_scale
        fine = upsample * pyramid[0].shape[2], upsample * pyramid[0].shape[3]
        x = scratch.output_conv1(self.fuse(pyramid, fine))
        output_hw = image_hw[0] // self.output_scale, image_hw[1] // self.output_scale
        x = add_coordinates(resize(x, output_hw), aspect)
        depth_logits = scratch.output_conv2(x)

        x = scratch.output_conv1_aux[-1](self.fuse(pyramid, fine, "_aux"))
        ray_logits = scratch.output_conv2_aux[-1](add_coordinates(x, aspect))
        return depth_logits, ray_logits


class ChannelLayerNorm(nn.LayerNorm):
    """Layer normalisation over the channels of a map (M, C, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each pixel."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _ray_neck(features: int) -> nn.Sequential:
    half = features // 2
    widths = [features, half, features, half, features, half]
    return nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths)))


def _ray_output(features: int) -> nn.Sequential:
    # Position 2 and 5 are where the published checkpoints have the norm and the last layer: there,
    # the norm sits between two permutations.
    return nn.Sequential(
        nn.Conv2d(features, HIDDEN_FEATURES, 3, padding=1),
        nn.Identity(),
        ChannelLayerNorm(HIDDEN_FEATURES, eps=1e-5),
        nn.Identity(),
        nn.ReLU(),
        nn.Conv2d(HIDDEN_FEATURES, RAY_CHANNELS + 1, 1),
    )
