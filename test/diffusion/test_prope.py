"""PRoPE against a direct evaluation of its definition, one token at a time."""

import math

import pytest
import torch
from micro_scenes import IMAGE_HW, intrinsics, random_poses

from gld_ros.diffusion.prope import camera_matrices, prope_attention, prope_tables, transform

GRID_HW, HEADS, HEAD_DIM, VIEWS = (2, 3), 2, 16, 3


@pytest.fixture
def cameras():
    viewmats = torch.linalg.inv(random_poses(views=VIEWS))
    return viewmats, intrinsics(views=VIEWS)


def transformed_token(head, matrix, row, column, direction):
    """The definition: 4-vectors times a matrix, then rotation by column and by row."""
    half, quarter, count = HEAD_DIM // 2, HEAD_DIM // 4, HEAD_DIM // 8
    out = head.clone()
    for first in range(0, half, 4):
        out[first : first + 4] = matrix @ head[first : first + 4]
    for start, position in ((half, column), (half + quarter, row)):
        for k in range(count):
            angle = direction * position * 100.0 ** (-k / count)
            a, b = head[start + k], head[start + count + k]
            out[start + k] = math.cos(angle) * a + math.sin(angle) * b
            out[start + count + k] = -math.sin(angle) * a + math.cos(angle) * b
    return out


@pytest.mark.parametrize("role", ["query", "key_value", "output"])
def test_transform_follows_the_definition(cameras, role):
    viewmats, K_px = cameras
    P, P_kv = camera_matrices(viewmats, K_px, IMAGE_HW)
    matrix = {"query": P.mT, "key_value": P_kv, "output": P}[role]
    tables = prope_tables(viewmats, K_px, IMAGE_HW, GRID_HW, HEAD_DIM)
    x = torch.randn(1, VIEWS, 6, HEADS * HEAD_DIM, generator=torch.Generator().manual_seed(0))
    back = role == "output"
    result = transform(x, getattr(tables, role), tables, HEADS, rotate_back=back)
    for view in range(VIEWS):
        for patch in range(6):
            for head in range(HEADS):
                dims = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
                expected = transformed_token(
                    x[0, view, patch, dims],
                    matrix[0, view],
                    *divmod(patch, GRID_HW[1]),
                    -1 if back else 1,
                )
                torch.testing.assert_close(
                    result[0, view, patch, dims], expected, atol=1e-5, rtol=1e-5
                )


def test_key_matrix_keeps_the_intrinsics_uninverted(cameras):
    viewmats, K_px = cameras
    P, P_kv = camera_matrices(viewmats, K_px, IMAGE_HW)
    K_norm = P @ torch.linalg.inv(viewmats)
    torch.testing.assert_close(P_kv, torch.linalg.inv(viewmats) @ K_norm, atol=1e-5, rtol=1e-5)


def test_attention_depends_on_relative_poses_only(cameras):
    viewmats, K_px = cameras
    shift = random_poses(views=1, seed=9)
    qkv = torch.randn(3, 1, VIEWS, 6, HEADS * HEAD_DIM, generator=torch.manual_seed(0))
    outputs = [
        prope_attention(qkv, prope_tables(m, K_px, IMAGE_HW, GRID_HW, HEAD_DIM), HEADS)
        for m in (viewmats, viewmats @ shift)
    ]
    torch.testing.assert_close(*outputs, atol=1e-4, rtol=1e-4)
    other = prope_tables(
        viewmats @ random_poses(views=VIEWS, seed=5), K_px, IMAGE_HW, GRID_HW, HEAD_DIM
    )
    assert (prope_attention(qkv, other, HEADS) - outputs[0]).abs().max() > 0.01


def test_camera_positions_keep_float32_under_autocast(cameras):
    viewmats, K_px = cameras
    tables = prope_tables(viewmats, K_px, IMAGE_HW, GRID_HW, HEAD_DIM)
    x = torch.randn(1, VIEWS, 6, HEADS * HEAD_DIM, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = transform(x, tables.query, tables, HEADS)
    torch.testing.assert_close(under_autocast, transform(x, tables.query, tables, HEADS))


def test_head_size_must_be_a_multiple_of_eight(cameras):
    with pytest.raises(ValueError, match=r"head size is 12.*multiple of 8"):
        prope_tables(*cameras, IMAGE_HW, GRID_HW, 12)
