"""Every dynamic parameter changes something; every other one is refused when it must be.

Most are shown without a graph, by what the same input gives under two snapshots. `CASES` and
`SHOWN_ON_THE_NODE` together must name all of them.
"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from gld_ros.geometry.poses import rotation_z
from gld_ros.mapping.cameras import CameraState
from gld_ros.mapping.epochs import EpochMonitor
from gld_ros.mapping.fault_log import FaultLog
from gld_ros.mapping.frames import Keyframe
from gld_ros.mapping.intake import Intake
from gld_ros.mapping.job_planner import JobPlanner, OccupancyGrid, PlannedJob, PolicyInput
from gld_ros.mapping.jobs import SynthesisRun
from gld_ros.mapping.keyframes import KeyframeGate, KeyframeStore
from gld_ros.mapping.make_products import NOTHING_MEASURED
from gld_ros.mapping.pending import PendingImages
from gld_ros.mapping.postprocess import Postprocessor
from gld_ros.mapping.products import ALL_PRODUCTS
from gld_ros.mapping.scale import (
    MetricScale,
    ScaleMeasurement,
    ScaleSource,
    measure_from_baselines,
)
from gld_ros.mapping.synthesizer import OracleSynthesizer
from gld_ros.measuring.surfaces import MeasuredScene, Surface
from gld_ros.messages.transforms import TransformBuffer
from gld_ros.ros.parameters.snapshot import make_snapshot
from gld_ros.ros.parameters.spec import When
from gld_ros.ros.parameters.table import TABLE, per_camera_parameters

S = 10**9
HW = (28, 42)
K_PX = np.array([[30.0, 0, 20.5], [0, 30.0, 13.5], [0, 0, 1]])
# Looks along y, as the rig does.
R_FORWARD = np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])


def pose(x_m, yaw_rad=0.0):
    T = np.eye(4)
    T[:3, :3] = rotation_z(yaw_rad) @ R_FORWARD
    T[:3, 3] = (x_m, 0.0, 1.2)
    return T


def snapshot(**changes):
    rows = (*TABLE, *per_camera_parameters(["camera"]))
    return make_snapshot({row.name: row.default for row in rows} | changes).session


def keyframes(count=5):
    image = np.random.default_rng(0).integers(0, 256, (*HW, 3), dtype=np.uint8)
    return [
        Keyframe("camera", (100 + i) * S, "camera_optical", image, K_PX, pose(0.25 * i), 0)
        for i in range(count)
    ]


def planned_job(parameters):
    """The automatic job over five keyframes, with everything a policy may ask for."""
    store = KeyframeStore()
    for keyframe in keyframes():
        store.add(keyframe)
    jobs = JobPlanner(KeyframeGate(), store, (14, 28), lambda: 2.0, steady_s=lambda: 0.0)
    cells = np.zeros((20, 20), np.int8)
    cells[12:] = -1
    given = PolicyInput(
        T_fixed_base=pose(1.0),
        topic_targets=[pose(1.2), pose(1.8, 0.2), pose(2.2, -0.9)],
        path_fixed_m=np.array([[1.0, 0, 0], [1.0, 6.0, 0]]),
        grid=OccupancyGrid(cells, 0.1, np.eye(4)),
    )
    return jobs.automatic(parameters, 0, 110 * S, given)


def job(parameters):
    """What a job asks of the model, as plain values."""
    made = planned_job(parameters)
    if not isinstance(made, PlannedJob):
        return made.error_code
    r = made.request
    poses = [np.round(t.T_fixed_cam, 6).tolist() for t in r.targets]
    sizes = [t.image_hw for t in r.targets]
    asked = (r.preset, r.num_steps, r.guidance_scale, r.effective_seed, r.samples)
    return (poses, sizes, len(r.keyframes), *asked)


def gate(parameters):
    """Which images of a walk with a turn and a stop become keyframes."""
    gate = KeyframeGate()
    accepted = []
    rng = np.random.default_rng(1)
    sharp = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    # (seconds, metres, turn)
    walk = [(0, 0, 0), (0.5, 0.1, 0), (1, 0.3, 0), (1.1, 0.5, 0), (2, 0.5, 0.1), (3, 0.5, 0.4)]
    walk += [(3.5, 0.5, 1.2), (6, 0.55, 1.2), (9, 0.6, 1.2)]
    for second, x_m, yaw_rad in walk:
        stamp_ns = round(second * S) + S
        T = pose(x_m, yaw_rad)
        if gate.too_soon("camera", stamp_ns, parameters.gate):
            continue
        if gate.judge("camera", stamp_ns, T, parameters.gate).accepted and not gate.too_blurred(
            sharp, parameters.gate
        ):
            gate.accept("camera", stamp_ns, T)
            accepted.append(second)
    return accepted


def waiting(parameters):
    """How many of five images still wait for TF after 0.6 s, and how many were dropped."""
    pending = PendingImages()
    camera = CameraState("camera", "/camera/image", False)
    intake = Intake(
        {"camera": camera},
        KeyframeGate(),
        KeyframeStore(),
        pending,
        EpochMonitor(),
        FaultLog(lambda level, text: None),
        TransformBuffer(),
    )
    camera.info = SimpleNamespace()
    for i in range(5):
        stamp = SimpleNamespace(sec=100 + i, nanosec=0)
        message = SimpleNamespace(header=SimpleNamespace(stamp=stamp, frame_id="camera_optical"))
        intake.image("camera", message, parameters, (104 * S), 0)
    intake.place(parameters, 104 * S + 6 * S // 10, 0)
    return len(pending), sum(pending.dropped.values())


def corner(T_world_cam, K_px, hw):
    """A wall 3 m ahead along y, and a nearer one on the right that hides a part of it."""
    v, u = np.mgrid[0 : hw[0], 0 : hw[1]]
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(K_px).T @ T_world_cam[:3, :3].T
    with np.errstate(divide="ignore"):
        far = 3.0 / np.where(rays[..., 1] > 1e-6, rays[..., 1], np.inf)
        near = 1.5 / np.where(rays[..., 1] > 1e-6, rays[..., 1], np.inf)
    hidden = T_world_cam[0, 3] + near * rays[..., 0] > 1.0
    return np.full((*hw, 3), 0.5, np.float32), np.where(hidden, near, far).astype(np.float32)


def products(parameters, spoil=lambda view: view, scene=NOTHING_MEASURED):
    """Bytes of everything that may leave after one job."""
    made = planned_job(parameters)
    request = made.request
    slots = tuple(range(len(request.targets)))
    steps = OracleSynthesizer(corner).run(request.view_request(slots, len(request.keyframes)))
    while True:
        try:
            next(steps)
        except StopIteration as finished:
            views = finished.value
            break
    views = replace(views, targets=tuple(spoil(view) for view in views.targets))
    run = SynthesisRun(views, slots, request.keyframes)
    made_products = Postprocessor(lambda: ALL_PRODUCTS, lambda *_: scene)(request, run)
    arrays = []
    for view in made_products.predicted:
        arrays += [view.color, view.depth_m, view.provenance, view.points]
    if made_products.observed is not None:
        arrays += [made_products.observed.depth_m, made_products.observed.points]
    return [(a.shape, a.tobytes()) if a is not None else None for a in arrays]


def measured_products(parameters):
    """Products where one keyframe has measured the walls."""
    frame = keyframes()[2]
    depth_m = corner(frame.T_fixed_cam, K_PX, HW)[1]
    sure = np.ones(HW, np.float32)
    surface = Surface(frame.image, K_PX, frame.T_fixed_cam, depth_m, sure)
    return products(parameters, scene=MeasuredScene(surfaces=(surface,)))


def slightly_near(parameters):
    """Products of a model that puts its views 8 % too near, in half of the image unsurely."""

    def spoil(view):
        confidence = view.confidence.copy()
        confidence[:, ::2] = 0.5
        return replace(view, depth=view.depth * 0.92, confidence=confidence)

    return products(parameters, spoil)


def scale(parameters):
    """The scale after one good measurement, one that scatters, and twenty seconds."""
    metric = MetricScale(parameters.scale)
    fixed = [pose(0.0), pose(0.15), pose(0.5)]
    model = [pose(0.0), pose(0.15), pose(0.56)]
    measured = measure_from_baselines(fixed, model, [1.0] * 3, parameters.scale)
    states = [metric.update(measured, 100 * S), metric.state(115 * S)]
    states.append(
        metric.update(
            ScaleMeasurement(ScaleSource.TF_BASELINE, 1.0, 0.01, 3, 1.0, "no baseline to speak of"),
            115 * S,
        )
    )
    return [(s.source, s.metric, repr(s.scale), s.num_pairs) for s in states]


LOOK = {"policy.type": "look_around"}
CASES = {
    # name: (what to look at, values of both, changed value)
    "tf.timeout": (waiting, {}, 5.0),
    "tf.pending_max": (waiting, {"tf.timeout": 5.0}, 2),
    "keyframes.min_translation": (gate, {}, 0.05),
    "keyframes.min_rotation": (gate, {}, 3.0),
    "keyframes.max_interval": (gate, {}, 1.0),
    "keyframes.min_interval": (gate, {}, 0.0),
    "keyframes.min_sharpness": (gate, {}, 1e5),
    "keyframes.max_angular_velocity": (gate, {}, 10.0),
    "keyframes.max_age": (job, LOOK, 0.1),
    "sampler.preset": (job, LOOK, "fast"),
    "sampler.num_steps": (job, LOOK, 7),
    "sampler.guidance_scale": (job, LOOK, 2.0),
    "sampler.seed": (job, LOOK, 12),
    "sampler.samples": (job, LOOK, 3),
    "sampler.reference_views": (job, LOOK, 2),
    "sampler.max_targets": (job, LOOK, 2),
    "image.output_size": (job, LOOK, "source"),
    "policy.type": (job, LOOK, "stereo_baseline"),
    "policy.yaw_offsets": (job, LOOK, [0.1]),
    "policy.baselines": (job, {"policy.type": "stereo_baseline"}, [0.3]),
    "policy.path_spacing": (job, {"policy.type": "path_ahead"}, 0.4),
    "policy.frontier_radius": (
        job,
        {"policy.type": "frontier", "guard.max_rotation": 3.15, "guard.min_overlap": 0.0},
        0.5,
    ),
    "guard.max_translation": (job, {"policy.type": "topic"}, 0.5),
    "guard.max_rotation": (job, {"policy.type": "topic"}, 0.1),
    "guard.min_overlap": (job, {"policy.type": "topic"}, 0.0),
    "scale.fixed_value": (scale, {"scale.mode": "fixed"}, 2.0),
    "scale.min_baseline": (scale, {}, 0.2),
    "scale.max_dispersion": (scale, {}, 0.01),
    "scale.hold_time": (scale, {}, 60.0),
    "scale.withhold_if_unresolved": (
        products,
        # One pair, too close to be trusted alone.
        LOOK | {"sampler.reference_views": 2, "scale.min_baseline": 0.2},
        False,
    ),
    "depth.min": (products, LOOK, 2.0),
    "depth.max": (products, LOOK, 2.0),
    "depth.min_confidence": (slightly_near, LOOK, 0.8),
    "provenance.rel_tolerance": (slightly_near, LOOK, 0.2),
    "color.composite": (measured_products, LOOK, False),
    "cloud.voxel_size": (products, LOOK, 0.3),
    "cloud.stride": (products, LOOK, 2),
    "cloud.organized_observed": (products, LOOK, False),
    "cloud.predicted_provenance": (products, LOOK, ["hallucinated"]),
    "observed.provenance": (products, LOOK, ["measured"]),
}
SHOWN_ON_THE_NODE = {
    "depth.rate",  # in test_depth_mode.py
    "view_tf.publish",
    "keyframes.capacity",
    "goals.max_open",
    "goals.max_wait",
    "policy.rate",
    "policy.pose_convention",
    "product.max_age",
    "release_on_deactivate",
    "shutdown_timeout",
    "diagnostics.period",
}


def test_all_dynamic_parameters_are_shown():
    dynamic = {row.name for row in TABLE if row.when is When.ANY_TIME}
    assert set(CASES) | SHOWN_ON_THE_NODE == dynamic
    assert not set(CASES) & SHOWN_ON_THE_NODE


@pytest.mark.parametrize("name", CASES)
def test_parameter_changes_something(name):
    look_at, common, value = CASES[name]
    before = look_at(snapshot(**common))
    assert before == look_at(snapshot(**common))
    assert look_at(snapshot(**(common | {name: value}))) != before


def set_parameter(rig, name, value):
    from rclpy.parameter import Parameter

    return rig.node.set_parameters([Parameter(name, value=value)])[0]


@pytest.mark.ros
def test_dynamic_parameters_on_an_active_node(make_rig, plain_oracle):
    rig = make_rig(
        plain_oracle,
        {"policy.type": "look_around", "policy.yaw_offsets": [0.1], "product.max_age": 60.0},
    )
    for topic in ("/gld/predicted/color/image", "/gld/predicted/depth/image"):
        rig.listen(topic, "sensor_msgs/msg/Image")
    rig.listen("/tf", "tf2_msgs/msg/TFMessage", 100)
    rig.activate()
    rig.drive()
    images = rig.received["/gld/predicted/color/image"]
    rig.graph.wait_for(lambda: images, "a view")

    def view_transform_stamps():
        from gld_ros.messages.stamps import stamp_to_ns

        return {
            stamp_to_ns(t.header.stamp)
            for message in rig.received["/tf"]
            for t in message.transforms
            if t.child_frame_id.startswith("gld_view")
        }

    def next_view(x_m):
        seen = len(images)
        rig.drive((x_m,))
        rig.graph.wait_for(lambda: len(images) > seen, "the next view")

    rig.graph.wait_for(view_transform_stamps, "the view's transform")
    assert set_parameter(rig, "view_tf.publish", False).successful
    for x_m in (0.6, 0.8):  # the first view may be of a job that was made before
        next_view(x_m)
    assert view_transform_stamps() <= set(rig.stamps[:-2])

    assert set_parameter(rig, "keyframes.capacity", 2).successful
    assert len(rig.node.session.store) == 2

    assert set_parameter(rig, "policy.rate", 0.01).successful
    seen = len(images)
    rig.drive((1.0, 1.2))
    assert set_parameter(rig, "policy.rate", 10.0).successful
    rig.graph.wait_for(lambda: len(images) > seen, "a view at the new rate")

    rig.listen("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")
    diagnostics = rig.received["/diagnostics"]
    rig.graph.wait_for(lambda: diagnostics, "diagnostics")
    assert set_parameter(rig, "diagnostics.period", 60.0).successful
    rig.graph.wait_for(
        lambda: 60 * S in [timer.timer_period_ns for timer in rig.node.timers], "the new period"
    )
    assert set_parameter(rig, "diagnostics.period", 0.1).successful
    seen = len(diagnostics)
    rig.graph.wait_for(lambda: len(diagnostics) > seen, "quick again")

    from builtin_interfaces.msg import Duration

    assert set_parameter(rig, "goals.max_wait", 1.0).successful
    _, result = rig.finished_goal([rig.T_fixed_cam(1.0)], max_wait=Duration(sec=2))
    assert "0 to 1 s is allowed" in result.error_msg
    assert set_parameter(rig, "goals.max_open", 5).successful
    assert rig.node.session.parameters.goals.max_open == 5

    # A hung step is given up after shutdown_timeout, and the weights go if asked.
    plain_oracle.step_delay_s = 20.0
    rig.drive((1.4,))
    rig.graph.wait_for(lambda: plain_oracle.delays, "a slow step")
    assert set_parameter(rig, "shutdown_timeout", 0.0).successful
    assert set_parameter(rig, "release_on_deactivate", True).successful
    rig.node.trigger_deactivate()
    assert rig.node.session.worker.hangs
    assert rig.released == 1


@pytest.mark.ros
def test_pose_convention_of_topics_changes_the_target(make_rig, plain_oracle):
    from gld_ros.geometry.poses import T_BODY_OPTICAL
    from gld_ros.messages.stamps import make_header
    from gld_ros.messages.transforms import pose_message
    from gld_ros.messages.types import rclpy_type

    rig = make_rig(plain_oracle, {"policy.type": "topic", "policy.pose_convention": "optical"})
    rig.listen("/gld/views", "gld_ros/msg/SynthesizedViewArray")
    rig.activate()
    rig.drive()
    target = rig.T_fixed_cam(0.3)
    publisher = rig.publisher("/target_poses", "geometry_msgs/msg/PoseArray")
    rig.graph.wait_for(lambda: publisher.get_subscription_count() > 0, "matched")
    publisher.publish(
        rclpy_type("geometry_msgs/msg/PoseArray")(
            header=make_header(0, "odom", rclpy_type), poses=[pose_message(target, rclpy_type)]
        )
    )
    views = rig.received["/gld/views"]
    rig.graph.wait_for(lambda: views, "views")
    orientation = views[0].views[0].pose.pose.orientation
    assert set_parameter(rig, "guard.max_rotation", 3.15).successful
    assert set_parameter(rig, "guard.min_overlap", 0.0).successful
    assert set_parameter(rig, "policy.pose_convention", "body").successful
    seen = len(views)
    rig.drive((0.6,))
    rig.graph.wait_for(lambda: len(views) > seen, "views")
    expected = pose_message(target @ T_BODY_OPTICAL, rclpy_type).orientation
    turned = views[-1].views[0].pose.pose.orientation
    assert turned != orientation
    assert abs(turned.x) == pytest.approx(abs(expected.x), abs=1e-6)


@pytest.mark.ros
def test_other_parameters_are_refused_when_they_must_be(make_rig, plain_oracle):
    rig = make_rig(plain_oracle)
    rig.activate()
    fixed = [row for row in TABLE if row.when is not When.ANY_TIME]
    fixed += per_camera_parameters(["camera"])
    assert len(fixed) > 15
    values = rig.node.parameters.snapshot.values
    for row in fixed:
        refused = set_parameter(rig, row.name, values[row.name])
        assert not refused.successful, row.name
        assert row.name in refused.reason
    rig.node.trigger_deactivate()
    for row in fixed:
        accepted = set_parameter(rig, row.name, values[row.name]).successful
        assert accepted is (row.when is When.INACTIVE), row.name


@pytest.mark.ros
def test_values_that_belong_together_change_together(make_rig, plain_oracle):
    from rclpy.exceptions import ParameterNotDeclaredException
    from rclpy.parameter import Parameter

    rig = make_rig(plain_oracle)
    changes = [Parameter("depth.min", value=40.0), Parameter("depth.max", value=50.0)]
    assert not rig.node.set_parameters([changes[0]])[0].successful
    assert rig.node.set_parameters_atomically(changes).successful
    assert rig.node.parameters.snapshot.session.products.depth_min_m == 40.0
    assert not set_parameter(rig, "depth.max", "far").successful
    with pytest.raises(ParameterNotDeclaredException):
        set_parameter(rig, "no.such.parameter", 1)
