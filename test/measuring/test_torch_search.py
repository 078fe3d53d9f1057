"""The search in torch against the one in NumPy: costs, smoothness, winners, and measured depth."""

import numpy as np
import pytest
import torch
from textured_planes import HW, camera_at, plane_image, texture

from gld_ros.measuring import aggregation, sweep, torch_aggregation, torch_sweep, winner
from gld_ros.measuring import torch_winner as winner_in_torch
from gld_ros.measuring.confidence import SURE
from gld_ros.measuring.frames import PosedImage
from gld_ros.measuring.levels import grey_image
from gld_ros.measuring.measure import MeasuringParameters, measure_depth
from gld_ros.scenes.rooms import render_room_views, render_rooms

PLACES = (camera_at(-0.2), camera_at(0.3, 0.1, yaw_deg=8.0), camera_at(z_m=0.3), camera_at(0, 0.1))


def images(sizes):
    """Grey images of a plane, the reference first, at sizes (h, w)."""
    frames = [plane_image(T, 2.0, texture()) for T in (camera_at(), *PLACES[: len(sizes) - 1])]
    return [grey_image(frame, hw) for frame, hw in zip(frames, sizes, strict=True)]


def both_costs(greys, around, steps, device):
    """Matching cost in NumPy and in torch."""
    T = [np.linalg.inv(place) for place in PLACES[: len(greys) - 1]]
    there = (torch.from_numpy(values).to(device) for values in (around, steps))
    return (
        sweep.matching_cost(greys[0], greys[1:], T, around, steps, 2),
        torch_sweep.matching_cost(greys[0], greys[1:], T, *there, 2).cpu().numpy(),
    )


def assert_same_cost(numpy_cost, torch_cost):
    difference = np.abs(torch_cost - numpy_cost)
    assert np.median(difference) < 1e-4
    # Some versions of OpenCV sample at 1/32 of a pixel; at the rim a neighbour sees or does not.
    assert np.quantile(difference, 0.98) < 0.05
    assert ((numpy_cost == sweep.NEUTRAL_COST) != (torch_cost == sweep.NEUTRAL_COST)).mean() < 0.005


@pytest.mark.parametrize("neighbours", [1, 2, 4])
def test_cost_of_planes_is_that_of_numpy(neighbours, torch_device):
    around = np.full((1, 1), 0.1, np.float32)
    steps = np.linspace(0.0, 1.1, 9, dtype=np.float32)
    assert_same_cost(*both_costs(images([HW] * (neighbours + 1)), around, steps, torch_device))


def test_cost_around_a_surface_is_that_of_numpy(torch_device):
    around = np.linspace(0.3, 0.7, HW[0] * HW[1], dtype=np.float32).reshape(HW)
    steps = np.linspace(-0.1, 0.1, 5, dtype=np.float32)
    assert_same_cost(*both_costs(images([HW] * 3), around, steps, torch_device))


def test_neighbours_may_have_other_sizes_than_the_reference(torch_device):
    greys = images([(48, 64), HW, (24, 32), (60, 80)])
    steps = np.linspace(0.0, 0.8, 5, dtype=np.float32)
    around = np.full((1, 1), 0.2, np.float32)
    assert_same_cost(*both_costs(greys, around, steps, torch_device))


def test_hypotheses_in_parts_cost_what_they_cost_at_once(torch_device, monkeypatch):
    greys, around = images([HW] * 3), np.full((1, 1), 0.1, np.float32)
    steps = np.linspace(0.0, 1.0, 7, dtype=np.float32)
    _, at_once = both_costs(greys, around, steps, torch_device)
    monkeypatch.setattr(torch_sweep, "_AT_ONCE", 2 * 2 * 100 * 132)  # two of the seven
    _, in_parts = both_costs(greys, around, steps, torch_device)
    np.testing.assert_allclose(in_parts, at_once, atol=1e-6)


def test_what_no_neighbour_sees_is_what_numpy_says(torch_device):
    greys, T = images([HW] * 2), [np.linalg.inv(PLACES[0])]
    for inverse_depth in (0.5, 0.1, 1e6):
        plane = np.full(HW, inverse_depth, np.float32)
        expected = sweep.seen_by_any(greys[0], greys[1:], T, plane)
        there = torch.from_numpy(plane).to(torch_device)
        seen = torch_sweep.seen_by_any(greys[0], greys[1:], T, there).cpu().numpy()
        assert (seen != expected).mean() < 0.02


@pytest.mark.parametrize("up_m", [-1e-7, 1e-7])
def test_the_outermost_row_is_seen_however_it_is_rounded(up_m, device):
    greys, plane = images([HW] * 2), np.full(HW, 0.5, np.float32)
    T = [np.linalg.inv(camera_at(0.2, up_m))]
    if device is None:
        seen = sweep.seen_by_any(greys[0], greys[1:], T, plane)
    else:
        there = torch.from_numpy(plane).to(device)
        seen = torch_sweep.seen_by_any(greys[0], greys[1:], T, there).cpu().numpy()
    assert seen[0].mean() == seen[-1].mean() > 0.8


@pytest.mark.parametrize("hw", [(9, 14), (14, 9), (1, 5)])
def test_smoothness_is_that_of_numpy(hw, torch_device):
    rng = np.random.default_rng(0)
    cost = rng.random((7, *hw)).astype(np.float32)
    grey = rng.integers(0, 255, hw).astype(np.float32)
    there = (torch.from_numpy(values).to(torch_device) for values in (cost, grey))
    found = torch_aggregation.semi_global(*there).cpu().numpy()
    np.testing.assert_allclose(found, aggregation.semi_global(cost, grey), atol=1e-5)


def test_no_step_of_a_search_waits_for_the_device():
    greys, nowhere = images([HW] * 3), torch.device("meta")  # which has no values to wait for
    around = torch.empty(HW, device=nowhere)
    T = [np.linalg.inv(place) for place in PLACES[:2]]
    steps = torch.empty(5, device=nowhere)
    cost = torch_sweep.matching_cost(greys[0], greys[1:], T, around, steps, 2)
    aggregated = torch_aggregation.semi_global(cost, around)
    assert winner_in_torch.lowest_cost(aggregated).position.shape == HW


def test_winners_are_those_of_numpy(torch_device):
    cost = np.random.default_rng(0).random((9, 20, 30)).astype(np.float32)
    cost[:, :2] = 0.5  # all the same: the first one wins
    there = torch.from_numpy(cost).to(torch_device)
    expected, found = winner.lowest_cost(cost), winner_in_torch.lowest_cost(there)
    np.testing.assert_array_equal(found.index.cpu().numpy(), expected.index)
    np.testing.assert_allclose(found.position.cpu().numpy(), expected.position, atol=1e-5)
    np.testing.assert_allclose(found.curvature.cpu().numpy(), expected.curvature, atol=1e-6)
    np.testing.assert_allclose(
        winner_in_torch.margin_over_others(there, found.index, 3).cpu().numpy(),
        winner.margin_over_others(cost, expected.index, 3),
        atol=1e-6,
    )


def room_frames(hw, smaller_hw):
    """Six images of a furnished procedural room; every second neighbour has the smaller size."""
    start = render_rooms("wide", [3], 1, (8, 8))["T_world_cam"][0, 0].double().numpy()
    frames = []
    for number, x_m in enumerate((0.0, -0.2, -0.1, 0.1, 0.2, 0.3)):
        height, width = smaller_hw if number % 2 else hw
        K_px = np.array([[0.8 * width, 0, (width - 1) / 2], [0, 0.8 * width, (height - 1) / 2]])
        K_px = np.vstack([K_px, [0, 0, 1]])
        T = start @ camera_at(x_m, 0.3 * x_m, yaw_deg=5 * x_m)
        pose, K = (torch.from_numpy(values)[None].float() for values in (T, K_px))
        rgb = render_room_views(3, "wide", pose, K, (height, width))["images"][0]
        image = (rgb.permute(1, 2, 0) * 255).round().byte().numpy()
        frames.append(PosedImage(image, K_px, T, number, "camera"))
    return frames


def plane_frames(depth_m, slope_y):
    return [plane_image(T, depth_m, texture(2), slope_y) for T in (camera_at(), *PLACES)]


SCENES = {
    "wall": lambda: plane_frames(2.0, 0.0),
    "slope": lambda: plane_frames(2.0, -1.0),
    "room": lambda: room_frames((120, 160), (120, 160)),
    "room, two sizes": lambda: room_frames((120, 160), (90, 120)),
}


@pytest.mark.parametrize("scene", SCENES)
def test_depth_is_that_of_numpy(scene, torch_device):
    frames, parameters = SCENES[scene](), MeasuringParameters((0.5, 8.0))
    measured = [
        measure_depth(frames[0], frames[1:], parameters, device) for device in (None, torch_device)
    ]
    numpy_m, torch_m = (np.where(m.confidence >= SURE, m.depth_m, np.nan) for m in measured)
    both = np.isfinite(numpy_m) & np.isfinite(torch_m)
    assert both.mean() > 0.15
    assert (np.abs(torch_m[both] / numpy_m[both] - 1) < 0.01).mean() > 0.99
    assert abs(np.isfinite(torch_m).mean() - np.isfinite(numpy_m).mean()) < 0.01
    assert (np.isfinite(torch_m) != np.isfinite(numpy_m)).mean() < 0.01


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_a_gpu_that_is_not_there_is_refused():
    frames = plane_frames(2.0, 0.0)
    with pytest.raises(ValueError, match="device is cuda, but torch sees no CUDA device"):
        measure_depth(frames[0], frames[1:], MeasuringParameters(), torch.device("cuda"))
