"""The DA3 backbone: images -> raw tokens of the four levels, and from one level to the later ones.

Owns patch embedding, positional table, the alternation of local and global blocks, the camera
token and the taps. It reads ImageNet-normalised images; checking and normalising them is
`model.py`'s work. Parameter names are those of the published checkpoints.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gld_ros.backbones.blocks import Block, PatchEmbed, init_linear_layers
from gld_ros.backbones.da3.config import Da3Config
from gld_ros.backbones.da3.reference_view import (
    MIN_VIEWS_TO_SELECT,
    ReferenceStrategy,
    reference_first_order,
    reorder_views,
    select_reference_view,
)
from gld_ros.backbones.da3.rope import global_rotary, local_rotary
from gld_ros.backbones.interface import NUM_LEVELS, LevelTokens
from gld_ros.backbones.rotary import RotaryTable
from gld_ros.full_precision import full_precision


class Da3Backbone(nn.Module):
    """Vision transformer whose blocks first look at one view, then alternate with all views.

    In the description of the blocks, `x` is the current state and `local_x` the state after the
    latest local block; a level is the pair [local_x | x].
    """

    def __init__(self, config: Da3Config) -> None:
        super().__init__()
        self.config = config
        dim = config.embed_dim
        self.patch_embed = PatchEmbed(3, dim, config.patch_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        # Entry 0 is for the reference view, entry 1 for every other view.
        self.camera_token = nn.Parameter(torch.empty(1, 2, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + config.table_side**2, dim))
        self.blocks = nn.ModuleList(
            Block(
                dim,
                config.num_heads,
                norm_eps=1e-6,
                layer_scale_init=config.layer_scale_init,
                qk_norm=i >= config.qknorm_start,
                ffn=config.ffn,
            )
            for i in range(config.depth)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-5)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Give the embeddings and linear layers the initial values of a model to be trained."""
        for table in (self.cls_token, self.camera_token, self.pos_embed):
            nn.init.trunc_normal_(table, std=0.02)
        init_linear_layers(self)

    def forward(
        self,
        images: Tensor,
        levels: Sequence[int] = tuple(range(NUM_LEVELS)),
        *,
        camera_tokens: Tensor | None = None,
        reference_strategy: ReferenceStrategy | None = None,
    ) -> tuple[dict[int, LevelTokens], Tensor]:
        """Encode normalised images (B, V, 3, H, W); returns raw levels and the reference (B,).

        camera_tokens: (B, V, embed_dim) of known cameras; without them the learned tokens of
            reference and other views are used.
        reference_strategy: how to choose the reference when there are three views or more and no
            camera tokens; None takes view 0. Levels come back in the order of the input.
        Runs no block beyond the last wanted level.
        """
        config = self.config
        num_scenes, num_views, _, height, width = images.shape
        grid_hw = height // config.patch_size, width // config.patch_size
        select = (
            reference_strategy is not None
            and camera_tokens is None
            and num_views >= MIN_VIEWS_TO_SELECT
        )
        reference = torch.zeros(num_scenes, dtype=torch.long, device=images.device)
        if camera_tokens is None:
            camera_tokens = self.learned_camera_tokens(num_scenes, num_views)

        x = self._embed(images, grid_hw)
        first_stage_end = config.alt_start - 1 if select else config.alt_start
        x, local_x, _ = self._run_blocks(x, x, range(first_stage_end), grid_hw)
        restore = None
        if select and reference_strategy is not None:
            reference = select_reference_view(x[:, :, 0], reference_strategy)
            order = reference_first_order(reference, num_views)
            restore = order.argsort(dim=1)
            x, local_x = reorder_views(x, order), reorder_views(local_x, order)
            x, local_x, _ = self._run_blocks(
                x, local_x, range(first_stage_end, config.alt_start), grid_hw
            )
        x = torch.cat([camera_tokens.unsqueeze(2).to(x.dtype), x[:, :, 1:]], dim=2)
        last = max(config.tap_layers[level] for level in levels)
        _, _, taps = self._run_blocks(
            x, local_x, range(config.alt_start, last + 1), grid_hw, wanted=levels
        )
        if restore is not None:
            taps = {level: reorder_views(tap, restore) for level, tap in taps.items()}
        return {level: _as_level(taps[level]) for level in sorted(taps)}, reference

    def propagate(
        self, tokens: LevelTokens, level: int, grid_hw: tuple[int, int]
    ) -> dict[int, LevelTokens]:
        """Continue from raw tokens of `level` (views in reference-first order) to level 3."""
        start = self.config.tap_layers[level] + 1
        local_x, x = torch.cat([tokens.special, tokens.patches], dim=2).chunk(2, dim=-1)
        _, _, taps = self._run_blocks(
            x.contiguous(),
            local_x,
            range(start, self.config.tap_layers[-1] + 1),
            grid_hw,
            wanted=range(level + 1, NUM_LEVELS),
        )
        return {level: tokens} | {later: _as_level(tap) for later, tap in taps.items()}

    def decoder_input(self, tokens: LevelTokens) -> Tensor:
        """[local | final-norm(current)] of the patches, (B, V, N, 2 * embed_dim)."""
        local_x, x = tokens.patches.chunk(2, dim=-1)
        return torch.cat([local_x, self.norm(x)], dim=-1)

    def learned_camera_tokens(self, num_scenes: int, num_views: int) -> Tensor:
        """Tokens (B, V, embed_dim) of views with unknown cameras, view 0 being the reference."""
        is_other = torch.arange(num_views, device=self.camera_token.device).clamp(max=1)
        return self.camera_token[:, is_other].expand(num_scenes, -1, -1)

    def _embed(self, images: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        num_scenes, num_views = images.shape[:2]
        position = self._positions(grid_hw)
        patches = self.patch_embed(images.flatten(0, 1)) + position[:, 1:]
        class_token = (self.cls_token + position[:, :1]).expand(len(patches), -1, -1)
        return torch.cat([class_token.to(patches.dtype), patches], dim=1).unflatten(
            0, (num_scenes, num_views)
        )

    def _positions(self, grid_hw: tuple[int, int]) -> Tensor:
        side = self.config.table_side
        if grid_hw == (side, side):
            return self.pos_embed
        device = self.pos_embed.device
        rows = bicubic_resampling(side, grid_hw[0], device)
        columns = bicubic_resampling(side, grid_hw[1], device)
        # Positions are read at full precision whatever the blocks run in.
        with full_precision(device):
            table = self.pos_embed[0, 1:].float()
            resampled = (rows @ table.view(side, -1)).view(grid_hw[0], side, -1)
            resampled = (columns @ resampled).flatten(0, 1)
        return torch.cat([self.pos_embed[:, :1], resampled[None].to(self.pos_embed.dtype)], dim=1)

    def _run_blocks(
        self,
        x: Tensor,
        local_x: Tensor,
        block_range: range,
        grid_hw: tuple[int, int],
        wanted: Sequence[int] = (),
    ) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
        config = self.config
        num_scenes, num_views, num_tokens, dim = x.shape
        head_dim = dim // config.num_heads
        level_of_block = {config.tap_layers[level]: level for level in wanted}
        taps: dict[int, Tensor] = {}
        for i in block_range:
            is_global = i >= config.alt_start and i % 2 == 1
            rotary: RotaryTable | None = None
            if i >= config.rope_start:
                rotary = (
                    global_rotary(num_views, num_tokens - 1, head_dim, x.device)
                    if is_global
                    else local_rotary(grid_hw, head_dim, x.device)
                )
            if is_global:
                sequences = x.reshape(num_scenes, num_views * num_tokens, dim)
            else:
                sequences = x.reshape(num_scenes * num_views, num_tokens, dim)
            x = self.blocks[i](sequences, rotary).view(num_scenes, num_views, num_tokens, dim)
            if not is_global:
                local_x = x
            if i in level_of_block:
                taps[level_of_block[i]] = torch.cat([local_x, x], dim=-1)
        return x, local_x, taps


@lru_cache(maxsize=64)
def bicubic_resampling(table_side: int, size: int, device: torch.device) -> Tensor:
    """Matrix (size, table_side) that resamples one axis of the positional table.

    Bicubic (a = -0.75), mapped by the scale factor (size + 0.1) / table_side that the published
    models were trained with; mapping by the size itself gives visibly different positions.
    """
    with torch.inference_mode(False):
        identity = torch.eye(table_side, device=device)[None, :, :, None]
        scale = ((size + 0.1) / table_side, 1.0)
        resampled = F.interpolate(identity, scale_factor=scale, mode="bicubic")
        return resampled[0, :, :, 0].mT.contiguous()


def _as_level(tap: Tensor) -> LevelTokens:
    return LevelTokens(patches=tap[:, :, 1:], special=tap[:, :, :1])
