"""The path of a fly-through: smooth, through what was recorded, and a little off it."""

import itertools

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gld_ros.demo.flight_path import flight_path
from gld_ros.geometry.poses import distance_m, invert_rigid, is_rigid, turn_rad

DEPTH_M = 2.0


def arc(count=30, jitter_m=0.0):
    """Cameras on a quarter of a circle of one metre that turn with it."""
    rng = np.random.default_rng(0)
    poses = []
    for angle in np.linspace(0, np.pi / 2, count):
        T = np.eye(4)
        T[:3, :3] = Rotation.from_euler("y", angle).as_matrix()
        T[:3, 3] = [np.sin(angle), 0.0, np.cos(angle)]
        T[:3, 3] += rng.normal(0, jitter_m, 3)
        poses.append(T)
    return poses


def steps_m(path):
    return [distance_m(a, b) for a, b in itertools.pairwise(path)]


def test_it_begins_and_ends_at_recorded_cameras():
    recorded = arc()
    path = flight_path(recorded, 24, DEPTH_M, off_path=0.2)
    assert len(path) == 24
    np.testing.assert_allclose(path[0], recorded[0], atol=1e-9)
    np.testing.assert_allclose(path[-1], recorded[-1], atol=1e-9)
    assert all(is_rigid(T) for T in path)


def test_without_leaving_it_stays_on_the_recorded_curve_at_an_even_pace():
    path = flight_path(arc(), 40, DEPTH_M, off_path=0.0)
    for T in path:
        assert np.linalg.norm(T[:3, 3]) == pytest.approx(1.0, abs=0.01)
    steps = steps_m(path)
    assert max(steps) < 1.2 * min(steps)


def test_standing_still_takes_no_time():
    recorded = [*arc()[:15], *[arc()[15]] * 50, *arc()[15:]]
    steps = steps_m(flight_path(recorded, 30, DEPTH_M, off_path=0.0))
    assert min(steps) > 0.5 * np.mean(steps)


def test_off_the_path_it_looks_at_the_same_point():
    on, off = (flight_path(arc(), 33, DEPTH_M, share) for share in (0.0, 0.2))
    away = [distance_m(a, b) for a, b in zip(on, off, strict=True)]
    assert 0.8 < max(away) / (0.2 * DEPTH_M) < 1.2
    for T_on, T_off in zip(on, off, strict=True):
        point = T_on @ [0.0, 0.0, DEPTH_M, 1.0]
        x, y, z, _ = invert_rigid(T_off) @ point
        assert z > 0
        np.testing.assert_allclose([x, y], 0.0, atol=1e-9)


def test_trembling_poses_do_not_shake_it():
    path = flight_path(arc(200, jitter_m=0.01), 60, DEPTH_M, 0.0)
    turns = [turn_rad(a, b) for a, b in itertools.pairwise(path)]
    places = np.array([T[:3, 3] for T in path])
    assert np.linalg.norm(np.diff(places, 2, axis=0), axis=1).max() < 0.01
    assert max(turns) < 2 * np.mean(turns)


def test_cameras_in_one_place_are_no_path():
    with pytest.raises(ValueError, match="one place"):
        flight_path([np.eye(4)] * 5, 10, DEPTH_M, 0.1)
