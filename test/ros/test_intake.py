"""Images on their way to keyframes while time jumps."""

import threading

import numpy as np
import pytest

from gld_ros.mapping.epochs import EpochMonitor
from gld_ros.mapping.fault_log import FaultLog
from gld_ros.mapping.keyframes import KeyframeGate, KeyframeStore
from gld_ros.mapping.pending import PendingImages
from gld_ros.messages.camera_info import camera_info_message
from gld_ros.messages.images import image_message
from gld_ros.ros.intake import CameraState, Intake
from gld_ros.ros.parameters.snapshot import make_snapshot
from gld_ros.ros.parameters.table import TABLE, per_camera_parameters

S = 10**9
K_PX = np.array([[30.0, 0, 20.5], [0, 30.0, 13.5], [0, 0, 1]])


@pytest.fixture
def parameters():
    rows = (*TABLE, *per_camera_parameters(["camera"]))
    return make_snapshot({row.name: row.default for row in rows})


def test_an_image_placed_while_time_jumps_is_forgotten_with_its_epoch(parameters, family):
    epochs, store = EpochMonitor(), KeyframeStore()
    camera = CameraState("camera", "/camera/image", False)
    intake = Intake(
        {"camera": camera},
        KeyframeGate(),
        store,
        PendingImages(),
        epochs,
        FaultLog(lambda level, text: None),
        lambda jump: intake.flush(),
    )

    def send(stamp_ns):
        pixels = np.full((28, 42, 3), 90, np.uint8)
        kind = family.type("sensor_msgs/msg/Image")
        message = image_message(pixels, "rgb8", family.header("optical", stamp_ns), kind)
        intake.image("camera", message, parameters, stamp_ns, 0)

    info = camera_info_message(K_PX, (28, 42), family.header("optical", S), family.type)
    intake.camera_info("camera", info, parameters)
    send(100 * S)
    jumping = threading.Thread(target=send, args=(50 * S,))

    def pose_of_the_old_epoch(frame_id, stamp_ns):
        jumping.start()
        while epochs.epoch == 0:
            jumping.join(0.001)
        return np.eye(4)

    assert intake.retry(pose_of_the_old_epoch, parameters, 100 * S, 0) == []
    jumping.join()
    assert len(store) == 0
    (keyframe,) = intake.retry(lambda *asked: np.eye(4), parameters, 50 * S, 0)
    assert (keyframe.stamp_ns, keyframe.epoch) == (50 * S, 1)
    assert [k.stamp_ns for k in store.snapshot()] == [50 * S]
