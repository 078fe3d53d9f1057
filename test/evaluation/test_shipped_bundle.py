"""The bundle that ships, on a few held-out rooms: floors under its published quality.

The model card's figures are means over 64 rooms; the floors leave room for the spread over six.
"""

import pytest
import torch

from gld_ros.evaluation import methods
from gld_ros.evaluation.held_out import ViewPlan, open_held_out
from gld_ros.evaluation.model_runs import EvaluatedModel
from gld_ros.evaluation.run import evaluate
from gld_ros.evaluation.totals import EvaluationSettings
from gld_ros.weights.bundle import Bundle


@pytest.fixture(scope="module")
def views():
    bundle = Bundle.open("tiny")
    held_out = open_held_out("rooms:narrow:6", ViewPlan(), bundle.config.resolutions_hw)
    settings = EvaluationSettings(prior_rooms=8)
    model = EvaluatedModel(bundle, torch.device("cpu"), torch.float32)
    return evaluate(model, held_out, settings).report["views"]


def figure(views, method, metric):
    return views[method][metric]["mean"]


def test_colour_is_above_its_floor_and_above_copying(views):
    psnr_db = figure(views, methods.GENERATED, "psnr")
    assert psnr_db > 22.0
    assert psnr_db > figure(views, methods.COPY, "psnr") + 2.0


def test_cameras_are_followed(views):
    followed = figure(views, methods.GENERATED, "psnr")
    assert followed > figure(views, methods.SHUFFLED, "psnr") + 3.0


def test_depth_is_above_its_floor_and_above_the_mean_depth(views):
    order = figure(views, methods.GENERATED, "ordinal")
    assert order > 0.93
    assert order > figure(views, methods.MEAN_DEPTH, "ordinal") + 0.05
    assert figure(views, methods.GENERATED, "abs_rel_median") < 0.15
