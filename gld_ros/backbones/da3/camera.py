"""Cameras in and out of DA3: nine-number pose encoding, camera encoder, camera decoder.

Owns the encoding and the two small networks. Making posed input comparable and bringing depth
back to the units of the input is `pose_alignment.py`; cameras from ray maps are `ray_cameras.py`.
"""

import torch
from torch import Tensor, nn

from gld_ros.backbones.blocks import Block, Mlp, init_linear_layers
from gld_ros.backbones.pose_encoding import POSE_NUMBERS, decode_transform, encode_transform
from gld_ros.full_precision import full_precision
from gld_ros.geometry.rigid import invert_rigid

MOTION_NUMBERS = 6  # of an encoding: the centre and the vector part of the quaternion
MOTION_GAIN = 8.0


def pose_encoding(T_cam_world: Tensor, K_px: Tensor, image_hw: tuple[int, int]) -> Tensor:
    """Encode cameras as [camera centre (3), rotation of cam-to-world xyzw (4), fov y, fov x].

    T_cam_world: (..., 4, 4); K_px: (..., 3, 3) in pixels of the image; returns (..., 9), angles in
    radians. The principal point is not encoded.
    """
    return encode_transform(invert_rigid(T_cam_world), K_px, image_hw)


def cameras_from_pose_encoding(
    encoding: Tensor, image_hw: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return T_world_cam (..., 4, 4) and K_px (..., 3, 3) of an encoding (..., 9).

    The quaternion need not have length one; the principal point is the image centre.
    """
    return decode_transform(encoding, image_hw)


class CameraEncoder(nn.Module):
    """Known cameras -> one token per view, aware of the other cameras."""

    runs_in_float32 = True  # read by gld_ros.weights

    def __init__(self, dim: int, *, num_heads: int, depth: int, layer_scale_init: float) -> None:
        super().__init__()
        self.pose_branch = Mlp(POSE_NUMBERS, dim // 2, dim)
        self.token_norm = nn.LayerNorm(dim, eps=1e-5)
        self.trunk = nn.ModuleList(
            Block(dim, num_heads, norm_eps=1e-5, layer_scale_init=layer_scale_init)
            for _ in range(depth)
        )
        self.trunk_norm = nn.LayerNorm(dim, eps=1e-5)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start with tokens that tell the views of one scene apart.

        Centres and rotations of neighbouring views differ by a tenth, while the other numbers are
        near one and alike: at equal weights all tokens would start equal, and training would learn
        to ignore them.
        """
        init_linear_layers(self)
        with torch.no_grad():
            self.pose_branch.fc1.weight[:, :MOTION_NUMBERS] *= MOTION_GAIN

    def forward(self, T_cam_world: Tensor, K_px: Tensor, image_hw: tuple[int, int]) -> Tensor:
        """Encode T_cam_world (B, V, 4, 4) and K_px (B, V, 3, 3) to tokens (B, V, dim), float32."""
        with full_precision(T_cam_world.device):
            encoding = pose_encoding(T_cam_world.float(), K_px.float(), image_hw)
            tokens = self.token_norm(self.pose_branch(encoding))
            for block in self.trunk:
                tokens = block(tokens)
            return self.trunk_norm(tokens)


class CameraDecoder(nn.Module):
    """Camera token of the last level -> pose encoding."""

    runs_in_float32 = True  # read by gld_ros.weights

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU()
        )
        self.fc_t = nn.Linear(channels, 3)
        self.fc_qvec = nn.Linear(channels, 4)
        self.fc_fov = nn.Sequential(nn.Linear(channels, 2), nn.ReLU())
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start from small outputs around the identity pose and a field of view of one radian.

        Without these offsets the rotation starts at the singular zero quaternion and half of the
        field-of-view outputs behind a ReLU that passes them no gradient.
        """
        init_linear_layers(self)
        fov_layer = self.fc_fov[0]
        if isinstance(fov_layer, nn.Linear):
            nn.init.ones_(fov_layer.bias)
        with torch.no_grad():
            self.fc_qvec.bias[3] = 1.0

    def forward(self, camera_features: Tensor) -> Tensor:
        """Map un-normalised level-3 camera tokens (B, V, channels) to (B, V, 9), float32."""
        with full_precision(camera_features.device):
            features = self.backbone(camera_features.float())
            return torch.cat(
                [self.fc_t(features), self.fc_qvec(features), self.fc_fov(features)], dim=-1
            )
