"""Measurements as conditions: absent or untrained they change nothing, bit for bit."""

from dataclasses import replace

import pytest
import torch

from gld_ros.diffusion.conditioning import DenoiserConditions, camera_conditions, unconditional
from gld_ros.diffusion.config import DenoiserConfig
from gld_ros.diffusion.denoiser import Denoiser, that_reads_measurements
from gld_ros.diffusion.fast_path import precompute, step, time_constants
from gld_ros.diffusion.guidance import Guidance, guided_velocity
from gld_ros.measured_latents import RenderedMeasurements, fill_holes, with_measurements

CONFIG = DenoiserConfig(channels=8, hidden=(16, 32), depth=(1, 1), heads=(2, 2), time_features=8)
HW = (28, 42)


@pytest.fixture(scope="module")
def scene():
    generator = torch.Generator().manual_seed(0)
    T_world_cam = torch.eye(4).repeat(2, 3, 1, 1)
    T_world_cam[..., 0, 3] = torch.rand(2, 3, generator=generator)
    K_px = torch.tensor([[30.0, 0, 20.5], [0, 30.0, 13.5], [0, 0, 1]]).repeat(2, 3, 1, 1)
    camera_map, viewmats, _ = camera_conditions(T_world_cam, K_px, HW, 1, pose_scale="metric")
    latent = torch.randn(2, 3, 8, 2, 3, generator=generator)
    noisy = torch.randn(latent.shape, generator=generator)
    conditions = DenoiserConditions(latent, 1, camera_map, viewmats, K_px, HW)
    measured = replace(
        conditions,
        measured_latent=torch.randn(latent.shape, generator=generator),
        measured_map=torch.rand(2, 3, 2, *HW, generator=generator),
    )
    return noisy, torch.tensor([0.3, 0.7]), conditions, measured


@pytest.fixture(scope="module")
def trained():
    """A denoiser whose blocks and output do something."""
    torch.manual_seed(1)
    denoiser = Denoiser(CONFIG).eval()
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return denoiser


@torch.no_grad()
def test_old_weights_give_the_same_output_with_and_without_measurements(scene, trained):
    noisy, t, conditions, measured = scene
    extended = that_reads_measurements(trained)
    expected = trained(noisy, t, conditions)
    assert torch.equal(extended(noisy, t, conditions), expected)
    assert torch.equal(extended(noisy, t, measured), expected)
    assert expected.abs().max() > 1e-3


@torch.no_grad()
def test_once_trained_the_target_follows_its_measurements_and_absence_is_no_coverage(
    scene, trained
):
    noisy, t, conditions, measured = scene
    extended = that_reads_measurements(trained)
    for embedder in (extended.s_measured, extended.x_measured):
        for parameter in embedder.parameters():
            parameter.normal_(std=0.1)
    assert not torch.equal(extended(noisy, t, measured), extended(noisy, t, conditions))
    nothing = replace(
        measured,
        measured_latent=torch.zeros_like(measured.measured_latent),
        measured_map=torch.zeros_like(measured.measured_map),
    )
    assert torch.equal(extended(noisy, t, nothing), extended(noisy, t, conditions))
    same_time = torch.full((2,), 0.3)
    fast = step(
        extended, noisy, time_constants(extended, same_time[:1])[0], precompute(extended, measured)
    )
    torch.testing.assert_close(fast, extended(noisy, same_time, measured), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_guidance_exaggerates_cameras_and_keeps_measurements_in_both_branches(scene, trained):
    noisy, _, _, measured = scene
    extended = that_reads_measurements(trained)
    for embedder in (extended.s_measured, extended.x_measured):
        for parameter in embedder.parameters():
            parameter.normal_(std=0.1)
    t = torch.full((2,), 0.3)
    guided, free = extended(noisy, t, measured), extended(noisy, t, unconditional(measured))
    assert not torch.allclose(guided, free, atol=1e-3)
    for branches in ("together", "in turn"):
        velocity = guided_velocity(extended, measured, Guidance(2.0), branches=branches)
        expected = free + 2.0 * (guided - free)
        torch.testing.assert_close(velocity(noisy, 0.3), expected, rtol=1e-3, atol=1e-4)


def test_measurements_are_told_in_the_unit_of_the_poses_and_weighted_by_coverage(scene):
    _, _, conditions, _ = scene
    covered = torch.zeros(2, 2, *HW, dtype=torch.bool)
    covered[0, 0, :, :21] = True  # one and a half of three columns of patches
    asked = []

    def encode(images):
        asked.append(images.shape)
        return torch.ones(len(images), images.shape[1], 8, 2, 3)

    def shown(depth_m, length_scale):
        rendered = RenderedMeasurements(
            torch.rand(2, 2, 3, *HW), torch.full((2, 2, *HW), depth_m), covered
        )
        scale = torch.full((2,), length_scale)
        return with_measurements(conditions, rendered, torch.rand(2, 1, 3, *HW), encode, scale)

    metres, millimetres = shown(2.0, 0.5), shown(2000.0, 0.0005)
    torch.testing.assert_close(metres.measured_map, millimetres.measured_map)
    target = metres.measured_map[0, 1]
    assert torch.equal(target[0], covered[0, 0].float())
    torch.testing.assert_close(target[1], covered[0, 0].float())  # one unit of the poses away
    torch.testing.assert_close(metres.measured_latent[0, 1, 0, 0], torch.tensor([1.0, 0.5, 0.0]))
    for view in (metres.measured_map[:, 0], metres.measured_map[:, 2], metres.measured_latent[1]):
        assert not bool(view.any())
    assert asked == [(1, 3, 3, *HW)] * 2  # the scene in which nothing is measured is left out


def test_conditions_that_do_not_fit_are_explained(scene, trained):
    noisy, t, _, measured = scene
    with pytest.raises(ValueError, match="takes no measurements"):
        trained(noisy, t, measured)
    extended = that_reads_measurements(trained)
    with pytest.raises(ValueError, match="measured_map has shape None"):
        extended(noisy, t, replace(measured, measured_map=None))
    with pytest.raises(ValueError, match="special tokens cannot be measured"):
        replace(CONFIG, special_tokens=5, measured=True)


def test_holes_take_the_colours_around_them():
    rgb = torch.zeros(1, 2, 3, 28, 42)
    rgb[:, 0, :, :, 21:] = 1.0
    covered = torch.ones(1, 2, 28, 42, dtype=torch.bool)
    covered[0, 0, 5:12, 4:9] = False
    covered[0, 0, 5:12, 33:38] = False
    covered[0, 1] = False
    filled = fill_holes(rgb, covered)
    assert float(filled[0, 0, :, 5:12, 4:9].max()) < 0.2
    assert float(filled[0, 0, :, 5:12, 33:38].min()) > 0.8
    assert torch.equal(filled[0, 0][:, covered[0, 0]], rgb[0, 0][:, covered[0, 0]])
    torch.testing.assert_close(filled[0, 1], torch.full((3, 28, 42), 0.5))
