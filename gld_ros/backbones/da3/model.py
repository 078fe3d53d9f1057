"""Depth Anything 3: images (and cameras, if known) -> depth, confidence, rays, cameras.

Owns the whole model, the check of its inputs and the two ways to run it: `forward` on tensors,
`infer` on photos of any size. It is also the `GeometryBackbone` of the diffusion. The parts
are in the files beside it.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from gld_ros.backbones.da3.camera import (
    CameraDecoder,
    CameraEncoder,
    cameras_from_pose_encoding,
    pose_encoding,
)
from gld_ros.backbones.da3.config import Da3Config
from gld_ros.backbones.da3.dual_dpt import DualDptHead
from gld_ros.backbones.da3.pose_alignment import normalise_poses, scale_between_trajectories
from gld_ros.backbones.da3.preprocess import ResizeMethod, prepare_images
from gld_ros.backbones.da3.reference_view import ReferenceStrategy
from gld_ros.backbones.da3.vit import Da3Backbone
from gld_ros.backbones.images import imagenet_normalise, validate_images
from gld_ros.backbones.interface import NUM_LEVELS, Geometry, LevelTokens
from gld_ros.geometry.intrinsics import require_intrinsics
from gld_ros.geometry.rays import RecoveredCameras, cameras_from_rays
from gld_ros.geometry.rigid import invert_rigid, require_rigid

PUBLISHED_PROCESS_RES = 504


@dataclass
class Da3Prediction:
    """What the network says of a batch of scenes, in its own unit of length.

    depth, depth_confidence, ray, ray_confidence: as in `Geometry`.
    T_cam_world: (B, V, 4, 4), predicted world-to-camera transforms.
    K_px: (B, V, 3, 3), predicted intrinsics in pixels of the input images.
    reference: (B,), the view each scene was predicted from.
    """

    depth: Tensor
    depth_confidence: Tensor
    ray: Tensor | None
    ray_confidence: Tensor | None
    T_cam_world: Tensor
    K_px: Tensor
    reference: Tensor


@dataclass(frozen=True)
class Da3Inference:
    """Result of `infer` for V photos, at the resolution the network ran at.

    images: (V, H, W, 3) uint8, the resized photos the maps belong to.
    depth: (V, H, W) float32 z-depth; in the units of the given poses if poses were given and
        `depth_scale` is not None, else in the network's own unit.
    depth_confidence: (V, H, W), at least 1.
    T_cam_world: (V, 4, 4), the given poses, or the predicted ones.
    T_cam_world_predicted: (V, 4, 4), in the network's own unit.
    K_px: (V, 3, 3), intrinsics of `images`: the given ones resized, or the predicted ones.
    depth_scale: factor by which the network's depth was multiplied; None without poses, or when
        the camera centres coincide and no scale can be known.
    """

    images: np.ndarray
    depth: np.ndarray
    depth_confidence: np.ndarray
    T_cam_world: np.ndarray
    T_cam_world_predicted: np.ndarray
    K_px: np.ndarray
    depth_scale: float | None


class DepthAnything3(nn.Module):
    """The any-view model: backbone, dual DPT head, camera encoder and decoder."""

    diffused_special_tokens = 0

    def __init__(self, config: Da3Config) -> None:
        super().__init__()
        self.config = config
        self.patch_size = config.patch_size
        self.channels = config.channels
        self.backbone = Da3Backbone(config)
        self.head = DualDptHead(
            config.channels,
            config.head_features,
            config.head_out_channels,
            patch_size=config.patch_size,
            output_scale=config.head_output_scale,
        )
        self.camera_encoder = CameraEncoder(
            config.embed_dim,
            num_heads=config.camera_heads,
            depth=config.camera_depth,
            layer_scale_init=config.layer_scale_init,
        )
        self.camera_decoder = CameraDecoder(config.channels)

    def encode_levels(
        self, images: Tensor, levels: Sequence[int], camera_tokens: Tensor | None = None
    ) -> dict[int, LevelTokens]:
        """Raw tokens of the wanted levels of images (B, V, 3, H, W) in [0, 1]; view 0 is reference.

        camera_tokens: (B, V, embed_dim) from `camera_encoder`, or None for unknown cameras.
        Raises ValueError for images that are not what is described, and for unknown levels.
        """
        validate_images(images, self.patch_size)
        if not levels or any(level not in range(NUM_LEVELS) for level in levels):
            raise ValueError(f"levels must be some of 0..{NUM_LEVELS - 1}, got {list(levels)}")
        if camera_tokens is not None:
            expected = (*images.shape[:2], self.config.embed_dim)
            if tuple(camera_tokens.shape) != expected:
                raise ValueError(
                    f"camera_tokens must have shape {expected}, got {tuple(camera_tokens.shape)}"
                )
        return self.backbone(imagenet_normalise(images), levels, camera_tokens=camera_tokens)[0]

    def propagate(
        self, tokens: LevelTokens, level: int, grid_hw: tuple[int, int]
    ) -> dict[int, LevelTokens]:
        """Run the remaining blocks on raw tokens of `level`; returns raw levels `level`..3."""
        if level not in range(NUM_LEVELS):
            raise ValueError(f"level must be one of 0..{NUM_LEVELS - 1}, got {level}")
        if tokens.patches.shape[2] != grid_hw[0] * grid_hw[1]:
            raise ValueError(
                f"{tokens.patches.shape[2]} patches per view do not fill a grid of "
                f"{grid_hw[0]}x{grid_hw[1]}"
            )
        return self.backbone.propagate(tokens, level, grid_hw)

    def decoder_input(self, tokens: LevelTokens) -> Tensor:
        """What the decoders read of one raw level: [local | normalised current], (B, V, N, C)."""
        return self.backbone.decoder_input(tokens)

    def decode_geometry(
        self, decoder_levels: Sequence[Tensor], image_hw: tuple[int, int]
    ) -> Geometry:
        """Depth and rays from the four decoder inputs, each (B, V, N, C)."""
        return self.head(decoder_levels, image_hw)

    @property
    def geometry_head(self) -> nn.Module:
        """The dual DPT head."""
        return self.head

    def recover_cameras(
        self, geometry: Geometry, last_level: LevelTokens, image_hw: tuple[int, int]
    ) -> RecoveredCameras:
        """Cameras that the rays of `geometry` describe.

        The camera decoder is not asked: its token is that of a reference, whatever was generated.
        Raises ValueError when there are no rays, or when they determine no camera.
        """
        if geometry.ray is None or geometry.ray_confidence is None:
            raise ValueError("the geometry has no rays; Depth Anything 3 predicts them with depth")
        return cameras_from_rays(geometry.ray, geometry.ray_confidence, image_hw)

    def known_camera_tokens(
        self, T_cam_world: Tensor, K_px: Tensor, image_hw: tuple[int, int]
    ) -> Tensor:
        """Tokens (B, V, embed_dim) of known cameras, for `encode_levels`."""
        tokens: Tensor = self.camera_encoder(T_cam_world, K_px, image_hw)
        return tokens

    def camera_error(
        self,
        last_level: LevelTokens,
        T_cam_world: Tensor,
        K_px: Tensor,
        image_hw: tuple[int, int],
    ) -> Tensor:
        """Mean absolute error of the pose numbers that the camera decoder reads from level 3."""
        predicted: Tensor = self.camera_decoder(last_level.special[:, :, 0])
        return (predicted - pose_encoding(T_cam_world, K_px, image_hw)).abs().mean()

    def forward(
        self,
        images: Tensor,
        T_cam_world: Tensor | None = None,
        K_px: Tensor | None = None,
        reference_strategy: ReferenceStrategy = "saddle_balanced",
    ) -> Da3Prediction:
        """Predict depth, rays and cameras of images (B, V, 3, H, W), RGB in [0, 1].

        T_cam_world (B, V, 4, 4) and K_px (B, V, 3, 3) give known cameras to the network as they
        are; `infer` brings them to the scale the published models expect. Without them, scenes
        of three views or more are predicted from the view that `reference_strategy` chooses.
        Raises ValueError for images or cameras that are not what is described.
        """
        validate_images(images, self.patch_size)
        image_hw = int(images.shape[-2]), int(images.shape[-1])
        camera_tokens = None
        if T_cam_world is not None and K_px is not None:
            validate_cameras(T_cam_world, K_px, tuple(images.shape[:2]))
            camera_tokens = self.camera_encoder(T_cam_world, K_px, image_hw)
        elif T_cam_world is not None or K_px is not None:
            raise ValueError("T_cam_world and K_px go together: give both or neither")
        levels, reference = self.backbone(
            imagenet_normalise(images),
            camera_tokens=camera_tokens,
            reference_strategy=reference_strategy,
        )
        geometry = self.decode_geometry(
            [self.decoder_input(levels[level]) for level in range(NUM_LEVELS)], image_hw
        )
        encoding = self.camera_decoder(levels[NUM_LEVELS - 1].special[:, :, 0])
        T_world_cam, predicted_K_px = cameras_from_pose_encoding(encoding, image_hw)
        return Da3Prediction(
            depth=geometry.depth,
            depth_confidence=geometry.depth_confidence,
            ray=geometry.ray,
            ray_confidence=geometry.ray_confidence,
            T_cam_world=invert_rigid(T_world_cam),
            K_px=predicted_K_px,
            reference=reference,
        )

    @torch.inference_mode()
    def infer(
        self,
        images: Sequence[np.ndarray],
        T_cam_world: Sequence[np.ndarray] | np.ndarray | None = None,
        K_px: Sequence[np.ndarray] | np.ndarray | None = None,
        *,
        process_res: int | None = None,
        resize_method: ResizeMethod = "upper_bound_resize",
        reference_strategy: ReferenceStrategy = "saddle_balanced",
    ) -> Da3Inference:
        """Predict depth and cameras of V photos (H_i, W_i, 3), uint8 RGB.

        T_cam_world: V matrices (4, 4) or (3, 4), world to camera, OpenCV axes; K_px: V matrices
            (3, 3) in pixels of the photos. Both or neither.
        process_res: target of the longest (or shortest, by method) side; by default 504, or the
            size a smaller model was made for.
        Raises ValueError for images or cameras that are not what is described.
        """
        if (T_cam_world is None) != (K_px is None):
            raise ValueError("T_cam_world and K_px go together: give both or neither")
        if process_res is None:
            process_res = min(PUBLISHED_PROCESS_RES, self.config.image_size)
        prepared = prepare_images(
            images,
            K_px,
            process_res=process_res,
            method=resize_method,
            patch_size=self.patch_size,
        )
        device = self.backbone.cls_token.device
        pixels = torch.from_numpy(prepared.images).to(device).permute(0, 3, 1, 2)[None] / 255
        if T_cam_world is None:
            with _backbone_precision(device):
                prediction = self(pixels, reference_strategy=reference_strategy)
            return self._inference(prepared.images, prediction)

        given_T = homogeneous(T_cam_world, len(images))
        given_K = torch.from_numpy(prepared.K_px)
        validate_cameras(given_T[None], given_K[None], (1, len(images)))
        network_T, _ = normalise_poses(given_T)
        with _backbone_precision(device):
            prediction = self(
                pixels, network_T[None].float().to(device), given_K[None].float().to(device)
            )
        scale = scale_between_trajectories(given_T, prediction.T_cam_world[0].double().cpu())
        inference = self._inference(prepared.images, prediction)
        return replace(
            inference,
            depth=inference.depth if scale is None else inference.depth / np.float32(scale),
            T_cam_world=given_T.float().numpy(),
            K_px=given_K.float().numpy(),
            depth_scale=None if scale is None else 1 / scale,
        )

    @staticmethod
    def _inference(images: np.ndarray, prediction: Da3Prediction) -> Da3Inference:
        return Da3Inference(
            images=images,
            depth=prediction.depth[0].cpu().numpy(),
            depth_confidence=prediction.depth_confidence[0].cpu().numpy(),
            T_cam_world=prediction.T_cam_world[0].cpu().numpy(),
            T_cam_world_predicted=prediction.T_cam_world[0].cpu().numpy(),
            K_px=prediction.K_px[0].cpu().numpy(),
            depth_scale=None,
        )


def validate_cameras(T_cam_world: Tensor, K_px: Tensor, views: tuple[int, ...]) -> None:
    """Raise ValueError unless poses (B, V, 4, 4) are rigid and K_px (B, V, 3, 3) is usable."""
    if tuple(T_cam_world.shape) != (*views, 4, 4):
        raise ValueError(
            f"T_cam_world must have shape {(*views, 4, 4)}, got {tuple(T_cam_world.shape)}"
        )
    if tuple(K_px.shape) != (*views, 3, 3):
        raise ValueError(f"K_px must have shape {(*views, 3, 3)}, got {tuple(K_px.shape)}")
    require_rigid(T_cam_world, "T_cam_world")
    require_intrinsics(K_px, "K_px")


def homogeneous(T_cam_world: Sequence[np.ndarray] | np.ndarray, num_views: int) -> Tensor:
    """Stack poses (4, 4) or (3, 4) to a float64 tensor (V, 4, 4)."""
    matrices = []
    for i, matrix in enumerate(T_cam_world):
        matrix = np.asarray(matrix, dtype=np.float64)
        if matrix.shape not in ((3, 4), (4, 4)):
            raise ValueError(f"T_cam_world[{i}] must be (4, 4) or (3, 4), got {matrix.shape}")
        matrices.append(np.vstack([matrix[:3], matrix[3:] if len(matrix) == 4 else [[0, 0, 0, 1]]]))
    if len(matrices) != num_views:
        raise ValueError(f"{num_views} images came with {len(matrices)} poses")
    return torch.from_numpy(np.stack(matrices))


def _backbone_precision(device: torch.device) -> AbstractContextManager[object]:
    if device.type != "cuda":
        return nullcontext()
    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.autocast("cuda", dtype=dtype)
