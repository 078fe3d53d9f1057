"""The interface of geometry backbones to the rest of the library.

Owns the protocol and the two data types that cross it. Each family's own extras (camera encoder,
preprocessing, checkpoint names) stay in its folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from gld_ros.geometry.rays import RecoveredCameras

NUM_LEVELS = 4  # feature levels that decoders read, shallow to deep


@dataclass
class LevelTokens:
    """One feature level, raw: before any normalisation of features or of the latent space.

    patches: (B, V, N, C), patches in row-major order.
    special: (B, V, S, C), tokens that stand for no patch. Depth Anything 3 has one (the camera
        token), VGGT five.
    """

    patches: Tensor
    special: Tensor


@dataclass
class Geometry:
    """Depth and rays of a set of views, float32, in the backbone's own unit of length.

    depth: (B, V, H, W), z-depth.
    depth_confidence: (B, V, H, W), at least 1.
    ray: (B, V, h', w', 6) or None; direction (not normalised: depth * direction + origin is the
        point) and origin, in the frame of view 0.
    ray_confidence: (B, V, h', w') or None, at least 1.
    """

    depth: Tensor
    depth_confidence: Tensor
    ray: Tensor | None
    ray_confidence: Tensor | None


@runtime_checkable
class GeometryBackbone(Protocol):
    """A frozen geometric foundation model whose features are the latent space of the diffusion.

    patch_size: side of one patch in pixels; image sides are multiples of it.
    channels: channels C of one level.
    diffused_special_tokens: how many special tokens the diffusion generates along with the
        patches (0 for Depth Anything 3, 5 for VGGT).
    geometry_head: what `decode_geometry` runs; it can be tuned while the rest stays frozen.
    """

    patch_size: int
    channels: int
    diffused_special_tokens: int

    @property
    def geometry_head(self) -> nn.Module: ...

    def encode_levels(
        self, images: Tensor, levels: Sequence[int], camera_tokens: Tensor | None = None
    ) -> dict[int, LevelTokens]:
        """Return the raw tokens of the wanted levels (0..3), running no block beyond the last.

        images: (B, V, 3, H, W), RGB in [0, 1]. View 0 is the reference view.
        """
        ...

    def propagate(
        self, tokens: LevelTokens, level: int, grid_hw: tuple[int, int]
    ) -> dict[int, LevelTokens]:
        """Run the remaining blocks on raw tokens of `level`; return raw levels `level`..3."""
        ...

    def decoder_input(self, tokens: LevelTokens) -> Tensor:
        """Return what the decoders read of one raw level, (B, V, N, C)."""
        ...

    def decode_geometry(
        self, decoder_levels: Sequence[Tensor], image_hw: tuple[int, int]
    ) -> Geometry:
        """Decode the four decoder inputs, each (B, V, N, C), to depth and rays in float32."""
        ...

    def recover_cameras(
        self, geometry: Geometry, last_level: LevelTokens, image_hw: tuple[int, int]
    ) -> RecoveredCameras | None:
        """Return the cameras that a result itself describes, in the unit of its depth.

        geometry is what `decode_geometry` made of the levels whose last is `last_level`, raw, with
        the special tokens that the diffusion generated, if it generates any. None for a backbone
        (or a size of it) that recovers none; ValueError if these tokens describe no camera.
        """
        ...

    def known_camera_tokens(
        self, T_cam_world: Tensor, K_px: Tensor, image_hw: tuple[int, int]
    ) -> Tensor | None:
        """Return `camera_tokens` of known cameras; None for a backbone that takes none.

        T_cam_world: (B, V, 4, 4), K_px: (B, V, 3, 3) in pixels of the images.
        """
        ...

    def camera_error(
        self,
        last_level: LevelTokens,
        T_cam_world: Tensor,
        K_px: Tensor,
        image_hw: tuple[int, int],
    ) -> Tensor | None:
        """Return how far cameras read from level 3 are from the true ones, to train by.

        The mean absolute error of the pose numbers, a scalar; None for a backbone (or a size of it)
        that reads no cameras from its tokens.
        """
        ...
