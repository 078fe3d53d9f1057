"""The denoiser over a sampling run: everything that no step changes is computed once.

`step` gives the numbers of `Denoiser.forward`, which is the reference that tests hold it to. What
is kept: embeddings of reference latents and cameras (a linear embedding of [reference | noisy] is a
sum, so only its noisy half is left), tables of PRoPE, and all that depends on time alone. The
unconditional branch of guidance sees the same noise; its embedding is shared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from gld_ros.diffusion.conditioning import DenoiserConditions, require_fitting
from gld_ros.diffusion.denoiser import Denoiser
from gld_ros.diffusion.prope import PropeTables


@dataclass(frozen=True)
class NoiseWeights:
    """Columns (width, C) of one half's embedders that read the noisy latent.

    For special tokens, patches of references and patches of targets; None for what there is none
    of, or (the patches of a cascade's encoder) what sees no noise.
    """

    special: Tensor | None
    references: Tensor | None
    targets: Tensor | None


@dataclass(frozen=True)
class RunConstants:
    """What `step` needs and no step changes; made by `precompute`.

    encoder_base (B, V, S + N, d), head_base (B, V, S + N, D): embeddings without the noisy latent.
    """

    encoder_base: Tensor
    head_base: Tensor
    encoder_noise: NoiseWeights
    head_noise: NoiseWeights
    encoder_tables: PropeTables
    head_tables: PropeTables
    num_references: int

    def first_scenes(self, count: int) -> RunConstants:
        """The same of the first scenes of the batch, without a copy."""
        return replace(
            self,
            encoder_base=self.encoder_base[:count],
            head_base=self.head_base[:count],
            encoder_tables=self.encoder_tables.first_scenes(count),
            head_tables=self.head_tables.first_scenes(count),
        )


@dataclass(frozen=True)
class TimeConstants:
    """Time embedding (1, 1, 1, d), and modulations (L, 1, 1, 1, 6d) of the L encoder blocks."""

    embedding: Tensor
    modulations: Tensor


def precompute(denoiser: Denoiser, conditions: DenoiserConditions) -> RunConstants:
    """The constants of a run; raises ValueError for conditions that do not fit the denoiser."""
    require_fitting(conditions, denoiser.config)
    blank = torch.zeros_like(conditions.reference_latent)
    encoder_tables, head_tables = denoiser.camera_tables(conditions)
    return RunConstants(
        encoder_base=denoiser.embed_for_encoder(blank, conditions),
        head_base=denoiser.embed_for_head(blank, conditions),
        encoder_noise=_noise_weights(denoiser, "encoder", packed=blank.ndim == 4),
        head_noise=_noise_weights(denoiser, "head", packed=blank.ndim == 4),
        encoder_tables=encoder_tables,
        head_tables=head_tables,
        num_references=conditions.num_references,
    )


def time_constants(denoiser: Denoiser, times: Tensor) -> list[TimeConstants]:
    """Constants of each of the times (T,), computed together."""
    embedding = denoiser.t_embedder(times.to(denoiser.t_embedder.W.device))[:, None, None, None]
    condition = F.silu(embedding)
    modulations = torch.stack([b.adaLN_modulation(condition) for b in denoiser.encoder_blocks])
    # Copies: as views they would tie what is compiled to the number of times.
    return [TimeConstants(embedding[i], modulations[:, i].clone()) for i in range(len(times))]


def step(denoiser: Denoiser, noisy: Tensor, time: TimeConstants, run: RunConstants) -> Tensor:
    """Network output for noisy latents, all at one time, as `Denoiser.forward` gives it.

    The run may have a multiple of the scenes of `noisy`, (n * B, ...): every n-th of its batch then
    sees the same noise, and so many outputs come back.
    """
    special, patches = denoiser.split(noisy)
    s = _add_noise(run.encoder_base, special, patches, run.encoder_noise, run.num_references)
    for block, modulation in zip(denoiser.encoder_blocks, time.modulations, strict=True):
        s = block(s, modulation, run.encoder_tables)
    s = F.silu(denoiser.s_projector(F.silu(time.embedding + s)))

    x = _add_noise(run.head_base, special, patches, run.head_noise, run.num_references)
    for block in denoiser.head_blocks:
        x = block(x, block.adaLN_modulation[1](s), run.head_tables)
    x = denoiser.final_layer(x, denoiser.final_layer.adaLN_modulation[1](s))
    return denoiser.latent(x, noisy)


def _noise_weights(denoiser: Denoiser, part: str, *, packed: bool) -> NoiseWeights:
    config = denoiser.config
    special: Tensor | None = None
    if part == "encoder":
        embedders = denoiser.s_embedders
        special = denoiser.special_s_embedder.weight if packed else None
    else:
        embedders = denoiser.x_embedders
        special = denoiser.special_x_embedder.weight if packed else None
    noisy = slice(config.channels, None)
    references, targets = (e.proj.weight.flatten(1)[:, noisy] for e in embedders)
    if special is not None:
        special = special[:, noisy]
    if part == "encoder" and config.source_conditioned:
        return NoiseWeights(special, None, None)
    return NoiseWeights(special, references, targets)


def _add_noise(
    base: Tensor, special: Tensor, patches: Tensor, weights: NoiseWeights, num_references: int
) -> Tensor:
    """Embeddings `base` (n * B, ...) of a blank noisy half, plus the share of that half."""
    copies = len(base) // len(patches)
    base_special, base_patches = base.tensor_split((special.shape[2],), dim=2)
    if weights.references is not None and weights.targets is not None:
        share = torch.cat(
            (
                F.linear(patches[:, :num_references], weights.references),
                F.linear(patches[:, num_references:], weights.targets),
            ),
            dim=1,
        )
        base_patches = base_patches + share.repeat(copies, 1, 1, 1)
    if weights.special is None:
        return base_patches
    base_special = base_special + F.linear(special, weights.special).repeat(copies, 1, 1, 1)
    return torch.cat((base_special, base_patches), dim=2)
