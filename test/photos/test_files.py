"""What is written of a reconstruction, and read back by others."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import gld_ros
from gld_ros.photos.files import write_folder
from gld_ros.photos.sources import open_photos

trimesh = pytest.importorskip("trimesh")


@pytest.fixture(scope="module")
def result(da3_bundle, room):
    return gld_ros.reconstruct(room.images[:2], da3_bundle)


def test_ply_holds_every_point_with_its_colour(result, tmp_path):
    path = result.save(tmp_path / "sub" / "scene.ply")
    cloud = trimesh.load(path)
    np.testing.assert_allclose(cloud.vertices, result.points, atol=1e-6)
    assert np.array_equal(np.asarray(cloud.colors)[:, :3], result.colours)
    assert b"property float confidence" in path.read_bytes()[:400]
    assert b"provenance" not in path.read_bytes()[:400]


def test_glb_has_the_points_upright_and_one_pyramid_per_camera(result, tmp_path):
    scene = trimesh.load(result.save(tmp_path / "scene.glb"))
    clouds = [g for g in scene.geometry.values() if isinstance(g, trimesh.PointCloud)]
    assert len(clouds) == 1
    assert len(scene.geometry) == 1 + len(result.names)
    # y of glTF is up: minus y of the first camera, but for the shift.
    vertices, points = np.asarray(clouds[0].vertices), result.points
    np.testing.assert_allclose(np.diff(vertices[:, 1]), -np.diff(points[:, 1]), atol=1e-4)
    np.testing.assert_allclose(np.median(vertices, axis=0), 0, atol=1e-4)


def test_without_trimesh_a_glb_says_what_to_install_and_the_rest_is_written(
    result, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(ImportError, match="pip install trimesh"):
        result.save(tmp_path / "scene.glb")
    missing = write_folder(result, tmp_path / "all")
    assert "no scene.glb" in missing[0]
    assert (tmp_path / "all" / "points.ply").is_file()


def test_a_folder_holds_depth_and_cameras_that_fit_its_images(result, tmp_path):
    assert write_folder(result, tmp_path) == []
    document = json.loads((tmp_path / "cameras.json").read_text())
    assert document["unit"] == "unscaled"
    for index, view in enumerate(document["views"]):
        depth = np.load(tmp_path / view["depth"])
        assert np.array_equal(depth, result.depth[index])
        assert np.asarray(Image.open(tmp_path / view["image"])).shape[:2] == depth.shape
        assert np.allclose(view["K_px"], result.K_px[index])
        assert np.allclose(view["T_world_cam"], result.T_world_cam[index])
        with Image.open(tmp_path / view["depth"].replace(".npy", ".png")) as image:
            assert image.width > 448


def test_an_earlier_result_is_replaced_whole(result, da3_bundle, room, tmp_path):
    write_folder(result, tmp_path)
    write_folder(gld_ros.reconstruct(room.images[0], da3_bundle), tmp_path)
    for name, count in (("images", 1), ("depth", 2), ("confidence", 1)):
        assert len(list((tmp_path / name).iterdir())) == count


@pytest.mark.parametrize(
    "cameras", [None, "{}", '{"views": [{"image": "../a", "depth": "b", "confidence": "c"}]}']
)
def test_nothing_is_written_over_what_is_no_earlier_result(result, tmp_path, cameras):
    folder = tmp_path / "mine"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "000_holiday.png").write_text("mine")
    if cameras is not None:
        (folder / "cameras.json").write_text(cameras)
    with pytest.raises(ValueError, match="other than an earlier result"):
        write_folder(result, folder)
    assert [f.name for f in (folder / "images").iterdir()] == ["000_holiday.png"]


def test_another_ending_is_refused(result, tmp_path):
    with pytest.raises(ValueError, match=r"'\.obj'; use \.ply, \.glb, \.rrd"):
        result.save(tmp_path / "scene.obj")


def test_a_rerun_recording_is_written_and_without_rerun_a_remedy_is_named(
    result, tmp_path, monkeypatch
):
    pytest.importorskip("rerun")
    path = result.save(tmp_path / "scene.rrd")
    printed = subprocess.run(
        ["rerun", "rrd", "print", str(path)], capture_output=True, text=True, check=True
    ).stdout
    assert "Blueprint" in printed  # a layout of its own
    assert "/world/points" in printed
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(ImportError, match="pip install rerun-sdk"):
        result.show()


def test_without_a_screen_show_says_how_to_look_elsewhere(result, monkeypatch):
    pytest.importorskip("rerun")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(RuntimeError, match="no screen here"):
        result.show()


@pytest.mark.parametrize("given", ["photo.HEIC", "."])
def test_heic_images_are_refused_with_what_to_do(tmp_path, given):
    (tmp_path / "photo.HEIC").write_bytes(b"ftypheic")
    with pytest.raises(ValueError, match="HEIC image, which cannot be read; convert it to JPEG"):
        open_photos(tmp_path / given)
