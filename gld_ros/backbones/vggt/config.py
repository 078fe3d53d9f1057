"""Sizes of VGGT models: the published one and what is legal.

Owns `VggtConfig` and `VGGT_1B`. The modules that read it are beside it.
"""

from dataclasses import dataclass

from gld_ros.backbones.config import BackboneConfig


@dataclass(frozen=True, kw_only=True)
class VggtConfig(BackboneConfig):
    """Sizes of one model (`BackboneConfig`; depth counts pairs of blocks), and what VGGT adds.

    image_depth, image_heads: blocks and heads of the image transformer in front of the pairs.
    num_registers: learned tokens per view beside the camera token; as many in the image
        transformer beside its class token.
    point_head, camera_head: whether the model has these heads; novel views use the camera head
        alone, to recover cameras.
    """

    image_depth: int
    image_heads: int
    num_registers: int = 4
    mlp_ratio: float = 4.0
    point_head: bool = False
    camera_head: bool = False
    camera_heads: int = 16
    camera_depth: int = 4

    def problems(self) -> list[str]:
        """What makes no model, one sentence each."""
        problems = super().problems()
        if self.embed_dim % self.image_heads:
            problems.append(
                f"embed_dim {self.embed_dim} must be a multiple of image_heads {self.image_heads}"
            )
        if self.camera_head and self.channels % self.camera_heads:
            problems.append(
                f"channels {self.channels} must be a multiple of camera_heads {self.camera_heads}"
            )
        if self.num_registers < 0:
            problems.append(f"num_registers {self.num_registers} must not be negative")
        return problems

    @property
    def num_special_tokens(self) -> int:
        """Tokens per view that stand for no patch: one camera token, then the registers."""
        return 1 + self.num_registers


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
