"""Summaries over scenes; undefined figures have no value."""

import pytest
import torch

from gld_ros.evaluation.figures import Figures

NAN = float("nan")


def test_the_mean_is_over_scenes_of_their_means_over_views():
    figures = Figures()
    figures.add("model", "psnr", torch.tensor([10.0, 20.0, 30.0, NAN]), 2)
    summary = figures.summary("model", "psnr")
    assert summary["mean"] == pytest.approx((15 + 30) / 2)
    assert summary["views"] == 3
    assert summary["std"] == pytest.approx(15 / 2**0.5)


def test_what_is_nowhere_defined_has_no_value():
    figures = Figures()
    figures.add("model", "abs_rel", torch.tensor([NAN, NAN]), 2)
    empty = {"mean": None, "std": None, "views": 0}
    assert figures.summary("model", "abs_rel") == empty
    assert figures.summary("other", "abs_rel") == empty
    assert figures.to_json() == {"model": {"abs_rel": empty}}


def test_shares_compare_views_that_both_have():
    figures = Figures()
    figures.add("a", "psnr", torch.tensor([10.0, 20.0, 30.0, 5.0]), 2)
    figures.add("b", "psnr", torch.tensor([11.0, 19.0, NAN, 4.0]), 2)
    assert figures.share_better("psnr", "a", "b") == pytest.approx(2 / 3)
    assert figures.share_better("psnr", "a", "c") is None
