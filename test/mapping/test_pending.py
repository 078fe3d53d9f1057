import numpy as np
import pytest

from gld_ros.mapping.pending import PendingImages, TfFailure, WaitingImage

S = 1_000_000_000


class RecordedTf:
    """TF of one moving frame, known within an interval of stamps."""

    def __init__(self):
        self.first_ns, self.last_ns = 10 * S, 10 * S
        self.calls = 0

    def __call__(self, frame_id, stamp_ns):
        self.calls += 1
        if frame_id != "cam":
            return TfFailure.UNKNOWN_FRAME
        if stamp_ns < self.first_ns:
            return TfFailure.PAST
        if stamp_ns > self.last_ns:
            return TfFailure.FUTURE
        pose = np.eye(4)
        pose[0, 3] = stamp_ns / S
        return pose


def image(stamp_s, *, camera="front", frame_id="cam", arrived_s=10.0):
    arrived = round(arrived_s * S)
    return WaitingImage(camera, frame_id, round(stamp_s * S), arrived, arrived, f"{stamp_s}")


def retry(pending, tf, now_s, timeout_s=0.5):
    return pending.retry(tf, round(now_s * S), round(now_s * S), timeout_s)


def test_an_image_waits_for_its_own_stamp_and_never_gets_another_pose():
    pending, tf = PendingImages(), RecordedTf()
    pending.add(image(10.2), 30)
    assert retry(pending, tf, 10.1).placed == ()
    tf.last_ns = round(10.3 * S)
    (placed,) = retry(pending, tf, 10.3).placed
    assert placed.T_fixed_cam[0, 3] == pytest.approx(10.2)
    assert placed.wait_s == pytest.approx(0.3)
    assert pending.mean_wait_s == pytest.approx(0.3)
    assert len(pending) == 0


@pytest.mark.parametrize(
    ("waiting", "reason"),
    [
        (image(11.0), TfFailure.FUTURE),
        (image(9.0), TfFailure.PAST),
        (image(10.0, frame_id="elsewhere"), TfFailure.UNKNOWN_FRAME),
    ],
)
def test_images_are_given_up_after_the_timeout_by_reason(waiting, reason):
    pending, tf = PendingImages(), RecordedTf()
    pending.add(waiting, 30)
    assert retry(pending, tf, 10.4).dropped == ()
    (dropped,) = retry(pending, tf, 10.5).dropped
    assert dropped.reason is reason
    assert pending.dropped[reason] == 1
    assert sum(pending.dropped.values()) == 1


def test_a_frozen_ros_clock_pauses_the_timeout():
    pending, tf = PendingImages(), RecordedTf()
    pending.add(image(11.0), 30)
    for steady in range(100):
        assert pending.retry(tf, 10 * S, (10 + steady) * S, 0.5).dropped == ()


def test_the_oldest_image_leaves_a_full_list():
    pending = PendingImages()
    for i in range(3):
        assert pending.add(image(20 + i), 3) is None
    dropped = pending.add(image(30), 3)
    assert (dropped.waiting.payload, dropped.reason) == ("20", TfFailure.OVERFLOW)
    assert pending.add(image(20, camera="rear"), 3) is None  # limits are per camera


@pytest.mark.parametrize("broken", ["nan", "scaled"])
def test_poses_that_are_not_rigid_are_dropped_at_once(broken):
    pose = np.eye(4) * (np.nan if broken == "nan" else 2.0)
    pending = PendingImages()
    pending.add(image(10.0), 30)
    (dropped,) = pending.retry(lambda *_: pose, 10 * S, 10 * S, 0.5).dropped
    assert dropped.reason is TfFailure.NOT_RIGID


def test_images_of_all_cameras_come_out_in_order_of_stamps():
    pending, tf = PendingImages(), RecordedTf()
    tf.last_ns = 20 * S
    for stamp, camera in [(12.0, "b"), (11.0, "a"), (12.0, "a"), (10.5, "b")]:
        pending.add(image(stamp, camera=camera), 30)
    order = [(p.waiting.stamp_ns / S, p.waiting.camera) for p in retry(pending, tf, 20.0).placed]
    assert order == [(10.5, "b"), (11.0, "a"), (12.0, "a"), (12.0, "b")]


def test_late_tf_is_asked_once_per_frame_and_pass():
    pending, tf = PendingImages(), RecordedTf()
    for i in range(20):
        pending.add(image(11 + i), 30)
    retry(pending, tf, 10.1)
    assert tf.calls == 1


def test_flush_forgets_one_camera_or_all():
    pending = PendingImages()
    for camera in ("a", "a", "b"):
        pending.add(image(50, camera=camera), 30)
    assert pending.flush("a") == 2
    assert pending.flush() == 1
    assert len(pending) == 0
