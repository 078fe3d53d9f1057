"""`gld-ros eval` from end to end on a random micro-bundle."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from gld_ros.cli.main import main
from gld_ros.evaluation import methods
from gld_ros.evaluation.held_out import ViewPlan, open_held_out
from gld_ros.evaluation.model_runs import EvaluatedModel
from gld_ros.novel_view_stages import sampling_of
from gld_ros.scenes.tour_bag import first_room_with_tour, write_tour_bag

MODEL_HW = (28, 42)


@pytest.fixture(autouse=True)
def _cheap_mean_depth(monkeypatch):
    def image(domain, image_hw, num_views, num_scenes):
        return torch.linspace(3.0, 1.0, image_hw[0])[:, None].expand(image_hw)

    monkeypatch.setattr("gld_ros.evaluation.run.mean_depth_image", image)


def _eval(bundle, data, tmp_path, *options):
    path = tmp_path / "figures.json"
    status = main(
        [
            *("eval", "--bundle", str(bundle.folder), "--data", str(data), "--device", "cpu"),
            *("--json", str(path), *options),
        ]
    )
    return status, json.loads(path.read_text()) if path.exists() else None


def test_the_preset_fastest_evaluates_the_student(taught_bundle, tmp_path, wall_scene):
    options = ("--every", "1", "--preset", "fastest")
    status, report = _eval(taught_bundle, wall_scene(8), tmp_path, *options)
    assert status == 0
    assert report["settings"]["num_steps"] == 3
    assert np.isfinite(report["views"][methods.GENERATED]["psnr"]["mean"])
    # One step of a network that learnt three would be no sample of anything.
    assert methods.ONE_STEP not in report["views"]


def test_the_preset_fastest_is_refused_without_a_student(
    micro_bundle, tmp_path, wall_scene, capsys
):
    options = ("--every", "1", "--preset", "fastest")
    status, report = _eval(micro_bundle, wall_scene(8), tmp_path, *options)
    assert (status, report) == (1, None)
    assert "no student of level1; make one with `gld-ros train distill`" in capsys.readouterr().err


def test_a_folder_is_evaluated_with_baselines_and_images(
    micro_bundle, tmp_path, capsys, wall_scene
):
    folder = wall_scene(8)
    images = tmp_path / "grid.png"
    status, report = _eval(
        micro_bundle,
        folder,
        tmp_path,
        "--every",
        "1",
        "--seeds",
        "2",
        "--real-features",
        "--images",
        str(images),
    )
    assert status == 0
    out = capsys.readouterr().out
    assert "RANDOM WEIGHTS" in out
    assert report["bundle"]["random_weights"] is True
    assert report["data"]["scenes"] == 2
    views = report["views"]
    for method in (
        methods.GENERATED,
        methods.ONE_STEP,
        methods.SHUFFLED,
        methods.TRUE_FEATURES,
        methods.COPY,
        methods.WARP,
        methods.MEAN_COLOUR,
    ):
        assert np.isfinite(views[method]["psnr"]["mean"])
        assert method.split(",")[0] in out
    # The wall moves by whole pixels: what was seen is warped exactly, within 8 bits.
    assert views[methods.WARP]["psnr_visible"]["mean"] > 45
    assert views[methods.WARP]["psnr"]["mean"] > views[methods.COPY]["psnr"]["mean"]
    assert report["seed_spread"]["colour"]["std_visible"] > 0
    assert views[methods.COPY]["abs_rel_unscaled"]["mean"] == pytest.approx(0.0, abs=1e-3)
    # The camera steps sideways without turning: to see no motion at all is half of the truth.
    still = report["cameras_compared"][methods.NO_MOTION]
    assert (still["RRA@15"], still["RTA@15"]) == (1.0, 0.0)
    assert report["cameras_compared"][methods.TRUE_FEATURES]["scenes"] == 2
    assert methods.NO_MOTION in out
    # A flat wall has no order in depth.
    assert views[methods.GENERATED]["ordinal"]["mean"] is None
    grid = np.asarray(Image.open(images))
    assert grid.shape[0] > 2 * MODEL_HW[0]
    assert grid.std() > 10


def test_without_depth_the_depth_rows_say_no_truth(micro_bundle, tmp_path, capsys, wall_scene):
    folder = wall_scene(8, with_depth=False)
    status, report = _eval(micro_bundle, folder, tmp_path, "--every", "1", "--steps", "1")
    assert status == 0
    out = capsys.readouterr().out
    assert "Depth of withheld views: no truth" in out
    row = next(line for line in out.splitlines() if line.startswith("copy nearest"))
    assert row.count("no truth") == 2  # visible and hidden pixels
    assert report["data"]["hidden_share"] is None
    assert "abs_rel_median" not in report["views"][methods.GENERATED]
    assert methods.WARP not in report["views"]
    assert report["imagination"] is None


def test_a_bag_is_evaluated_like_a_folder(micro_bundle, tmp_path, capsys):
    bag = tmp_path / "bag"
    room = first_room_with_tour("narrow")
    write_tour_bag(bag, "narrow", room, image_hw=(28, 42), seconds=0.8, rate_hz=10.0)
    status, report = _eval(micro_bundle, bag, tmp_path, "--steps", "1", "--every", "1")
    assert status == 0
    assert report["data"]["kind"] == "bags"
    assert report["data"]["scenes"] >= 1
    assert report["data"]["has_depth_truth"] is True


def test_a_backbone_alone_gives_ceilings_only_when_asked(
    backbone_bundle, tmp_path, capsys, wall_scene
):
    folder = wall_scene(8)
    status, report = _eval(backbone_bundle, folder, tmp_path, "--every", "1")
    assert status == 1
    assert "--real-features" in capsys.readouterr().err
    status, report = _eval(backbone_bundle, folder, tmp_path, "--every", "1", "--real-features")
    assert status == 0
    assert np.isfinite(report["views"][methods.TRUE_FEATURES_POSED]["abs_rel_median"]["mean"])
    assert report["cameras"] is None
    assert "psnr" not in report["views"][methods.TRUE_FEATURES]


def test_a_single_scene_has_no_shuffled_control_and_says_so(
    micro_bundle, tmp_path, capsys, wall_scene
):
    folder = wall_scene(4)
    _, report = _eval(micro_bundle, folder, tmp_path, "--every", "1", "--steps", "1")
    assert methods.SHUFFLED not in report["views"]
    assert report["data"]["scenes_without_shuffled_control"] == 1
    assert "motion of a second scene" in capsys.readouterr().out


def test_data_without_a_usable_sample_is_an_error(micro_bundle, tmp_path, capsys, wall_scene):
    folder = wall_scene(4)
    (folder / "images" / "000002.png").unlink()
    status, report = _eval(micro_bundle, folder, tmp_path, "--every", "1")
    assert status == 1
    assert report is None
    assert "none of 1 samples" in capsys.readouterr().err


def test_measured_pixels_are_joined_with_the_model_or_inpainted(
    measured_bundle, tmp_path, wall_scene, capsys
):
    folder = wall_scene(4)
    status, report = _eval(measured_bundle, folder, tmp_path, "--every", "1", "--measurements")
    assert status == 0
    views = report["views"]
    for method in (methods.GENERATED_SHOWN, methods.JOINED, methods.JOINED_SHOWN):
        assert np.isfinite(views[method]["psnr"]["mean"])
    shown, plain = views[methods.GENERATED_SHOWN]["psnr"], views[methods.GENERATED]["psnr"]
    assert shown != plain
    # The wall is measured wherever a reference sees it, and plane.
    for method in (methods.JOINED, methods.INPAINTED):
        assert views[method]["psnr_visible"]["mean"] > 30
        assert views[method]["abs_rel_unscaled"]["mean"] < 0.01
    assert "measured, inpainted" in capsys.readouterr().out


def test_without_depth_nothing_is_measured(micro_bundle, tmp_path, wall_scene, capsys):
    folder = wall_scene(4, with_depth=False)
    status, _ = _eval(micro_bundle, folder, tmp_path, "--every", "1", "--measurements")
    assert status != 0
    assert "the data has no depth" in capsys.readouterr().err


def test_a_scene_is_imagined_alike_in_every_batch(micro_bundle, wall_scene):
    folder = wall_scene(12)
    held_out = open_held_out(str(folder), ViewPlan(every=1), (MODEL_HW,))
    samples = list(held_out.samples)
    model = EvaluatedModel(micro_bundle, torch.device("cpu"), torch.float32)

    def imagined(numbers):
        part = [samples[i] for i in numbers]
        images, K_px, T = (
            torch.stack([s[name] for s in part]) for name in ("images", "K_px", "T_world_cam")
        )
        return model.imagine(
            model.encode(images[:, :2]),
            T,
            K_px,
            MODEL_HW,
            model.noise(numbers, 3, 4, MODEL_HW),
            num_references=2,
            sampling=sampling_of(micro_bundle.config, "published", 2, 1.0),
        )

    together, alone = imagined([0, 1, 2]), imagined([1])
    assert torch.allclose(together.rgb[1], alone.rgb[0], atol=1e-4)
    assert torch.allclose(together.depth[1], alone.depth[0], rtol=1e-3)
