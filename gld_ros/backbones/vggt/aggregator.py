"""VGGT's aggregator: images -> raw tokens of the four levels, and from one level to the later ones.

Owns the special tokens, the alternation of frame and global blocks and the taps. The image
transformer is `image_transformer.py`; checking and normalising images is `model.py`'s work.
Parameter names are those of the published checkpoint.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from gld_ros.backbones.blocks import Block, init_linear_layers
from gld_ros.backbones.interface import NUM_LEVELS, LevelTokens
from gld_ros.backbones.rotary import RotaryTable, grid_positions_yx, rotary_table
from gld_ros.backbones.vggt.config import VggtConfig
from gld_ros.backbones.vggt.image_transformer import ImageTransformer

NORM_EPS = 1e-5


class Aggregator(nn.Module):
    """Pairs of blocks: one attends within each view, the next over all views of the scene.

    A level is [state after the frame block | state after the global block]; the second half is the
    whole running state, so the later levels follow from it alone. Tokens of a view are the camera
    token, the registers, then the patches.
    """

    def __init__(self, config: VggtConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.embed_dim
        self.patch_embed = ImageTransformer(config)
        # Entry 0 is for the first view of a scene, entry 1 for every other view.
        self.camera_token = nn.Parameter(torch.empty(1, 2, 1, dim))
        self.register_token = nn.Parameter(torch.empty(1, 2, config.num_registers, dim))
        self.frame_blocks = self._blocks()
        self.global_blocks = self._blocks()
        for token in (self.camera_token, self.register_token):
            nn.init.trunc_normal_(token, std=0.02)
        init_linear_layers(self)

    def _blocks(self) -> nn.ModuleList:
        config = self.config
        return nn.ModuleList(
            Block(
                config.embed_dim,
                config.num_heads,
                norm_eps=NORM_EPS,
                layer_scale_init=config.layer_scale_init,
                qk_norm=True,
                mlp_ratio=config.mlp_ratio,
            )
            for _ in range(config.depth)
        )

    def forward(
        self, images: Tensor, levels: Sequence[int] = tuple(range(NUM_LEVELS))
    ) -> dict[int, LevelTokens]:
        """Encode normalised images (B, V, 3, H, W); runs no block beyond the last wanted level."""
        num_scenes, num_views, _, height, width = images.shape
        grid_hw = height // self.config.patch_size, width // self.config.patch_size
        patches = self.patch_embed(images.flatten(0, 1)).unflatten(0, (num_scenes, num_views))
        special = self.learned_special_tokens(num_scenes, num_views)
        x = torch.cat([special.to(patches.dtype), patches], dim=2)
        taps = self.config.tap_layers
        wanted = {taps[level]: level for level in levels}
        return self._levels(x, range(max(wanted) + 1), grid_hw, wanted)

    def propagate(
        self, tokens: LevelTokens, level: int, grid_hw: tuple[int, int]
    ) -> dict[int, LevelTokens]:
        """Continue from raw tokens of `level` (views in the order of encoding) to level 3.

        Only the global half of patches and special tokens is read.
        """
        taps = self.config.tap_layers
        x = torch.cat([tokens.special, tokens.patches], dim=2)[..., self.config.embed_dim :]
        wanted = {taps[later]: later for later in range(level + 1, NUM_LEVELS)}
        blocks = range(taps[level] + 1, taps[-1] + 1)
        return {level: tokens} | self._levels(x.contiguous(), blocks, grid_hw, wanted)

    def learned_special_tokens(self, num_scenes: int, num_views: int) -> Tensor:
        """Special tokens (B, V, S, embed_dim) as they enter the first block."""
        is_other = torch.arange(num_views, device=self.camera_token.device).clamp(max=1)
        learned = torch.cat([self.camera_token, self.register_token], dim=2)
        return learned[:, is_other].expand(num_scenes, -1, -1, -1)

    def _levels(
        self, x: Tensor, blocks: Iterable[int], grid_hw: tuple[int, int], wanted: dict[int, int]
    ) -> dict[int, LevelTokens]:
        """Run block pairs on tokens x (B, V, S + N, embed_dim); `wanted` maps pairs to levels."""
        config = self.config
        num_scenes, num_views, num_tokens, _ = x.shape
        num_special = num_tokens - grid_hw[0] * grid_hw[1]
        head_dim = config.embed_dim // config.num_heads
        of_view = _rotary(1, num_special, grid_hw, head_dim, x.device)
        of_scene = _rotary(num_views, num_special, grid_hw, head_dim, x.device)
        levels = {}
        for i in blocks:
            x = self.frame_blocks[i](x.flatten(0, 1), of_view)
            frame_x = x.unflatten(0, (num_scenes, num_views))
            x = self.global_blocks[i](frame_x.flatten(1, 2), of_scene)
            x = x.unflatten(1, (num_views, num_tokens))
            if i in wanted:
                tap = torch.cat([frame_x, x], dim=-1)
                levels[wanted[i]] = LevelTokens(
                    patches=tap[:, :, num_special:], special=tap[:, :, :num_special]
                )
        return levels


@lru_cache(maxsize=64)
def _rotary(
    num_views: int,
    num_special: int,
    grid_hw: tuple[int, int],
    head_dim: int,
    device: torch.device,
) -> RotaryTable:
    """Rotations of all tokens of one sequence; every view has the same positions."""
    # Tables made in inference mode could not be used in training later.
    with torch.inference_mode(False):
        one_view_yx = grid_positions_yx(num_special, grid_hw, device)
        return rotary_table(one_view_yx.repeat(num_views, 1), head_dim)
