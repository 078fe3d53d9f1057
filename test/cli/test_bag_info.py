"""`gld-ros bag-info --agreement`: images and TF of a bag that belong together, or not."""

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gld_ros.bags.reader import CAMERA_INFO_TYPE, IMAGE_TYPE, TF_TYPE
from gld_ros.bags.writer import BagWriter
from gld_ros.cli.main import main
from gld_ros.messages.camera_info import camera_info_message
from gld_ros.messages.images import image_message
from gld_ros.messages.stamps import make_header
from gld_ros.messages.transforms import transform_message

HW = (120, 160)
K_PX = np.array([[140.0, 0, 79.5], [0, 140.0, 59.5], [0, 0, 1]])


def write_ride(path, mounting_error_deg):
    """A camera that passes a textured wall two metres away; TF turns it by an error."""
    texture = cv2.resize(
        np.random.default_rng(0).integers(0, 255, (60, 200), np.uint8), None, fx=8, fy=8
    )
    error = np.eye(4)
    error[:3, :3] = Rotation.from_euler("z", mounting_error_deg, degrees=True).as_matrix()
    with BagWriter(path) as bag:
        types = bag.types.__getitem__
        bag.add_topic("/tf", TF_TYPE)
        bag.add_topic("/camera/camera_info", CAMERA_INFO_TYPE)
        bag.add_topic("/camera/image_raw", IMAGE_TYPE)
        for i in range(8):
            stamp_ns = 10**18 + i * 10**8
            header = make_header(stamp_ns, "optical", types)
            T = np.eye(4)
            T[0, 3] = 0.1 * i
            transform = transform_message(T @ error, "map", "optical", stamp_ns, types)
            bag.write("/tf", stamp_ns, types(TF_TYPE)(transforms=[transform]))
            bag.write("/camera/camera_info", stamp_ns, camera_info_message(K_PX, HW, header, types))
            shift_px = round(0.1 * i * K_PX[0, 0] / 2.0)
            grey = texture[100 : 100 + HW[0], 100 + shift_px : 100 + shift_px + HW[1]]
            rgb = np.repeat(grey[..., None], 3, axis=2).copy()
            bag.write(
                "/camera/image_raw", stamp_ns, image_message(rgb, "rgb8", header, types(IMAGE_TYPE))
            )


@pytest.mark.parametrize(("error_deg", "disagrees"), [(0.0, False), (25.0, True)])
def test_a_wrong_mounting_shows(tmp_path, capsys, error_deg, disagrees):
    write_ride(tmp_path / "ride", error_deg)
    assert main(["bag-info", str(tmp_path / "ride"), "--agreement"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert "images against TF: median epipolar error" in line
    assert ("images and TF disagree" in line) == disagrees
