"""Errors are summed under the class that reprojection gives a pixel."""

import pytest
import torch

from gld_ros.evaluation.model_runs import ImaginedViews
from gld_ros.evaluation.provenance_errors import ProvenanceErrors

HW = (8, 10)
K = torch.tensor([[10.0, 0, 4.5], [0, 10.0, 3.5], [0, 0, 1]]).expand(1, 2, 3, 3)


def _views(target_depth):
    depth = torch.ones(1, 2, *HW)  # model units of 2 m
    depth[:, 1] = target_depth
    nowhere = torch.full((1, 2, 4, 4), torch.nan)
    return ImaginedViews(torch.full((1, 2, 3, *HW), 0.5), depth, nowhere, nowhere[..., :3, :3])


def _errors(target_depth, scale=2.0):
    errors = ProvenanceErrors()
    truth_m = torch.full((1, 2, *HW), 2.0)
    true_rgb = torch.full((1, 2, 3, *HW), 0.6)
    poses = torch.eye(4).expand(1, 2, 4, 4)
    labels = errors.add(_views(target_depth), torch.tensor([scale]), true_rgb, truth_m, K, poses, 1)
    return errors.to_json(), labels


def test_agreement_with_the_reference_is_corroborated():
    figures, labels = _errors(torch.full(HW, 1.0))
    assert labels[0].shape == (1, *HW)
    assert figures["corroborated"]["share"] == 1.0
    assert figures["corroborated"]["psnr"] == pytest.approx(20.0, abs=1e-3)
    assert figures["corroborated"]["abs_rel"] == pytest.approx(0.0, abs=1e-6)
    assert figures["contradicted"] == {"share": 0.0, "psnr": None, "abs_rel": None}


def test_points_before_and_behind_the_reference_surface_are_told_apart():
    depth = torch.full(HW, 1.5)
    depth[:4] = 0.5
    figures, _ = _errors(depth)
    assert figures["contradicted"]["share"] == pytest.approx(0.5)
    assert figures["contradicted"]["abs_rel"] == pytest.approx(0.5)
    assert figures["hallucinated"]["abs_rel"] == pytest.approx(0.5)


def test_a_scene_without_scale_is_counted_and_not_classified():
    figures, labels = _errors(torch.full(HW, 1.0), scale=float("nan"))
    assert labels == [None]
    assert figures["unclassified_scenes"] == 1
    assert figures["corroborated"]["share"] is None
