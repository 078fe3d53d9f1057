"""Sizes of VGGT models: the published one and what is legal.

Owns `VggtConfig` and `VGGT_1B`. The modules that read it are beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gld_ros.backbones.interface import NUM_LEVELS


@dataclass(frozen=True)
class VggtConfig:
    """Everything that determines the shapes and the wiring of one model.

    embed_dim, depth, num_heads: width, number of frame/global block pairs, attention heads.
    image_depth, image_heads: blocks and heads of the image transformer in front of them.
    num_registers: learned tokens per view beside the camera token; as many in the image
        transformer beside its class token.
    tap_layers: the four block pairs whose outputs are levels 0..3.
    head_features, head_out_channels: width of the fusion chain, channels of the four stages.
    image_size: side in pixels of the square image the positional table is made for.
    point_head, camera_head: whether the model has these heads; novel views use the camera head
        alone, to recover cameras.
    layer_scale_init: initial value of the residual scales in a model trained from scratch.
    """

    embed_dim: int
    depth: int
    num_heads: int
    image_depth: int
    image_heads: int
    tap_layers: tuple[int, int, int, int]
    head_features: int
    head_out_channels: tuple[int, int, int, int]
    num_registers: int = 4
    image_size: int = 518
    patch_size: int = 14
    mlp_ratio: float = 4.0
    point_head: bool = False
    camera_head: bool = False
    camera_heads: int = 16
    camera_depth: int = 4
    layer_scale_init: float = 1.0

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
        if self.embed_dim % self.image_heads:
            problems.append(
                f"embed_dim {self.embed_dim} must be a multiple of image_heads {self.image_heads}"
            )
        if self.camera_head and self.channels % self.camera_heads:
            problems.append(
                f"channels {self.channels} must be a multiple of camera_heads {self.camera_heads}"
            )
        if self.image_size % self.patch_size:
            problems.append(
                f"image_size {self.image_size} must be a multiple of patch_size {self.patch_size}"
            )
        if self.num_registers < 0:
            problems.append(f"num_registers {self.num_registers} must not be negative")
        if len(taps) != NUM_LEVELS or list(taps) != sorted(set(taps)):
            problems.append(f"tap_layers {taps} must be {NUM_LEVELS} increasing block indices")
        elif taps[0] < 0 or taps[-1] >= self.depth:
            problems.append(f"tap_layers {taps} must lie in 0..{self.depth - 1}")
        if len(self.head_out_channels) != NUM_LEVELS or any(c % 4 for c in self.head_out_channels):
            problems.append(
                f"head_out_channels {self.head_out_channels} must be {NUM_LEVELS} multiples of 4"
            )
        if self.head_features % 8:
            problems.append(f"head_features {self.head_features} must be a multiple of 8")
        if problems:
            raise ValueError("invalid VggtConfig: " + "; ".join(problems))

    @property
    def channels(self) -> int:
        """Channels of one level: the frame half and the global half."""
        return 2 * self.embed_dim

    @property
    def num_special_tokens(self) -> int:
        """Tokens per view that stand for no patch: one camera token, then the registers."""
        return 1 + self.num_registers

    @property
    def table_side(self) -> int:
        """Patches along one side of the positional table."""
        return self.image_size // self.patch_size


# What the diffusion needs of the published model: aggregator and depth head.
VGGT_1B = VggtConfig(
    embed_dim=1024,
    depth=24,
    num_heads=16,
    image_depth=24,
    image_heads=16,
    tap_layers=(4, 11, 17, 23),
    head_features=256,
    head_out_channels=(256, 512, 1024, 1024),
)

VGGT_1B_ALL_HEADS = replace(VGGT_1B, point_head=True, camera_head=True)
