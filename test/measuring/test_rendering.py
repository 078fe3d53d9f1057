"""Measured surfaces in another camera: geometry, occlusion, exposure."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gld_ros.measuring.confidence import POSSIBLE, SURE
from gld_ros.measuring.rendering import (
    RenderedView,
    render_chosen,
    render_surfaces,
    render_views,
)
from gld_ros.measuring.sources import candidates_of, choose_surfaces, source_of
from gld_ros.measuring.surfaces import Surface, without_edges

HW = (60, 80)
K_PX = np.array([[80.0, 0.0, 39.5], [0.0, 80.0, 29.5], [0.0, 0.0, 1.0]])


def camera_at(x_m: float, y_m: float = 0.0, z_m: float = 0.0, yaw_rad: float = 0.0) -> np.ndarray:
    T = np.eye(4)
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    T[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    T[:3, 3] = x_m, y_m, z_m
    return T


def texture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Smooth colours (..., 3) of places on a wall."""
    waves = np.stack([np.sin(3.1 * x + y), np.sin(2.3 * y - x), np.cos(2.7 * x) * np.sin(y)], -1)
    return 127.0 + 100.0 * waves


def wall(T: np.ndarray, depth_m: float = 2.0, gain: float = 1.0) -> Surface:
    """A camera's image and true depth of the textured wall z = depth_m."""
    rows, columns = np.indices(HW)
    rays = np.stack([columns, rows, np.ones(HW)], -1) @ np.linalg.inv(K_PX).T @ T[:3, :3].T
    distance = (depth_m - T[2, 3]) / rays[..., 2]
    points = rays * distance[..., None] + T[:3, 3]
    image = np.clip(texture(points[..., 0], points[..., 1]) * gain, 0, 255).astype(np.uint8)
    z = ((points - T[:3, 3]) @ T[:3, :3])[..., 2].astype(np.float32)
    return Surface(image, K_PX, T, z, np.ones(HW, np.float32))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a.astype(float) - b.astype(float)) ** 2) / 255**2))


@settings(deadline=None, max_examples=15)
@given(
    x=st.floats(-0.3, 0.3),
    y=st.floats(-0.2, 0.2),
    z=st.floats(-0.3, 0.3),
    yaw=st.floats(-0.15, 0.15),
)
def test_a_textured_wall_is_the_warp_of_its_images(
    x: float, y: float, z: float, yaw: float
) -> None:
    surfaces = [wall(camera_at(dx)) for dx in (-0.4, 0.0, 0.4)]
    truth = wall(camera_at(x, y, z, yaw))
    view = render_surfaces(surfaces, K_PX, camera_at(x, y, z, yaw), HW)
    inner = np.zeros(HW, bool)
    inner[15:-15, 20:-20] = True
    assert view.covered[inner].all()
    assert np.abs(view.depth_m[inner] / truth.depth_m[inner] - 1).max() < 0.01
    assert psnr(view.color[inner], truth.image[inner]) > 32.0


def test_the_same_camera_gets_its_own_image_back() -> None:
    surface = wall(camera_at(0.0))
    view = render_surfaces([surface], K_PX, surface.T_fixed_cam, HW)
    assert view.covered.mean() > 0.95
    assert np.abs(view.color.astype(int) - surface.image)[view.covered].max() <= 1


def test_a_larger_target_keeps_the_resolution_of_the_images() -> None:
    surface = wall(camera_at(0.0))
    coarse = Surface(
        surface.image,
        K_PX,
        surface.T_fixed_cam,
        surface.depth_m[::2, ::2],
        surface.confidence[::2, ::2],
    )
    view = render_surfaces([coarse], K_PX, surface.T_fixed_cam, HW)
    assert view.depth_m.shape == HW
    assert psnr(view.color[view.covered], surface.image[view.covered]) > 40.0


def test_what_is_behind_does_not_show_through() -> None:
    T = camera_at(0.0)
    near, far = wall(camera_at(0.3), 1.0), wall(camera_at(-0.3), 3.0)
    # The near board fills the left half of the target only.
    board = near.depth_m.copy()
    board[:, 16:] = np.nan
    near = Surface(np.full((*HW, 3), 200, np.uint8), K_PX, near.T_fixed_cam, board, near.confidence)
    view = render_surfaces([far, near], K_PX, T, HW)
    on_board = np.isfinite(view.depth_m) & (view.depth_m < 2.0)
    assert on_board.any()
    assert (view.color[on_board] == 200).all()
    assert not ((view.depth_m > 1.1) & (view.depth_m < 2.9)).any()  # no depth in between


def test_a_point_that_other_cameras_looked_through_is_not_there() -> None:
    surfaces = [wall(camera_at(dx)) for dx in (-0.2, -0.1, 0.1, 0.2)]
    ghost = surfaces[1].depth_m.copy()
    ghost[20:40, 30:50] = 0.8
    surfaces[1] = Surface(
        surfaces[1].image, K_PX, surfaces[1].T_fixed_cam, ghost, surfaces[1].confidence
    )
    view = render_surfaces(surfaces, K_PX, camera_at(0.0), HW)
    known = view.depth_m[view.covered]
    assert np.abs(known / 2.0 - 1).max() < 0.02


def test_images_too_far_away_to_show_it_tell_that_a_point_is_not_there() -> None:
    near = [wall(camera_at(dx)) for dx in (-0.002, 0.0, 0.002)]
    far = [wall(camera_at(dx)) for dx in (-0.3, -0.25, -0.2, 0.2, 0.25, 0.3)]
    for k, surface in enumerate(near):  # neighbours share what their images have in common
        ghost = surface.depth_m.copy()
        ghost[20:40, 36:44] = 0.8
        near[k] = replace(surface, depth_m=ghost)
    alone = render_surfaces(near, K_PX, camera_at(0.0), HW)
    assert (alone.depth_m[25:35, 38:42] < 1.0).all()
    view = render_surfaces([*near, *far], K_PX, camera_at(0.0), HW, max_sources=3)
    assert np.abs(view.depth_m[view.covered] / 2.0 - 1).max() < 0.02


def beyond_measured(surfaces: Sequence[Surface]) -> RenderedView:
    sources = [source_of(surface, beyond_measured=True) for surface in surfaces]
    return render_chosen(sources, K_PX, camera_at(0.0), HW)


def board_with_a_plain_middle() -> tuple[Surface, Surface]:
    """A board whose middle gave no depth, and a wall behind it that a camera beside it measured."""
    front, behind = wall(camera_at(0.0), 1.0), wall(camera_at(1.0), 3.0)
    measured = front.depth_m.copy()
    measured[:, :15] = measured[:, 65:] = np.nan
    measured[:, 30:34] = np.nan  # plain
    grey = np.full((*HW, 3), 200, np.uint8)
    return Surface(grey, K_PX, front.T_fixed_cam, measured, front.confidence), behind


def test_a_wall_is_not_seen_through_the_plain_middle_of_what_stands_in_front() -> None:
    surfaces, middle = board_with_a_plain_middle(), np.s_[10:-10, 31:33]
    through = render_surfaces(surfaces, K_PX, camera_at(0.0), HW)
    assert (through.depth_m[middle] > 2.9).all()  # the wall, by measured depth alone
    view = beyond_measured(surfaces)
    assert (view.color[middle] == 200).all()
    assert np.abs(view.depth_m[middle] - 1.0).max() < 0.01
    assert not view.measured[middle].any()


def test_continued_surfaces_leave_measured_depth_as_it_is() -> None:
    surfaces = board_with_a_plain_middle()
    alone = render_surfaces(surfaces, K_PX, camera_at(0.0), HW)
    view = beyond_measured(surfaces)
    sure = view.weight >= SURE
    assert sure.mean() > 0.3
    np.testing.assert_allclose(view.depth_m[sure], alone.depth_m[sure], rtol=1e-3)
    assert (view.weight[view.covered & ~alone.covered] < POSSIBLE).all()


def test_surfaces_of_which_little_is_measured_are_not_continued() -> None:
    surface = wall(camera_at(0.0))
    surface.depth_m[:, 35:] = np.nan
    view = beyond_measured([surface])
    assert not view.covered[:, 37:].any()


def test_a_continued_surface_gives_way_to_cameras_that_look_past_it() -> None:
    """A board that ends at pixel 45 does not grow over the wall that is seen beside it."""
    front, behind = wall(camera_at(0.0), 1.0), wall(camera_at(0.0), 3.0)
    measured = front.depth_m.copy()
    measured[:, 45:] = np.nan
    board = Surface(front.image, K_PX, front.T_fixed_cam, measured, front.confidence)
    past = behind.depth_m.copy()
    past[:, :45] = np.nan
    beside = Surface(behind.image, K_PX, behind.T_fixed_cam, past, behind.confidence)
    view = beyond_measured([board, beside])
    assert (view.depth_m[10:-10, 48:75] > 2.9).all()
    assert (view.weight[10:-10, 48:75] >= SURE).all()


def test_order_of_the_images_does_not_matter() -> None:
    surfaces = [wall(camera_at(dx, gain)) for dx, gain in ((-0.3, 0.0), (0.1, 0.1), (0.4, 0.0))]
    one = render_surfaces(surfaces, K_PX, camera_at(0.05), HW)
    two = render_surfaces(surfaces[::-1], K_PX, camera_at(0.05), HW)
    np.testing.assert_array_equal(one.covered, two.covered)
    assert np.abs(one.color.astype(int) - two.color).max() <= 1
    np.testing.assert_allclose(one.depth_m[one.covered], two.depth_m[two.covered], rtol=1e-5)


def test_views_that_share_what_is_prepared_are_those_rendered_alone() -> None:
    surfaces = [wall(camera_at(dx), gain=g) for dx, g in ((-0.3, 1.0), (0.1, 0.8), (0.4, 1.0))]
    cameras = [(K_PX, camera_at(0.05)), (K_PX, camera_at(-0.2, yaw_rad=0.1))]
    for view, camera in zip(render_views(surfaces, cameras, HW), cameras, strict=True):
        alone = render_surfaces(surfaces, *camera, HW)
        assert view.covered.any()
        for one, other in ((view.color, alone.color), (view.depth_m, alone.depth_m)):
            np.testing.assert_array_equal(one, other)


def moved(surface: Surface, shift_m: float) -> Surface:
    T = surface.T_fixed_cam.copy()
    T[:3, 3] += shift_m
    return Surface(surface.image, surface.K_px, T, surface.depth_m, surface.confidence)


def test_far_from_the_origin_of_the_fixed_frame_a_view_is_the_same() -> None:
    surfaces = [wall(camera_at(dx)) for dx in (-0.3, 0.1, 0.4)]
    far = [moved(surface, 1e6) for surface in surfaces]
    one = render_surfaces(surfaces, K_PX, camera_at(0.05), HW)
    two = render_surfaces(far, K_PX, camera_at(0.05 + 1e6, 1e6, 1e6), HW)
    np.testing.assert_array_equal(one.covered, two.covered)
    assert np.abs(one.color.astype(int) - two.color).max() <= 1


def test_surfaces_that_show_a_target_from_nearby_are_chosen_first() -> None:
    near, beside, elsewhere = (wall(camera_at(dx)) for dx in (0.05, 0.8, 9.0))
    candidates = candidates_of([elsewhere, beside, near])
    assert choose_surfaces(candidates, K_PX, camera_at(0.0), HW, 6)[0] == [near, beside]
    assert choose_surfaces(candidates, K_PX, camera_at(0.0), HW, 1)[0] == [near]
    assert choose_surfaces(candidates_of([]), K_PX, camera_at(0.0), HW, 6) == ([], [])


def test_exposures_are_matched() -> None:
    surfaces = [wall(camera_at(-0.25), gain=1.0), wall(camera_at(0.25), gain=0.7)]
    view = render_surfaces(surfaces, K_PX, camera_at(-0.2), HW)
    truth = wall(camera_at(-0.2))
    inner = view.covered
    inner[:, :5] = inner[:, -5:] = False
    assert psnr(view.color[inner], truth.image[inner]) > 24.0  # 17 dB where 0.7 is left alone
    columns = np.abs(np.diff(view.color.astype(float).mean((0, 2))))
    assert columns.max() < 12.0  # no seam where one image ends


def test_nothing_measured_renders_nothing() -> None:
    surface = wall(camera_at(0.0))
    unmeasured = Surface(
        surface.image,
        K_PX,
        surface.T_fixed_cam,
        np.full(HW, np.nan, np.float32),
        np.zeros(HW, np.float32),
    )
    for surfaces in ([], [unmeasured]):
        view = render_surfaces(surfaces, K_PX, camera_at(0.0), HW)
        assert not view.covered.any()
        assert view.weight.max() == 0.0
    behind = render_surfaces([surface], K_PX, camera_at(0.0, z_m=5.0), HW)
    assert not behind.covered.any()


def test_an_empty_target_is_an_error() -> None:
    with pytest.raises(ValueError, match="image_hw"):
        render_surfaces([wall(camera_at(0.0))], K_PX, camera_at(0.0), (0, 80))


def test_only_pixels_at_depth_edges_are_dropped() -> None:
    depth = np.full((20, 20), 2.0, np.float32)
    depth[:, 10:] = 3.0
    dropped = ~np.isfinite(without_edges(depth))
    assert dropped[:, 9:11].all()
    assert not dropped[:, :9].any()
    assert not dropped[:, 11:].any()
    slanted = (1.0 / np.linspace(0.2, 1.5, 20)[:, None] * np.ones((1, 20))).astype(np.float32)
    assert np.isfinite(without_edges(slanted)).all()
