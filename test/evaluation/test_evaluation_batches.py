"""`gld-ros evals` and `gld-ros eval-recordings`: the figures of the single commands, for many."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

from gld_ros.batch.table import table_columns
from gld_ros.cli.main import main
from gld_ros.evaluation.summaries import held_out_batch, recording_batch
from gld_ros.scenes.tour_bag import first_room_with_tour, write_tour_bag


@pytest.fixture(autouse=True)
def _cheap_mean_depth(monkeypatch):
    def image(domain, image_hw, num_views, num_scenes):
        return torch.linspace(3.0, 1.0, image_hw[0])[:, None].expand(image_hw)

    monkeypatch.setattr("gld_ros.evaluation.run.mean_depth_image", image)


def rows(out):
    with (out / "summary.csv").open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


@pytest.fixture
def scenes(wall_scene, tmp_path):
    """A folder with a scene that can be judged and one whose cameras are cut off."""
    folder = tmp_path / "scenes"
    shutil.copytree(wall_scene(8), folder / "good")
    shutil.copytree(folder / "good", folder / "cut")
    cameras = folder / "cut/cameras.json"
    cameras.write_text(cameras.read_text()[:40])
    return folder


@pytest.fixture
def evals(micro_bundle, scenes, tmp_path):
    def run(*arguments, data=()):
        words = ["evals", *(data or [str(scenes)]), "--out", str(tmp_path / "out")]
        words += ["--bundle", str(micro_bundle.folder), "--device", "cpu", "--every", "1"]
        return main([*words, "--threads", "1", "--workers", "0", *arguments])

    return run


def test_each_scene_has_the_figures_of_the_single_command_and_a_broken_one_stays_alone(
    evals, scenes, micro_bundle, tmp_path, capsys
):
    assert evals() == 1
    printed = capsys.readouterr().out
    assert "1 of 2 scenes without a problem" in printed
    assert "cut: PROBLEM: " in printed
    out = tmp_path / "out"
    report = json.loads((out / "reports/good.json").read_text())
    alone = tmp_path / "alone.json"
    command = ["eval", "--bundle", str(micro_bundle.folder), "--data", str(scenes / "good")]
    assert main([*command, "--device", "cpu", "--every", "1", "--json", str(alone)]) == 0
    expected = json.loads(alone.read_text())
    assert report["views"] == expected["views"]
    table = rows(out)
    psnr = expected["views"]["generated"]["psnr"]["mean"]
    assert float(table["good"]["psnr_db"]) == pytest.approx(psnr)
    assert table["good"]["scenes"] == "2"
    assert table["cut"]["status"] == "failed"
    assert table["cut"]["psnr_db"] == ""
    page = (out / "index.html").read_text()
    assert page.index("<h2>cut</h2>") < page.index("<h2>good</h2>")
    assert page.count("data:image/jpeg;base64,") == 1


def test_what_is_judged_stays_and_what_changed_is_judged_again(evals, scenes, tmp_path, capsys):
    shutil.rmtree(scenes / "cut")
    assert evals() == 0
    report = tmp_path / "out/reports/good.json"
    written_ns = report.stat().st_mtime_ns
    assert evals() == 0
    assert report.stat().st_mtime_ns == written_ns
    assert evals("--seeds", "2") == 1
    assert "seeds was 1 and is 2" in capsys.readouterr().err

    next((scenes / "good/images").iterdir()).touch()  # a file in a folder of the scene's folder
    assert evals() == 0
    assert "good has changed since it was run" in capsys.readouterr().out
    assert report.stat().st_mtime_ns > written_ns


def test_rooms_are_named_by_their_address(evals, tmp_path):
    assert evals("--size", "42x28", data=["rooms:narrow:2"]) == 0
    assert rows(tmp_path / "out")["rooms-narrow-2"]["source"] == "rooms:narrow:2"


def test_recordings_have_the_figures_of_the_single_command(tmp_path, capsys):
    bag = tmp_path / "rec/tour"
    room = first_room_with_tour("narrow")
    write_tour_bag(bag, "narrow", room, image_hw=(84, 112), seconds=6.0, rate_hz=2.0)
    (tmp_path / "rec/empty.mcap").touch()
    options = ["--goals", "1", "--set", "sampler.num_steps=2", "--set", "depth.source=camera"]
    out = tmp_path / "out"
    batch = ["eval-recordings", str(tmp_path / "rec"), "--out", str(out), "--workers", "0"]
    assert main([*batch, "--threads", "1", *options]) == 1
    assert "empty: PROBLEM: " in capsys.readouterr().out
    figures = json.loads((out / "reports/tour.json").read_text())
    alone = tmp_path / "alone.json"
    status = main(["eval-recording", str(bag), "--json", str(alone), *options])
    assert figures == json.loads(alone.read_text())
    row = rows(out)["tour"]
    assert int(row["withheld"]) == 1
    assert int(row["rejected"]) == status
    assert bool(row["problem"]) == bool(status)
    assert float(row["keyframe_coverage"]) > 0.9  # the depth camera's
    assert row["keyframe_coverage"] == str(figures[0]["keyframe_depth"]["coverage"])


@pytest.mark.parametrize("kind", [held_out_batch(), recording_batch()], ids=["evals", "recordings"])
def test_every_column_of_the_table_is_documented(kind):
    text = (Path(__file__).resolve().parents[2] / "docs/evaluation.md").read_text()
    missing = [
        name
        for name, type_name, meaning in table_columns(kind)
        if name in {column.name for column in kind.columns}
        and f"| `{name}` | {type_name} | {meaning} |" not in text
    ]
    assert missing == []
