"""Projective positional encoding for attention between posed views (PRoPE).

Owns: the per-view camera matrices, the per-patch rotations and the attention that uses both.
Leaves to others: where cameras come from (`conditioning`) and the transformer around it
(`denoiser`).

The first half of every attention head is read as 4-vectors and multiplied by a matrix of the
token's camera; of the other half, the first part is rotated by the patch column, the second by the
row. With `P = K M` (normalised intrinsics times world-to-camera), queries take `P^T`, keys and
values `P_kv`, the output `P`. The released GLD weights were trained with `P_kv = M^-1 K`, not with
the true inverse `M^-1 K^-1`, so that is what is computed here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from gld_ros.full_precision import full_precision

ROTARY_BASE = 100.0


@dataclass(frozen=True)
class PropeTables:
    """All that PRoPE needs of cameras and patch grid.

    A matrix acts from the right on the first halves of head vectors, as rows; it repeats its 4x4
    along the diagonal. Rotation of the second halves is `x * cos + (x @ swap) * sin`, where `swap`
    exchanges the two numbers that turn into each other.

    query, key_value, output: (B, V, d/2, d/2) float32, d the head size.
    swap: (d/2, d/2). cos, sin: (N, 1, d/2) float32.
    """

    query: Tensor
    key_value: Tensor
    output: Tensor
    swap: Tensor
    cos: Tensor
    sin: Tensor

    def first_scenes(self, count: int) -> PropeTables:
        """The same of the first scenes of the batch, without a copy."""
        return replace(
            self,
            query=self.query[:count],
            key_value=self.key_value[:count],
            output=self.output[:count],
        )


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
    """Angles (N, 2, head_dim / 8) in radians of row-major patches; axis 1 is (column, row)."""
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
    """Tables for one set of cameras and one patch grid; compute once, use in every block.

    viewmats (B, V, 4, 4) scaled world-to-camera, K_px (B, V, 3, 3), image_hw the size in pixels
    that intrinsics are normalised by. Raises ValueError unless head_dim is a multiple of 8.
    """
    if head_dim % 8:
        raise ValueError(f"head size is {head_dim}; PRoPE needs a multiple of 8")
    P, P_kv = camera_matrices(viewmats.float(), K_px.float(), image_hw)
    angles = rotary_angles(grid_hw, head_dim, viewmats.device)
    cos, sin = angles.cos(), angles.sin()
    return PropeTables(
        query=_repeated(P, head_dim // 8),
        key_value=_repeated(P_kv.mT, head_dim // 8),
        output=_repeated(P.mT, head_dim // 8),
        swap=_swap_matrix(head_dim, viewmats.device),
        cos=torch.stack((cos, cos), dim=-2).flatten(1)[:, None],
        sin=torch.stack((sin, -sin), dim=-2).flatten(1)[:, None],
    )


def _repeated(matrix: Tensor, times: int) -> Tensor:
    """Block-diagonal (B, V, 4 * times, 4 * times): one product is faster than many of 4x4."""
    eye = torch.eye(times, device=matrix.device)
    blocks = eye[:, None, :, None] * matrix[..., None, :, None, :]
    return blocks.flatten(-2).flatten(-3, -2)


def _swap_matrix(head_dim: int, device: torch.device) -> Tensor:
    """Symmetric permutation (d/2, d/2) that pairs up what turns together."""
    order = torch.arange(head_dim // 2, device=device).view(2, 2, -1).flip(1).flatten()
    return torch.eye(head_dim // 2, device=device)[order]


def transform(
    x: Tensor, matrix: Tensor, tables: PropeTables, heads: int, *, rotate_back: bool = False
) -> Tensor:
    """Apply a camera matrix of the tables and the patch rotation to features of all heads.

    x (..., B, V, S + N, heads * d), matrix (..., B, V, d/2, d/2); returns the shape and dtype of x.
    Special tokens, the S in front of the patches of a view, have no place and are left as they are.
    """
    num_special = x.shape[-2] - len(tables.cos)
    if num_special:
        special, patches = x.tensor_split((num_special,), dim=-2)
        patches = transform(patches, matrix, tables, heads, rotate_back=rotate_back)
        return torch.cat((special, patches), dim=-2)
    half = x.shape[-1] // (2 * heads)  # of weights, not of tables: constant where it is compiled
    by_head = x.flatten(0, -3).unflatten(-1, (heads, 2 * half))  # (views, N, heads, d)
    vectors, turning = by_head.flatten(1, 2).tensor_split((half,), dim=-1)
    cos, sin, swap = (table.to(x.dtype) for table in (tables.cos, tables.sin, tables.swap))
    with full_precision(x.device):
        # float32 whatever the rest runs in: bfloat16 keeps three digits of a camera position.
        projected = torch.bmm(vectors.float(), matrix.flatten(0, -3)).to(x.dtype)
        # One matrix for all, but a batch of them takes the half as it lies, without a copy.
        swapped = torch.bmm(turning, swap.expand(len(turning), -1, -1))
        projected, turning, swapped = (
            part.unflatten(1, by_head.shape[1:3]) for part in (projected, turning, swapped)
        )
        turned = torch.addcmul(turning * cos, swapped, sin, value=-1 if rotate_back else 1)
    return torch.cat((projected, turned), dim=-1).view(x.shape)


def prope_attention(qkv: Tensor, tables: PropeTables, heads: int) -> Tensor:
    """Softmax attention among all tokens of a scene.

    qkv (3, B, V, S + N, heads * d) queries, keys, values; the result is (B, V, S + N, heads * d).
    """
    matrices = torch.stack((tables.query, tables.key_value, tables.key_value))
    placed = transform(qkv, matrices, tables, heads)
    q, k, v = rearrange(placed, "three b v n (h d) -> three b h (v n) d", h=heads)
    mixed = rearrange(F.scaled_dot_product_attention(q, k, v), "b h m d -> b m (h d)")
    return transform(mixed.view(qkv.shape[1:]), tables.output, tables, heads, rotate_back=True)
