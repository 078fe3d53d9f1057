"""The application without ROS, through its public surface: input, jobs, jumps, results."""

from dataclasses import replace

import numpy as np
import pytest

from gld_ros.mapping.cameras import CameraState
from gld_ros.mapping.fault_log import FaultLog
from gld_ros.mapping.job_planner import JobOptions, JobRejection, PlannedJob
from gld_ros.mapping.jobs import ErrorCode, JobKind, Outcome
from gld_ros.mapping.model import LoadedModel
from gld_ros.mapping.model_fault import fault_of
from gld_ros.mapping.products import Product
from gld_ros.mapping.session import NOTHING_WANTED, SynthesisSession
from gld_ros.mapping.synthesizer import OracleSynthesizer
from gld_ros.messages.camera_info import camera_info_message
from gld_ros.messages.images import image_message
from gld_ros.messages.transforms import TransformBuffer
from gld_ros.ros.parameters.snapshot import make_snapshot
from gld_ros.ros.parameters.table import TABLE, per_camera_parameters

S = 10**9
K_PX = np.array([[60.0, 0, 39.5], [0, 60.0, 29.5], [0, 0, 1]])
HW, MODEL_HW = (60, 80), (28, 42)
R_FORWARD = np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])  # the camera looks along y
PRODUCTS = frozenset({Product.PREDICTED_COLOR, Product.PREDICTED_DEPTH, Product.QUALITY})


def wall(T_world_cam, K_px, hw):
    return np.full((*hw, 3), 128, np.uint8), np.full(hw, 3.0, np.float32)


class Robot:
    """A session, and a camera that moves along x."""

    def __init__(self, family, **parameters):
        rows = (*TABLE, *per_camera_parameters(["camera"]))
        defaults = {row.name: row.default for row in rows} | {
            "policy.type": "look_around",
            "policy.yaw_offsets": [0.1],
            "product.max_age": 0.0,
        }
        self.family, self.now_ns, self.wanted = family, 100 * S, PRODUCTS
        self.published, self.ended, self.lines = [], [], []
        self.publish_s = 0.25
        self.transforms = TransformBuffer()
        self.session = SynthesisSession(
            LoadedModel(OracleSynthesizer(wall), {}, MODEL_HW, fault_of),
            {"camera": CameraState("camera", "/camera/image", False)},
            make_snapshot(defaults | parameters).session,
            self.transforms,
            FaultLog(lambda level, text: self.lines.append(text)),
            now_ns=lambda: self.now_ns,
            wanted=lambda: self.wanted,
            publish=self.publish,
            on_job_ended=self.ended.append,
        )

    def publish(self, result):
        self.published.append(result)
        return self.publish_s

    def pose(self, x_m):
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = R_FORWARD, (x_m, 0.0, 1.2)
        return T

    def see(self, x_m, hw=HW, K_px=K_PX, tf=True):
        """Take in TF, CameraInfo and an image, half a second later; returns new keyframes."""
        self.now_ns += S // 2
        header = self.family.header("optical", self.now_ns)
        if tf:
            half = np.sqrt(0.5)
            self.transforms.insert(
                "odom", "optical", (x_m, 0.0, 1.2), (-half, 0.0, 0.0, half), self.now_ns
            )
        self.session.camera_info("camera", camera_info_message(K_px, hw, header, self.family.type))
        kind = self.family.type("sensor_msgs/msg/Image")
        pixels = np.full((*hw, 3), 90, np.uint8)
        self.session.image("camera", image_message(pixels, "rgb8", header, kind))
        return self.session.place_images()

    def drive(self, **options):
        for x_m in (0.0, 0.3, 0.6):
            assert len(self.see(x_m, **options)) == 1


@pytest.fixture
def robot(family):
    return Robot(family)


def test_an_automatic_job_runs_once_per_newest_keyframe(robot):
    assert robot.session.plan_automatic() is None
    assert "0 keyframes" in robot.session.waiting_for
    robot.drive()
    planned = robot.session.plan_automatic()
    assert planned.request.kind is JobKind.AUTOMATIC
    assert robot.session.waiting_for == ""
    assert robot.session.plan_automatic() is None
    result = robot.session.run(planned)
    assert result.outcome is Outcome.DONE
    (products,) = result.products
    assert products.scale.metric
    np.testing.assert_allclose(np.nanmedian(products.predicted[0].depth_m), 3.0, rtol=1e-3)
    assert [r.request.job_id for r in robot.published] == [1]
    assert robot.session.history.done == 1
    robot.see(0.9)
    assert isinstance(robot.session.plan_automatic(), PlannedJob)


def test_the_time_that_publishing_took_is_in_the_result(robot):
    robot.drive()
    robot.session.run(robot.session.plan_automatic())
    assert robot.ended[0].times.publish == robot.publish_s
    assert robot.session.history.last_done.times.publish == robot.publish_s


def test_nothing_runs_that_nobody_wants(robot):
    robot.drive()
    robot.wanted = frozenset()
    assert robot.session.plan_automatic() is None
    assert robot.session.waiting_for == NOTHING_WANTED
    robot.wanted = PRODUCTS
    robot.session.paused = True
    assert robot.session.plan_automatic() is None
    robot.session.paused = False
    assert robot.session.plan_automatic() is not None


def test_a_goal_that_is_not_to_be_published_is_only_answered(robot):
    robot.drive()
    robot.wanted = frozenset()
    options = JobOptions(always_wanted=PRODUCTS, publish=False)
    planned = robot.session.plan_goal([robot.pose(0.4)], options)
    result = robot.session.run(planned)
    assert result.products[0].predicted[0].depth_m is not None
    assert not robot.published
    assert robot.ended == [result]
    rejected = robot.session.plan_goal([robot.pose(40.0)], options)
    assert isinstance(rejected, JobRejection)
    assert rejected.error_code is ErrorCode.INSUFFICIENT_OVERLAP


def test_a_product_that_is_too_old_is_counted_and_dropped(family):
    robot = Robot(family, **{"product.max_age": 1.0})
    robot.drive()
    planned = robot.session.plan_automatic()
    robot.now_ns += 5 * S
    robot.session.run(planned)
    assert not robot.published
    assert robot.session.history.too_old == 1
    assert any("product.max_age (1.0 s)" in line for line in robot.lines)


def test_a_time_jump_forgets_images_transforms_scale_and_jobs(robot):
    robot.drive()
    planned = robot.session.plan_automatic()
    robot.session.run(planned)
    assert robot.session.scale_state().metric
    robot.see(0.9, tf=False)
    assert len(robot.session.pending) == 1
    robot.now_ns = 50 * S
    robot.see(0.0, tf=False)
    assert robot.session.epoch == 0  # one late image may be anybody's
    robot.see(0.0, tf=False)
    assert robot.session.epoch == 1
    assert robot.session.last_jump.delta_s < 0
    assert robot.session.seconds_since_jump() < 60
    assert len(robot.session.store) == 0
    assert not robot.session.scale_state().metric
    assert len(robot.session.pending) == 1  # of the new epoch
    assert robot.session.run(planned).error_code is ErrorCode.TIME_JUMP
    assert any("epoch 1 begins" in line for line in robot.lines)
    robot.drive()
    assert robot.session.run(robot.session.plan_automatic()).products[0].scale.metric


def test_reset_keeps_the_epoch(robot):
    robot.drive()
    robot.session.run(robot.session.plan_automatic())
    robot.session.reset()
    assert robot.session.epoch == 0
    assert len(robot.session.store) == 0
    assert not robot.session.scale_state().metric


def test_views_have_the_size_of_the_camera_if_asked_for(family):
    """Also where keyframes are kept smaller than the camera's image."""
    big_hw, K_px = (600, 800), K_PX * [[10.0], [10.0], [1.0]]
    for size, expected_hw in (("model", MODEL_HW), ("source", big_hw)):
        robot = Robot(family, **{"image.output_size": size, "keyframes.max_image_side": 400})
        robot.drive(hw=big_hw, K_px=K_px)
        assert robot.session.store.snapshot()[0].image_hw == (300, 400)
        result = robot.session.run(robot.session.plan_automatic())
        assert result.products[0].predicted[0].color.shape == (*expected_hw, 3)
        if size == "source":
            np.testing.assert_allclose(result.request.targets[0].K_px, K_px, atol=1e-6)


def test_changed_parameters_reach_the_next_job_and_the_store(robot):
    robot.drive()
    planned = robot.session.plan_automatic()
    old = robot.session.parameters
    robot.session.set_parameters(
        replace(
            old,
            keyframes=replace(old.keyframes, capacity=2),
            policy=replace(old.policy, yaw_offsets_rad=(0.1, -0.1)),
        )
    )
    assert len(robot.session.store) == 2
    robot.see(0.9)
    assert len(robot.session.plan_automatic().request.targets) == 2
    assert len(planned.request.targets) == 1


def test_jobs_run_on_a_thread_between_start_and_stop(robot):
    robot.drive()
    robot.session.start()
    assert robot.session.active
    planned = robot.session.plan_automatic()
    with pytest.raises(RuntimeError, match="thread runs"):
        robot.session.run(planned)
    assert robot.session.submit_goal(robot.session.plan_goal([robot.pose(0.4)], JobOptions()))
    assert robot.session.stop(10.0)
    assert not robot.session.active
    assert len(robot.ended) == 1  # done or cancelled, but answered
