"""Scene folders: what is written is read, and what is broken is named."""

import json

import numpy as np
import pytest
from PIL import Image

from gld_ros.scenes.datasets import open_recordings
from gld_ros.scenes.folders import find_scene_folders, open_scene_folder, write_scene_folder
from gld_ros.scenes.recording import RecordingError

K_PX = np.array([[30.0, 0.0, 15.5], [0.0, 31.0, 11.5], [0.0, 0.0, 1.0]])


@pytest.fixture
def content():
    rng = np.random.default_rng(0)
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, 0, 3] = [0.0, 0.1, 0.25]
    return {
        "images": [rng.integers(0, 256, (24, 32, 3), dtype=np.uint8) for _ in range(3)],
        "K_px": K_PX,
        "T_world_cam": poses,
        "depth_m": [rng.uniform(0.5, 5.0, (24, 32)) for _ in range(3)],
        "metric": True,
    }


@pytest.fixture
def folder(tmp_path, content):
    write_scene_folder(tmp_path / "lab", **content)
    return tmp_path / "lab"


def edit_cameras(folder, change):
    path = folder / "cameras.json"
    cameras = json.loads(path.read_text())
    change(cameras)
    path.write_text(json.dumps(cameras))


def test_what_was_written_is_read(folder, content):
    recording = open_scene_folder(folder)
    assert len(recording) == 3
    assert recording.metric
    frame = recording.load(2)
    np.testing.assert_array_equal(frame.rgb, content["images"][2])
    np.testing.assert_allclose(frame.K_px, K_PX)
    np.testing.assert_allclose(frame.T_world_cam, content["T_world_cam"][2])
    np.testing.assert_allclose(frame.depth_m, content["depth_m"][2], atol=0.00051)
    assert np.all(np.diff(recording.stamps_ns) == 100_000_000)


def test_a_folder_of_folders_is_found(folder):
    assert [p.name for p in find_scene_folders(folder.parent)] == ["lab"]
    assert len(open_recordings("folders", folder.parent)) == 1


def test_writing_twice_is_refused_and_leaves_the_first(folder, content):
    with pytest.raises(FileExistsError, match="exists already"):
        write_scene_folder(folder, **content)
    assert len(open_scene_folder(folder)) == 3


def test_an_interrupted_write_leaves_nothing_under_the_name(tmp_path, content):
    content["depth_m"][1] = "not an array"
    with pytest.raises(TypeError):
        write_scene_folder(tmp_path / "lab", **content)
    assert not (tmp_path / "lab").exists()


def test_folders_without_scenes_are_named(tmp_path):
    with pytest.raises(RecordingError, match="holds no scene folder"):
        find_scene_folders(tmp_path)
    with pytest.raises(RecordingError, match=r"has no cameras\.json"):
        open_scene_folder(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("fx"), "has no 'fx'"),
        (lambda c: c["frames"][1].pop("T_world_camera"), "has no 'T_world_camera'"),
        (lambda c: c.update(fy=-3), "fx and fy must be positive"),
        (lambda c: c["frames"][1]["T_world_camera"][0].__setitem__(0, 2.0), r"T_world_camera\[1\]"),
        (lambda c: c.update(frames=[]), "lists no frames"),
        (lambda c: c.update(format_version=9), "format_version 9"),
        (lambda c: c.update(width="wide"), "is damaged"),
    ],
)
def test_damaged_cameras_are_named(folder, change, message):
    edit_cameras(folder, change)
    with pytest.raises(RecordingError, match=message):
        open_scene_folder(folder)


def test_cameras_that_are_no_json_are_named(folder):
    (folder / "cameras.json").write_text("{")
    with pytest.raises(RecordingError, match="is damaged"):
        open_scene_folder(folder)


def test_unreadable_images_are_named_when_loaded(folder):
    recording = open_scene_folder(folder)
    (folder / "images" / "000000.png").write_bytes(b"no image")
    (folder / "images" / "000001.png").unlink()
    Image.new("RGB", (8, 8)).save(folder / "images" / "000002.png")
    for i, message in ((0, "not a readable image"), (1, "does not exist"), (2, "is 8x8")):
        with pytest.raises(RecordingError, match=message):
            recording.load(i)


def test_unreadable_depth_is_named(folder):
    (folder / "depth" / "000000.png").write_bytes(b"no image")
    with pytest.raises(RecordingError, match="not a 16-bit depth PNG"):
        open_scene_folder(folder).load(0)
