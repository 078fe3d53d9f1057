"""Classifier-free guidance against its definition."""

import math

import pytest
import torch
from micro_scenes import conditions_of, micro_denoiser, noise_for, random_poses

from gld_ros.diffusion.conditioning import unconditional
from gld_ros.diffusion.flow import time_grid, to_velocity
from gld_ros.diffusion.guidance import Guidance, guided_velocity
from gld_ros.diffusion.solvers import integrate

T = 0.4


def velocity_of(denoiser, conditions, noisy):
    with torch.no_grad():
        output = denoiser(noisy, torch.tensor([T]), conditions)
    return to_velocity(output, noisy, T, denoiser.config.prediction)


@pytest.mark.parametrize("prediction", ["velocity", "clean"])
@pytest.mark.parametrize("branches", ["together", "in turn"])
@pytest.mark.parametrize("layout", ["level1", "cascade"])
def test_guidance_extrapolates_from_the_unconditional_velocity(layout, branches, prediction):
    denoiser = micro_denoiser(layout, prediction=prediction)
    conditions = conditions_of(random_poses(), source=layout == "cascade")
    noisy = noise_for(conditions)
    free = unconditional(conditions, intrinsics={"level1": "identity", "cascade": "kept"}[layout])
    v_c, v_u = (velocity_of(denoiser, c, noisy) for c in (conditions, free))
    guided = guided_velocity(denoiser, conditions, Guidance(1.5), branches=branches)
    with torch.no_grad():
        torch.testing.assert_close(guided(noisy, T), v_u + 1.5 * (v_c - v_u), atol=1e-4, rtol=1e-4)
    assert (v_c - v_u).abs().max() > 1e-2


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_no_guidance_at_scale_one_or_less(scale):
    denoiser = micro_denoiser()
    conditions = conditions_of(random_poses())
    noisy = noise_for(conditions)
    with torch.no_grad():
        velocity = guided_velocity(denoiser, conditions, Guidance(scale))(noisy, T)
    torch.testing.assert_close(
        velocity, velocity_of(denoiser, conditions, noisy), atol=1e-5, rtol=1e-5
    )


def test_kept_rays_still_lose_the_poses():
    denoiser = micro_denoiser()
    conditions = conditions_of(random_poses())
    noisy = noise_for(conditions)
    v_c = velocity_of(denoiser, conditions, noisy)
    v_u = velocity_of(denoiser, unconditional(conditions, camera_map="kept"), noisy)
    guided = guided_velocity(denoiser, conditions, Guidance(3.0, camera_map="kept"))
    with torch.no_grad():
        torch.testing.assert_close(guided(noisy, T), v_u + 3 * (v_c - v_u), atol=1e-4, rtol=1e-4)


def test_guided_run_of_two_scenes_equals_each_alone():
    denoiser = micro_denoiser()
    poses = random_poses(batch=2)
    both = conditions_of(poses)
    grid = time_grid(4, 2.0)
    noise = noise_for(both)
    *_, end = integrate(guided_velocity(denoiser, both, Guidance(1.5), times=grid), noise, grid)
    alone = conditions_of(poses[:1])
    assert torch.equal(alone.reference_latent[0], both.reference_latent[0])
    *_, end_alone = integrate(
        guided_velocity(denoiser, alone, Guidance(1.5), times=grid), noise[:1], grid
    )
    torch.testing.assert_close(end.latent[:1], end_alone.latent, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scale", [-1.0, math.nan, math.inf])
def test_impossible_scale_is_rejected(scale):
    with pytest.raises(ValueError, match="guidance scale is"):
        Guidance(scale)


def test_unknown_way_to_run_branches_is_rejected():
    with pytest.raises(ValueError, match="use 'together' or 'in turn'"):
        guided_velocity(micro_denoiser(), conditions_of(random_poses()), branches="parallel")


def test_guidance_outside_its_interval_leaves_the_conditional_velocity():
    denoiser, conditions = micro_denoiser(), conditions_of(random_poses())
    noisy = noise_for(conditions)
    plain = guided_velocity(denoiser, conditions)
    full = guided_velocity(denoiser, conditions, Guidance(2.0))
    some = guided_velocity(denoiser, conditions, Guidance(2.0, interval=(0.3, 0.6)))
    with torch.no_grad():
        for t, expected in ((0.7, plain), (0.5, full), (0.2, plain)):
            torch.testing.assert_close(some(noisy, t), expected(noisy, t), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("branches", ["together", "in turn"])
def test_between_two_evaluations_the_difference_is_reused(branches):
    denoiser, conditions = micro_denoiser(), conditions_of(random_poses())
    first, second = noise_for(conditions, 3), noise_for(conditions, 4)
    velocity = guided_velocity(denoiser, conditions, Guidance(2.0, every=2), branches=branches)
    free = unconditional(conditions)
    with torch.no_grad():
        guided, reused, again = velocity(first, T), velocity(second, T), velocity(second, T)
        difference = velocity_of(denoiser, conditions, first) - velocity_of(denoiser, free, first)
        torch.testing.assert_close(
            guided, velocity_of(denoiser, conditions, first) + difference, atol=1e-5, rtol=1e-4
        )
        torch.testing.assert_close(
            reused, velocity_of(denoiser, conditions, second) + difference, atol=1e-5, rtol=1e-4
        )
        exact = guided_velocity(denoiser, conditions, Guidance(2.0))(second, T)
        torch.testing.assert_close(again, exact, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("change", [{"interval": (0.5, 0.2)}, {"interval": (0, 2)}, {"every": 0}])
def test_impossible_schedules_are_rejected(change):
    with pytest.raises(ValueError, match="guidance"):
        Guidance(1.5, **change)
