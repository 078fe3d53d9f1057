"""Sizes of Depth Anything 3 models: those of DA3-Base, and what is legal.

Owns `Da3Config` and the published constants. The modules that read it are beside it.
"""

from dataclasses import dataclass
from typing import Literal

from gld_ros.backbones.config import BackboneConfig


@dataclass(frozen=True, kw_only=True)
class Da3Config(BackboneConfig):
    """Sizes of one model (`BackboneConfig`), and of what this family adds.

    alt_start: first block of the alternating part: from here odd blocks attend across all views,
        even blocks within one. The camera token is written just before it.
    qknorm_start, rope_start: first block with normalised queries and keys, with rotary positions.
    camera_heads, camera_depth: attention heads and blocks of the camera encoder.
    head_output_scale: 1, or 2 to predict maps at half the resolution (depth is then upsampled to
        the image, rays stay at half), which makes the head of a small model cheaper.
    ffn: "mlp" (GELU) or "swiglu".
    """

    alt_start: int
    qknorm_start: int
    rope_start: int
    camera_heads: int = 16
    camera_depth: int = 4
    head_output_scale: int = 1
    ffn: Literal["mlp", "swiglu"] = "mlp"

    @property
    def first_tap(self) -> int:
        """Levels begin with the alternating part."""
        return self.alt_start

    def problems(self) -> list[str]:
        """What makes no model, one sentence each."""
        problems = super().problems()
        if self.embed_dim % self.camera_heads:
            problems.append(
                f"embed_dim {self.embed_dim} must be a multiple of camera_heads {self.camera_heads}"
            )
        if not 1 <= self.alt_start < self.depth:
            problems.append(f"alt_start {self.alt_start} must lie in 1..{self.depth - 1}")
        if self.head_output_scale not in (1, 2):
            problems.append(f"head_output_scale {self.head_output_scale} must be 1 or 2")
        if self.ffn not in ("mlp", "swiglu"):
            problems.append(f'ffn {self.ffn!r} must be "mlp" or "swiglu"')
        return problems


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
