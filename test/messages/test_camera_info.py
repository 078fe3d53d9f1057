from dataclasses import replace

import cv2
import numpy as np
import pytest

from gld_ros.messages.camera_info import (
    CameraInfoError,
    CameraInfoFault,
    CameraInfoValues,
    is_rectified_topic,
    pinhole_camera,
)

HW = (120, 160)
K = (130.0, 0.0, 78.0, 0.0, 128.0, 61.0, 0.0, 0.0, 1.0)
P = (110.0, 0.0, 79.5, 0.0, 0.0, 110.0, 59.5, 0.0, 0.0, 0.0, 1.0, 0.0)
PLUMB_BOB = (-0.28, 0.09, 0.001, -0.0015, -0.01)
INFO = CameraInfoValues(width=160, height=120, distortion_model="plumb_bob", D=PLUMB_BOB, K=K, P=P)
PLAIN = replace(INFO, D=(0.0,) * 5)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"K": (0.0,) * 9}, CameraInfoFault.UNCALIBRATED),
        ({"K": (np.nan, *K[1:])}, CameraInfoFault.NOT_FINITE),
        ({"K": (-1.0, *K[1:])}, CameraInfoFault.BAD_FOCAL_LENGTH),
        ({"D": (np.inf, 0.0, 0.0, 0.0, 0.0)}, CameraInfoFault.NOT_FINITE),
        ({"distortion_model": "tangled"}, CameraInfoFault.UNKNOWN_DISTORTION),
        ({"D": (0.1, 0.2)}, CameraInfoFault.BAD_DISTORTION),
        ({"width": 161}, CameraInfoFault.SIZE_MISMATCH),
        ({"width": 0, "height": 0}, CameraInfoFault.SIZE_MISMATCH),
        ({"roi_width": 100, "roi_height": 60, "roi_x_offset": 80}, CameraInfoFault.BAD_REGION),
    ],
)
def test_unusable_info_is_refused_with_its_fault(changes, fault):
    with pytest.raises(CameraInfoError) as caught:
        pinhole_camera(replace(INFO, **changes), HW)
    assert caught.value.fault is fault


def test_unknown_model_without_distortion_is_no_fault():
    camera = pinhole_camera(replace(PLAIN, distortion_model="tangled"), HW)
    assert not camera.remaps


def test_rectified_topics_use_the_projection_matrix():
    camera = pinhole_camera(INFO, HW, "auto", "/front/image_rect_color")
    np.testing.assert_allclose(camera.K_px, np.reshape(P, (3, 4))[:, :3])
    image = np.zeros((*HW, 3), np.uint8)
    assert camera.rectify(image) is image
    assert pinhole_camera(INFO, HW, "auto", "/front/image_raw").remaps
    assert not pinhole_camera(INFO, HW, "input_is_rectified", "/front/image_raw").remaps


@pytest.mark.parametrize(
    ("topic", "rectified"),
    [
        ("/camera/image_rect", True),
        ("/camera/image_rect/compressed", True),
        ("/image_rect/image_raw", False),
        ("/camera/image", False),
        ("", False),
    ],
)
def test_rectification_is_read_from_the_last_name_of_a_topic(topic, rectified):
    assert is_rectified_topic(topic) is rectified


def test_missing_projection_falls_back_to_k():
    camera = pinhole_camera(replace(INFO, P=(0.0,) * 12), HW, "input_is_rectified")
    np.testing.assert_allclose(camera.K_px, np.reshape(K, (3, 3)))
    assert any("P is all zero" in note for note in camera.notes)


def test_unknown_rectification_is_an_error():
    with pytest.raises(ValueError, match="'perhaps'"):
        pinhole_camera(INFO, HW, "perhaps")


def test_integer_ratio_of_sizes_scales_k_exactly():
    camera = pinhole_camera(PLAIN, (60, 80))
    # Pixel (10, 20) of the half image is the block around (20.5, 40.5) of the full one.
    full = np.linalg.solve(np.reshape(K, (3, 3)), [20.5, 40.5, 1.0])
    np.testing.assert_allclose(np.linalg.solve(camera.K_px, [10.0, 20.0, 1.0]), full)
    np.testing.assert_allclose(pinhole_camera(PLAIN, (240, 320)).K_px[0, 0], 260.0)


def test_region_and_binning_keep_every_ray():
    info = replace(
        PLAIN,
        roi_x_offset=40,
        roi_y_offset=20,
        roi_width=80,
        roi_height=60,
        binning_x=2,
        binning_y=3,
    )
    camera = pinhole_camera(info, (20, 40))
    # Image pixel (5, 7) covers columns 50..51 and rows 41..43 of the full image.
    full = np.linalg.solve(np.reshape(K, (3, 3)), [50.5, 42.0, 1.0])
    np.testing.assert_allclose(np.linalg.solve(camera.K_px, [5.0, 7.0, 1.0]), full)


@pytest.mark.parametrize(
    ("model", "D"),
    [
        ("plumb_bob", PLUMB_BOB),
        ("plumb_bob", (0.15, -0.05, 0.0, 0.0, 0.0)),
        ("rational_polynomial", (0.3, 0.05, 0.0005, -0.0003, 0.001, 0.6, 0.1, 0.01)),
        ("equidistant", (-0.02, 0.01, -0.004, 0.0005)),
    ],
)
def test_rectified_images_obey_the_pinhole_model(model, D):
    """A raw image of smooth colours by direction, drawn through the distortion itself."""
    info = replace(INFO, distortion_model=model, D=D)
    camera = pinhole_camera(info, HW, "rectify")
    raw = _draw(_rays_of_raw_pixels(np.reshape(K, (3, 3)), np.array(D), model))
    v, u = np.mgrid[0 : HW[0], 0 : HW[1]].astype(float)
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(camera.K_px).T
    difference = camera.rectify(raw).astype(int) - _draw(rays[..., :2]).astype(int)
    # The border needs raw pixels at the very rim; everything is inside the raw image.
    assert np.abs(difference).max() <= 4
    assert camera.remaps


def test_wrong_image_size_is_refused_by_the_maps():
    camera = pinhole_camera(INFO, HW, "rectify")
    with pytest.raises(ValueError, match="maps are for"):
        camera.rectify(np.zeros((10, 10, 3), np.uint8))


def test_absurd_distortion_is_refused():
    info = replace(INFO, D=(-60.0, 0.0, 0.0, 0.0, 0.0))
    with pytest.raises(CameraInfoError) as caught:
        pinhole_camera(info, HW, "rectify")
    assert caught.value.fault is CameraInfoFault.BAD_DISTORTION


def _rays_of_raw_pixels(K_px, D, model):
    v, u = np.mgrid[0 : HW[0], 0 : HW[1]].astype(float)
    pixels = np.stack([u, v], -1).reshape(-1, 1, 2)
    if model == "equidistant":
        return np.asarray(cv2.fisheye.undistortPoints(pixels, K_px, D)).reshape(*HW, 2)
    pixels = pixels[:, 0]
    wanted = (pixels - K_px[:2, 2]) / np.diagonal(K_px)[:2]
    rays = wanted.copy()
    for _ in range(60):  # the distortion is mild enough for plain corrections to converge
        rays += wanted - _brown_distorted(rays, D)
    return rays.reshape(*HW, 2)


def _brown_distorted(rays_xy, D):
    """The textbook formula of `plumb_bob` and `rational_polynomial`."""
    k1, k2, p1, p2, k3, k4, k5, k6 = np.concatenate([D, np.zeros(8 - len(D))])
    x, y = rays_xy.T
    r2 = x * x + y * y
    radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    tangential_x = 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    tangential_y = p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    return np.stack([x * radial + tangential_x, y * radial + tangential_y], axis=1)


def _draw(rays_xy):
    """Colours that depend smoothly on the direction alone."""
    waves = np.stack([rays_xy[..., 0], rays_xy[..., 1], rays_xy.sum(-1)], -1) * 6.0
    return np.round(127.5 + 100.0 * np.sin(waves)).astype(np.uint8)


def test_depth_is_rectified_as_the_image_is_by_its_nearest_pixels():
    camera = pinhole_camera(INFO, HW)
    stripes = (np.arange(160) // 20 % 2)[None] * np.ones((120, 1))
    depth_m, K_px = camera.rectify_depth(np.where(stripes > 0, 5.0, 1.0).astype(np.float32))
    np.testing.assert_array_equal(K_px, camera.K_px)
    assert set(np.unique(depth_m)) == {1.0, 5.0}
    image = camera.rectify(np.repeat((255 * stripes).astype(np.uint8)[..., None], 3, axis=2))
    clear = (image[..., 0] < 64) | (image[..., 0] > 191)  # away from the edges it interpolates
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(depth_m[clear] == 5.0, image[clear][:, 0] > 191)


@pytest.mark.parametrize("info", [INFO, PLAIN], ids=["distorted", "plain"])
@pytest.mark.parametrize("depth_hw", [(60, 80), (240, 320)])
def test_depth_of_another_size_looks_along_the_same_rays(info, depth_hw):
    camera = pinhole_camera(info, HW)
    # As depth, the column of the raw image at which a pixel lies: edges stay edges.
    columns = (np.arange(depth_hw[1]) + 0.5) * HW[1] / depth_hw[1] - 0.5
    depth_m, K_px = camera.rectify_depth(np.tile(columns.astype(np.float32), (depth_hw[0], 1)))
    _, K_full = camera.rectify_depth(np.zeros(HW, np.float32))
    np.testing.assert_array_equal(K_full, camera.K_px)
    v, u = np.mgrid[0 : depth_hw[0], 0 : depth_hw[1]]
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(K_px).T
    D = np.array(info.D)
    K_raw = np.reshape(info.K, (3, 3))
    at, _ = cv2.projectPoints(rays.reshape(-1, 3), np.zeros(3), np.zeros(3), K_raw, D)
    apart = np.abs(at[:, 0, 0].reshape(depth_hw) - depth_m)
    assert apart.max() <= 0.5 * HW[1] / depth_hw[1] + 0.02  # half a pixel of the depth image


def test_depth_that_is_rectified_already_has_the_projection_matrix():
    camera = pinhole_camera(INFO, HW)
    depth_m = np.ones((60, 80), np.float32)
    same, K_px = camera.rectify_depth(depth_m, "/front/depth_registered/image_rect")
    assert same is depth_m
    np.testing.assert_allclose(K_px[0], [55.0, 0.0, 39.5])
