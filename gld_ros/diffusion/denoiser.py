"""The multi-view diffusion transformer of GLD (arXiv 2603.22275): an encoder and a wide head.

Owns the network, as one reads it in the paper; its parts are `layers`, its sizes `config`. The same
numbers, faster over a sampling run, are `fast_path`. Guidance is `guidance`, time and integration
`flow`.

Shapes: B scenes, V views (references first), C latent channels on a grid of h x w patches of 14
pixels, N = h*w, S special tokens per view, d / D = width of encoder / head. A latent is a map
(B, V, C, h, w), or with special tokens packed as (B, V, C, S + N), special tokens first. Inside the
network tokens are (B, V, S + N, width). Module names are those of the published weights.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gld_ros.backbones.blocks import PatchEmbed
from gld_ros.diffusion.conditioning import (
    CAMERA_CHANNELS,
    MEASURED_CHANNELS,
    DenoiserConditions,
    patch_grid,
    require_fitting,
)
from gld_ros.diffusion.config import DenoiserConfig
from gld_ros.diffusion.layers import (
    FinalLayer,
    MeasuredEmbed,
    ModulatedBlock,
    TimeEmbed,
    TokenEmbed,
)
from gld_ros.diffusion.prope import PropeTables, prope_tables


class Denoiser(nn.Module):
    """Predicts the velocity (or the clean latent) of all views of a scene jointly."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = config
        width, head_width = config.hidden
        pair = 2 * config.channels  # a reference latent beside a noisy one
        self.t_embedder = TimeEmbed(config.time_features, width)
        self.camera_embedder = PatchEmbed(CAMERA_CHANNELS, width, config.camera_patch)
        if config.separate_embedders:
            self.s_embedder_ref = TokenEmbed(pair, width)
            self.x_embedder_ref = TokenEmbed(pair, head_width)
            self.s_embedder_tgt = TokenEmbed(pair, width)
            self.x_embedder_tgt = TokenEmbed(pair, head_width)
        else:
            self.s_embedder = TokenEmbed(pair, width)
            self.x_embedder = TokenEmbed(pair, head_width)
        self.s_projector = nn.Linear(width, head_width) if width != head_width else nn.Identity()
        self.blocks = nn.ModuleList(
            ModulatedBlock(config.hidden[part], config.heads[part], config.mlp_ratio)
            for part in (0, 1)
            for _ in range(config.depth[part])
        )
        self.final_layer = FinalLayer(head_width, config.channels)
        if config.special_tokens:
            self.special_pos_embed_s = nn.Parameter(torch.zeros(1, config.special_tokens, width))
            self.special_s_embedder = nn.Linear(pair, width)
            self.special_pos_embed_x = nn.Parameter(
                torch.zeros(1, config.special_tokens, head_width)
            )
            self.special_x_embedder = nn.Linear(pair, head_width)
            self.special_output_proj = nn.Linear(config.channels, config.channels)
        if config.measured:
            sizes = (config.channels, MEASURED_CHANNELS)
            self.s_measured = MeasuredEmbed(*sizes, width, config.camera_patch)
            self.x_measured = MeasuredEmbed(*sizes, head_width, config.camera_patch)
        self._initialise()

    def forward(self, noisy: Tensor, t: Tensor, conditions: DenoiserConditions) -> Tensor:
        """Network output for noisy latents, in their shape: (B, V, C, h, w) or packed.

        t: (B,) in [0, 1], one time per scene. Raises ValueError for shapes that do not fit.
        """
        require_fitting(conditions, self.config, noisy)
        encoder_tables, head_tables = self.camera_tables(conditions)
        time = self.t_embedder(t)[:, None, None]

        s = self.embed_for_encoder(noisy, conditions)
        for block in self.encoder_blocks:
            s = block(s, block.adaLN_modulation(F.silu(time)), encoder_tables)
        s = self.s_projector(F.silu(time + s))

        x = self.embed_for_head(noisy, conditions)
        for block in self.head_blocks:
            x = block(x, block.adaLN_modulation(s), head_tables)
        x = self.final_layer(x, self.final_layer.adaLN_modulation(s))
        return self.latent(x, noisy)

    @property
    def encoder_blocks(self) -> list[ModulatedBlock]:
        """The first depth[0] blocks."""
        return cast("list[ModulatedBlock]", list(self.blocks)[: self.config.depth[0]])

    @property
    def head_blocks(self) -> list[ModulatedBlock]:
        """The blocks after the encoder's."""
        return cast("list[ModulatedBlock]", list(self.blocks)[self.config.depth[0] :])

    @property
    def s_embedders(self) -> tuple[TokenEmbed, TokenEmbed]:
        """The encoder's patch embedders, of references and of targets."""
        if self.config.separate_embedders:
            return self.s_embedder_ref, self.s_embedder_tgt
        return self.s_embedder, self.s_embedder

    @property
    def x_embedders(self) -> tuple[TokenEmbed, TokenEmbed]:
        """The head's patch embedders, of references and of targets."""
        if self.config.separate_embedders:
            return self.x_embedder_ref, self.x_embedder_tgt
        return self.x_embedder, self.x_embedder

    def embed_for_encoder(self, noisy: Tensor, conditions: DenoiserConditions) -> Tensor:
        """Tokens (B, V, S + N, d); the patches of a cascade see the source instead of the noise."""
        special, patches = self.split(torch.cat((conditions.reference_latent, noisy), dim=2))
        if conditions.source is not None:
            seen = torch.cat((conditions.reference_latent, conditions.source), dim=2)
            patches = self.split(seen)[1]
        s = _embed_views(self.s_embedders, patches, conditions.num_references)
        s = s + self.camera_embedder(conditions.camera_map)
        if conditions.measured_latent is not None and conditions.measured_map is not None:
            s = s + self.s_measured(conditions.measured_latent, conditions.measured_map)
        if not special.shape[2]:
            return s
        return torch.cat((self.special_s_embedder(special) + self.special_pos_embed_s, s), dim=2)

    def embed_for_head(self, noisy: Tensor, conditions: DenoiserConditions) -> Tensor:
        """Tokens (B, V, S + N, D)."""
        special, patches = self.split(torch.cat((conditions.reference_latent, noisy), dim=2))
        x = _embed_views(self.x_embedders, patches, conditions.num_references)
        if conditions.measured_latent is not None and conditions.measured_map is not None:
            x = x + self.x_measured(conditions.measured_latent, conditions.measured_map)
        if not special.shape[2]:
            return x
        return torch.cat((self.special_x_embedder(special) + self.special_pos_embed_x, x), dim=2)

    def split(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Special tokens (B, V, S, C') and patches (B, V, N, C') of a latent; a map has S = 0."""
        num_special = 0 if latent.ndim == 5 else self.config.special_tokens
        tokens = latent.flatten(3).mT.to(self.camera_embedder.proj.weight.dtype)
        return tokens[:, :, :num_special], tokens[:, :, num_special:]

    def latent(self, tokens: Tensor, like: Tensor) -> Tensor:
        """Output tokens (B, V, S + N, C) in the form and dtype of the latents `like`."""
        if like.ndim == 5:
            return tokens.mT.unflatten(-1, like.shape[-2:]).to(like.dtype)
        num_special = self.config.special_tokens
        special = self.special_output_proj(tokens[:, :, :num_special])
        return torch.cat((special, tokens[:, :, num_special:]), dim=2).mT.to(like.dtype)

    def camera_tables(self, conditions: DenoiserConditions) -> tuple[PropeTables, PropeTables]:
        """PRoPE of these cameras for the attention heads of encoder and head."""
        config = self.config
        image_hw = config.prope_image_hw or conditions.image_hw
        grid_hw = patch_grid(conditions, config.camera_patch)
        encoder, head = (
            prope_tables(conditions.viewmats, conditions.K_px, image_hw, grid_hw, width // heads)
            for width, heads in zip(config.hidden, config.heads, strict=True)
        )
        return encoder, head

    def _initialise(self) -> None:
        """Xavier matrices, zero biases; zero modulation and output, so blocks start as identity."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight.flatten(1))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for name, parameter in self.named_parameters():
            if ".adaLN_modulation." in name:
                nn.init.zeros_(parameter)
        nn.init.zeros_(self.final_layer.linear.weight)
        if self.config.special_tokens:
            nn.init.zeros_(self.special_output_proj.weight)
            nn.init.normal_(self.special_pos_embed_s, std=0.02)
            nn.init.normal_(self.special_pos_embed_x, std=0.02)
        if self.config.measured:
            for parameter in (*self.s_measured.parameters(), *self.x_measured.parameters()):
                nn.init.zeros_(parameter)


def that_reads_measurements(denoiser: Denoiser) -> Denoiser:
    """The same network with embedders of measurements, which do nothing until they are trained."""
    if denoiser.config.measured:
        return denoiser
    device = denoiser.camera_embedder.proj.weight.device
    extended = Denoiser(replace(denoiser.config, measured=True)).to(device)
    extended.load_state_dict(denoiser.state_dict(), strict=False)
    return extended.train(denoiser.training)


def _embed_views(
    embedders: tuple[TokenEmbed, TokenEmbed], patches: Tensor, num_references: int
) -> Tensor:
    of_references, of_targets = embedders
    references, targets = patches[:, :num_references], patches[:, num_references:]
    return torch.cat((of_references(references), of_targets(targets)), dim=1)
