"""`fixed_frame: auto` in a session: what is found, kept, replaced and told."""

import numpy as np
import pytest

from gld_ros.mapping import fixed_frame_search
from gld_ros.mapping.cameras import CameraState
from gld_ros.mapping.fault_log import FaultLog
from gld_ros.mapping.fixed_frame_search import SETTLE_S, FixedFrameSearch
from gld_ros.mapping.model import LoadedModel
from gld_ros.mapping.model_fault import fault_of
from gld_ros.mapping.session import SynthesisSession
from gld_ros.mapping.synthesizer import OracleSynthesizer
from gld_ros.messages.camera_info import camera_info_message
from gld_ros.messages.frame_tree import UnknownFrame
from gld_ros.messages.images import image_message
from gld_ros.messages.transforms import TransformBuffer
from gld_ros.ros.parameters.files import load_snapshot

S = 10**9
K_PX = np.array([[60.0, 0, 39.5], [0, 60.0, 29.5], [0, 0, 1]])
IDENTITY = (0.0, 0.0, 0.0, 1.0)


class Robot:
    """A session of two cameras without a fixed frame that is named, and its TF."""

    def __init__(self, family, *overrides):
        self.family, self.now_ns, self.lines = family, 100 * S, []
        self.tf = TransformBuffer()
        cameras = ("left", "right")
        self.session = SynthesisSession(
            LoadedModel(OracleSynthesizer(None), {}, (28, 42), fault_of),
            {name: CameraState(name, f"/{name}/image", False) for name in cameras},
            load_snapshot(None, overrides, cameras).session,
            self.tf,
            FaultLog(lambda level, text: self.lines.append((level, text))),
            now_ns=lambda: self.now_ns,
            wanted=frozenset,
        )

    def link(self, parent, child, x_m=0.0, static=False):
        self.tf.insert(parent, child, (x_m, 0, 0), IDENTITY, self.now_ns, static=static)

    def see(self, *cameras, seconds=0.5):
        """An image of each camera; returns the keyframes that come of them."""
        header = self.family.header("", self.now_ns)
        for camera in cameras:
            header.frame_id = f"{camera}_optical"
            info = camera_info_message(K_PX, (60, 80), header, self.family.type)
            self.session.camera_info(camera, info)
            pixels = np.full((60, 80, 3), 90, np.uint8)
            kind = self.family.type("sensor_msgs/msg/Image")
            self.session.image(camera, image_message(pixels, "rgb8", header, kind))
        keyframes = self.session.place_images()
        self.now_ns += round(seconds * S)
        return keyframes

    @property
    def fixed(self):
        return self.session.parameters.frames.fixed

    def told(self, level):
        return [text for at, text in self.lines if at == level]


@pytest.fixture
def robot(family):
    return Robot(family)


def test_odometry_is_found_and_kept_whatever_comes_later(robot):
    robot.link("odom", "left_optical")
    assert len(robot.see("left")) == 1
    assert robot.fixed == "odom"
    assert "fixed_frame auto: 'odom'" in robot.told("info")
    robot.link("map", "odom")
    robot.link("odom", "left_optical", 1.0)
    assert len(robot.see("left")) == 1
    robot.session.set_parameters(load_snapshot(None, [], ("left", "right")).session)
    assert robot.fixed == "odom"
    robot.session.reset()
    assert robot.fixed == "auto"


def test_a_desk_camera_stands_in_the_frame_of_its_driver_until_odometry_starts(robot):
    robot.link("camera_link", "left_optical", static=True)
    (keyframe,) = robot.see("left")
    np.testing.assert_array_equal(keyframe.T_fixed_cam, np.eye(4))
    assert robot.fixed == "camera_link"
    warning = robot.told("warning")[0]
    assert "nothing says how they move; views need images from two places at least" in warning
    assert "or use mode depth" in warning
    robot.link("odom", "camera_link", 5.0)
    robot.see("left")
    assert robot.fixed == "odom"
    assert len(robot.session.store.snapshot()) == 0  # their poses were in another frame
    robot.link("odom", "camera_link", 5.0)
    assert len(robot.see("left")) == 1


@pytest.mark.parametrize(
    ("links", "says"),
    [
        ([], "no fixed frame: there is no TF; start odometry or SLAM, or use mode depth"),
        ([("odom", "base")], "TF does not have the frame of the images, 'left_optical'"),
        ([("a", "left_optical"), ("b", "right_optical")], "below several roots, a, b"),
    ],
)
def test_why_nothing_can_be_placed_is_an_error_on_the_console(robot, links, says):
    for link in links:
        robot.link(*link)
    robot.see("left", "right", seconds=1.0)
    robot.see(seconds=1.0)
    (error,) = robot.told("error")
    assert says in error
    assert error.endswith("the image is dropped")
    assert says in robot.session.missing_fixed_frame()
    with pytest.raises(UnknownFrame, match="no fixed frame"):
        robot.session.lookup_fixed("base")


def test_a_misspelt_frame_is_an_error_on_the_console_with_the_frames(family):
    robot = Robot(family, "fixed_frame=odmo")
    robot.link("odom", "left_optical")
    robot.see("left", seconds=1.0)
    robot.see(seconds=1.0)
    says = "TF has no fixed_frame 'odmo'; its frames are: left_optical, odom; the image is dropped"
    assert robot.told("error") == [says]


def test_a_live_root_is_taken_once_it_has_been_the_only_one_for_a_while(monkeypatch):
    now_s = [50.0]
    monkeypatch.setattr(fixed_frame_search.time, "monotonic", lambda: now_s[0])
    buffer, given = TransformBuffer(), load_snapshot().session
    search = FixedFrameSearch(buffer, FaultLog(lambda level, text: None), poses_needed=True)

    def found():
        search.look(given, {"camera": "optical"}, live=True)
        return search.applied(given).frames.fixed

    buffer.insert("base", "optical", (0, 0, 0), IDENTITY, S)
    assert found() == "auto"
    now_s[0] += 0.9 * SETTLE_S
    buffer.insert("map", "base", (0, 0, 0), IDENTITY, S)
    assert found() == "auto"
    now_s[0] += 0.9 * SETTLE_S
    assert found() == "auto"
    now_s[0] += 0.2 * SETTLE_S
    assert found() == "map"
    buffer.insert("earth", "map", (0, 0, 0), IDENTITY, S)
    now_s[0] += 2 * SETTLE_S
    assert found() == "map"
