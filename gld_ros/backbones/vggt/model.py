"""VGGT: images -> features, depth, points, cameras; the second `GeometryBackbone` of the diffusion.

Owns the whole model and the check of its inputs. The parts are in the files beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gld_ros.backbones.images import imagenet_normalise, validate_images
from gld_ros.backbones.interface import NUM_LEVELS, Geometry, LevelTokens
from gld_ros.backbones.pose_encoding import decode_transform, encode_transform
from gld_ros.backbones.vggt.aggregator import Aggregator
from gld_ros.backbones.vggt.camera_head import CameraHead
from gld_ros.backbones.vggt.config import VggtConfig
from gld_ros.backbones.vggt.dpt_head import DptHead
from gld_ros.geometry.rays import RecoveredCameras
from gld_ros.geometry.rigid import invert_rigid

MIN_QUATERNION_LENGTH = 1e-3  # a shorter one is rounding, and has no direction


@dataclass
class VggtPrediction:
    """What the network says of a batch of scenes, in its own unit of length.

    depth, depth_confidence: (B, V, H, W).
    points: (B, V, H, W, 3) in the frame of view 0, and points_confidence (B, V, H, W); None for a
        model without point head.
    T_cam_world: (B, V, 4, 4) with view 0 as the world, and K_px (B, V, 3, 3) in pixels of the
        images; None for a model without camera head.
    """

    depth: Tensor
    depth_confidence: Tensor
    points: Tensor | None
    points_confidence: Tensor | None
    T_cam_world: Tensor | None
    K_px: Tensor | None


class VggtBackbone(nn.Module):
    """Aggregator and depth head, with point and camera heads if the config has them.

    The features are raw everywhere: nothing is normalised before storing, propagating or decoding.
    The special tokens of a level (camera token, then registers) carry information that propagation
    needs, so the diffusion generates them along with the patches.
    """

    def __init__(self, config: VggtConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_size = config.patch_size
        self.channels = config.channels
        self.diffused_special_tokens = config.num_special_tokens
        self.aggregator = Aggregator(config)
        self.depth_head = DptHead(
            config.channels,
            config.head_features,
            config.head_out_channels,
            outputs=2,
            activation="exp",
            patch_size=config.patch_size,
        )
        if config.point_head:
            self.point_head = DptHead(
                config.channels,
                config.head_features,
                config.head_out_channels,
                outputs=4,
                activation="inv_log",
                patch_size=config.patch_size,
            )
        if config.camera_head:
            self.camera_head = CameraHead(
                config.channels,
                num_heads=config.camera_heads,
                depth=config.camera_depth,
                mlp_ratio=config.mlp_ratio,
            )

    def encode_levels(
        self, images: Tensor, levels: Sequence[int], camera_tokens: Tensor | None = None
    ) -> dict[int, LevelTokens]:
        """Raw tokens of the wanted levels of images (B, V, 3, H, W) in [0, 1]; view 0 is reference.

        camera_tokens must be None: VGGT takes no known cameras. Raises ValueError for that, for
        images that are not what is described, and for unknown levels.
        """
        validate_images(images, self.patch_size)
        if not levels or any(level not in range(NUM_LEVELS) for level in levels):
            raise ValueError(f"levels must be some of 0..{NUM_LEVELS - 1}, got {list(levels)}")
        if camera_tokens is not None:
            raise ValueError("VGGT takes no known cameras: camera_tokens must be None")
        return self.aggregator(imagenet_normalise(images), levels)

    def propagate(
        self, tokens: LevelTokens, level: int, grid_hw: tuple[int, int]
    ) -> dict[int, LevelTokens]:
        """Run the remaining blocks on raw tokens of `level`; returns raw levels `level`..3.

        The special tokens must be those of the same level and views (`learned_special_tokens`
        stands in where there are none, at the cost of other features). Raises ValueError for
        tokens that do not fit.
        """
        if level not in range(NUM_LEVELS):
            raise ValueError(f"level must be one of 0..{NUM_LEVELS - 1}, got {level}")
        views = tuple(tokens.patches.shape[:2])
        expected = {
            "patches": (tokens.patches, (*views, grid_hw[0] * grid_hw[1], self.channels)),
            "special": (tokens.special, (*views, self.diffused_special_tokens, self.channels)),
        }
        for name, (value, shape) in expected.items():
            if tuple(value.shape) != shape:
                raise ValueError(
                    f"tokens.{name} has shape {tuple(value.shape)}; expected {shape} for a grid "
                    f"of {grid_hw[0]}x{grid_hw[1]} patches"
                )
        return self.aggregator.propagate(tokens, level, grid_hw)

    def learned_special_tokens(self, num_scenes: int, num_views: int) -> Tensor:
        """Special tokens (B, V, S, C) that put the initial tokens in the place of encoded ones.

        For patches of unknown origin. Propagating with them gives other features than the true
        tokens of the level give.
        """
        learned = self.aggregator.learned_special_tokens(num_scenes, num_views)
        return torch.cat([torch.zeros_like(learned), learned], dim=-1)

    def decoder_input(self, tokens: LevelTokens) -> Tensor:
        """What the decoders read of one raw level: its patches as they are, (B, V, N, C)."""
        return tokens.patches

    def decode_geometry(
        self, decoder_levels: Sequence[Tensor], image_hw: tuple[int, int]
    ) -> Geometry:
        """Depth from the four decoder inputs, each (B, V, N, C); VGGT predicts no ray map."""
        depth, confidence = self.depth_head(decoder_levels, image_hw)
        return Geometry(depth[..., 0], confidence, ray=None, ray_confidence=None)

    @property
    def geometry_head(self) -> nn.Module:
        """The depth head."""
        return self.depth_head

    def recover_cameras(
        self, geometry: Geometry, last_level: LevelTokens, image_hw: tuple[int, int]
    ) -> RecoveredCameras | None:
        """Cameras that the camera head reads from `last_level`; None for a model without one.

        Raises ValueError for readings that are not a camera: not finite, a quaternion of length
        zero, or a view angle outside 0 to pi.
        """
        if not self.config.camera_head:
            return None
        encoding = self.camera_head(last_level.special[:, :, 0])[-1].double()
        quaternion, view_angles = encoding[..., 3:7], encoding[..., 7:]
        if not bool(torch.isfinite(encoding).all()):
            raise ValueError("the camera head's reading is not finite; no camera can be recovered")
        if bool((quaternion.square().sum(-1) < MIN_QUATERNION_LENGTH**2).any()):
            raise ValueError("a quaternion that the camera head reads has length zero")
        if bool(((view_angles <= 0) | (view_angles >= torch.pi)).any()):
            raise ValueError(
                f"view angles that the camera head reads are {view_angles.min():.3g} to "
                f"{view_angles.max():.3g} rad; those of a camera are between 0 and pi"
            )
        T_cam_model, K_px = decode_transform(encoding, image_hw)
        return RecoveredCameras(invert_rigid(T_cam_model), K_px[:, 0], K_px)

    def known_camera_tokens(
        self, T_cam_world: Tensor, K_px: Tensor, image_hw: tuple[int, int]
    ) -> None:
        """None: VGGT takes no known cameras."""

    def camera_error(
        self,
        last_level: LevelTokens,
        T_cam_world: Tensor,
        K_px: Tensor,
        image_hw: tuple[int, int],
    ) -> Tensor | None:
        """Mean absolute error of the pose numbers, over all rounds of the camera head if any."""
        if not self.config.camera_head:
            return None
        rounds: Tensor = self.camera_head(last_level.special[:, :, 0])
        return (rounds - encode_transform(T_cam_world, K_px, image_hw)).abs().mean()

    def decode_cameras(
        self, last_level: LevelTokens, image_hw: tuple[int, int]
    ) -> tuple[Tensor, Tensor] | None:
        """T_cam_world (B, V, 4, 4), view 0 being the world, and K_px (B, V, 3, 3) from level 3.

        None for a model without camera head.
        """
        if not self.config.camera_head:
            return None
        encoding = self.camera_head(last_level.special[:, :, 0])[-1]
        return decode_transform(encoding, image_hw)

    def forward(self, images: Tensor) -> VggtPrediction:
        """Predict depth, and points and cameras if there are heads, of images (B, V, 3, H, W).

        Images are RGB in [0, 1], sides multiples of the patch size; view 0 is the world.
        """
        levels = self.encode_levels(images, range(NUM_LEVELS))
        image_hw = int(images.shape[-2]), int(images.shape[-1])
        inputs = [self.decoder_input(levels[level]) for level in range(NUM_LEVELS)]
        geometry = self.decode_geometry(inputs, image_hw)
        points, points_confidence = (
            self.point_head(inputs, image_hw) if self.config.point_head else (None, None)
        )
        T_cam_world, K_px = self.decode_cameras(levels[NUM_LEVELS - 1], image_hw) or (None, None)
        return VggtPrediction(
            depth=geometry.depth,
            depth_confidence=geometry.depth_confidence,
            points=points,
            points_confidence=points_confidence,
            T_cam_world=T_cam_world,
            K_px=K_px,
        )
