"""Without any learning: true depth in, and points must come out on the true surfaces.

A procedural room is rendered for the camera; the oracle returns its true depth in a frame and unit
of its own. Whatever the node does wrong with crops, sizes, rectification, axes, TF, stamps or scale
moves points off the walls.
"""

from functools import cache

import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.ros

SCENE, DOMAIN = 2_000_000_001, "narrow"
METRES_PER_UNIT = 2.7
D = np.array([-0.12, 0.03, 0.001, -0.001, 0.0])
# The camera looks out at an angle from where it is mounted.
T_BASE_CAM = np.array(
    [[0.0, 0.0, 1.0, 0.2], [-1.0, 0.0, 0.0, -0.05], [0.0, -1.0, 0.0, 0.4], [0.0, 0.0, 0.0, 1.0]]
)


@cache
def rendered(key, hw):
    """Colours (H, W, 3) uint8 and z-depth of the room for a camera given as bytes."""
    import torch

    from gld_ros.scenes.rooms.generate import render_room_views

    numbers = torch.from_numpy(np.frombuffer(key, np.float64).copy()).float()
    made = render_room_views(
        SCENE, DOMAIN, numbers[:16].view(1, 4, 4), numbers[16:].view(3, 3), hw, antialias=1
    )
    rgb = (made["images"][0].permute(1, 2, 0).numpy() * 255 + 0.5).astype(np.uint8)
    return rgb, made["depth_m"][0].numpy()


def render(T_world_cam, K_px, hw):
    numbers = np.concatenate([np.ravel(T_world_cam), np.ravel(K_px)]).astype(np.float64)
    return rendered(numbers.tobytes(), tuple(hw))


@cache
def path():
    """Poses (4, 4, 4) of a camera that moves through the room; the last one is for the target."""
    from gld_ros.scenes.rooms.domains import domain_named
    from gld_ros.scenes.rooms.generate import room_of

    return room_of(domain_named(DOMAIN), SCENE).path.poses(np.array([0.1, 0.4, 0.7, 0.55]))


def clear_image(T_world_cam, K_px, hw):
    """What a pinhole camera sees."""
    return render(T_world_cam, K_px, hw)[0]


def distorted_image(T_world_cam, K_px, hw):
    """What a camera with distortion D sees: every pixel looks up its own ray."""
    height, width = hw
    v, u = np.mgrid[0:height, 0:width].astype(np.float64)
    pixels = np.stack([u, v], -1).reshape(-1, 1, 2)
    rays = cv2.undistortPoints(pixels, K_px, D).reshape(height, width, 2)
    # A wider and finer ideal image, to take the colours from.
    fine_hw = (3 * height, 3 * width)
    K_fine = np.array(
        [[2 * K_px[0, 0], 0, 1.5 * width], [0, 2 * K_px[1, 1], 1.5 * height], [0, 0, 1]]
    )
    ideal, _ = render(T_world_cam, K_fine, fine_hw)
    x = (rays[..., 0] * K_fine[0, 0] + K_fine[0, 2]).astype(np.float32)
    y = (rays[..., 1] * K_fine[1, 1] + K_fine[1, 2]).astype(np.float32)
    return cv2.remap(ideal, x, y, cv2.INTER_LINEAR)


def surface_distance_m(points):
    import torch

    from gld_ros.scenes.rooms.generate import room_surface_distance

    xyz = torch.from_numpy(np.ascontiguousarray(points))
    return room_surface_distance(SCENE, xyz, DOMAIN).numpy()


def seen_from(points, keyframe):
    """Which points a ray from the keyframe's camera reaches, inside its image by two pixels."""
    import torch

    from gld_ros.scenes.rooms.domains import domain_named
    from gld_ros.scenes.rooms.generate import room_of
    from gld_ros.scenes.rooms.packed import pack_rooms
    from gld_ros.scenes.rooms.raycast import cast_rays

    T = np.asarray(keyframe.T_fixed_cam)
    in_camera = (points - T[:3, 3]) @ T[:3, :3]
    pixel = in_camera @ np.asarray(keyframe.K_px).T
    with np.errstate(divide="ignore", invalid="ignore"):
        pixel = pixel[:, :2] / pixel[:, 2:]
    height, width = keyframe.image_hw
    margin = np.minimum(pixel + 0.5, (width - 0.5, height - 0.5) - pixel).min(axis=1)
    rays = torch.from_numpy((points - T[:3, 3]).astype(np.float32))
    origin = tuple(torch.full((1, 1, 1), float(c)) for c in T[:3, 3])
    direction = tuple(rays[:, i].reshape(1, 1, -1).contiguous() for i in range(3))
    hits = cast_rays(pack_rooms([room_of(domain_named(DOMAIN), SCENE)], "cpu"), origin, direction)
    reached = hits.depth_m.flatten().numpy() > 0.995  # 1 is the point itself
    in_front = in_camera[:, 2] > 0
    return reached & in_front & (margin > 0), in_front & (np.abs(margin) < 2)


def away_from_edges(labels, depth_m):
    """Pixels whose neighbourhood has one label and no step of depth."""
    kernel = np.ones((5, 5), np.uint8)
    same = cv2.erode(labels, kernel) == cv2.dilate(labels, kernel)
    low, high = cv2.erode(depth_m, kernel), cv2.dilate(depth_m, kernel)
    return same & (high - low < 0.1 * depth_m)


CASES = {
    "raw": {},
    "large camera, cropped and resized": {"hw": (140, 168)},
    "compressed": {"parameters": {"image_transport": "compressed"}},
    "distorted": {"distorted": True},
    "body poses": {"body": True},
}


@pytest.mark.parametrize("case", CASES)
def test_points_lie_on_the_true_surfaces(make_rig, case):
    from gld_ros.geometry.poses import T_BODY_OPTICAL, invert_rigid
    from gld_ros.mapping.provenance import Provenance
    from gld_ros.mapping.synthesizer import OracleSynthesizer
    from gld_ros.messages.clouds import points_from_cloud
    from gld_ros.messages.transforms import transform_message
    from gld_ros.messages.types import rclpy_type
    from gld_ros.ros.outputs import latched

    options = CASES[case]
    hw = options.get("hw", (84, 112))
    distorted = options.get("distorted", False)
    *poses, T_target = path()  # loads torch before anything waits for messages
    rig = make_rig(
        OracleSynthesizer(render, metres_per_unit=METRES_PER_UNIT),
        {
            "keyframes.min_translation": 0.0,
            "product.max_age": 0.0,
            # The oracle's depth is exact; what stereo measures of three small images is not.
            "depth.source": "model",
            **options.get("parameters", {}),
        },
    )
    for topic in ("predicted", "observed"):
        rig.listen(f"/gld/{topic}/points", "sensor_msgs/msg/PointCloud2")
    rig.listen("/gld/predicted/provenance/image", "sensor_msgs/msg/Image")
    rig.listen("/gld/predicted/depth/image", "sensor_msgs/msg/Image")
    rig.listen("/gld/predicted/depth/camera_info", "sensor_msgs/msg/CameraInfo")
    rig.activate()
    static = rig.publisher("/tf_static", "tf2_msgs/msg/TFMessage", latched())
    static.publish(
        rclpy_type("tf2_msgs/msg/TFMessage")(
            transforms=[transform_message(T_BASE_CAM, "base_link", "camera_optical", 0, rclpy_type)]
        )
    )
    focal = 0.72 * hw[1]
    K_px = np.array([[focal, 0, hw[1] / 2 - 1.7], [0, focal, hw[0] / 2 + 0.8], [0, 0, 1]])
    info = {"hw": hw, "K_px": K_px, **({"d": D.tolist()} if distorted else {})}
    store = rig.node.session.store
    began_ns = rig.now_ns() - 10**9
    for count, T_world_cam in enumerate(poses, 1):
        rgb = (distorted_image if distorted else clear_image)(T_world_cam, K_px, hw)
        stamp_ns = began_ns + count * 300_000_000  # a walk, not a leap
        rig.send_tf(T_world_cam @ invert_rigid(T_BASE_CAM), stamp_ns, child="base_link")
        rig.send_frame(0.0, tf=False, rgb=rgb, info=info, stamp_ns=stamp_ns)
        rig.graph.wait_for(lambda n=count: len(store) == n, "a keyframe")

    T_goal = T_target @ invert_rigid(T_BODY_OPTICAL) if options.get("body") else T_target
    convention = 0 if options.get("body") else 1
    status, result = rig.finished_goal(
        [T_goal], publish=True, pose_convention=convention, num_steps=1
    )
    assert (status, result.error_code) == (4, 0)
    assert result.views.scale.metric
    assert result.views.scale.scale == pytest.approx(METRES_PER_UNIT, rel=1e-3)
    (view,) = result.views.views
    anchor = store.snapshot()[-1]

    def first(topic):
        rig.graph.wait_for(lambda: rig.received[topic], topic)
        return rig.received[topic][0]

    # Predicted points: the fixed frame, the anchor's stamp, on the surfaces, at the right pixels.
    cloud = first("/gld/predicted/points")
    assert (cloud.header.frame_id, cloud.header.stamp) == ("odom", view.anchor_stamp)
    points = points_from_cloud(cloud)
    xyz = np.stack([points[axis] for axis in "xyz"], -1)
    assert len(xyz) > 0.9 * rig.HW[0] * rig.HW[1]
    assert surface_distance_m(xyz).max() < 0.01

    image = first("/gld/predicted/depth/image")
    K_out = np.array(first("/gld/predicted/depth/camera_info").k).reshape(3, 3)
    depth_m = np.frombuffer(image.data, np.float32).reshape(rig.HW)
    # Silhouettes may fall on the neighbouring pixel.
    true_m = render(T_target, K_out, rig.HW)[1]
    assert np.isclose(depth_m, true_m, rtol=2e-3).mean() > 0.99

    # Observed points: the camera's own frame, and the colours of the surfaces they lie on.
    cloud = first("/gld/observed/points")
    assert (cloud.header.frame_id, cloud.header.stamp) == ("camera_optical", view.anchor_stamp)
    points = points_from_cloud(cloud)
    xyz = np.stack([points[axis] for axis in "xyz"], -1).reshape(-1, 3)
    T = np.asarray(anchor.T_fixed_cam)
    np.testing.assert_allclose(T, poses[-1], atol=1e-6)
    assert surface_distance_m(xyz @ T[:3, :3].T + T[:3, 3]).max() < 0.01
    packed = points["rgb"].reshape(anchor.image_hw)
    colours = np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], -1).astype(float)
    truth = render(T, anchor.K_px, anchor.image_hw)[0]
    assert np.median(np.abs(colours - truth)) < 6  # of 255

    # Provenance of every pixel against rays through the room.
    labels = np.frombuffer(first("/gld/predicted/provenance/image").data, np.uint8)
    labels = labels.reshape(rig.HW)
    v, u = np.mgrid[0 : rig.HW[0], 0 : rig.HW[1]]
    rays = np.stack([u, v, np.ones_like(u)], -1).reshape(-1, 3) @ np.linalg.inv(K_out).T
    world = rays * depth_m.reshape(-1, 1) @ T_target[:3, :3].T + T_target[:3, 3]
    seen, border = np.zeros(len(world), bool), np.zeros(len(world), bool)
    for keyframe in store.snapshot():
        sees, near_border = seen_from(world, keyframe)
        seen |= sees
        border |= near_border
    true_labels = np.where(seen, Provenance.CORROBORATED, Provenance.HALLUCINATED)
    true_labels = true_labels.astype(np.uint8).reshape(rig.HW)
    judged = away_from_edges(true_labels, depth_m) & ~border.reshape(rig.HW)
    assert judged.mean() > 0.5
    assert (labels == true_labels)[judged].mean() >= 0.99
