"""RGB decoder: a plain vision transformer from the four feature levels of a view to its pixels.

Owns: the network (the decoder half of a masked autoencoder), its configuration and its table of
patch positions. Leaves to others: making and normalising the features, and clamping the result.
Views are decoded independently. Module names are those of the published weights.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from gld_ros.backbones.images import imagenet_denormalise

NORM_EPS = 1e-12


@dataclass(frozen=True)
class RgbDecoderConfig:
    """Size of an RGB decoder.

    in_channels: of a token, four levels together. table_hw: patch grid the position table is
    stored for; other grids interpolate it. linear_shortcut: add a linear map from tokens straight
    to pixels, which small models need to learn colours early.
    """

    in_channels: int
    width: int = 1152
    depth: int = 28
    heads: int = 16
    mlp: int = 4096
    table_hw: tuple[int, int] = (36, 36)
    patch_size: int = 14
    linear_shortcut: bool = False

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % 4:
            raise ValueError(
                f"width {self.width} must be a multiple of 4 and of the {self.heads} heads"
            )


class DecoderLayer(nn.Module):
    """Pre-norm transformer layer over the tokens (B', 1 + N, width) of one view."""

    def __init__(self, config: RgbDecoderConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.layernorm_before = nn.LayerNorm(width, eps=NORM_EPS)
        self.layernorm_after = nn.LayerNorm(width, eps=NORM_EPS)
        # Nested containers spell the published names, e.g. "attention.attention.query".
        self.attention = nn.ModuleDict(
            {
                "attention": nn.ModuleDict(
                    {name: nn.Linear(width, width) for name in ("query", "key", "value")}
                ),
                "output": nn.ModuleDict({"dense": nn.Linear(width, width)}),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, config.mlp)})
        self.output = nn.ModuleDict({"dense": nn.Linear(config.mlp, width)})

    def forward(self, x: Tensor) -> Tensor:
        normed = self.layernorm_before(x)
        q, k, v = (
            rearrange(
                self.attention.get_submodule(f"attention.{name}")(normed),
                "b n (h d) -> b h n d",
                h=self.heads,
            )
            for name in ("query", "key", "value")
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        x = x + self.attention.get_submodule("output.dense")(
            rearrange(mixed, "b h n d -> b n (h d)")
        )
        hidden = F.gelu(self.intermediate["dense"](self.layernorm_after(x)))
        return x + self.output["dense"](hidden)


def sincos_table(width: int, table_hw: tuple[int, int]) -> Tensor:
    """Sine-cosine patch positions (1, 1 + N, width) float32; the class token comes first, as zeros.

    First half of the width: column; second half: row; each [sin, cos] of width/4 frequencies.
    """
    rows, columns = table_hw
    # On the CPU even while a model is being built without storage, where this would be slow.
    with torch.device("cpu"):
        frequency = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
        row, column = torch.meshgrid(
            torch.arange(rows, dtype=torch.float64),
            torch.arange(columns, dtype=torch.float64),
            indexing="ij",
        )
        angles = torch.stack((column, row), dim=-1).reshape(-1, 2, 1) * frequency
        patches = torch.cat((angles.sin(), angles.cos()), dim=-1).flatten(1)
        return torch.cat((torch.zeros(1, width), patches.float()))[None]


class RgbDecoder(nn.Module):
    """Feature tokens of single views to RGB images, any patch grid."""

    def __init__(self, config: RgbDecoderConfig) -> None:
        super().__init__()
        self.config = config
        pixels = 3 * config.patch_size**2
        self.decoder_embed = nn.Linear(config.in_channels, config.width)
        self.trainable_cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.decoder_pos_embed: Tensor
        table = sincos_table(config.width, config.table_hw)
        self.register_buffer("decoder_pos_embed", table.to(self.trainable_cls_token.device))
        self.decoder_layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.depth))
        self.decoder_norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.decoder_pred = nn.Linear(config.width, pixels)
        if config.linear_shortcut:
            self.shortcut = nn.Linear(config.in_channels, pixels)
        self._resized_tables: dict[tuple[int, int], tuple[object, Tensor]] = {}
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.trainable_cls_token, std=0.02)

    def forward(self, tokens: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """RGB (B', 3, 14h, 14w), nominally in [0, 1] but not clamped.

        tokens: (B', h*w, in_channels), row-major patches, levels concatenated shallow to deep.
        """
        pixels = rearrange(
            self.patch_pixels(tokens, grid_hw),
            "b (h w) (p q c) -> b c (h p) (w q)",
            h=grid_hw[0],
            p=self.config.patch_size,
            c=3,
        )
        return imagenet_denormalise(pixels)

    def patch_pixels(self, tokens: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """ImageNet-normalised pixels (B', N, rows * columns * 3) of every patch."""
        rows, columns = grid_hw
        if tokens.ndim != 3 or tokens.shape[1:] != (rows * columns, self.config.in_channels):
            raise ValueError(
                f"tokens have shape {tuple(tokens.shape)}; expected "
                f"(views, {rows} * {columns}, {self.config.in_channels})"
            )
        x = self.decoder_embed(tokens)
        # The float32 class token lifts the residual stream to float32 also under autocast.
        x = torch.cat((self.trainable_cls_token.expand(len(x), -1, -1), x), dim=1)
        x = x + self.position_table(grid_hw)
        for layer in self.decoder_layers:
            x = layer(x)
        pixels = self.decoder_pred(self.decoder_norm(x))[:, 1:]
        if self.config.linear_shortcut:
            pixels = pixels + self.shortcut(tokens)
        return pixels

    def position_table(self, grid_hw: tuple[int, int]) -> Tensor:
        """Positions (1, 1 + h*w, width), bicubically resized to the grid; kept per grid."""
        table = self.decoder_pos_embed
        if grid_hw == self.config.table_hw:
            return table
        if torch.compiler.is_compiling():  # the table of a traced graph has no address
            return _resized_table(table, self.config.table_hw, grid_hw)
        # Loading weights in place, or moving the model, changes the stamp and so drops the entry.
        version = None if table.is_inference() else table._version
        stamp = (table.data_ptr(), version, table.dtype, table.device)
        known_stamp, resized = self._resized_tables.get(grid_hw, (None, table))
        if known_stamp != stamp:
            resized = _resized_table(table, self.config.table_hw, grid_hw)
            self._resized_tables[grid_hw] = (stamp, resized)
        return resized


def _resized_table(table: Tensor, table_hw: tuple[int, int], grid_hw: tuple[int, int]) -> Tensor:
    """Positions (1, 1 + N, width) of one grid for another, in the dtype of `table`."""
    patches = rearrange(table[:, 1:].float(), "b (h w) c -> b c h w", h=table_hw[0])
    patches = F.interpolate(patches, size=grid_hw, mode="bicubic", align_corners=False)
    patches = rearrange(patches, "b c h w -> b (h w) c").to(table.dtype)
    return torch.cat((table[:, :1], patches), dim=1)
