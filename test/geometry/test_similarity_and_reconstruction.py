"""Similarity alignment and point clouds, against known motions."""

import pytest
import torch

from gld_ros.geometry.reconstruction import (
    reconstruct,
)
from gld_ros.geometry.rigid import matrix_from_quaternion_xyzw
from gld_ros.geometry.similarity import umeyama


def _points(count=6):
    return torch.randn(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("count", [3, 6])
def test_known_similarity_is_found(count):
    R = matrix_from_quaternion_xyzw(torch.tensor([0.3, -0.2, 0.5, 0.4], dtype=torch.float64))
    b = _points(count)
    found = umeyama(2.5 * b @ R.T + torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), b)
    assert float(found.scale) == pytest.approx(2.5)
    torch.testing.assert_close(found.R_a_b, R)
    assert found.t_a_b.tolist() == pytest.approx([1, -2, 0.5])


def test_mirrored_points_give_a_rotation_nevertheless():
    b = _points()
    found = umeyama(b * torch.tensor([1.0, 1.0, -1.0]), b)
    assert float(torch.linalg.det(found.R_a_b)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("a", "b", "text"),
    [
        (_points(2), _points(2), "at least 3"),
        (_points(4), _points(5), "matched points"),
        (_points(4) * torch.nan, _points(4), "finite"),
        (torch.zeros(4, 3), _points(4), "coincide or lie on one line"),
        (_points(4), torch.arange(4.0)[:, None] * torch.ones(3), "coincide or lie on one line"),
    ],
)
def test_points_that_fix_no_similarity_are_refused(a, b, text):
    with pytest.raises(ValueError, match=text):
        umeyama(a, b)


def test_cloud_without_any_valid_point_is_refused():
    with pytest.raises(ValueError, match="no point"):
        reconstruct(
            torch.zeros(1, 3, 2, 2),
            torch.full((1, 2, 2), torch.nan),
            torch.ones(1, 2, 2),
            torch.eye(3),
            torch.eye(4)[None],
        )
