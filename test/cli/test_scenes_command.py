"""`gld-ros scenes`: every action leaves what it says, and wrong usage is explained."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from gld_ros.cli.main import main
from gld_ros.scenes.folders import find_scene_folders, open_scene_folder
from gld_ros.scenes.store import SceneStore

TINY = ("--count", "2", "--views", "2", "--size", "24x18")


@pytest.fixture(autouse=True)
def stay_in_this_process(monkeypatch):
    """The command restarts itself for its allocator; a test must not be replaced by it."""
    import gld_ros.training.environment as environment

    monkeypatch.setattr(environment, "restart_with_tuned_allocator", lambda argv: None)


def test_preview_writes_a_sheet_with_images_in_it(tmp_path, capsys):
    sheet = tmp_path / "sub" / "sheet.png"
    assert main(["scenes", "preview", "--domain", "wide", "--out", str(sheet), *TINY]) == 0
    assert "2 scenes of domain wide" in capsys.readouterr().out
    pixels = np.asarray(Image.open(sheet))
    assert pixels.shape[1] > 4 * 24
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 200


def test_render_writes_folders_in_the_shared_format(tmp_path):
    assert main(["scenes", "render", str(tmp_path), "--ids", "2000000004,2000000009", *TINY]) == 0
    folders = find_scene_folders(tmp_path)
    assert [f.name for f in folders] == ["narrow_2000000004", "narrow_2000000009"]
    recording = open_scene_folder(folders[0])
    assert recording.metric
    assert recording.load(1).depth_m.min() > 0.2


def test_the_command_restarts_itself_as_it_was_typed(tmp_path):
    command = [sys.executable, "-m", "gld_ros.cli.main", "scenes", "render", str(tmp_path), *TINY]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(find_scene_folders(tmp_path)) == 2


def test_store_of_rooms_and_of_recordings(tmp_path):
    assert main(["scenes", "store", str(tmp_path / "rooms"), *TINY]) == 0
    assert len(SceneStore.open(tmp_path / "rooms")) == 2
    assert main(["scenes", "render", str(tmp_path / "f"), *TINY, "--views", "5"]) == 0
    arguments = ["scenes", "store", str(tmp_path / "drawn"), *TINY, "--recordings", "folders"]
    assert main([*arguments, str(tmp_path / "f")]) == 0
    stored = SceneStore.open(tmp_path / "drawn").arrays(1)
    assert stored["depth_m"].min() > 0
    assert np.isnan(stored["visible_fraction"]).all()


@pytest.mark.slow
def test_processes_render_what_one_renders(tmp_path):
    arguments = ["--count", "70", "--views", "2", "--size", "12x8", "--domain", "narrow"]
    for name, processes in (("one", "1"), ("two", "2")):
        command = ["scenes", "store", str(tmp_path / name), "--processes", processes, *arguments]
        assert main(command) == 0
    one, two = (SceneStore.open(tmp_path / name) for name in ("one", "two"))
    for position in (0, 33, 69):
        for name, array in one.arrays(position).items():
            np.testing.assert_array_equal(two.arrays(position)[name], array)


def test_bag_writes_a_bag(tmp_path, capsys):
    arguments = ["scenes", "bag", str(tmp_path / "tour"), "--seconds", "0.5", "--size", "16x12"]
    assert main([*arguments, "--no-depth"]) == 0
    assert "5 images of narrow/3" in capsys.readouterr().out
    assert (tmp_path / "tour" / "metadata.yaml").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["preview", "--domain", "palace"], "unknown domain 'palace'"),
        (["preview", "--ids", "-5"], "belongs to no split"),
        (["preview", "--split", "dev"], "unknown split 'dev'"),
        (["store", "s", "--processes", "0"], "--processes is 0; at least 1"),
        (["store", "s", "--recordings", "folders"], "a kind and at least one path"),
        (["store", "s", "--recordings", "kitti", "."], "unknown kind of recordings"),
    ],
)
def test_wrong_values_end_in_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if arguments[-1] == "-5":
        arguments = [*arguments[:-2], "--ids=1100000005"]
    assert main(["scenes", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
