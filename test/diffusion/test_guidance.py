"""Classifier-free guidance against its definition."""

import math

import pytest
import torch
from micro_scenes import conditions_of, micro_denoiser, noise_for, random_poses

from gld_ros.diffusion.conditioning import unconditional
from gld_ros.diffusion.flow import sample_euler, time_grid, to_velocity
from gld_ros.diffusion.guidance import guided_velocity

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
    guided = guided_velocity(denoiser, conditions, guidance_scale=1.5, branches=branches)
    with torch.no_grad():
        torch.testing.assert_close(guided(noisy, T), v_u + 1.5 * (v_c - v_u), atol=1e-4, rtol=1e-4)
    assert (v_c - v_u).abs().max() > 1e-2


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_no_guidance_at_scale_one_or_less(scale):
    denoiser = micro_denoiser()
    conditions = conditions_of(random_poses())
    noisy = noise_for(conditions)
    with torch.no_grad():
        velocity = guided_velocity(denoiser, conditions, guidance_scale=scale)(noisy, T)
    torch.testing.assert_close(
        velocity, velocity_of(denoiser, conditions, noisy), atol=1e-5, rtol=1e-5
    )


def test_kept_rays_still_lose_the_poses():
    denoiser = micro_denoiser()
    conditions = conditions_of(random_poses())
    noisy = noise_for(conditions)
    v_c = velocity_of(denoiser, conditions, noisy)
    v_u = velocity_of(denoiser, unconditional(conditions, camera_map="kept"), noisy)
    guided = guided_velocity(
        denoiser, conditions, guidance_scale=3.0, unconditional_camera_map="kept"
    )
    with torch.no_grad():
        torch.testing.assert_close(guided(noisy, T), v_u + 3 * (v_c - v_u), atol=1e-4, rtol=1e-4)


def test_guided_run_of_two_scenes_equals_each_alone():
    denoiser = micro_denoiser()
    poses = random_poses(batch=2)
    both = conditions_of(poses)
    grid = time_grid(4, 2.0)
    noise = noise_for(both)
    *_, end = sample_euler(
        guided_velocity(denoiser, both, guidance_scale=1.5, times=grid), noise, grid
    )
    alone = conditions_of(poses[:1])
    assert torch.equal(alone.reference_latent[0], both.reference_latent[0])
    *_, end_alone = sample_euler(
        guided_velocity(denoiser, alone, guidance_scale=1.5, times=grid), noise[:1], grid
    )
    torch.testing.assert_close(end.latent[:1], end_alone.latent, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scale", [-1.0, math.nan, math.inf])
def test_impossible_scale_is_refused(scale):
    with pytest.raises(ValueError, match="guidance_scale is"):
        guided_velocity(micro_denoiser(), conditions_of(random_poses()), guidance_scale=scale)


def test_unknown_way_to_run_branches_is_refused():
    with pytest.raises(ValueError, match="use 'together' or 'in turn'"):
        guided_velocity(micro_denoiser(), conditions_of(random_poses()), branches="parallel")
