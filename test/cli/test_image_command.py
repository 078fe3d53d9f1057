"""`gld-ros image` on photos of a rendered room."""

import json

import numpy as np
import pytest
from PIL import Image

from gld_ros.cli.main import main
from gld_ros.mapping import memory_preflight
from gld_ros.scenes.folders import write_scene_folder
from gld_ros.scenes.rooms import render_rooms


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A scene folder of three posed photos."""
    views = render_rooms("narrow", [3_000_000_002], 3, (240, 320))
    images = (views["images"][0].permute(0, 2, 3, 1) * 255).round().byte().numpy()
    folder = tmp_path_factory.mktemp("scenes") / "room"
    K_px, T = (views[name][0].double().numpy() for name in ("K_px", "T_world_cam"))
    write_scene_folder(folder, list(images), K_px[0], T, None, metric=True)
    return folder


def test_photos_become_depth_cameras_and_points(scene, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["image", str(scene / "images"), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "3 photos at 112x84 px" in printed
    assert "unscaled" in printed
    assert "trained on procedural rooms only" in printed
    assert str(out) in printed
    assert {p.name for p in out.iterdir()} >= {"cameras.json", "points.ply", "depth"}
    depth = [np.load(path) for path in sorted((out / "depth").glob("*.npy"))]
    assert [d.shape for d in depth] == [(84, 112)] * 3


def test_known_cameras_of_a_scene_folder_make_it_metric(scene, tmp_path, capsys):
    assert main(["image", str(scene), "--cameras", "--every", "2", "--out", str(tmp_path)]) == 0
    assert "lengths: m" in capsys.readouterr().out
    assert json.loads((tmp_path / "cameras.json").read_text())["unit"] == "m"


def test_one_photo_and_every_other(scene, tmp_path, capsys):
    files = sorted((scene / "images").iterdir())
    assert main(["image", str(files[0]), "--out", str(tmp_path / "a")]) == 0
    assert "1 photo at" in capsys.readouterr().out
    assert main(["image", str(scene), "--every", "2", "--out", str(tmp_path / "b")]) == 0
    assert "2 photos at" in capsys.readouterr().out


def test_photos_that_do_not_fit_into_memory_are_refused_in_one_line(
    scene, tmp_path, capsys, monkeypatch
):
    (tmp_path / "meminfo").write_text("MemAvailable: 2048 kB\n", encoding="utf-8")
    monkeypatch.setattr(memory_preflight, "MEMINFO", tmp_path / "meminfo")
    out = tmp_path / "out"
    arguments = ["image", str(scene / "images"), "--size", "224", "--out", str(out)]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert "3 photos at 224x168 px need about" in error
    assert len(error.splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jpg"], "nowhere.jpg does not exist"),
        (["{tmp}"], "holds no image files"),
        (["{tmp}/text.png"], "is not a readable image"),
        (["{image}", "--every", "0"], "--every is 0"),
        (["{image}", "--bundle", "nothing"], "gld-ros weights list"),
        (["{image}", "--cameras"], "cameras.json"),
        (["{image}", "--size", "3"], "at least one patch"),
    ],
)
def test_errors_are_one_line(tmp_path, capsys, arguments, message):
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / "black.jpg")
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / "text.png").write_text("no image")
    filled = [
        a.format(tmp=folder if "text" in a else tmp_path / "none", image=tmp_path / "black.jpg")
        for a in arguments
    ]
    (tmp_path / "none").mkdir()
    assert main(["image", *filled, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
