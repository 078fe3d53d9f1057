"""VGGT's camera head: camera tokens of the last level -> poses and view angles, refined in rounds.

Owns the network. The nine numbers are those of `gld_ros.backbones.pose_encoding` with the transform
world to camera; the world is the first camera, the unit of length the network's own. Parameter
names are those of the published checkpoint.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gld_ros.backbones.blocks import Block, Mlp
from gld_ros.backbones.pose_encoding import POSE_NUMBERS
from gld_ros.full_precision import full_precision

NUM_ROUNDS = 4


class CameraHead(nn.Module):
    """A transformer over the views of a scene whose input is modulated by its last estimate."""

    runs_in_float32 = True  # read by gld_ros.weights

    def __init__(
        self, channels: int, *, num_heads: int, depth: int, mlp_ratio: float = 4.0
    ) -> None:
        super().__init__()
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, POSE_NUMBERS))
        self.token_norm = nn.LayerNorm(channels, eps=1e-5)
        self.embed_pose = nn.Linear(POSE_NUMBERS, channels)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(channels, 3 * channels))
        self.trunk = nn.ModuleList(
            Block(channels, num_heads, norm_eps=1e-5, layer_scale_init=0.01, mlp_ratio=mlp_ratio)
            for _ in range(depth)
        )
        self.trunk_norm = nn.LayerNorm(channels, eps=1e-5)
        self.pose_branch = Mlp(channels, channels // 2, POSE_NUMBERS)

    def forward(self, camera_tokens: Tensor) -> Tensor:
        """Encodings (rounds, B, V, 9) from level-3 camera tokens (B, V, C); the last is the answer.

        Translation and quaternion are linear outputs, the quaternion not of length one; the view
        angles are rectified.
        """
        with full_precision(camera_tokens.device):
            z = self.token_norm(camera_tokens.float())
            plain = F.layer_norm(z, z.shape[-1:], eps=1e-6)
            pose = self.empty_pose_tokens.expand(*z.shape[:-1], -1)
            estimates: list[Tensor] = []
            for _ in range(NUM_ROUNDS):
                shift, scale, gate = self.poseLN_modulation(self.embed_pose(pose)).chunk(3, dim=-1)
                y = gate * (plain * (1 + scale) + shift) + z
                for block in self.trunk:
                    y = block(y)
                change = self.pose_branch(self.trunk_norm(y))
                # What is fed back is the estimate before rectification.
                pose = estimates[-1] + change if estimates else change
                estimates.append(pose)
            rounds = torch.stack(estimates)
            return torch.cat([rounds[..., :7], F.relu(rounds[..., 7:])], dim=-1)
