"""The image transformer in front of VGGT's aggregator: a DINOv2 ViT with registers, per view.

Owns patch projection, positional table and its blocks. Parameter names are those of the published
checkpoint.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gld_ros.backbones.blocks import Block, PatchEmbed
from gld_ros.backbones.vggt.config import VggtConfig

NORM_EPS = 1e-6


class ImageTransformer(nn.Module):
    """Normalised images of single views -> one token per patch.

    Its own class and register tokens take part in the attention and are dropped at the end.
    """

    def __init__(self, config: VggtConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.patch_size = config.patch_size
        self.table_side = config.table_side
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + config.table_side**2, dim))
        self.register_tokens = nn.Parameter(torch.empty(1, config.num_registers, dim))
        # Published files carry it; nothing reads it, so it is not a parameter to be trained.
        self.mask_token: Tensor
        self.register_buffer("mask_token", torch.zeros(1, dim))
        self.patch_embed = PatchEmbed(3, dim, config.patch_size)
        self.blocks = nn.ModuleList(
            Block(
                dim,
                config.image_heads,
                norm_eps=NORM_EPS,
                layer_scale_init=config.layer_scale_init,
                mlp_ratio=config.mlp_ratio,
            )
            for _ in range(config.image_depth)
        )
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        for token in (self.cls_token, self.pos_embed, self.register_tokens):
            nn.init.trunc_normal_(token, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Map (M, 3, H, W) to patch tokens (M, N, C), row-major."""
        grid_hw = images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size
        patches = self.patch_embed(images)
        class_token = self.cls_token.expand(len(patches), -1, -1)
        x = torch.cat([class_token, patches], dim=1) + self.position_table(grid_hw)
        registers = self.register_tokens.expand(len(x), -1, -1)
        # The registers come after the class token and have no position.
        x = torch.cat([x[:, :1], registers.to(x.dtype), x[:, 1:]], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 1 + registers.shape[1] :])

    def position_table(self, grid_hw: tuple[int, int]) -> Tensor:
        """Positions (1, 1 + N, C) of class token and patches for a grid of another size.

        Bicubic with antialiasing, by target size; without antialiasing, or by scale factor, the
        positions differ visibly from those the published weights were trained with.
        """
        if grid_hw == (self.table_side, self.table_side):
            return self.pos_embed
        table = self.pos_embed[:, 1:].float().unflatten(1, (self.table_side, -1))
        resized = F.interpolate(
            table.permute(0, 3, 1, 2), size=grid_hw, mode="bicubic", antialias=True
        )
        patches = resized.flatten(2).mT.to(self.pos_embed.dtype)
        return torch.cat([self.pos_embed[:, :1], patches], dim=1)
