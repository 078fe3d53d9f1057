"""The fast path of a sampling run is held to the plain network."""

import pytest
import torch
from micro_scenes import conditions_of, micro_denoiser, noise_for, random_poses

from gld_ros.diffusion.conditioning import concatenate_conditions, unconditional
from gld_ros.diffusion.fast_path import precompute, step, time_constants

LAYOUTS = ["level1", "cascade"]
TIMES = torch.tensor([1.0, 0.62, 0.05])


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("special_tokens", [0, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_step_equals_the_plain_network(layout, special_tokens):
    denoiser = micro_denoiser(layout, special_tokens=special_tokens)
    conditions = conditions_of(
        random_poses(batch=2), source=layout == "cascade", special_tokens=special_tokens
    )
    noisy = noise_for(conditions)
    run = precompute(denoiser, conditions)
    for t, time in zip(TIMES, time_constants(denoiser, TIMES), strict=True):
        plain = denoiser(noisy, t.expand(2), conditions)
        torch.testing.assert_close(step(denoiser, noisy, time, run), plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("special_tokens", [0, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_branches_of_guidance_may_share_one_noise(layout, special_tokens):
    denoiser = micro_denoiser(layout, special_tokens=special_tokens)
    conditions = conditions_of(
        random_poses(batch=2), source=layout == "cascade", special_tokens=special_tokens
    )
    both = concatenate_conditions(conditions, unconditional(conditions))
    noisy = noise_for(conditions)
    (time,) = time_constants(denoiser, TIMES[1:2])
    plain = denoiser(noisy.repeat(2, *(1,) * (noisy.ndim - 1)), TIMES[1].expand(4), both)
    fast = step(denoiser, noisy, time, precompute(denoiser, both))
    torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-5)


def test_half_precision_stays_close_to_the_plain_network():
    denoiser = micro_denoiser().to(torch.bfloat16)
    conditions = conditions_of(random_poses())
    noisy = noise_for(conditions)
    (time,) = time_constants(denoiser, torch.tensor([0.5]))
    fast = step(denoiser, noisy, time, precompute(denoiser, conditions))
    assert fast.dtype == torch.float32
    plain = denoiser(noisy, torch.tensor([0.5]), conditions)
    torch.testing.assert_close(fast, plain, atol=0.05, rtol=0.05)


def test_cascade_encoder_never_sees_the_noise():
    """The noise must still reach the output, through the head."""
    denoiser = micro_denoiser("cascade")
    conditions = conditions_of(random_poses(), source=True)
    run = precompute(denoiser, conditions)
    (time,) = time_constants(denoiser, torch.tensor([0.5]))
    seen = []
    handle = denoiser.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    outputs = [step(denoiser, noise_for(conditions, seed), time, run) for seed in (0, 1)]
    handle.remove()
    assert torch.equal(seen[0], seen[1])
    assert (outputs[0] - outputs[1]).abs().max() > 1e-2


def test_a_cascade_without_source_is_rejected():
    with pytest.raises(ValueError, match="source has shape None"):
        precompute(micro_denoiser("cascade"), conditions_of(random_poses()))
