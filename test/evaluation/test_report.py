"""What the text of an evaluation leaves out."""

from gld_ros.evaluation.report import table


def report(cameras_abs_rel, corroborated_share):
    """The least that `table` reads, with one figure each in the tables in question."""
    nothing = {"share": None, "psnr": None, "abs_rel": None}
    return {
        "bundle": {"random_weights": False, "name": "b", "sha256": "0" * 64, "origin": "here"},
        "data": {
            "name": "d",
            "scenes": 2,
            "targets": 2,
            "image_hw": (28, 42),
            "references": "first",
            "hidden_share": 0.1,
            "skipped": {},
            "scenes_without_shuffled_control": 0,
            "has_depth_truth": True,
        },
        "settings": {
            "num_references": 1,
            "num_targets": 1,
            "num_steps": 1,
            "guidance_scale": 1.0,
            "seeds": 1,
            "perceptual": "none",
        },
        "notes": [],
        "seconds": 1.0,
        "views": {
            "generated": {
                "psnr": {"mean": 20.0},
                "abs_rel_median": {"mean": 0.1},
                "abs_rel_cameras": {"mean": cameras_abs_rel},
            }
        },
        "better_than": {},
        "cameras": None,
        "cameras_compared": {},
        "provenance": {
            "rel_tolerance": 0.1,
            "unclassified_scenes": 2,
            "corroborated": {**nothing, "share": corroborated_share},
            "hallucinated": nothing,
            "contradicted": nothing,
        },
        "imagination": None,
        "seed_spread": None,
    }


def test_tables_without_a_figure_are_left_out():
    text = table(report(None, None))
    assert "scaled by camera distances" not in text
    assert "share %" not in text
    assert "Errors by provenance: none (2 scenes have no accepted scale)" in text
    assert "scaled per view to the true median" in text


def test_tables_with_one_figure_stay():
    text = table(report(0.25, 0.5))
    assert "scaled by camera distances" in text
    assert "corroborated     50.0" in text
    assert "2 scenes without an accepted scale left out" in text
