"""`gld-ros check BAG`: images against TF of a recording, and the offset of their clocks."""

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

from gld_ros.bags.reader import CAMERA_INFO_TYPE, IMAGE_TYPE, TF_TYPE
from gld_ros.bags.writer import BagWriter
from gld_ros.cli.main import main
from gld_ros.messages.camera_info import camera_info_message
from gld_ros.messages.images import image_message
from gld_ros.messages.stamps import make_header
from gld_ros.messages.transforms import transform_message

HW = (96, 128)
K_PX = np.array([[110.0, 0, 63.5], [0, 110.0, 47.5], [0, 0, 1]])
START_NS, IMAGES, TF_HZ = 10**18, 14, 50
WALL_M, TEXELS_PER_M = 2.0, 50.0


def pose(time_s, moves):
    """T_map_optical of a camera that swings, and rises if it `moves`."""
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler("y", 0.14 * np.sin(6.0 * time_s)).as_matrix()
    T[:3, 3] = [0.0, -0.4 * time_s if moves else 0.0, 0.0]
    return T


def seen(T, texture):
    """What the camera sees of a leaning wall, two metres away."""
    v, u = np.mgrid[0 : HW[0], 0 : HW[1]].astype(float)
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(K_PX).T @ T[:3, :3].T
    along = (WALL_M - 0.5 * T[1, 3] - T[2, 3]) / (rays[..., 2] + 0.5 * rays[..., 1])
    points = T[:3, 3] + rays * along[..., None]
    at = points[..., 1::-1] * TEXELS_PER_M + texture.shape[0] / 2
    grey = map_coordinates(texture, [at[..., 0], at[..., 1]], order=1, mode="reflect")
    return np.repeat(np.round(grey)[..., None], 3, axis=2).astype(np.uint8)


def write_swing(path, *, tf_late_s=0.0, textured=True, moves=True):
    """A bag of images at 10 Hz, whose TF has stamps that are late."""
    rng = np.random.default_rng(3)
    noise = sum(s * gaussian_filter(rng.standard_normal((500, 500)), s) for s in (1.5, 4.0, 10.0))
    texture = np.clip(128 + 40 * noise / noise.std(), 0, 255) * textured + 90 * (not textured)
    with BagWriter(path) as bag:
        types = bag.types.__getitem__
        bag.add_topic("/tf", TF_TYPE)
        bag.add_topic("/camera/camera_info", CAMERA_INFO_TYPE)
        bag.add_topic("/camera/image_raw", IMAGE_TYPE)
        for i in range(-TF_HZ // 5, TF_HZ * IMAGES // 10 + TF_HZ // 5):
            stamp_ns = START_NS + round((i / TF_HZ + tf_late_s) * 1e9)
            T = transform_message(pose(i / TF_HZ, moves), "map", "optical", stamp_ns, types)
            bag.write("/tf", stamp_ns, types(TF_TYPE)(transforms=[T]))
        for i in range(IMAGES):
            stamp_ns = START_NS + i * 10**8
            header = make_header(stamp_ns, "optical", types)
            info = camera_info_message(K_PX, HW, header, types)
            bag.write("/camera/camera_info", stamp_ns, info)
            pixels = seen(pose(i / 10, moves), texture)
            image = image_message(pixels, "rgb8", header, types(IMAGE_TYPE))
            bag.write("/camera/image_raw", stamp_ns, image)
    return path


def checked(path, capsys):
    status = main(["check", str(path), "--json"])
    return status, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("late_ms", [60, -60])
def test_the_offset_of_shifted_transforms_is_estimated(tmp_path, capsys, late_ms):
    bag = write_swing(tmp_path / "swing", tf_late_s=late_ms * 1e-3)
    status, document = checked(bag, capsys)
    assert status == 0  # the node works, badly
    [fault] = document["faults"]
    assert "images and TF disagree" in fault["problem"]
    assert fault["fix"] == "check extrinsics, time offset, rectification"
    offset_ms = float(fault["problem"].split("shifted by ")[1].split(" ms")[0])
    assert offset_ms == pytest.approx(late_ms, abs=20)


@pytest.mark.parametrize(
    ("bag", "judged"),
    [
        ({}, True),
        ({"textured": False}, False),
        ({"moves": False}, False),
        # What cannot be seen must not be guessed either.
        ({"textured": False, "tf_late_s": 0.06}, False),
        ({"moves": False, "tf_late_s": 0.06}, False),
    ],
)
def test_there_is_no_false_warning(tmp_path, capsys, bag, judged):
    status, document = checked(write_swing(tmp_path / "swing", **bag), capsys)
    assert (status, document["faults"]) == (0, [])
    [camera] = document["cameras"].values()
    assert ("not enough texture or parallax" in camera["images_against_tf"]) != judged


def test_a_person_reads_what_was_found(tmp_path, capsys):
    assert main(["check", str(write_swing(tmp_path / "swing"))]) == 0
    text = capsys.readouterr().out
    assert f"{IMAGES} of {IMAGES} images could be placed" in text
    assert text.endswith("nothing to fix\n")


def test_images_outside_of_tf_are_a_fault(tmp_path, capsys):
    status, document = checked(write_swing(tmp_path / "swing", tf_late_s=60.0), capsys)
    assert status == 1
    assert "none of the images can be used" in document["faults"][0]["problem"]


def test_a_camera_is_not_chosen_in_a_bag(tmp_path, capsys):
    assert main(["check", str(tmp_path), "--camera", "/front"]) == 1
    assert "--camera is for the live graph" in capsys.readouterr().err
