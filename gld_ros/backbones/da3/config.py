"""Sizes of Depth Anything 3 models: the published any-view variants and what is legal.

Owns `Da3Config` and the published constants. The modules that read it are beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gld_ros.backbones.interface import NUM_LEVELS


@dataclass(frozen=True)
class Da3Config:
    """Everything that determines the shapes and the wiring of one model.

    embed_dim, depth, num_heads: width, blocks and attention heads of the transformer.
    image_size: side in pixels of the square image the positional table is made for.
    alt_start: first block of the alternating part: from here odd blocks attend across all views,
        even blocks within one. The camera token is written just before it.
    qknorm_start, rope_start: first block with normalised queries and keys, with rotary positions.
    tap_layers: the four blocks whose outputs are levels 0..3.
    head_features, head_out_channels: width of the fusion chains, channels of the four stages.
    camera_heads, camera_depth: attention heads and blocks of the camera encoder.
    layer_scale_init: initial value of the residual scales in a model trained from scratch.
    head_output_scale: 1, or 2 to predict maps at half the resolution (depth is then upsampled to
        the image, rays stay at half), which makes the head of a small model cheaper.
    ffn: "mlp" (GELU) or "swiglu".
    """

    embed_dim: int
    depth: int
    num_heads: int
    alt_start: int
    qknorm_start: int
    rope_start: int
    tap_layers: tuple[int, int, int, int]
    head_features: int
    head_out_channels: tuple[int, int, int, int]
    image_size: int = 518
    camera_heads: int = 16
    camera_depth: int = 4
    patch_size: int = 14
    layer_scale_init: float = 1.0
    head_output_scale: int = 1
    ffn: Literal["mlp", "swiglu"] = "mlp"

    def __post_init__(self) -> None:
        # JSON knows no tuples; a config read from a bundle must equal the one that was written.
        object.__setattr__(self, "tap_layers", tuple(self.tap_layers))
        object.__setattr__(self, "head_out_channels", tuple(self.head_out_channels))
        taps = self.tap_layers
        problems = []
        if self.embed_dim % self.num_heads or (self.embed_dim // self.num_heads) % 4:
            problems.append(
                f"embed_dim {self.embed_dim} must give each of {self.num_heads} heads a multiple "
                "of 4 channels (rotary positions)"
            )
        if self.embed_dim % self.camera_heads:
            problems.append(
                f"embed_dim {self.embed_dim} must be a multiple of camera_heads {self.camera_heads}"
            )
        if self.image_size % self.patch_size:
            problems.append(
                f"image_size {self.image_size} must be a multiple of patch_size {self.patch_size}"
            )
        if not 1 <= self.alt_start < self.depth:
            problems.append(f"alt_start {self.alt_start} must lie in 1..{self.depth - 1}")
        if len(taps) != NUM_LEVELS or list(taps) != sorted(set(taps)):
            problems.append(f"tap_layers {taps} must be {NUM_LEVELS} increasing block indices")
        elif taps[0] < self.alt_start or taps[-1] >= self.depth:
            problems.append(f"tap_layers {taps} must lie in {self.alt_start}..{self.depth - 1}")
        if len(self.head_out_channels) != NUM_LEVELS or any(c % 4 for c in self.head_out_channels):
            problems.append(
                f"head_out_channels {self.head_out_channels} must be {NUM_LEVELS} multiples of 4"
            )
        if self.head_features % 8:
            problems.append(f"head_features {self.head_features} must be a multiple of 8")
        if self.head_output_scale not in (1, 2):
            problems.append(f"head_output_scale {self.head_output_scale} must be 1 or 2")
        if self.ffn not in ("mlp", "swiglu"):
            problems.append(f'ffn {self.ffn!r} must be "mlp" or "swiglu"')
        if problems:
            raise ValueError("invalid Da3Config: " + "; ".join(problems))

    @property
    def channels(self) -> int:
        """Channels of one level: the local half and the current half."""
        return 2 * self.embed_dim

    @property
    def table_side(self) -> int:
        """Patches along one side of the positional table."""
        return self.image_size // self.patch_size


DA3_SMALL = Da3Config(
    embed_dim=384,
    depth=12,
    num_heads=6,
    alt_start=4,
    qknorm_start=4,
    rope_start=4,
    tap_layers=(5, 7, 9, 11),
    head_features=64,
    head_out_channels=(48, 96, 192, 384),
)

DA3_BASE = Da3Config(
    embed_dim=768,
    depth=12,
    num_heads=12,
    alt_start=4,
    qknorm_start=4,
    rope_start=4,
    tap_layers=(5, 7, 9, 11),
    head_features=128,
    head_out_channels=(96, 192, 384, 768),
)

DA3_LARGE = Da3Config(
    embed_dim=1024,
    depth=24,
    num_heads=16,
    alt_start=8,
    qknorm_start=8,
    rope_start=8,
    tap_layers=(11, 15, 19, 23),
    head_features=256,
    head_out_channels=(256, 512, 1024, 1024),
)

# The published Giant also has a Gaussian head, which these modules do not cover.
DA3_GIANT = Da3Config(
    embed_dim=1536,
    depth=40,
    num_heads=24,
    alt_start=13,
    qknorm_start=13,
    rope_start=13,
    tap_layers=(19, 27, 33, 39),
    head_features=256,
    head_out_channels=(256, 512, 1024, 1024),
    ffn="swiglu",
)
