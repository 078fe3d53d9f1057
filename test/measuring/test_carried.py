"""Depth carried into a newer image: right where that shows the same, absent where it does not."""

from dataclasses import replace

import numpy as np
import pytest
from textured_planes import HW, K_PX, camera_at, plane_depth, plane_image, texture

from gld_ros.measuring.carried import carried_depth, filled_surface
from gld_ros.measuring.consistency import MeasuredImage
from gld_ros.measuring.frames import MeasuredDepth, PosedImage
from gld_ros.measuring.surfaces import Surface, sure_depth

WALL_M = 3.0


def surface(x_m, values=None):
    T = camera_at(x_m)
    image = plane_image(T, WALL_M, texture() if values is None else values)
    depth_m = plane_depth(T, WALL_M).astype(np.float32)
    return Surface(image.image, K_PX, T, depth_m, np.full(HW, 0.9, np.float32))


@pytest.fixture(scope="module")
def surfaces():
    return [surface(x_m) for x_m in (-0.2, 0.0, 0.2)]


@pytest.fixture(scope="module")
def newer():
    return plane_image(camera_at(0.1), WALL_M, texture())


def test_what_the_newer_image_shows_as_well_is_carried(surfaces, newer):
    carried = carried_depth(surfaces, newer)
    assert carried.coverage > 0.8
    known = np.isfinite(carried.depth_m)
    truth_m = plane_depth(newer.T_fixed_cam, WALL_M)
    assert np.abs(carried.depth_m[known] / truth_m[known] - 1).max() < 0.01
    assert (carried.confidence[known] > 0.5).all()
    assert (carried.confidence[~known] == 0).all()


def changed(image, pixels):
    return PosedImage(pixels, image.K_px, image.T_fixed_cam, image.stamp_ns, image.camera)


@pytest.mark.parametrize("blank", [True, False])
def test_something_new_in_front_of_what_was_measured_gets_no_depth(surfaces, newer, blank):
    pixels = newer.image.copy()
    other = np.uint8(130) if blank else plane_image(camera_at(3.0), 1.0, texture(seed=5)).image
    pixels[30:70, 40:90] = other if blank else other[30:70, 40:90]
    carried = carried_depth(surfaces, changed(newer, pixels))
    inside = np.isfinite(carried.depth_m)[34:66, 44:86]
    assert inside.mean() < 0.1
    assert np.isfinite(carried.depth_m)[:, :30].mean() > 0.7


def test_another_exposure_is_the_same_place(surfaces, newer):
    darker = changed(newer, (newer.image * 0.6).astype(np.uint8))
    assert carried_depth(surfaces, darker).coverage > 0.8


@pytest.mark.parametrize(("grey", "carried"), [(128, True), (131, True), (150, False)])
def test_a_blank_wall_is_carried_where_it_has_kept_its_brightness(newer, grey, carried):
    blank = [surface(x_m, np.full_like(texture(), 128.0)) for x_m in (-0.2, 0.2)]
    image = changed(newer, np.full_like(newer.image, grey))
    assert carried_depth(blank, image).coverage == 0  # not unless blank surfaces are asked for
    found = carried_depth(blank, image, blank=True)
    assert (found.coverage > 0.8) if carried else (found.coverage == 0)


def test_a_textured_thing_before_a_blank_wall_gets_no_depth(newer):
    blank = [surface(x_m, np.full_like(texture(), 128.0)) for x_m in (-0.2, 0.2)]
    pixels = np.full_like(newer.image, 128)
    pixels[30:70, 40:90] = plane_image(camera_at(3.0), 1.0, texture(seed=5)).image[30:70, 40:90]
    found = carried_depth(blank, changed(newer, pixels), blank=True)
    assert np.isfinite(found.depth_m)[34:66, 44:86].mean() < 0.05


def test_a_surface_is_filled_with_sure_depth_of_others_and_keeps_its_own(surfaces, newer):
    depth_m = np.full(HW, np.nan, np.float32)
    depth_m[:40] = 1.5
    confidence = np.where(np.isfinite(depth_m), 0.8, 0.0).astype(np.float32)
    own = Surface(newer.image, K_PX, newer.T_fixed_cam, depth_m, confidence)
    alone = MeasuredImage(newer, MeasuredDepth(depth_m, confidence, "stereo"))
    filled = filled_surface(own, alone, surfaces)
    assert (filled.depth_m[:40] == 1.5).all()
    below = filled.depth_m[45:]
    assert np.isfinite(below).mean() > 0.8
    assert np.nanmax(np.abs(below / WALL_M - 1)) < 0.01


def test_what_an_image_measured_by_itself_makes_depth_of_others_surer_where_it_agrees(newer):
    unsure = [replace(surface(x_m), confidence=np.full(HW, 0.65, np.float32)) for x_m in (0.0, 0.2)]
    nothing = np.full(HW, np.nan, np.float32)
    own = Surface(newer.image, K_PX, newer.T_fixed_cam, nothing, np.zeros(HW, np.float32))
    depth_m = np.full(HW, WALL_M, np.float32)
    depth_m[:, 64:] = 2.0  # of no surface that others have seen
    alone = MeasuredDepth(depth_m, np.full(HW, 0.4, np.float32), "stereo")
    filled = filled_surface(own, MeasuredImage(newer, alone), unsure)
    assert np.isfinite(sure_depth(filled))[:, 10:60].mean() > 0.8
    assert filled.confidence[:, 10:60].max() > filled.confidence[:, 70:].max() + 0.02


def test_without_surfaces_nothing_is_measured(newer):
    assert carried_depth([], newer).coverage == 0
