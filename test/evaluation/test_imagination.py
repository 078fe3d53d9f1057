"""The spread of seeds inside and outside of what references see."""

import pytest
import torch

from gld_ros.evaluation import methods
from gld_ros.evaluation.figures import Figures
from gld_ros.evaluation.imagination import SeedSpread, imagination_report


def test_spread_is_split_by_visibility_and_knows_no_unit_of_length():
    hidden = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    hidden[..., :2] = True
    rgb = [torch.full((1, 2, 3, 4, 4), 0.5) for _ in range(2)]
    rgb[0][:, 1, :, :, :2], rgb[1][:, 1, :, :, :2] = 0.4, 0.6
    depth = [torch.full((1, 2, 4, 4), 2.0), torch.full((1, 2, 4, 4), 6.0)]  # units differ only
    spread = SeedSpread()
    spread.add(rgb, depth, ~hidden, hidden, num_references=1)
    figures = spread.to_json()
    assert figures["colour"]["variance_visible"] == pytest.approx(0.0)
    assert figures["colour"]["variance_hidden"] == pytest.approx(0.02)
    assert figures["log_depth"]["variance_hidden"] == pytest.approx(0.0, abs=1e-9)


def test_one_seed_has_no_spread():
    assert SeedSpread().to_json() is None
    mask = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="two or more"):
        SeedSpread().add([torch.zeros(1, 2, 3, 2, 2)], [torch.ones(1, 2, 2, 2)], mask, mask, 1)


def test_the_report_says_by_how_much_and_how_often_guesses_are_beaten():
    figures = Figures()
    for method, values in (
        (methods.GENERATED, [14.0, 18.0]),
        (methods.WARP, [13.0, 20.0]),
        (methods.MEAN_COLOUR, [12.0, 12.0]),
    ):
        figures.add(method, "psnr_hidden", torch.tensor(values), 1)
    beats = imagination_report(figures, 0.3)["beats"]
    assert beats[f"psnr_hidden: {methods.WARP}"] == {
        "difference": pytest.approx(-0.5),
        "share_of_views": 0.5,
    }
    assert beats[f"psnr_hidden: {methods.MEAN_COLOUR}"]["share_of_views"] == 1.0
    assert imagination_report(figures, None) is None
