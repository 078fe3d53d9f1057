"""Projective positional encoding for attention between posed views (PRoPE).

Owns: the per-view camera matrices, the per-patch rotary tables and the attention that uses both.
Leaves to others: where cameras come from (``conditioning``) and the transformer around it
(``denoiser``).

Half of every attention head is read as 4-vectors and multiplied by matrices of the token's camera;
the other half is rotated by the patch column and row. Queries take ``P^T``, keys and values
``P_kv``, the output ``P``, with ``P = K M`` (normalised intrinsics times world-to-camera). The
released GLD weights were trained with ``P_kv = M^-1 K``, not the true inverse ``M^-1 K^-1``, so
that is what is computed here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

ROTARY_BASE = 100.0


@dataclass(frozen=True)
class PropeTables:
    """Everything PRoPE needs that depends on cameras and patch grid, not on features.

    The matrices act on row vectors from the right (``g @ matrix``), hence already transposed.

    query, key_value, output: (B, V, 4, 4) float32.
    cos, sin: (N, 2, d/8) float32; the middle axis is (column, row).
    """

    query: Tensor
    key_value: Tensor
    output: Tensor
    cos: Tensor
    sin: Tensor


def normalised_intrinsics(K_px: Tensor, image_hw: tuple[int, int]) -> Tensor:
    """Pixel intrinsics (..., 3, 3) as a 4x4 with focal length and centre in image widths/heights.

    The principal point is measured from the image middle. Skew is not represented.
    """
    height, width = image_hw
    K_norm = torch.zeros(*K_px.shape[:-2], 4, 4, dtype=K_px.dtype, device=K_px.device)
    K_norm[..., 0, 0] = K_px[..., 0, 0] / width
    K_norm[..., 1, 1] = K_px[..., 1, 1] / height
    K_norm[..., 0, 2] = K_px[..., 0, 2] / width - 0.5
    K_norm[..., 1, 2] = K_px[..., 1, 2] / height - 0.5
    K_norm[..., 2, 2] = 1.0
    K_norm[..., 3, 3] = 1.0
    return K_norm


def camera_matrices(
    viewmats: Tensor, K_px: Tensor, image_hw: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """``P = K M`` and ``P_kv = M^-1 K`` (see module docstring), each (..., 4, 4).

    viewmats: (..., 4, 4) world-to-camera, rigid (translation in any unit). K_px: (..., 3, 3).
    """
    K_norm = normalised_intrinsics(K_px, image_hw)
    rotation_inverse = viewmats[..., :3, :3].mT
    inverse = torch.zeros_like(viewmats)
    inverse[..., :3, :3] = rotation_inverse
    inverse[..., :3, 3] = -(rotation_inverse @ viewmats[..., :3, 3, None])[..., 0]
    inverse[..., 3, 3] = 1.0
    return K_norm @ viewmats, inverse @ K_norm


def rotary_angles(
    grid_hw: tuple[int, int], head_dim: int, device: torch.device | None = None
) -> Tensor:
    """Angles (N, 2, head_dim/8) of the row-major patches; axis 1 is (column, row), radians."""
    rows, columns = grid_hw
    count = head_dim // 8
    frequency = ROTARY_BASE ** (-torch.arange(count, device=device, dtype=torch.float32) / count)
    row, column = torch.meshgrid(
        torch.arange(rows, device=device, dtype=torch.float32),
        torch.arange(columns, device=device, dtype=torch.float32),
        indexing="ij",
    )
    position = torch.stack((column.flatten(), row.flatten()), dim=-1)
    return position[..., None] * frequency


def prope_tables(
    viewmats: Tensor,
    K_px: Tensor,
    image_hw: tuple[int, int],
    grid_hw: tuple[int, int],
    head_dim: int,
) -> PropeTables:
    """Tables for one set of cameras (B, V) and one patch grid; compute once, use in every block.

    image_hw is the size the intrinsics are normalised by, in pixels.
    Raises ValueError when head_dim is not a multiple of 8.
    """
    if head_dim % 8:
        raise ValueError(f"head size is {head_dim}; PRoPE needs a multiple of 8")
    P, P_kv = camera_matrices(viewmats.float(), K_px.float(), image_hw)
    angles = rotary_angles(grid_hw, head_dim, viewmats.device)
    return PropeTables(query=P, key_value=P_kv.mT, output=P.mT, cos=angles.cos(), sin=angles.sin())


def transform(x: Tensor, matrix: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply camera matrices and patch rotation to features; pass ``-sin`` to rotate back.

    x: (B, heads, V, N, d). matrix: (B, V, 4, 4), acting on row vectors. Same shape and dtype back.
    """
    batch, heads, views, patches, dim = x.shape
    # float32 also under autocast: bfloat16 keeps three digits of a camera position, too few.
    with torch.autocast(x.device.type, enabled=False):
        projective, rotary = x.float().split(dim // 2, dim=-1)
        projective = projective.reshape(batch, heads, views, patches * dim // 8, 4)
        projective = (projective @ matrix[:, None]).reshape(batch, heads, views, patches, dim // 2)
        first, second = rotary.unflatten(-1, (2, 2, dim // 8)).unbind(-2)
        rotated = torch.stack(
            (first * cos + second * sin, second * cos - first * sin), dim=-2
        ).flatten(-3)
        return torch.cat((projective, rotated), dim=-1).to(x.dtype)


def prope_attention(q: Tensor, k: Tensor, v: Tensor, tables: PropeTables) -> Tensor:
    """Softmax attention of all V*N tokens of a scene; q, k, v and result (B, heads, V, N, d)."""
    shape = v.shape
    q = transform(q, tables.query, tables.cos, tables.sin)
    k = transform(k, tables.key_value, tables.cos, tables.sin)
    v = transform(v, tables.key_value, tables.cos, tables.sin)
    mixed = F.scaled_dot_product_attention(q.flatten(2, 3), k.flatten(2, 3), v.flatten(2, 3))
    return transform(mixed.view(shape), tables.output, tables.cos, -tables.sin)
