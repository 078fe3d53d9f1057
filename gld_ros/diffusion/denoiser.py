"""The multi-view diffusion transformer of GLD (arXiv 2603.22275): an encoder and a wide head.

Owns: the network, its configuration, the inputs a sampling run holds constant, and the fast path
that computes everything constant only once. Leaves to others: camera maps and guidance dropout
(`conditioning`), guidance (`guidance`), time and integration (`flow`), attention (`prope`).

Shapes: B scenes, V views (references first), C latent channels on a grid of h x w patches of 14
pixels, N = h*w, S special tokens per view, d / D = width of encoder / head. A latent is a map
(B, V, C, h, w), or with special tokens packed as (B, V, C, S + N), special tokens first. Inside the
network tokens are (B, V, S + N, width). Module names are those of the published weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from gld_ros.diffusion.prope import PropeTables, prope_attention, prope_tables

Prediction = Literal["velocity", "clean"]

CAMERA_CHANNELS = 7  # mask, ray direction (3), ray moment (3)
NORM_EPS = 1e-6


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

    def __post_init__(self) -> None:
        for name, width, heads in zip(("encoder", "head"), self.hidden, self.heads, strict=True):
            if width % heads or (width // heads) % 8:
                raise ValueError(
                    f"{name} width {width} with {heads} attention heads gives head size "
                    f"{width / heads:g}; it must be a multiple of 8"
                )
        if self.special_tokens < 0:
            raise ValueError(f"special_tokens is {self.special_tokens}; it cannot be negative")
        if self.prediction not in ("velocity", "clean"):
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


@dataclass(frozen=True)
class DenoiserConditions:
    """What one sampling run (or training batch) holds constant.

    reference_latent: (B, V, C, h, w), or packed (B, V, C, S + N): clean normalised latent of views
        0..num_references-1, zeros for the targets.
    camera_map: (B, V, 7, H, W); viewmats: (B, V, 4, 4) scaled world-to-camera; K_px: (B, V, 3, 3)
        in pixels of image_hw. See `conditioning.camera_conditions`.
    source: latent a cascade starts from, shaped as reference_latent, or None. Its special tokens
        have no influence.
    """

    reference_latent: Tensor
    num_references: int
    camera_map: Tensor
    viewmats: Tensor
    K_px: Tensor
    image_hw: tuple[int, int]
    source: Tensor | None = None


def concatenate_conditions(
    first: DenoiserConditions, second: DenoiserConditions
) -> DenoiserConditions:
    """The scenes of both along the batch axis; everything that is not a tensor must agree."""
    merged: dict[str, Any] = {}
    for name in (field.name for field in fields(DenoiserConditions)):
        a, b = getattr(first, name), getattr(second, name)
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            merged[name] = torch.cat((a, b))
        elif a == b:
            merged[name] = a
        else:
            raise ValueError(f"conditions to be joined differ in {name}: {a} and {b}")
    return DenoiserConditions(**merged)


class RmsNorm(nn.Module):
    """Root-mean-square normalisation over the last axis, computed in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], self.weight.float(), NORM_EPS).to(x.dtype)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Features (B, V, N, width) shifted and scaled by a condition; scale 0 changes nothing."""
    return torch.addcmul(shift, x, 1 + scale)


class PatchEmbed(nn.Module):
    """Linear embedding of square patches: maps (B, V, C, H, W) to tokens (B, V, N, width)."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(channels, width, patch, patch)

    def forward(self, maps: Tensor) -> Tensor:
        # A matrix product over patches: faster than the convolution on CPU, above all backwards.
        patches = rearrange(
            maps, "b v c (h p) (w q) -> b v (h w) (c p q)", p=self.patch, q=self.patch
        )
        weight = self.proj.weight.flatten(1)
        return F.linear(patches.to(weight.dtype), weight, self.proj.bias)


class TimeEmbed(nn.Module):
    """Fixed random Fourier features of t followed by a two-layer perceptron: (B,) to (B, width)."""

    float32_parameters = ("W",)  # read by gld_ros.weights

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.W: Tensor
        self.register_buffer("W", torch.randn(features))
        self.mlp = nn.Sequential(nn.Linear(2 * features, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        phase = 2 * math.pi * t.float()[:, None] * self.W.float()
        wave = torch.cat((phase.sin(), phase.cos()), dim=-1)
        return self.mlp(wave.to(next(self.mlp.parameters()).dtype))


class Attention(nn.Module):
    """Self-attention over all tokens of all views of a scene, with PRoPE."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, tables: PropeTables) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.proj(prope_attention(q, k, v, tables, self.heads))


class SwiGlu(nn.Module):
    """Gated feed-forward layer; two thirds of the nominal hidden width keep its cost unchanged."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        hidden = int(2 / 3 * int(ratio * width))
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class Block(nn.Module):
    """Transformer block whose normalisations are shifted, scaled and gated by a condition."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = RmsNorm(width)
        self.norm2 = RmsNorm(width)
        self.attn = Attention(width, heads)
        self.mlp = SwiGlu(width, mlp_ratio)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, modulation: Tensor, tables: PropeTables) -> Tensor:
        """Tokens (B, V, S + N, width) to the same; modulation broadcasts against 6 * width."""
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, dim=-1)
        x = torch.addcmul(x, gate1, self.attn(modulate(self.norm1(x), shift1, scale1), tables))
        return torch.addcmul(x, gate2, self.mlp(modulate(self.norm2(x), shift2, scale2)))


class FinalLayer(nn.Module):
    """Modulated normalisation and projection of head tokens to latent channels."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.norm_final = RmsNorm(width)
        self.linear = nn.Linear(width, channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        shift, scale = modulation.chunk(2, dim=-1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


@dataclass(frozen=True)
class TimeConstants:
    """Time embedding e (1, 1, 1, d) and the modulation (1, 1, 1, 6d) of every encoder block."""

    embedding: Tensor
    modulations: tuple[Tensor, ...]


@dataclass(frozen=True)
class RunConstants:
    """What `Denoiser.step` needs and no step changes; made by `Denoiser.precompute`.

    encoder_base (B, V, S + N, d), head_base (B, V, S + N, D): embeddings without the noisy latent.
    times: constants of each time of the grid, by its float value.
    """

    encoder_base: Tensor
    head_base: Tensor
    encoder_tables: PropeTables
    head_tables: PropeTables
    num_references: int
    grid_hw: tuple[int, int]
    times: dict[float, TimeConstants]

    @property
    def num_patches(self) -> int:
        """N."""
        return self.grid_hw[0] * self.grid_hw[1]


class Denoiser(nn.Module):
    """Predicts the velocity (or the clean latent) of all views of a scene jointly.

    `forward` is the network as one reads it in the paper. `precompute` and `step` give the
    same numbers for a sampling run, without repeating what no step changes.
    """

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = config
        width, head_width = config.hidden
        self.t_embedder = TimeEmbed(config.time_features, width)
        self.camera_embedder = PatchEmbed(CAMERA_CHANNELS, width, config.camera_patch)
        for suffix in ("_ref", "_tgt") if config.separate_embedders else ("",):
            self.add_module(f"s_embedder{suffix}", PatchEmbed(2 * config.channels, width, 1))
            self.add_module(f"x_embedder{suffix}", PatchEmbed(2 * config.channels, head_width, 1))
        self.s_projector = nn.Linear(width, head_width) if width != head_width else nn.Identity()
        self.blocks = nn.ModuleList(
            Block(config.hidden[part], config.heads[part], config.mlp_ratio)
            for part in (0, 1)
            for _ in range(config.depth[part])
        )
        self.final_layer = FinalLayer(head_width, config.channels)
        if config.special_tokens:
            for part, part_width in (("s", width), ("x", head_width)):
                table = nn.Parameter(torch.zeros(1, config.special_tokens, part_width))
                self.register_parameter(f"special_pos_embed_{part}", table)
                embedder = nn.Linear(2 * config.channels, part_width)
                self.add_module(f"special_{part}_embedder", embedder)
            self.special_output_proj = nn.Linear(config.channels, config.channels)
        self._initialise()

    def _initialise(self) -> None:
        """Xavier matrices, zero biases; zero modulation and output, so blocks start as identity."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.xavier_uniform_(module.weight.flatten(1))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        modulated: list[Block | FinalLayer] = [*self.encoder_blocks, *self.head_blocks]
        for layer in (*modulated, self.final_layer):
            for parameter in layer.adaLN_modulation.parameters():
                nn.init.zeros_(parameter)
        nn.init.zeros_(self.final_layer.linear.weight)
        if self.config.special_tokens:
            nn.init.zeros_(self.special_output_proj.weight)
            for part in ("s", "x"):
                nn.init.normal_(self.get_parameter(f"special_pos_embed_{part}"), std=0.02)

    @property
    def encoder_blocks(self) -> list[Block]:
        """The first depth[0] blocks."""
        return [cast(Block, block) for block in self.blocks][: self.config.depth[0]]

    @property
    def head_blocks(self) -> list[Block]:
        """The blocks after the encoder's."""
        return [cast(Block, block) for block in self.blocks][self.config.depth[0] :]

    def forward(self, noisy: Tensor, t: Tensor, conditions: DenoiserConditions) -> Tensor:
        """Network output for noisy latents, in their shape: (B, V, C, h, w) or packed.

        t: (B,) in [0, 1], one time per scene. Raises ValueError for shapes that do not fit.
        """
        self._check(conditions, noisy)
        encoder_tables, head_tables = self._prope_tables(conditions)
        time = self.t_embedder(t)[:, None, None]

        concat = torch.cat((conditions.reference_latent, noisy), dim=2)
        s = self._encoder_tokens(concat, conditions)
        for block in self.encoder_blocks:
            s = block(s, block.adaLN_modulation(F.silu(time)), encoder_tables)
        s = self.s_projector(F.silu(time + s))

        x = self._head_tokens(concat, conditions)
        for block in self.head_blocks:
            x = block(x, block.adaLN_modulation(s), head_tables)
        x = self.final_layer(x, self.final_layer.adaLN_modulation(s))
        return self._latent(x, self._grid_hw(conditions)).to(noisy.dtype)

    def precompute(
        self, conditions: DenoiserConditions, times: Tensor | None = None
    ) -> RunConstants:
        """Everything `step` can reuse; times (T,) are those of the run, known in advance."""
        self._check(conditions, None)
        blank = torch.cat(
            (conditions.reference_latent, torch.zeros_like(conditions.reference_latent)), dim=2
        )
        encoder_tables, head_tables = self._prope_tables(conditions)
        known = [] if times is None else [float(t) for t in times]
        return RunConstants(
            encoder_base=self._encoder_tokens(blank, conditions),
            head_base=self._head_tokens(blank, conditions),
            encoder_tables=encoder_tables,
            head_tables=head_tables,
            num_references=conditions.num_references,
            grid_hw=self._grid_hw(conditions),
            times={t: self._time_constants(t) for t in known},
        )

    def step(self, noisy: Tensor, t: float, constants: RunConstants) -> Tensor:
        """Same result as `forward` with every scene at time t, reusing the constants."""
        time = constants.times.get(t) or self._time_constants(t)
        tokens = noisy.flatten(3).mT.to(self._dtype)

        s = self._add_noisy("s", constants.encoder_base, tokens, constants)
        for block, modulation in zip(self.encoder_blocks, time.modulations, strict=True):
            s = block(s, modulation, constants.encoder_tables)
        s = F.silu(self.s_projector(F.silu(time.embedding + s)))

        x = self._add_noisy("x", constants.head_base, tokens, constants)
        for block in self.head_blocks:
            x = block(x, block.adaLN_modulation[1](s), constants.head_tables)
        x = self.final_layer(x, self.final_layer.adaLN_modulation[1](s))
        return self._latent(x, constants.grid_hw).to(noisy.dtype)

    @property
    def _dtype(self) -> torch.dtype:
        """Type of the weights, which the network computes in unless autocast says otherwise."""
        return self.camera_embedder.proj.weight.dtype

    def _time_constants(self, t: float) -> TimeConstants:
        embedding = self.t_embedder(torch.tensor([t], device=self.t_embedder.W.device))
        embedding = embedding[:, None, None]
        condition = F.silu(embedding)
        return TimeConstants(
            embedding, tuple(block.adaLN_modulation(condition) for block in self.encoder_blocks)
        )

    def _embedders(self, part: str, num_references: int) -> list[tuple[PatchEmbed, slice]]:
        """The patch embedders of encoder ("s") or head ("x") and the views each is for."""
        views = {"": slice(None)}
        if self.config.separate_embedders:
            views = {"_ref": slice(0, num_references), "_tgt": slice(num_references, None)}
        return [
            (cast(PatchEmbed, self.get_submodule(f"{part}_embedder{suffix}")), of_views)
            for suffix, of_views in views.items()
        ]

    def _encoder_tokens(self, concat: Tensor, conditions: DenoiserConditions) -> Tensor:
        """Tokens (B, V, S + N, d); the patches of a cascade see the source instead of the noise."""
        special, patches = self._split(concat)
        if self.config.source_conditioned:
            assert conditions.source is not None  # _check has made sure
            sources = torch.cat((conditions.reference_latent, conditions.source), dim=2)
            patches = self._split(sources)[1]
        camera = self.camera_embedder(conditions.camera_map)
        s = self._embed_patches("s", patches, conditions.num_references) + camera
        return self._prepend_special("s", special, s)

    def _head_tokens(self, concat: Tensor, conditions: DenoiserConditions) -> Tensor:
        special, patches = self._split(concat)
        x = self._embed_patches("x", patches, conditions.num_references)
        return self._prepend_special("x", special, x)

    def _split(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Special tokens (B, V, S, C') and patches (B, V, N, C') of a latent; a map has S = 0."""
        num_special = 0 if latent.ndim == 5 else self.config.special_tokens
        tokens = latent.flatten(3).mT.to(self._dtype)
        return tokens[:, :, :num_special], tokens[:, :, num_special:]

    def _embed_patches(self, part: str, patches: Tensor, num_references: int) -> Tensor:
        return torch.cat(
            [
                F.linear(patches[:, views], embedder.proj.weight.flatten(1), embedder.proj.bias)
                for embedder, views in self._embedders(part, num_references)
            ],
            dim=1,
        )

    def _prepend_special(self, part: str, special: Tensor, embedded_patches: Tensor) -> Tensor:
        if not special.shape[2]:
            return embedded_patches
        embedded = self.get_submodule(f"special_{part}_embedder")(special)
        embedded = embedded + self.get_parameter(f"special_pos_embed_{part}")
        return torch.cat((embedded, embedded_patches), dim=2)

    def _add_noisy(
        self, part: str, base: Tensor, noisy_tokens: Tensor, constants: RunConstants
    ) -> Tensor:
        """Embeddings `base` of a blank noisy half, plus the share of that half: they are linear.

        The encoder of a cascade sees the noise of the special tokens, but not that of the patches.
        """
        channels = self.config.channels
        num_special = base.shape[2] - constants.num_patches
        patches = base[:, :, num_special:]
        if part == "x" or not self.config.source_conditioned:
            patches = patches + torch.cat(
                [
                    F.linear(
                        noisy_tokens[:, views, num_special:],
                        embedder.proj.weight.flatten(1)[:, channels:],
                    )
                    for embedder, views in self._embedders(part, constants.num_references)
                ],
                dim=1,
            )
        if not num_special:
            return patches
        weight = self.get_parameter(f"special_{part}_embedder.weight")[:, channels:]
        share = F.linear(noisy_tokens[:, :, :num_special], weight)
        return torch.cat((base[:, :, :num_special] + share, patches), dim=2)

    def _latent(self, tokens: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """Output tokens (B, V, S + N, C) in the shape of a latent."""
        num_special = tokens.shape[2] - grid_hw[0] * grid_hw[1]
        if not num_special:
            return rearrange(tokens, "b v (h w) c -> b v c h w", h=grid_hw[0])
        special = self.special_output_proj(tokens[:, :, :num_special])
        return torch.cat((special, tokens[:, :, num_special:]), dim=2).mT

    def _grid_hw(self, conditions: DenoiserConditions) -> tuple[int, int]:
        height, width = conditions.camera_map.shape[-2:]
        return height // self.config.camera_patch, width // self.config.camera_patch

    def _prope_tables(self, conditions: DenoiserConditions) -> tuple[PropeTables, PropeTables]:
        config = self.config
        image_hw = config.prope_image_hw or conditions.image_hw
        grid_hw = self._grid_hw(conditions)
        encoder, head = (
            prope_tables(
                conditions.viewmats, conditions.K_px, image_hw, grid_hw, heads, width // heads
            )
            for width, heads in zip(config.hidden, config.heads, strict=True)
        )
        return encoder, head

    def _check(self, conditions: DenoiserConditions, noisy: Tensor | None) -> None:
        shape = tuple(conditions.reference_latent.shape)
        packed = self.config.special_tokens > 0 and len(shape) == 4
        if not (packed or len(shape) == 5) or shape[2] != self.config.channels:
            count = self.config.special_tokens
            forms = f"(B, V, {self.config.channels}, h, w)" + (
                f" or (B, V, {self.config.channels}, {count} + h * w)" if count else ""
            )
            raise ValueError(f"reference_latent has shape {shape}; expected {forms}")
        batch, views = shape[:2]
        rows, columns = self._grid_hw(conditions) if packed else shape[3:]
        if packed and shape[3] != self.config.special_tokens + rows * columns:
            raise ValueError(
                f"reference_latent has {shape[3]} tokens per view; a camera map of "
                f"{tuple(conditions.camera_map.shape[-2:])} pixels needs "
                f"{self.config.special_tokens} special tokens + {rows} * {columns} patches"
            )
        patch = self.config.camera_patch
        expected: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {
            "camera_map": (
                conditions.camera_map,
                (batch, views, CAMERA_CHANNELS, rows * patch, columns * patch),
            ),
            "viewmats": (conditions.viewmats, (batch, views, 4, 4)),
            "K_px": (conditions.K_px, (batch, views, 3, 3)),
        }
        if noisy is not None:
            expected["noisy"] = (noisy, shape)
        if self.config.source_conditioned:
            expected["source"] = (conditions.source, shape)
        elif conditions.source is not None:
            raise ValueError("this denoiser takes no source latent, but conditions.source is set")
        for name, (value, wanted) in expected.items():
            if value is None or tuple(value.shape) != wanted:
                given = None if value is None else tuple(value.shape)
                raise ValueError(f"{name} has shape {given}; expected {wanted}")
        if not 1 <= conditions.num_references <= views:
            raise ValueError(
                f"num_references is {conditions.num_references}; expected 1 to {views} (all views)"
            )
