"""The discriminator of the RGB decoder: heads on a frozen feature network, hinge losses, DiffAug.

Owns its own optimiser and learning-rate schedule. Small configurations do without it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from gld_ros.backbones.blocks import Block
from gld_ros.backbones.images import imagenet_normalise
from gld_ros.backbones.interface import GeometryBackbone
from gld_ros.training.config import ConfigError
from gld_ros.training.randomness import generator_for
from gld_ros.training.schedule import learning_rate

FeatureNetwork = Callable[[Tensor], list[Tensor]]  # (N, 3, H, W) in [0, 1] to maps (N, C, tokens)

NORM_GROUPS = 32
DINO_TAPS = (2, 5, 8, 11)


@dataclass(frozen=True)
class AdversaryOptions:
    """How the discriminator is built and when it plays.

    `features` is "dino" (ViT-S/8 from the weights file `dino_weights`) or "backbone" (the levels
    of the geometry backbone, for machines without that file). `weight` multiplies the adaptive
    weight. The discriminator learns from `discriminator_start`, the decoder is told from
    `generator_start` on; its rate falls to a tenth by `decay_steps` updates.
    """

    features: str = "dino"
    dino_weights: str = ""
    weight: float = 0.75
    discriminator_start: int = 0
    generator_start: int = 0
    learning_rate: float = 2e-4
    decay_steps: int = 100_000
    crop: int = 224


class Adversary:
    """Discriminator heads, their optimiser and their losses."""

    def __init__(
        self,
        options: AdversaryOptions,
        backbone: GeometryBackbone,
        seed: int,
        device: torch.device,
    ) -> None:
        self.options, self.seed, self.device = options, seed, device
        self.features = open_features(options, backbone, device)
        with torch.no_grad():
            maps = self.features(torch.zeros(1, 3, 56, 56, device=device))
        self.heads = nn.ModuleList(TokenHead(m.shape[1]) for m in maps).to(device)
        self.optimizer = torch.optim.AdamW(
            self.heads.parameters(), lr=options.learning_rate, betas=(0.9, 0.95), weight_decay=0.0
        )
        self.updates = 0

    def discriminator_active(self, step: int) -> bool:
        """Whether the discriminator learns at `step`."""
        return step >= self.options.discriminator_start

    def generator_active(self, step: int) -> bool:
        """Whether the decoder is told to fool it at `step`."""
        return step >= self.options.generator_start

    def generator_loss(self, decoded: Tensor, step: int) -> Tensor:
        """Return -mean(D(decoded)) with gradients to `decoded` (N, 3, H, W) only."""
        self.heads.requires_grad_(False)
        logits = self._logits(decoded, generator_for(self.seed, step, "generator augmentation"))
        self.heads.requires_grad_(True)
        return -logits.mean()

    def train_step(self, images: Tensor, decoded: Tensor, step: int) -> dict[str, float]:
        """Do one update on real and decoded images (N, 3, H, W), these as 8 bits would be."""
        options = self.options
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(
                self.updates,
                peak=options.learning_rate,
                warmup_steps=0,
                total_steps=options.decay_steps,
                final_fraction=0.1,
            )
        shown = (decoded.clamp(0, 1) * 255).round() / 255
        # The same window and augmentation for both, or these would tell them apart.
        real, fake = (
            self._logits(batch, generator_for(self.seed, step, "discriminator augmentation"))
            for batch in (images, shown)
        )
        loss = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
        self.optimizer.zero_grad(set_to_none=True)
        if bool(torch.isfinite(loss)):
            loss.backward()
            self._average_gradients()
            self.optimizer.step()
            self.updates += 1
        return {"discriminator": float(loss.detach())}

    def _average_gradients(self) -> None:
        if dist.is_initialized() and dist.get_world_size() > 1:
            for parameter in self.heads.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= dist.get_world_size()

    def _logits(self, images: Tensor, generator: torch.Generator) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            seen = augment(random_crop(images.float(), self.options.crop, generator), generator)
            maps = self.features(seen.clamp(0, 1))
            return torch.cat(
                [head(m.float()) for head, m in zip(self.heads, maps, strict=True)], dim=-1
            )

    def state_dict(self) -> dict[str, Any]:
        """Return everything that `load_state_dict` needs."""
        return {
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved discriminator."""
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = state["updates"]


class TokenHead(nn.Module):
    """One logit per token: 1x1 convolution, a wide residual one along the tokens, 1x1."""

    def __init__(self, channels: int, kernel: int = 9) -> None:
        super().__init__()
        self.enter = spectral_norm(nn.Conv1d(channels, channels, 1))
        self.wide = spectral_norm(
            nn.Conv1d(channels, channels, kernel, padding=kernel // 2, padding_mode="circular")
        )
        self.leave = spectral_norm(nn.Conv1d(channels, 1, 1))
        groups = next(g for g in range(min(NORM_GROUPS, channels), 0, -1) if channels % g == 0)
        # Normalises every image by itself, as batch normalisation with a virtual batch of one.
        self.norms = nn.ModuleList(nn.GroupNorm(groups, channels) for _ in range(2))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (N, C, tokens) to logits (N, tokens)."""
        x = F.leaky_relu(self.norms[0](self.enter(tokens)), 0.2)
        x = (x + F.leaky_relu(self.norms[1](self.wide(x)), 0.2)) / 2**0.5
        logits: Tensor = self.leave(x)
        return logits.squeeze(1)


def random_crop(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Return one window, the same for all (N, 3, H, W); the whole side where that is shorter."""
    height, width = images.shape[-2:]
    rows, columns = min(side, height), min(side, width)
    top = int(torch.randint(height - rows + 1, (), generator=generator))
    left = int(torch.randint(width - columns + 1, (), generator=generator))
    return images[..., top : top + rows, left : left + columns]


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return (N, 3, H, W) differentiably shifted by up to 1/8 and changed in colour.

    Brightness +-0.5, saturation times 0..2, contrast times 0.5..1.5, drawn per image.
    """
    count, _, height, width = images.shape
    brightness, saturation, contrast = (
        torch.rand(3, count, 1, 1, 1, generator=generator).to(images).unbind(0)
    )
    x = images + (brightness - 0.5)
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * (saturation * 2) + grey
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (x - mean) * (contrast + 0.5) + mean
    shifted = []
    for image in x:
        rows, columns = (
            int(torch.randint(-(side // 8), side // 8 + 1, (), generator=generator))
            for side in (height, width)
        )
        padded = F.pad(image, (abs(columns), abs(columns), abs(rows), abs(rows)))
        top, left = abs(rows) + rows, abs(columns) + columns
        shifted.append(padded[:, top : top + height, left : left + width])
    return torch.stack(shifted)


def open_features(
    options: AdversaryOptions, backbone: GeometryBackbone, device: torch.device
) -> FeatureNetwork:
    """Return the frozen network that the heads look through; raises ConfigError."""
    if options.features == "backbone":
        return BackboneFeatures(backbone)
    if options.features != "dino":
        raise ConfigError(f"adversary.features is {options.features!r}; use dino or backbone")
    path = Path(options.dino_weights)
    if not path.is_file():
        raise ConfigError(
            f"adversary.dino_weights: {options.dino_weights!r} is no file; give the weights of "
            "DINO ViT-S/8, or use features: backbone"
        )
    return load_dino(path).to(device)


class BackboneFeatures:
    """The four levels of a geometry backbone, each image as a scene of its own."""

    def __init__(self, backbone: GeometryBackbone) -> None:
        self.backbone = backbone

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Return maps (N, C, tokens) of (N, 3, H, W), cut to whole patches."""
        patch = self.backbone.patch_size
        height, width = (side // patch * patch for side in images.shape[-2:])
        levels = self.backbone.encode_levels(images[:, None, :, :height, :width], range(4))
        return [levels[i].patches.squeeze(1).mT for i in range(4)]


class DinoFeatures(nn.Module):
    """A plain vision transformer with the parameter names of the published DINO weights."""

    def __init__(self, width: int = 384, depth: int = 12, heads: int = 6, patch: int = 8) -> None:
        super().__init__()
        self.patch = patch
        self.table_side = 224 // patch
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.table_side**2, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.blocks = nn.ModuleList(
            Block(width, heads, norm_eps=1e-6, layer_scale_init=1.0) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return maps (N, C, tokens) after four blocks, and the last one once more."""
        height, width = (side // self.patch * self.patch for side in images.shape[-2:])
        x = self.patch_embed["proj"](imagenet_normalise(images[..., :height, :width]))
        grid_hw = x.shape[-2:]
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x.flatten(2).mT), dim=1)
        x = x + self._positions(grid_hw)
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in DINO_TAPS:
                maps.append(x[:, 1:].mT)
        return [*maps, maps[-1]]

    def _positions(self, grid_hw: torch.Size) -> Tensor:
        side = self.table_side
        table = self.pos_embed[:, 1:].mT.unflatten(-1, (side, side))
        resized = F.interpolate(table, size=grid_hw, mode="bicubic", align_corners=False)
        return torch.cat((self.pos_embed[:, :1], resized.flatten(2).mT), dim=1)


def load_dino(path: Path) -> DinoFeatures:
    """Read ViT-S/8 weights; raises ConfigError when the file is not those.

    The bias of the keys is set to zero, as the published discriminator does.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ConfigError(f"{path} cannot be read as weights: {error}") from error
    network = DinoFeatures()
    # The residual scales of our block do not exist there; they stay at 1.
    missing, unexpected = network.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith(".gamma")]
    if missing or unexpected:
        raise ConfigError(
            f"{path} does not hold DINO ViT-S/8; missing {missing[:3]}, unexpected {unexpected[:3]}"
        )
    for block in network.blocks:
        width = network.cls_token.shape[-1]
        block.get_parameter("attn.qkv.bias").data[width : 2 * width] = 0.0
    return network
