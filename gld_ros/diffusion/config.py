"""Sizes and layout of a denoiser, and those of the four published ones.

Owns `DenoiserConfig`. The network that reads it is `denoiser`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from gld_ros.diffusion.flow import Prediction


@dataclass(frozen=True)
class DenoiserConfig:
    """Size and layout of a denoiser; pairs are (encoder, head).

    separate_embedders: references and targets have their own patch embedders (level 1) or share
        one (the published cascade).
    source_conditioned: the encoder sees [reference | source latent] instead of [reference | noisy].
    prope_image_hw: size in pixels that PRoPE normalises intrinsics by; None is the true image size.
        The published cascade always uses 504 x 504.
    special_tokens: how many special tokens of a view are generated along with its patches; such a
        model also takes maps, and then runs without any.
    prediction: what the network outputs: the velocity `noise - clean` or the clean latent.
    measured: targets may come with rendered measurements, read by embedders of their own that start
        at zero: a model without them gains them and gives the same output until it is trained.
    """

    channels: int
    hidden: tuple[int, int] = (768, 2048)
    depth: tuple[int, int] = (28, 6)
    heads: tuple[int, int] = (16, 16)
    separate_embedders: bool = True
    source_conditioned: bool = False
    prope_image_hw: tuple[int, int] | None = None
    special_tokens: int = 0
    time_features: int = 256
    camera_patch: int = 14
    prediction: Prediction = "velocity"
    mlp_ratio: float = 4.0
    measured: bool = False

    def __post_init__(self) -> None:
        for name, width, heads in zip(("encoder", "head"), self.hidden, self.heads, strict=True):
            if width % heads or (width // heads) % 8:
                raise ValueError(
                    f"{name} width {width} with {heads} attention heads gives head size "
                    f"{width / heads:g}; it must be a multiple of 8"
                )
        if self.special_tokens < 0:
            raise ValueError(f"special_tokens is {self.special_tokens}; it cannot be negative")
        if self.measured and self.special_tokens:
            raise ValueError("a denoiser of special tokens cannot be measured")
        if self.prediction not in get_args(Prediction):
            raise ValueError(f"prediction is {self.prediction!r}; use 'velocity' or 'clean'")

    @property
    def unconditional_intrinsics(self) -> Literal["identity", "kept"]:
        """What the unconditional branch does with K: only the shared-embedder layout keeps it."""
        return "identity" if self.separate_embedders else "kept"


GLD_VGGT_LEVEL1 = DenoiserConfig(channels=2048, special_tokens=5)
# The published file has six head blocks; the released evaluation runs the first two.
GLD_VGGT_CASCADE = DenoiserConfig(channels=2048, special_tokens=5, source_conditioned=True)
GLD_DA3_LEVEL1 = DenoiserConfig(channels=1536)
GLD_DA3_CASCADE = DenoiserConfig(
    channels=1536,
    depth=(28, 2),
    separate_embedders=False,
    source_conditioned=True,
    prope_image_hw=(504, 504),
)
