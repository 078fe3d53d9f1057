"""Solvers on flows whose end is known: order, first steps, known latents."""

import math

import pytest
import torch

from gld_ros.diffusion.flow import time_grid, unshift_time
from gld_ros.diffusion.presets import SolverSteps, solver_steps
from gld_ros.diffusion.solvers import UPDATE_RULES, integrate, sampling_grid

NOISE = torch.tensor([1.0, -0.5])
# dx/dt = -x, as smooth as flows get: from t = 1 to t its solution is NOISE * exp(1 - t).
ENDS = {"euler": 1, "ab2": 2, "ab3": 3, "abm2": 2}


def error(solver, steps):
    grid = torch.linspace(1.0, 0.1, steps + 1, dtype=torch.float64)
    *_, last = integrate(lambda x, t: -x, NOISE.double(), grid, solver=solver)
    return float((last.latent - NOISE.double() * math.exp(0.9)).abs().max())


@pytest.mark.parametrize(("solver", "order"), ENDS.items())
def test_halving_the_steps_divides_the_error_by_the_order(solver, order):
    # The first step is Euler's, with an error of h^2: it hides orders above two.
    assert error(solver, 320) < error(solver, 160) / 2 ** (min(order, 2) - 0.2)
    assert error("ab2", 40) < error("euler", 40) / 10
    assert error("abm2", 40) < error("ab2", 40)  # it corrects even the first step


@pytest.mark.parametrize("shift", [1.0, 4.2, 46.0])
def test_a_line_over_unshifted_time_is_followed_by_all_steps_after_the_first(shift):
    # Velocity 1 + unshifted time: all later predictions and every correction are exact.
    grid = time_grid(7, shift).double().tolist()
    asked = []

    def velocity(x, t):
        asked.append(x)
        return torch.full_like(NOISE, 1 + unshift_time(t, shift)).double()

    *_, last = integrate(velocity, NOISE.double(), grid, solver="abm2", shift=shift)
    times = torch.linspace(grid[0], grid[-1], 200_001, dtype=torch.float64)
    integral = torch.trapezoid(1 + times / (shift - (shift - 1) * times), times)
    torch.testing.assert_close(last.latent, NOISE.double() + integral, atol=1e-6, rtol=0)
    assert len(asked) == 6  # corrections evaluate nothing


@pytest.mark.parametrize("shift", [1.0, 4.2, 46.0])
@pytest.mark.parametrize("solver", UPDATE_RULES)
def test_every_grid_falls_from_noise_to_the_last_published_time(solver, shift):
    for steps in (1, 2, 5, 10, 49):
        published = time_grid(steps + 1, shift)
        grid, line_shift = sampling_grid(steps, shift, solver)
        assert len(grid) == len(published)
        assert grid[0] == 1
        assert (grid.diff() < 0).all()
        assert float(grid[-1]) == pytest.approx(float(published[-1]), rel=1e-4)
        if solver != "abm2":
            assert grid.equal(published)
            assert line_shift == shift


@pytest.mark.parametrize("shift", [1.0, 4.2, 46.0])
@pytest.mark.parametrize("steps", [5, 49])
@pytest.mark.parametrize("deviation", [0.3, 1.0, 3.0])
def test_fast_ends_nearer_than_euler_in_all_its_steps_where_data_are_gaussian(
    shift, steps, deviation
):
    def spread(t):
        return math.hypot(t, (1 - t) * deviation)

    def error(how):
        grid, line_shift = sampling_grid(how.steps, shift, how.solver)
        times = grid.double().tolist()
        *_, last = integrate(
            # The expected noise - clean at x, for clean latents of this deviation.
            lambda x, t: x * (t - (1 - t) * deviation**2) / spread(t) ** 2,
            NOISE.double(),
            times,
            solver=how.solver,
            shift=line_shift,
        )
        exact = NOISE.double() * spread(times[-1])
        return float((last.latent - exact).norm() / exact.norm())

    euler = SolverSteps("euler", steps)
    fast = solver_steps("fast", euler)
    assert fast.steps < steps
    assert error(fast) < error(euler)


@pytest.mark.parametrize("solver", UPDATE_RULES)
def test_a_constant_velocity_is_followed_exactly(solver):
    clean = torch.tensor([0.2, 3.0])
    grid = time_grid(6, 3.0)
    *_, last = integrate(lambda x, t: NOISE - clean, NOISE, grid, solver=solver)
    expected = torch.lerp(clean, NOISE, grid[-1])
    torch.testing.assert_close(last.latent, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("solver", UPDATE_RULES)
def test_a_network_that_knows_the_clean_latent_arrives_in_one_step(solver):
    clean = torch.tensor([0.2, 3.0])
    *_, last = integrate(lambda x, t: (x - clean) / t, NOISE, [1.0, 0.0], solver=solver)
    torch.testing.assert_close(last.latent, clean)


def test_dpm_solver_is_of_second_order_where_the_clean_latent_changes():
    def run(steps):
        grid = torch.linspace(0.9, 0.2, steps + 1, dtype=torch.float64).tolist()
        start = torch.ones(1, dtype=torch.float64)
        *_, last = integrate(
            lambda x, t: (x - 0.1 * math.log((1 - t) / t)) / t, start, grid, solver="dpm2m"
        )
        return float(last.latent)

    fine = run(2000)
    assert abs(run(40) - fine) < abs(run(20) - fine) / 2.5


def test_every_step_is_yielded_and_stopping_cancels():
    calls = []
    steps = integrate(lambda x, t: calls.append(t) or x, NOISE, time_grid(9, 1.0), solver="ab2")
    first = next(steps)
    assert (first.index, first.total) == (1, 8)
    steps.close()
    assert calls == [1.0]


def test_an_unknown_solver_is_rejected():
    with pytest.raises(ValueError, match="use one of euler, ab2, ab3, abm2, dpm2m"):
        next(integrate(lambda x, t: x, NOISE, [1.0, 0.5], solver="rk4"))
