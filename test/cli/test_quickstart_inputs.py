"""Everything that a person can give wrongly is found before the hub hears of it."""

import argparse
import io
import os
import re
import shutil
import sys
import webbrowser

import pytest
import torch

from gld_ros.bags.reader import BagReader
from gld_ros.bags.writer import BagWriter
from gld_ros.cli import _quickstart_bag, quickstart
from gld_ros.cli.main import main
from gld_ros.pipeline import NovelViewPipeline
from gld_ros.ros.parameters.files import load_snapshot
from gld_ros.weights.catalog import CATALOG
from gld_ros.weights.unfetched import UnfetchedBundle

from .conftest import GB

STATISTICS = "model_stats/da3/normalization_stats_level{}.pt"


@pytest.fixture
def refused(hub, arguments, capsys):
    """What the command says when it refuses, after checking that nobody was asked for anything."""

    def run(*further, without=()):
        words = [word for word in arguments if word not in without]
        assert main([*words, *map(str, further)]) == 1
        printed, error = capsys.readouterr()
        assert (hub.tokens, hub.requests) == (set(), [])
        assert "Traceback" not in printed + error
        return error

    return run


def bag_without(bag, path, *left_out):
    """A copy of a bag without some topics."""
    with BagReader(bag) as reader, BagWriter(path) as writer:
        topics = [topic for topic in reader.topics if topic not in left_out]
        for topic in topics:
            writer.add_topic(topic, reader.topics[topic].type)
        for message in reader.raw_messages(topics):
            writer.write_cdr(message.topic, message.stamp_ns, message.cdr)
    return path


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (torch.ones(1, 64, 1, 1), "level1.mean has 64 values, the backbone has 128"),
        (None, "missing tensor mean"),
        ("damaged", "is not a readable torch checkpoint|is refused"),
    ],
)
def test_statistics_are_read_first(refused, layout, tmp_path, content, problem):
    for level in (0, 1):
        place = tmp_path / "clone" / STATISTICS.format(level)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(layout / STATISTICS.format(level), place)
    if content == "damaged":
        place.write_bytes(b"404: Not Found")
    else:
        mean = {} if content is None else {"mean": content}
        torch.save({"var": torch.ones(1, 128, 1, 1), **mean}, place)
    error = refused("--statistics", tmp_path / "clone")
    assert any(part in error for part in problem.split("|")), error
    assert "normalization_stats_level1.pt" in error


def test_a_recording_for_statistics_is_tried_first(refused, layout, tmp_path, bag):
    both = refused("--statistics-from", bag)
    assert "give --statistics or --statistics-from, not both" in both
    without = ("--statistics", str(layout))
    assert "does not exist" in refused("--statistics-from", tmp_path / "gone", without=without)
    (tmp_path / "empty").mkdir()
    error = refused("--statistics-from", tmp_path / "empty", without=without)
    assert error.startswith("gld-ros quickstart: error: --statistics-from: ")
    error = refused("--statistics-from", bag, "--statistics-scenes", 0, without=without)
    assert "--statistics-scenes is 0" in error


def test_a_misspelt_setting_is_named(refused):
    assert "unknown parameter 'sampler.setps'" in refused("--set", "sampler.setps=3")
    assert "sampler.max_targets is 0" in refused("--set", "sampler.max_targets=0")
    assert "--every is 0" in refused("--every", 0)
    student = ("sampler.preset=fastest", "sampler.num_steps=0", "sampler.guidance_scale=0.0")
    further = [word for setting in student for word in ("--set", setting)]
    assert "no student" in refused(*further)


def test_a_bag_that_cannot_be_run_is_named(refused, bag, tmp_path):
    without_tf = bag_without(bag, tmp_path / "no_tf", "/tf", "/tf_static")
    error = refused("--bag", without_tf)
    assert "there is no TF" in error
    without_info = bag_without(bag, tmp_path / "no_info", "/camera/camera_info")
    assert "no colour images with a camera_info next to them" in refused("--bag", without_info)
    error = refused("--set", "policy.type=path_ahead")
    assert "path_ahead" in error


def test_a_place_that_cannot_be_written_is_named(refused, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("", "utf-8")
    error = refused("--out", tmp_path / "file/views")
    assert "file is not a folder" in error
    (tmp_path / "views").mkdir()
    error = refused("--out", tmp_path / "views")
    assert "was not made by this command" in error
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "this user may not write to" in refused("--out", tmp_path / "new")


def test_a_disk_without_room_is_named_before_anything_is_asked(refused, monkeypatch):
    def asked(prompt):
        raise AssertionError(prompt)

    monkeypatch.setattr("builtins.input", asked)
    small = shutil._ntuple_diskusage(GB, 0, GB)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: small)
    assert "the download with the bundle made from it needs" in refused(without=("--yes",))


class FakeTerminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("answer", ["n\n", "\n", "", "maybe\n"], ids=["n", "enter", "EOF", "other"])
def test_anything_but_yes_stops(refused, monkeypatch, answer):
    monkeypatch.setattr(sys, "stdin", FakeTerminal(answer))
    assert "stopped before the first byte" in refused(without=("--yes",))


def test_without_a_terminal_yes_must_be_said(refused, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert "add --yes to go on" in refused(without=("--yes",))


def test_yes_goes_on_and_the_result_is_opened(hub, bag, tmp_path, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(sys, "stdin", FakeTerminal("y\n"))
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setenv("DISPLAY", ":0")
    run = ["quickstart", "--bag", str(bag), "--weights", "da3-base"]
    run += ["--set", "depth.min_confidence=0.0"]
    # A folder of that name in the current one is not the bundle.
    (tmp_path / "da3-base").mkdir()
    # A person's own file among the downloads stays.
    own = tmp_path / "data/downloads/da3-base/notes.txt"
    own.parent.mkdir(parents=True)
    own.write_text("mine", "utf-8")
    assert main(run) == 0
    printed = capsys.readouterr().out
    assert "time: depth of 4 images, about" in printed
    assert opened == [(tmp_path / "tour-da3-base.png").as_uri()]
    assert [p for p in own.parent.rglob("*") if p.is_file()] == [own]
    assert "kept in" in printed
    hub.tokens.clear()

    assert main([*run, "--dtype", "float32", "--no-open"]) == 0
    printed = capsys.readouterr().out
    assert "not used for it: --dtype; --overwrite makes the bundle anew" in printed
    assert "is here already, made with these settings" in printed
    assert len(opened) == 1

    assert main([*run, "--set", "depth.rate=1.0"]) == 1
    error = capsys.readouterr().err
    assert "was made with other settings" in error
    assert "depth.rate=1.0" in error
    assert "remove it (rm -r tour-da3-base)" in error
    assert main([*run, "--overwrite"]) == 1
    assert "made with the bundle that --overwrite replaces" in capsys.readouterr().err
    assert hub.tokens == set()  # nothing of this needs the hub


def test_a_run_that_fails_says_what_to_change(tmp_path, capsys):
    args = argparse.Namespace(bag=tmp_path / "gone", overrides=[], every=1)
    assert quickstart._run_bag(args, tmp_path / "da3-base", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "5 run: stopped by what is said above; the weights stay" in error
    assert f"gld-ros check {tmp_path / 'gone'}" in error


def test_files_of_another_machine_need_no_hub(hub, bag, layout, tmp_path, capsys):
    folder = tmp_path / "files"
    folder.mkdir()
    shutil.copy(layout / "depth-anything/DA3-BASE/model.safetensors", folder)
    hub.repositories.clear()
    run = ["quickstart", "--bag", str(bag), "--weights", "da3-base", "--yes", "--no-open"]
    run += ["--set", "depth.min_confidence=0.0", "--from-folder", str(folder)]
    assert main(run) == 0
    assert "1 take the files in" in capsys.readouterr().out
    assert (folder / "model.safetensors").is_file()
    assert hub.tokens == set()


def test_every_nth_keyframe_is_a_job(bag):
    settings = ("keyframes.min_interval=0.0", "keyframes.max_angular_velocity=100.0")
    parameters = load_snapshot(None, settings).session

    def jobs(mode, every):
        return _quickstart_bag.look_at_bag(bag, parameters, mode, every).jobs

    assert [jobs("views", every) for every in (1, 2, 3)] == [4, 2, 2]
    assert jobs("depth", 3) == 4


def test_the_time_follows_the_work(small_sizes, bag):
    def said(*settings):
        parameters = load_snapshot(None, ["device=cpu", *settings]).session
        pipeline = NovelViewPipeline(UnfetchedBundle(CATALOG["gld-da3"]), device="cpu")
        work = _quickstart_bag.BagWork(("camera",), 10, (280, 504))
        return _quickstart_bag.duration_lines(work, pipeline, parameters)[0]

    def gigaflop(*settings):
        line = said(*settings)
        count, unit = re.search(r"computed: (\d+) (GFLOP|TFLOP) each", line).groups()
        return int(count) * {"GFLOP": 1, "TFLOP": 1000}[unit]

    own = gigaflop()
    assert "in 49 steps" in said()
    assert gigaflop("sampler.preset=fast") == pytest.approx(own * 10 / 49, rel=0.1)
    assert gigaflop("sampler.guidance_scale=1.0") == pytest.approx(own / 2, rel=0.1)
    assert gigaflop("sampler.samples=2") == pytest.approx(own * 2, rel=0.1)
    assert gigaflop("sampler.max_targets=1") < own


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (40, "40 s"), (720, "12 min"), (27360, "7.6 h"), (12 * 86400, "12 days")],
)
def test_durations_are_in_words(seconds, words):
    assert _quickstart_bag.in_words(seconds) == words
