"""Times, noise and Euler integration."""

import math

import pytest
import torch

from gld_ros.diffusion.flow import (
    add_noise,
    draw_noise,
    shift_times,
    time_grid,
    time_shift,
    to_velocity,
    training_times,
    velocity_target,
)
from gld_ros.diffusion.solvers import integrate


def test_shift_of_the_published_evaluation():
    assert time_shift(1536, 18, 18, 8) == pytest.approx(math.sqrt(972))


def test_grid_falls_from_one_and_stops_above_zero():
    grid = time_grid(50, time_shift(1536, 18, 18, 8))
    assert grid.shape == (50,)
    assert grid[0] == 1
    assert (grid[1:] < grid[:-1]).all()
    assert grid[-1].item() == pytest.approx(0.03026, abs=1e-5)


def test_shift_one_changes_nothing():
    times = torch.linspace(0, 1, 11)
    torch.testing.assert_close(shift_times(times, 1.0), times)


def test_training_times_cover_the_shifted_range():
    uniform = torch.rand(4000, generator=torch.Generator().manual_seed(0))
    t = training_times(uniform, 4.24)
    assert t.min() >= 0
    assert t.max() < 1
    assert t.median().item() == pytest.approx(4.24 / (1 + 4.24), abs=0.02)


def test_noised_latent_moves_along_the_velocity():
    clean, noise = torch.randn(2, 3, 4, 8, 2, 2, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.0, 0.25, 1.0])
    noisy = add_noise(clean, noise, t)
    assert torch.equal(noisy[0], clean[0])
    assert torch.equal(noisy[2], noise[2])
    torch.testing.assert_close(
        noisy - t[:, None, None, None, None] * velocity_target(clean, noise), clean
    )


@pytest.mark.parametrize("t", [0.5, torch.tensor(0.5), torch.tensor([0.5, 0.5])])
def test_clean_prediction_gives_the_same_velocity(t):
    clean, noise = torch.randn(2, 2, 4, 8, 2, 2, generator=torch.Generator().manual_seed(0))
    noisy = 0.5 * (clean + noise)
    torch.testing.assert_close(to_velocity(clean, noisy, t, "clean"), noise - clean)
    assert torch.equal(to_velocity(noise - clean, noisy, t, "velocity"), noise - clean)


def test_clean_prediction_divides_by_a_bounded_time():
    noisy, output = torch.ones(1, 1), torch.zeros(1, 1)
    assert to_velocity(output, noisy, 1e-6, "clean").item() == pytest.approx(50.0)


def test_euler_recovers_data_from_the_exact_velocity():
    clean, noise = torch.randn(2, 1, 2, 8, generator=torch.Generator().manual_seed(0))
    grid = time_grid(10, 4.0)
    *_, last = integrate(lambda x, t: noise - clean, noise, grid)
    expected = add_noise(clean, noise, grid[-1:])
    torch.testing.assert_close(last.latent, expected, atol=1e-5, rtol=1e-5)
    assert (last.index, last.total) == (9, 9)


def test_sampling_evaluates_only_on_demand_and_can_be_cancelled():
    calls = []

    def velocity(x, t):
        calls.append(t)
        return x

    steps = integrate(velocity, torch.ones(1), time_grid(20, 1.0))
    assert calls == []
    assert next(steps).index == 1
    assert next(steps).index == 2
    steps.close()
    assert len(calls) == 2
    assert list(steps) == []


def test_sampling_leaves_the_gradient_mode_of_the_caller_alone():
    steps = integrate(lambda x, t: x, torch.ones(1), time_grid(3, 1.0))
    next(steps)
    assert torch.is_grad_enabled()
    steps.close()
    assert torch.is_grad_enabled()


def test_sampling_does_not_change_the_given_noise():
    noise = torch.ones(2)
    list(integrate(lambda x, t: x, noise, time_grid(3, 1.0)))
    assert torch.equal(noise, torch.ones(2))


def test_equal_seeds_draw_equal_noise():
    assert torch.equal(draw_noise((3, 4), 5), draw_noise((3, 4), 5))
    assert not torch.equal(draw_noise((3, 4), 5), draw_noise((3, 4), 6))
    generator = torch.Generator().manual_seed(5)
    assert torch.equal(draw_noise((3, 4), generator), draw_noise((3, 4), 5))
    assert not torch.equal(draw_noise((3, 4), generator), draw_noise((3, 4), 5))


@pytest.mark.parametrize("points", [0, 1])
def test_grid_without_a_step_is_refused(points):
    with pytest.raises(ValueError, match=f"has {points} points; it needs at least 2"):
        time_grid(points, 1.0)


@pytest.mark.parametrize("shift", [0.0, -1.0, math.nan, math.inf])
def test_impossible_shift_is_refused(shift):
    with pytest.raises(ValueError, match="expected a positive number"):
        time_grid(5, shift)


@pytest.mark.parametrize("grid", [[1.0], [0.5, 0.5], [0.1, 0.9]])
def test_grid_that_does_not_fall_is_refused(grid):
    with pytest.raises(ValueError, match="decreasing"):
        next(integrate(lambda x, t: x, torch.ones(1), torch.tensor(grid)))
