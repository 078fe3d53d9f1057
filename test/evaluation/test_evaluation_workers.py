"""`gld-ros evals` and `eval-recordings` with two workers: the files of the run without workers."""

import csv
import json
import shutil

import pytest

from gld_ros.cli.main import main
from gld_ros.scenes.tour_bag import first_room_with_tour, write_tour_bag

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def reports(out):
    """What is in every report, without the time that it took."""
    found = {path.name: json.loads(path.read_text()) for path in (out / "reports").iterdir()}
    for report in found.values():
        if isinstance(report, dict):
            del report["seconds"]
    return found


def table(out):
    """The rows of a table by name, without what is about the run."""
    with (out / "summary.csv").open(newline="") as file:
        rows = {row.pop("name"): row for row in csv.DictReader(file)}
    workers = {row.pop("worker") for row in rows.values()}
    for row in rows.values():
        del row["seconds"]
    return rows, workers


def run_twice(words, folder, capsys):
    """The same batch in this process and on two workers: both tables, and the workers."""
    for workers in ("0", "2"):
        out = folder / f"out{workers}"
        status = main([*words, "--out", str(out), "--workers", workers, "--threads", "1"])
        assert status == 1, capsys.readouterr().out  # of the one that is broken
    assert reports(folder / "out0") == reports(folder / "out2")
    (here, alone), (there, workers) = table(folder / "out0"), table(folder / "out2")
    assert here == there
    assert len(alone) == 1
    assert alone.isdisjoint(workers)
    return there, workers


def test_scenes_are_judged_the_same_by_two_workers(micro_bundle, wall_scene, tmp_path, capsys):
    folder = tmp_path / "scenes"
    for frames in (4, 6, 8):
        shutil.rmtree(tmp_path / "wall", ignore_errors=True)
        shutil.copytree(wall_scene(frames, with_depth=False), folder / f"wall{frames}")
    shutil.copytree(folder / "wall8", folder / "cut")
    cameras = folder / "cut/cameras.json"
    cameras.write_text(cameras.read_text()[:40])
    words = ["evals", str(folder), "--bundle", str(micro_bundle.folder), "--device", "cpu"]
    rows, _ = run_twice([*words, "--every", "1"], tmp_path, capsys)
    assert [name for name, row in rows.items() if row["problem"]] == ["cut"]
    assert all(float(rows[f"wall{frames}"]["psnr_db"]) > 0 for frames in (4, 6, 8))


def test_recordings_are_judged_the_same_by_two_workers(tmp_path, capsys):
    room = first_room_with_tour("narrow")
    for name, seconds in (("long", 7.0), ("short", 6.0)):
        path = tmp_path / "rec" / name
        write_tour_bag(path, "narrow", room, image_hw=(84, 112), seconds=seconds, rate_hz=2.0)
    (tmp_path / "rec/empty.mcap").touch()
    words = ["eval-recordings", str(tmp_path / "rec"), "--goals", "1"]
    words += ["--set", "sampler.num_steps=2", "--set", "depth.source=camera"]
    rows, workers = run_twice(words, tmp_path, capsys)
    assert rows["empty"]["problem"]
    assert all(int(rows[name]["withheld"]) == 1 for name in ("long", "short"))
    assert len(workers) <= 2
