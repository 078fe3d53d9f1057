"""Each row of the fault table, injected over real topics.

Checked are its counter, its diagnostics level, its log lines, and that the next good input works.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from gld_ros.mapping.jobs import CancelReason

pytestmark = pytest.mark.ros

OK, WARN, ERROR = 0, 1, 2
INPUT, TF, KEYFRAMES, SCALE = "gld: input camera", "gld: tf", "gld: keyframes", "gld: scale"
INFERENCE, GPU = "gld: inference", "gld: gpu"


def three_frames(**options):
    """Send three frames from different places, all with the same fault."""

    def inject(rig):
        for x_m in (0.0, 0.06, 0.12):
            rig.send_frame(x_m, **options)

    return inject


def change(**fields):
    """Return an edit of a message that sets its fields."""

    def edit(message):
        for name, value in fields.items():
            setattr(message, name, value)

    return edit


def without_stamp(message):
    message.header.stamp.sec = message.header.stamp.nanosec = 0


def without_frame(message):
    message.header.frame_id = ""


def truncated(message):
    message.data = message.data[: len(message.data) // 2]


def double_size(rig_hw=(84, 112)):
    return {
        "hw": (2 * rig_hw[0], 2 * rig_hw[1]),
        "K_px": np.array([[160.0, 0, 111.5], [0, 160.0, 83.5], [0, 0, 1]]),
    }


@dataclass
class ImageFault:
    """A row about one image or its CameraInfo."""

    name: str
    inject: Callable
    cause: str  # of the drop
    count: int
    level: int
    log: str  # cause of the line
    parameters: dict = field(default_factory=dict)


IMAGE_FAULTS = [
    ImageFault(
        "unsupported encoding",
        three_frames(edit=change(encoding="weird8")),
        "encoding",
        3,
        ERROR,
        "camera: encoding",
    ),
    ImageFault(
        "step x height is not the length",
        three_frames(edit=change(step=5)),
        "size",
        3,
        WARN,
        "camera: malformed",
    ),
    ImageFault(
        "zero size",
        three_frames(edit=change(width=0, height=0)),
        "size",
        3,
        WARN,
        "camera: malformed",
    ),
    ImageFault(
        "corrupt JPEG",
        three_frames(edit=truncated),
        "decode",
        3,
        WARN,
        "camera: malformed",
        {"image_transport": "compressed"},
    ),
    ImageFault(
        "stamp zero",
        three_frames(edit=without_stamp),
        "stamp_zero",
        3,
        ERROR,
        "camera: stamp zero",
    ),
    ImageFault(
        "empty frame_id",
        three_frames(edit=without_frame),
        "frame_id",
        3,
        ERROR,
        "camera: frame_id",
    ),
    ImageFault(
        "focal length not positive",
        three_frames(info={"k": [-80.0, 0.0, 55.5, 0.0, 80.0, 41.5, 0.0, 0.0, 1.0]}),
        "info",
        3,
        ERROR,
        "camera: info bad_focal_length",
    ),
    ImageFault(
        "intrinsics NaN",
        three_frames(info={"k": [float("nan")] * 9}),
        "info",
        3,
        ERROR,
        "camera: info not_finite",
    ),
    ImageFault(
        "uncalibrated",
        three_frames(info={"k": [0.0] * 9}),
        "info",
        3,
        ERROR,
        "camera: info uncalibrated",
    ),
    ImageFault(
        "info size is no whole multiple",
        three_frames(info={"hw": (80, 100)}),
        "info",
        3,
        ERROR,
        "camera: info size_mismatch",
    ),
    ImageFault(
        "unknown distortion",
        three_frames(info={"distortion_model": "fancy", "d": [0.1] * 5}),
        "info",
        3,
        ERROR,
        "camera: info unknown_distortion",
    ),
]


@pytest.mark.parametrize("fault", IMAGE_FAULTS, ids=lambda f: f.name)
def test_bad_image_is_dropped_counted_and_said_once(make_rig, plain_oracle, fault):
    rig = make_rig(plain_oracle, fault.parameters)
    rig.watch()
    rig.activate()
    dropped = rig.node.session.cameras["camera"].dropped
    fault.inject(rig)
    rig.graph.wait_for(lambda: dropped[fault.cause] == fault.count, f"{fault.count} drops")
    rig.wait_level(INPUT, fault.level)
    rig.wait_said_once(fault.log)
    assert len(rig.node.session.store) == 0
    rig.drive((1.0,))
    rig.wait_level(INPUT, OK)
    assert sum(dropped.values()) == fault.count


def test_sixteen_bit_colours_are_reduced_and_said_once(make_rig, plain_oracle):
    rig = make_rig(plain_oracle)
    rig.watch()
    rig.activate()
    deep = np.full((*rig.HW, 3), 100 << 8 | 7, np.uint16)

    def sixteen_bit(message):
        message.encoding, message.step = "rgb16", rig.HW[1] * 6
        message.is_bigendian = 0
        message.data = deep.tobytes()

    store = rig.node.session.store
    three_frames(edit=sixteen_bit)(rig)
    rig.graph.wait_for(lambda: len(store) == 3, "keyframes")
    assert int(store.snapshot()[0].image.max()) == 100
    rig.wait_said_once("camera: 16 bit")
    rig.wait_level(INPUT, OK)


def test_image_older_than_the_previous_is_dropped(make_rig, plain_oracle):
    rig = make_rig(plain_oracle)
    rig.watch()
    rig.activate()
    rig.drive((0.0,))
    stamp_ns = rig.stamps[-1]

    def earlier(message):
        from gld_ros.messages.stamps import ns_to_stamp

        message.header.stamp = ns_to_stamp(stamp_ns - 1_000_000)

    dropped = rig.node.session.cameras["camera"].dropped
    three_frames(edit=earlier)(rig)
    rig.graph.wait_for(lambda: dropped["stamp"] == 3, "3 drops")
    rig.wait_level(INPUT, WARN)
    rig.wait_said_once("camera: stamp backward")
    rig.drive((1.0,))
    assert rig.node.session.epoch == 0


def test_all_cameras_far_back_in_time_is_a_jump(make_rig, plain_oracle):
    from gld_ros.messages.stamps import ns_to_stamp

    rig = make_rig(plain_oracle)
    rig.activate()
    rig.drive()
    past = ns_to_stamp(rig.stamps[0] - 5 * 10**9)
    rig.send_frame(0.6, edit=lambda m: setattr(m.header, "stamp", past))
    later = ns_to_stamp(rig.stamps[0] - 4 * 10**9)
    rig.send_frame(0.8, edit=lambda m: setattr(m.header, "stamp", later))
    store = rig.node.session.store
    rig.graph.wait_for(lambda: rig.node.session.epoch == 1 and len(store) == 0, "an empty epoch")


def test_image_from_the_future_is_dropped_and_later_ones_are_not(make_rig, plain_oracle):
    from gld_ros.messages.stamps import ns_to_stamp

    rig = make_rig(plain_oracle, {"tf.timeout": 0.3})
    rig.watch()
    rig.activate()
    rig.drive((0.0,))
    future = ns_to_stamp(rig.now_ns() + 60 * 10**9)
    rig.send_frame(0.2, edit=lambda m: setattr(m.header, "stamp", future))
    rig.wait_level(INPUT, WARN)
    rig.wait_said_once("camera: stamp future")
    assert rig.node.session.cameras["camera"].dropped["stamp_future"] == 1
    rig.drive((1.0,))
    assert rig.node.session.epoch == 0
    assert len(rig.node.session.store) == 2


def test_image_without_camera_info_is_held(make_rig, plain_oracle):
    rig = make_rig(plain_oracle)
    rig.watch()
    rig.activate()
    three_frames(info=False)(rig)
    camera = rig.node.session.cameras["camera"]
    rig.graph.wait_for(lambda: camera.dropped["no_info"] == 2, "the newest is held")
    rig.wait_level(INPUT, WARN)
    rig.wait_said_once("camera: no CameraInfo")
    rig.send_info()
    rig.graph.wait_for(lambda: len(rig.node.session.store) == 1, "the held image")
    rig.drive((1.0,))


def test_silent_camera_is_named(make_rig, plain_oracle):
    rig = make_rig(plain_oracle)
    rig.watch()
    rig.activate()
    rig.wait_level(INPUT, WARN, says="no image on /camera/image")
    rig.wait_said_once("camera: no image")
    rig.drive((0.0,))
    rig.wait_level(INPUT, OK)


def test_incompatible_qos_is_counted(make_rig, plain_oracle):
    from rclpy.qos import QoSProfile, ReliabilityPolicy

    rig = make_rig(
        plain_oracle, {"qos_overrides./camera/image.subscription.reliability": "reliable"}
    )
    rig.activate()
    rig.peer.create_publisher(
        type(rig.image(np.zeros((2, 2, 3), np.uint8), 1)),
        "/camera/image",
        QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT),
    )
    camera = rig.node.session.cameras["camera"]
    rig.graph.wait_for(lambda: camera.qos_incompatible == 1, "the event")
    rig.wait_said_once("camera: qos")
    rig.drive((0.0,))  # a reliable publisher is heard


def test_info_of_a_whole_multiple_is_scaled(make_rig, plain_oracle):
    rig = make_rig(plain_oracle)
    rig.watch()
    rig.activate()
    three_frames(info=double_size())(rig)
    rig.graph.wait_for(lambda: len(rig.node.session.store) == 3, "keyframes")
    np.testing.assert_allclose(rig.node.session.store.snapshot()[0].K_px, rig.K_px)
    rig.wait_level(INPUT, WARN, says="is scaled")
    rig.drive((1.0,))
    rig.wait_level(INPUT, OK)


def test_changed_intrinsics_forget_the_cameras_keyframes(make_rig, plain_oracle):
    rig = make_rig(plain_oracle, camera_names=("camera", "other"))
    rig.watch()
    rig.activate()
    rig.drive((0.0, 0.2))
    rig.drive((0.4,), camera="other")
    K_px = rig.K_px * [[1.1], [1.1], [1.0]]
    rig.send_frame(0.6, info={"K_px": K_px})
    rig.wait_level(INPUT, WARN)
    rig.wait_said_once("camera: intrinsics changed")
    store = rig.node.session.store
    rig.graph.wait_for(lambda: len(store) == 2, "the new keyframe")
    assert {k.camera for k in store.snapshot()} == {"camera", "other"}


def test_changed_image_size_forgets_the_cameras_keyframes(make_rig, plain_oracle):
    rig = make_rig(plain_oracle)
    rig.activate()
    rig.drive()
    rgb = np.full((168, 224, 3), 100, np.uint8)
    rig.send_frame(0.6, rgb=rgb, info=double_size())
    store = rig.node.session.store
    rig.graph.wait_for(lambda: [k.image_hw for k in store.snapshot()] == [(168, 224)], "one")
    rig.wait_said_once("camera: size changed")


@pytest.mark.parametrize("reason", ["future", "past", "disconnected", "unknown"])
def test_image_that_tf_cannot_place_is_dropped_by_reason(make_rig, plain_oracle, reason):
    rig = make_rig(plain_oracle, {"tf.timeout": 0.2, "fixed_frame": "odom"})
    rig.watch()
    rig.activate()
    now_ns, T = rig.now_ns(), rig.T_fixed_cam(0.0)
    if reason == "future":
        rig.send_tf(T, now_ns - 10**9)
    elif reason == "past":
        rig.send_tf(T, now_ns + 4 * 10**9)
    elif reason == "disconnected":
        rig.send_tf(T, now_ns, parent="odom", child="base_link")
        rig.send_tf(T, now_ns, parent="world", child="camera_optical")
    else:
        rig.send_tf(T, now_ns, parent="odom", child="base_link")
    for i in range(2):
        rig.send_frame(0.0, tf=False, stamp_ns=now_ns + i)

    def dropped():
        return {r.value: n for r, n in rig.node.session.pending.dropped.items() if n}

    rig.graph.wait_for(lambda: sum(dropped().values()) == 2, "2 drops")
    assert dropped() == {reason: 2}
    rig.wait_level(TF, WARN)
    rig.wait_said_once(f"tf {reason}")


def test_tf_that_is_late_within_its_timeout_costs_nothing(make_rig, plain_oracle):
    rig = make_rig(plain_oracle, {"tf.timeout": 10.0})
    rig.watch()
    rig.activate()
    stamp_ns = rig.send_frame(0.0, tf=False)
    rig.graph.wait_for(lambda: len(rig.node.session.pending) == 1, "it waits")
    rig.wait_level(TF, OK)
    rig.send_tf(rig.T_fixed_cam(0.0), stamp_ns)
    rig.graph.wait_for(lambda: len(rig.node.session.store) == 1, "it is placed")
    assert not [cause for cause in rig.node.faults.lines if cause.startswith("tf")]


@pytest.mark.parametrize("w", [2.0, float("nan")])
def test_invalid_rotation_of_tf_is_refused(make_rig, plain_oracle, w):
    from gld_ros.messages.transforms import transform_message
    from gld_ros.messages.types import rclpy_type

    rig = make_rig(plain_oracle)
    rig.watch()
    rig.activate()
    message = transform_message(np.eye(4), "odom", "camera_optical", rig.now_ns(), rclpy_type)
    message.transform.rotation.w = w
    for _ in range(3):
        rig.publisher("/tf", "tf2_msgs/msg/TFMessage", 100).publish(
            rclpy_type("tf2_msgs/msg/TFMessage")(transforms=[message])
        )
    rejected = rig.node.rejected_transforms
    rig.graph.wait_for(lambda: sum(rejected.values()) == 3, "3 refusals")
    rig.wait_level(TF, ERROR)
    rig.wait_said_once("tf invalid")
    rig.drive((0.0,))
    rig.wait_level(TF, OK)


def test_pose_jump_starts_a_segment(make_rig, plain_oracle):
    rig = make_rig(plain_oracle)
    rig.watch()
    rig.activate()
    rig.drive((0.0, 0.2))
    rig.drive((500.0, 500.2))
    rig.wait_level(KEYFRAMES, WARN)
    rig.wait_said_once("pose jump")
    assert [k.segment for k in rig.node.session.store.snapshot()] == [0, 0, 1, 1]
    rig.wait_level(KEYFRAMES, OK)


def test_a_misspelt_fixed_frame_is_told_with_the_frames_there_are(make_rig, plain_oracle):
    rig = make_rig(plain_oracle, {"fixed_frame": "odmo", "tf.timeout": 0.1})
    rig.watch()
    rig.activate()
    stop = threading.Event()

    def stream():
        while not stop.wait(0.2):
            rig.send_frame(0.0)

    sender = threading.Thread(target=stream)
    sender.start()
    try:
        rig.wait_level(
            TF, ERROR, says="TF has no fixed_frame 'odmo'; its frames are: camera_optical, odom"
        )
    finally:
        stop.set()
        sender.join()
    rig.wait_said_once("fixed frame")


def test_standing_still_adds_no_keyframes_and_is_no_fault(make_rig, plain_oracle):
    from gld_ros.mapping.keyframes import Rejection

    rig = make_rig(plain_oracle, {"keyframes.max_age": 0.2})
    rig.watch()
    rig.activate()
    rig.drive((0.0,))
    for _ in range(5):
        rig.send_frame(0.0)
    gate = rig.node.session.gate
    rig.graph.wait_for(lambda: gate.rejected[Rejection.MOTION] == 5, "5 rejections")
    assert len(rig.node.session.store) == 1
    time.sleep(0.4)  # longer than max_age
    rig.received["/diagnostics"].clear()
    rig.wait_level(KEYFRAMES, OK)


def test_too_few_keyframes_are_waited_for(make_rig, plain_oracle):
    from gld_ros.msg import GldStatus

    rig = make_rig(plain_oracle, {"policy.type": "look_around"})
    rig.listen("/gld/predicted/color/image", "sensor_msgs/msg/Image")
    rig.listen("/gld/status", "gld_ros/msg/GldStatus")
    rig.activate()
    rig.drive((0.0,))
    status = rig.received["/gld/status"]
    rig.graph.wait_for(lambda: any("2 are needed" in s.reason for s in status), "the reason")
    assert status[-1].state == GldStatus.STATE_WAITING_INPUT
    rig.drive((0.3,))
    rig.graph.wait_for(lambda: rig.received["/gld/predicted/color/image"], "a view")


def test_the_first_automatic_job_waits_for_keyframes_and_not_for_a_period(make_rig, plain_oracle):
    rig = make_rig(plain_oracle, {"policy.type": "look_around", "policy.rate": 0.01})
    rig.listen("/gld/predicted/color/image", "sensor_msgs/msg/Image")
    rig.activate()
    images = rig.received["/gld/predicted/color/image"]
    time.sleep(1.5)  # a look or more finds no keyframes
    rig.drive((0.0, 0.3))
    rig.graph.wait_for(lambda: images, "a view", 30.0)
    rig.drive((0.6, 0.9))
    time.sleep(1.5)
    assert rig.node.session.history.done == 1  # the next one is due in 100 s


def test_unresolved_scale_withholds_depth_until_it_is_known(make_rig, plain_oracle):
    rig = make_rig(
        plain_oracle,
        {
            "policy.type": "look_around",
            "policy.yaw_offsets": [0.1],
            "keyframes.min_translation": 0.0,
        },
    )
    rig.watch()
    color, depth = "/gld/predicted/color/image", "/gld/predicted/depth/image"
    for topic in (color, depth, "/gld/predicted/provenance/image"):
        rig.listen(topic, "sensor_msgs/msg/Image")
    rig.activate()
    rig.drive((0.0, 0.001, 0.002))
    rig.graph.wait_for(lambda: rig.received[color], "colours")
    rig.wait_level(SCALE, ERROR)
    rig.wait_said_once("scale unresolved")
    assert not rig.received[depth]
    labels = rig.received["/gld/predicted/provenance/image"]
    rig.graph.wait_for(lambda: labels, "provenance")
    assert not any(labels[0].data)
    rig.drive((0.3, 0.5))
    rig.graph.wait_for(lambda: rig.received[depth], "depth")
    rig.wait_level(SCALE, OK)


def with_policy(rig, poses, frame_id="odom"):
    from gld_ros.messages.stamps import make_header
    from gld_ros.messages.types import rclpy_type

    message = rclpy_type("geometry_msgs/msg/PoseArray")(
        header=make_header(0, frame_id, rclpy_type), poses=poses
    )
    publisher = rig.publisher("/target_poses", "geometry_msgs/msg/PoseArray")
    rig.graph.wait_for(lambda: publisher.get_subscription_count() > 0, "matched")
    publisher.publish(message)


def target_rig(make_rig, oracle, **parameters):
    rig = make_rig(
        oracle, {"policy.type": "topic", "policy.pose_convention": "optical", **parameters}
    )
    rig.listen("/gld/predicted/color/image", "sensor_msgs/msg/Image")
    rig.activate()
    rig.drive()
    return rig


@pytest.mark.parametrize("fault", ["nan", "zero quaternion", "unknown frame", "outside guard"])
def test_bad_target_is_refused_and_the_next_good_one_runs(make_rig, plain_oracle, fault):
    from gld_ros.messages.transforms import pose_message
    from gld_ros.messages.types import rclpy_type

    rig = target_rig(make_rig, plain_oracle)
    good = pose_message(rig.T_fixed_cam(0.3), rclpy_type)
    bad = pose_message(rig.T_fixed_cam(30.0 if fault == "outside guard" else 0.3), rclpy_type)
    if fault == "nan":
        bad.position.x = float("nan")
    elif fault == "zero quaternion":
        bad.orientation = rclpy_type("geometry_msgs/msg/Quaternion")(x=0.0, y=0.0, z=0.0, w=0.0)
    with_policy(rig, [bad], "nowhere" if fault == "unknown frame" else "odom")
    cause = "guard" if fault == "outside guard" else "policy input"
    rig.wait_said_once(cause)
    assert not rig.received["/gld/predicted/color/image"]
    with_policy(rig, [good])
    rig.graph.wait_for(lambda: rig.received["/gld/predicted/color/image"], "a view")


def test_too_many_targets_leave_the_farthest_out(make_rig, plain_oracle):
    from gld_ros.messages.transforms import pose_message
    from gld_ros.messages.types import rclpy_type

    rig = target_rig(make_rig, plain_oracle, **{"sampler.max_targets": 1})
    rig.listen("/gld/views", "gld_ros/msg/SynthesizedViewArray")
    with_policy(rig, [pose_message(rig.T_fixed_cam(x), rclpy_type) for x in (1.2, 0.5, 0.9)])
    rig.graph.wait_for(lambda: rig.received["/gld/views"], "views")
    (view,) = rig.received["/gld/views"][0].views
    assert view.pose.pose.position.x == pytest.approx(0.5)
    rig.wait_said_once("too many targets")


def spoiled(share):
    """Return a function that makes a share of every target's depth NaN."""
    from dataclasses import replace

    def spoil(views):
        targets = []
        for view in views.targets:
            depth = view.depth.copy()
            depth[: round(share * depth.shape[0])] = np.nan
            targets.append(replace(view, depth=depth))
        return replace(views, targets=tuple(targets))

    return spoil


def test_nan_in_the_models_output_is_blanked_or_fails_the_job(make_rig, plain_oracle):
    # However long the goals take, the drive before them is not too old.
    rig = make_rig(plain_oracle, {"product.max_age": 0.0, "scale.hold_time": 600.0})
    rig.watch()
    rig.activate()
    rig.drive()
    target = [rig.T_fixed_cam(0.3)]
    plain_oracle.spoil = spoiled(0.03)
    _, result = rig.finished_goal(target, return_images=True)
    depth_m = np.frombuffer(result.depths[0].data, np.float32).reshape(rig.HW)
    assert result.error_code == 0
    assert np.isnan(depth_m[:2]).all()
    assert np.isfinite(depth_m[4:]).all()
    plain_oracle.spoil = spoiled(0.5)
    _, result = rig.finished_goal(target)
    assert result.error_code == result.BACKEND_FAULT
    rig.wait_level(INFERENCE, ERROR)
    rig.wait_said_once("job failed BACKEND_FAULT")
    plain_oracle.spoil = None
    assert rig.finished_goal(target)[1].error_code == 0
    rig.wait_level(INFERENCE, OK)


def test_outdated_job_is_superseded(make_rig, plain_oracle):
    rig = make_rig(plain_oracle, {"policy.type": "look_around", "product.max_age": 0.0})
    rig.listen("/gld/predicted/color/image", "sensor_msgs/msg/Image")
    rig.activate()
    rig.drive()
    session = rig.node.session
    rig.graph.wait_for(lambda: session.history.done >= 1, "a quick job, so that jobs are quick")
    # Each of its steps takes as long as a whole job did, so it outlasts twice a job's time.
    plain_oracle.step_delay_s = max(1.0, session.worker.mean_job_s)
    rig.drive((0.6,))
    rig.graph.wait_for(lambda: session.worker.running is not None, "a slow job")
    slow, x_m = session.worker.running, 0.8
    while slow.token.reason is None and session.worker.running is slow:
        rig.drive((x_m,))
        x_m += 0.2
    assert slow.token.reason is CancelReason.SUPERSEDED
    plain_oracle.step_delay_s = 0.0
    rig.graph.wait_for(lambda: session.history.superseded >= 1, "superseded")
    done = session.history.done
    rig.drive((x_m,))
    rig.graph.wait_for(lambda: session.history.done > done, "a newer job")


def test_product_that_is_too_old_is_dropped(make_rig, plain_oracle):
    from rclpy.parameter import Parameter

    rig = make_rig(
        plain_oracle,
        {"policy.type": "look_around", "policy.yaw_offsets": [0.1], "product.max_age": 0.01},
    )
    rig.watch()
    rig.listen("/gld/predicted/color/image", "sensor_msgs/msg/Image")
    rig.activate()
    rig.drive()
    rig.wait_level(INFERENCE, ERROR)
    rig.wait_said_once("product too old")
    assert not rig.received["/gld/predicted/color/image"]
    assert rig.node.set_parameters([Parameter("product.max_age", value=60.0)])[0].successful
    rig.drive((0.6,))
    rig.graph.wait_for(lambda: rig.received["/gld/predicted/color/image"], "a view")


def test_out_of_memory_degrades_and_retries_once(make_rig, plain_oracle):
    from gld_ros.mapping.synthesizer import OutOfMemory

    rig = make_rig(plain_oracle)
    rig.watch()
    rig.activate()
    rig.drive()
    plain_oracle.errors = [OutOfMemory("full")]
    status, result = rig.finished_goal([rig.T_fixed_cam(0.3), rig.T_fixed_cam(0.1)])
    assert (status, result.error_code) == (4, 0)
    rig.wait_level(GPU, WARN, values={"degrade_level": "1", "oom_count": "1"})
    rig.wait_said_once("out of memory")
    for _ in range(20):
        rig.finished_goal([rig.T_fixed_cam(0.3)], num_steps=1)
    rig.wait_level(GPU, OK)


def test_lost_device_fails_the_goal_and_asks_for_a_respawn(make_rig, plain_oracle):
    from gld_ros.mapping.synthesizer import DeviceFault

    rig = make_rig(plain_oracle)
    rig.watch()
    rig.activate()
    rig.drive()
    plain_oracle.errors = [DeviceFault("CUDA error: unspecified launch failure")]
    _, result = rig.finished_goal([rig.T_fixed_cam(0.3)])
    assert result.error_code == result.BACKEND_FAULT
    rig.wait_level(GPU, ERROR, says="launch failure")
    rig.graph.wait_for(lambda: rig.node.exit_code == 70, "the exit code")


def test_full_disk_leaves_no_half_written_scene(make_rig, plain_oracle, tmp_path, monkeypatch):
    from pathlib import Path

    from gld_ros.srv import SaveScene

    rig = make_rig(plain_oracle)
    rig.activate()
    rig.drive()
    client = rig.peer.create_client(SaveScene, "/gld/save_scene")
    assert client.wait_for_service(timeout_sec=60.0)

    def save():
        future = client.call_async(
            SaveScene.Request(path=str(tmp_path / "scene"), include_images=True)
        )
        rig.graph.wait_for(future.done, "an answer")
        return future.result()

    def full(self, data):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        answer = save()
    assert not answer.success
    assert "No space left" in answer.message
    assert list(tmp_path.iterdir()) == []
    assert save().success


def test_product_without_subscribers_is_not_made_any_more(make_rig, plain_oracle):
    rig = make_rig(plain_oracle)
    rig.activate()
    session = rig.node.session
    assert not session.wanted()
    rig.listen("/gld/predicted/points", "sensor_msgs/msg/PointCloud2")
    rig.graph.wait_for(lambda: len(session.wanted()) == 1, "it is wanted")
    for subscription in list(rig.peer.subscriptions):
        if subscription.topic_name == "/gld/predicted/points":
            rig.peer.destroy_subscription(subscription)
    rig.graph.wait_for(lambda: not session.wanted(), "nobody listens any more")


def test_ten_seconds_without_image_or_intrinsics_are_an_error():
    from gld_ros.mapping.cameras import CameraState
    from gld_ros.ros.diagnostics.facts import DiagnosticsMemory, NodeFacts
    from gld_ros.ros.diagnostics.inputs import input_status

    for has_images in (False, True):
        camera = CameraState("camera", "/camera/image", False)
        memory = DiagnosticsMemory()
        levels = []
        for second in (1, 4, 12):
            if has_images:
                camera.received += 1
                camera.last_arrival_steady_ns = second * 10**9
            facts = NodeFacts(0, second * 10**9, True, False, None, {})
            levels.append(input_status(camera, facts, memory).level)
        assert levels[1:] == [WARN, ERROR]


def test_images_of_another_year_are_told_as_missing_simulated_time():
    from gld_ros.mapping.cameras import CameraState
    from gld_ros.ros.diagnostics.facts import DiagnosticsMemory, NodeFacts
    from gld_ros.ros.diagnostics.inputs import input_status

    now_ns = 1_795_547_069 * 10**9
    camera = CameraState("camera", "/camera/image", False)
    camera.received, camera.info = 1, object()
    camera.last_arrival_steady_ns, camera.last_stamp_ns = 1, 1_700_000_000 * 10**9
    facts = NodeFacts(now_ns, 10**9, True, False, None, {})
    said = input_status(camera, facts, DiagnosticsMemory())
    assert said.level == WARN
    assert "use_sim_time" in said.message
