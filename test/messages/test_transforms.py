"""The rules of TF lookups, on our buffer and on the distribution's where there is one."""

import math
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gld_ros.messages.frame_tree import (
    RESTART_AFTER,
    DisconnectedFrames,
    FutureTransform,
    InvalidTransform,
    LateTransform,
    PastTransform,
    TransformUnavailable,
    UnknownFrame,
)
from gld_ros.messages.transforms import TransformBuffer, insert_message, transform_message

S = 10**9
T0 = 1_700_000_000 * S  # nanoseconds of today do not fit a float
IDENTITY = (0.0, 0.0, 0.0, 1.0)


def yaw(angle):
    return (0.0, 0.0, math.sin(angle / 2), math.cos(angle / 2))


@pytest.fixture(params=["own", pytest.param("tf2", marks=pytest.mark.ros)])
def buffer(request):
    if request.param == "own":
        yield TransformBuffer(cache_time_s=10.0)
        return
    pytest.importorskip("tf2_ros", reason="only a ROS distribution has tf2_ros")
    from gld_ros.ros.tf_buffer import Tf2Buffer

    yield Tf2Buffer(10.0)


def test_position_is_linear_and_rotation_spherical(buffer):
    buffer.insert("odom", "base", (0, 0, 0), yaw(0), T0)
    buffer.insert("odom", "base", (1, 2, 4), yaw(math.pi / 2), T0 + S)
    T = buffer.lookup("odom", "base", T0 + S // 4)
    np.testing.assert_allclose(T[:3, 3], [0.25, 0.5, 1.0], atol=1e-12)
    angle = math.atan2(T[1, 0], T[0, 0])
    assert angle == pytest.approx(math.pi / 8, abs=1e-9)


def test_rotation_takes_the_shorter_arc_whatever_the_sign(buffer):
    buffer.insert("odom", "base", (0, 0, 0), yaw(0.2), T0)
    buffer.insert("odom", "base", (0, 0, 0), tuple(-q for q in yaw(0.6)), T0 + S)
    T = buffer.lookup("odom", "base", T0 + S // 2)
    assert math.atan2(T[1, 0], T[0, 0]) == pytest.approx(0.4, abs=1e-9)


def test_equal_and_tiny_rotations(buffer):
    buffer.insert("odom", "base", (0, 0, 0), yaw(0.3), T0)
    buffer.insert("odom", "base", (1, 0, 0), yaw(0.3 + 1e-9), T0 + S)
    T = buffer.lookup("odom", "base", T0 + S // 2)
    assert math.atan2(T[1, 0], T[0, 0]) == pytest.approx(0.3, abs=1e-8)


def test_one_nanosecond_is_resolved(buffer):
    buffer.insert("odom", "base", (0, 0, 0), IDENTITY, T0)
    buffer.insert("odom", "base", (4, 0, 0), IDENTITY, T0 + 4)
    assert buffer.lookup("odom", "base", T0 + 3)[0, 3] == pytest.approx(3.0)


def test_chain_through_a_common_ancestor(buffer):
    buffer.insert("odom", "base", (1, 0, 0), yaw(math.pi / 2), T0)
    buffer.insert("base", "camera", (0, 1, 0), IDENTITY, 0, static=True)
    buffer.insert("base", "laser", (0, 0, 2), yaw(math.pi / 2), 0, static=True)
    T = buffer.lookup("odom", "camera", T0)
    np.testing.assert_allclose(T[:3, 3], [0, 0, 0], atol=1e-12)  # 1 + R(90°) (0 1) = 1 - 1
    T_laser_camera = buffer.lookup("laser", "camera", T0)
    # From the laser, which looks along +y of the base: 2 below, 1 ahead.
    np.testing.assert_allclose(T_laser_camera[:3, 3], [1, 0, -2], atol=1e-12)
    np.testing.assert_allclose(
        T_laser_camera @ buffer.lookup("camera", "laser", T0), np.eye(4), atol=1e-12
    )


def test_same_frame_is_identity(buffer):
    buffer.insert("odom", "base", (1, 0, 0), IDENTITY, T0)
    np.testing.assert_array_equal(buffer.lookup("base", "base", T0), np.eye(4))


def test_only_static_edges_hold_at_any_time(buffer):
    buffer.insert("base", "camera", (1, 0, 0), IDENTITY, 0, static=True)
    assert buffer.lookup("base", "camera", T0)[0, 3] == 1.0
    assert buffer.lookup("base", "camera")[0, 3] == 1.0


@pytest.mark.parametrize(("offset_ns", "error"), [(-1, PastTransform), (S + 1, FutureTransform)])
def test_no_extrapolation_by_even_a_nanosecond(buffer, offset_ns, error):
    buffer.insert("odom", "base", (0, 0, 0), IDENTITY, T0)
    buffer.insert("odom", "base", (1, 0, 0), IDENTITY, T0 + S)
    with pytest.raises(error):
        buffer.lookup("odom", "base", T0 + offset_ns)
    buffer.lookup("odom", "base", T0)
    buffer.lookup("odom", "base", T0 + S)


def test_single_sample_answers_for_its_own_time_only(buffer):
    buffer.insert("odom", "base", (1, 0, 0), IDENTITY, T0)
    assert buffer.lookup("odom", "base", T0)[0, 3] == 1.0
    with pytest.raises(FutureTransform):
        buffer.lookup("odom", "base", T0 + 1)
    with pytest.raises(PastTransform):
        buffer.lookup("odom", "base", T0 - 1)


def test_time_zero_is_a_time_and_not_the_latest(buffer):
    buffer.insert("odom", "base", (1, 0, 0), IDENTITY, T0)
    with pytest.raises(PastTransform):
        buffer.lookup("odom", "base", 0)


def test_unknown_and_disconnected_frames(buffer):
    with pytest.raises(UnknownFrame):
        buffer.lookup("odom", "base", T0)
    buffer.insert("odom", "base", (0, 0, 0), IDENTITY, T0)
    buffer.insert("world", "drone", (0, 0, 0), IDENTITY, T0)
    with pytest.raises(UnknownFrame, match="arm"):
        buffer.lookup("odom", "arm", T0)
    with pytest.raises(DisconnectedFrames):
        buffer.lookup("odom", "drone", T0)


def test_reasons_are_the_names_of_the_diagnostics():
    reasons = [e.reason for e in (FutureTransform, PastTransform, DisconnectedFrames, UnknownFrame)]
    assert reasons == ["future", "past", "disconnected", "unknown_frame"]


@given(
    st.lists(st.tuples(st.floats(-9, 9), st.floats(-3, 3)), min_size=2, max_size=9),
    st.integers(0, 8 * S),
)
def test_poses_agree_with_each_other_at_every_time(drive, offset_ns):
    buffer = TransformBuffer(cache_time_s=10.0)
    for half, (x, angle) in enumerate(drive):
        buffer.insert("map", "odom", (0, x, 0), yaw(-angle / 2), T0 + half * S // 2)
        buffer.insert("odom", "base", (x, 0, 0), yaw(angle), T0 + half * S // 2)
    buffer.insert("base", "camera", (0, 0, 1), yaw(1.0), 0, static=True)
    when_ns = T0 + min(offset_ns, (len(drive) - 1) * S // 2)
    T = {
        (a, b): buffer.lookup(a, b, when_ns)
        for a in ("map", "odom", "camera")
        for b in ("map", "odom", "camera")
    }
    for a, b in T:
        np.testing.assert_allclose(T[a, b] @ T[b, a], np.eye(4), atol=1e-12)
        np.testing.assert_allclose(T[a, "odom"] @ T["odom", b], T[a, b], atol=1e-11)


def test_samples_may_come_in_any_order(buffer):
    for second in (3, 0, 2, 1, 4):
        buffer.insert("odom", "base", (second, 0, 0), IDENTITY, T0 + second * S)
    for half in range(9):
        T = buffer.lookup("odom", "base", T0 + half * S // 2)
        assert T[0, 3] == pytest.approx(half / 2)


def test_latest_common_time(buffer):
    for second in (0, 1, 2):
        buffer.insert("odom", "base", (second, 0, 0), IDENTITY, T0 + second * S)
    for second in (0, 1):
        buffer.insert("base", "head", (0, second, 0), IDENTITY, T0 + second * S)
    np.testing.assert_allclose(buffer.lookup("odom", "head")[:3, 3], [1, 1, 0])


def test_old_samples_are_forgotten(buffer):
    for tenth in range(300):
        buffer.insert("odom", "base", (tenth, 0, 0), IDENTITY, T0 + tenth * S // 10)
    with pytest.raises(PastTransform):
        buffer.lookup("odom", "base", T0 + S)
    assert buffer.lookup("odom", "base", T0 + 25 * S)[0, 3] == pytest.approx(250)


def test_clear_keeps_static_transforms_only(buffer):
    buffer.insert("odom", "base", (1, 0, 0), IDENTITY, T0)
    buffer.insert("base", "camera", (0, 1, 0), IDENTITY, 0, static=True)
    buffer.clear()
    assert buffer.lookup("base", "camera", T0)[1, 3] == 1.0
    with pytest.raises(TransformUnavailable):
        buffer.lookup("odom", "base", T0)
    buffer.insert("odom", "base", (5, 0, 0), IDENTITY, T0 - 100 * S)  # time went back
    assert buffer.lookup("odom", "base", T0 - 100 * S)[0, 3] == 5.0


@pytest.mark.parametrize(
    ("parent", "child", "translation", "rotation"),
    [
        ("odom", "base", (math.nan, 0, 0), IDENTITY),
        ("odom", "base", (0, math.inf, 0), IDENTITY),
        ("odom", "base", (0, 0, 0), (0, 0, 0, math.nan)),
        ("odom", "base", (0, 0, 0), (0, 0, 0, 0)),
        ("odom", "base", (0, 0, 0), (0, 0, 0, 1.1)),
        ("", "base", (0, 0, 0), IDENTITY),
        ("odom", "", (0, 0, 0), IDENTITY),
        ("odom", "odom", (0, 0, 0), IDENTITY),
    ],
)
def test_impossible_transforms_are_refused_and_change_nothing(
    buffer, parent, child, translation, rotation
):
    buffer.insert("odom", "base", (7, 0, 0), IDENTITY, T0)
    with pytest.raises(InvalidTransform):
        buffer.insert(parent, child, translation, rotation, T0)
    assert buffer.lookup("odom", "base", T0)[0, 3] == 7.0


def test_nearly_normalised_rotations_are_normalised(buffer):
    buffer.insert("odom", "base", (0, 0, 0), (0, 0, 0, 1.002), T0)
    np.testing.assert_allclose(buffer.lookup("odom", "base", T0), np.eye(4), atol=1e-12)


def test_leading_slashes_do_not_matter(buffer):
    buffer.insert("/odom", "/base", (1, 0, 0), IDENTITY, T0)
    assert buffer.lookup("odom", "base", T0)[0, 3] == 1.0


def test_the_first_of_equal_stamps_stays(buffer):
    for x in (1, 2, 3):
        buffer.insert("odom", "base", (x, 0, 0), IDENTITY, T0)
    assert buffer.lookup("odom", "base", T0)[0, 3] == 1.0


def test_the_newest_static_transform_counts(buffer):
    for x in (1, 2):
        buffer.insert("base", "camera", (x, 0, 0), IDENTITY, 0, static=True)
    assert buffer.lookup("base", "camera", T0)[0, 3] == 2.0


@pytest.mark.parametrize("stamp_ns", [-1, 2**31 * S])
def test_stamps_that_are_no_time_are_refused(buffer, stamp_ns):
    with pytest.raises(InvalidTransform, match="not a time"):
        buffer.insert("odom", "base", (1, 0, 0), IDENTITY, stamp_ns)


def test_loops_of_frames_are_refused(buffer):
    buffer.insert("a", "b", (0, 0, 0), IDENTITY, T0)
    buffer.insert("b", "c", (0, 0, 0), IDENTITY, T0)
    with pytest.raises(InvalidTransform, match="loop"):
        buffer.insert("c", "a", (0, 0, 0), IDENTITY, T0)


def test_each_time_keeps_the_parent_it_had(buffer):
    for tenth in range(3):
        buffer.insert("odom", "base", (1, 0, 0), IDENTITY, T0 + tenth * S // 10)
    for tenth in range(3, 6):
        buffer.insert("map", "base", (2, 0, 0), IDENTITY, T0 + tenth * S // 10)
    assert buffer.lookup("odom", "base", T0 + S // 5)[0, 3] == 1.0
    assert buffer.lookup("map", "base", T0 + S // 2)[0, 3] == 2.0
    with pytest.raises(TransformUnavailable):
        buffer.lookup("odom", "base", T0 + S // 2)
    with pytest.raises(TransformUnavailable):
        buffer.lookup("map", "base", T0)


def test_between_two_parents_there_is_no_pose(buffer):
    buffer.insert("odom", "base", (1, 0, 0), IDENTITY, T0)
    buffer.insert("map", "base", (2, 0, 0), IDENTITY, T0 + S // 10)
    with pytest.raises(PastTransform, match="base moves from odom to map"):
        buffer.lookup("map", "base", T0 + S // 20)


def test_no_pose_is_made_of_samples_too_far_apart(buffer):
    buffer.insert("odom", "base", (0, 0, 0), IDENTITY, T0)
    buffer.insert("odom", "base", (1, 0, 0), IDENTITY, T0 + S)
    buffer.insert("odom", "base", (2, 0, 0), IDENTITY, T0 + 2 * S + 1)
    buffer.lookup("odom", "base", T0 + S // 2)
    with pytest.raises(FutureTransform, match=r"odom <- base has no sample within 1\.000 s"):
        buffer.lookup("odom", "base", T0 + 3 * S // 2)


@pytest.mark.parametrize("ahead_s", [5, 3600, 365 * 86400])
def test_one_sample_far_ahead_does_no_lasting_harm(ahead_s):
    buffer = TransformBuffer(cache_time_s=30.0)
    rejected = []
    for tenth in range(100):
        stamp_ns = T0 + tenth * S // 10
        try:
            buffer.insert("odom", "base", (tenth, 0, 0), IDENTITY, stamp_ns)
        except LateTransform as error:
            rejected.append(str(error))
        if tenth == 50:
            buffer.insert("odom", "base", (-99, 0, 0), IDENTITY, stamp_ns + ahead_s * S)
        if tenth in (49, 70, 99):
            assert buffer.lookup("odom", "base", stamp_ns - S // 20)[0, 3] == tenth - 0.5
        with pytest.raises(TransformUnavailable):  # never the last good pose, nor one in between
            buffer.lookup("odom", "base", stamp_ns + S // 20)
    assert buffer.tree.backward["odom <- base"] >= 2
    assert len(rejected) == (0 if ahead_s < 30 else RESTART_AFTER - 1)
    assert all("odom <- base" in text for text in rejected)


def test_single_late_samples_change_nothing(buffer):
    for tenth in range(100):
        buffer.insert("odom", "base", (tenth, 0, 0), IDENTITY, T0 + tenth * S // 10)
        if tenth % 10 == 9:
            with pytest.raises(LateTransform, match="odom <- base"):
                buffer.insert("odom", "base", (-1, 0, 0), IDENTITY, T0 - 60 * S)
    assert buffer.lookup("odom", "base", T0 + 5 * S)[0, 3] == 50.0


def test_roots_are_frames_without_a_parent():
    buffer = TransformBuffer()
    buffer.insert("odom", "base", (0, 0, 0), IDENTITY, T0)
    buffer.insert("base", "camera", (0, 0, 0), IDENTITY, 0, static=True)
    buffer.insert("world", "drone", (0, 0, 0), IDENTITY, T0)
    assert buffer.tree.roots() == ["odom", "world"]
    assert buffer.tree.root_of("/camera") == "odom"
    assert buffer.tree.has_frame("drone")
    assert not buffer.tree.has_frame("arm")
    with pytest.raises(UnknownFrame, match="arm"):
        buffer.tree.root_of("arm")


def test_memory_stays_bounded():
    buffer = TransformBuffer(cache_time_s=10.0)
    tracemalloc.start()
    for sample in range(20_000):
        buffer.insert("odom", "base", (0, 0, 0), IDENTITY, T0 + sample * S // 100)
    held_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held_bytes < 1_000_000  # 1000 samples within the cache, of some 300 bytes


@pytest.mark.parametrize("cache_time_s", [0, -1, math.nan])
def test_cache_time_must_be_positive(cache_time_s):
    with pytest.raises(ValueError, match="cache_time_s"):
        TransformBuffer(cache_time_s)


def test_reading_and_writing_from_several_threads():
    buffer = TransformBuffer(cache_time_s=1.0)
    buffer.insert("odom", "base", (0, 0, 0), IDENTITY, T0)
    failures = []

    def read():
        for _ in range(2000):
            try:
                T = buffer.lookup("odom", "base")
                assert T[0, 3] == T[1, 3]  # never half of one sample and half of another
            except TransformUnavailable as error:
                failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for sample in range(5000):
        buffer.insert("odom", "base", (sample, sample, 0), IDENTITY, T0 + sample * S // 100)
    for reader in readers:
        reader.join()
    assert not failures


def test_messages_are_inserted_and_refusals_returned(family):
    buffer = TransformBuffer()
    message = family.tf_message(("odom", "base", 3, T0, 1), ("base", "arm", 0, T0, 0))
    refused = insert_message(buffer, message, static=False)
    assert buffer.lookup("odom", "base", T0)[0, 3] == 3.0
    assert len(refused) == 1
    assert "arm" in str(refused[0])


def test_a_transform_from_far_ahead_hides_nothing(family):
    buffer = TransformBuffer()
    T = np.eye(4)

    def tell(stamp_ns, **options):
        moved = transform_message(T, "odom", "base", stamp_ns, family.type)
        message = family.type("tf2_msgs/msg/TFMessage")(transforms=[moved])
        return insert_message(buffer, message, static=False, **options)

    assert tell(10 * S, newest_ns=15 * S) == []
    [error] = tell(3600 * S, newest_ns=15 * S)
    assert str(error).startswith("odom <- base: from the future")
    assert tell(11 * S, newest_ns=16 * S) == []
    np.testing.assert_allclose(buffer.lookup("odom", "base", 11 * S), T)
