"""Latents with special tokens: the layout of the published models and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gld_ros.diffusion.conditioning import DenoiserConditions, camera_conditions
from gld_ros.diffusion.config import GLD_VGGT_CASCADE, GLD_VGGT_LEVEL1, DenoiserConfig
from gld_ros.diffusion.denoiser import Denoiser

KEYS = Path(__file__).resolve().parents[1] / "data" / "official_keys"
HW, GRID, SPECIAL, CHANNELS = (28, 42), (2, 3), 3, 16


@pytest.mark.parametrize(
    ("config", "blocks"),
    [
        (GLD_VGGT_LEVEL1, 34),
        (GLD_VGGT_CASCADE, 34),
        (replace(GLD_VGGT_CASCADE, depth=(28, 2)), 30),
    ],
    ids=["level 1", "cascade as published", "cascade as evaluated"],
)
def test_names_and_shapes_are_the_published_ones(config, blocks):
    published = json.loads((KEYS / "vggt_level1.json").read_text())
    expected = {
        key: tuple(shape)
        for key, shape in published.items()
        if not key.startswith("blocks.") or int(key.split(".")[1]) < blocks
    }
    with torch.device("meta"):
        denoiser = Denoiser(config)
    assert {key: tuple(value.shape) for key, value in denoiser.state_dict().items()} == expected


@pytest.fixture
def config():
    return DenoiserConfig(
        channels=CHANNELS, hidden=(16, 24), depth=(2, 1), heads=(2, 1), special_tokens=SPECIAL
    )


@pytest.fixture
def conditions():
    torch.manual_seed(0)
    poses = torch.eye(4).repeat(1, 3, 1, 1)
    poses[:, :, 0, 3] = torch.arange(3.0)
    K_px = torch.tensor([[30.0, 0, 21], [0, 30, 14], [0, 0, 1]]).repeat(1, 3, 1, 1)
    camera_map, viewmats, _ = camera_conditions(poses, K_px, HW, 2)
    reference = torch.randn(1, 3, CHANNELS, SPECIAL + 6)
    reference[:, 2:] = 0
    return DenoiserConditions(reference, 2, camera_map, viewmats, K_px, HW)


def randomised(config):
    torch.manual_seed(1)
    denoiser = Denoiser(config)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return denoiser.eval()


def test_special_tokens_and_patches_attend_to_each_other(config, conditions):
    denoiser = randomised(config)
    noisy = torch.randn_like(conditions.reference_latent)
    changed_special, changed_patch = noisy.clone(), noisy.clone()
    changed_special[:, 0, :, 0] += 1
    changed_patch[:, 0, :, -1] += 1
    with torch.no_grad():
        outputs = [
            denoiser(x, torch.tensor([0.5]), conditions)
            for x in (noisy, changed_special, changed_patch)
        ]
    assert not torch.allclose(outputs[1][:, 2, :, SPECIAL:], outputs[0][:, 2, :, SPECIAL:])
    assert not torch.allclose(outputs[2][:, 2, :, :SPECIAL], outputs[0][:, 2, :, :SPECIAL])


def test_special_tokens_of_the_source_have_no_influence(config, conditions):
    denoiser = randomised(replace(config, source_conditioned=True))
    noisy, t = torch.randn_like(conditions.reference_latent), torch.tensor([0.5])
    source = torch.randn_like(noisy)
    changed = source.clone()
    changed[..., :SPECIAL] = 9.0
    with torch.no_grad():
        outputs = [denoiser(noisy, t, replace(conditions, source=s)) for s in (source, changed)]
    assert torch.equal(*outputs)


def test_every_parameter_is_trained(config, conditions):
    denoiser = randomised(config)
    denoiser(
        torch.randn_like(conditions.reference_latent), torch.tensor([0.5]), conditions
    ).sum().backward()
    assert [name for name, p in denoiser.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("length", [SPECIAL, 6, 8])
def test_a_latent_of_another_length_is_rejected(config, conditions, length):
    short = replace(conditions, reference_latent=torch.zeros(1, 3, CHANNELS, length))
    with pytest.raises(ValueError, match=f"has {length} tokens per view"):
        Denoiser(config)(short.reference_latent, torch.tensor([0.5]), short)


def test_a_model_without_special_tokens_takes_maps_alone(config, conditions):
    denoiser = Denoiser(replace(config, special_tokens=0))
    with pytest.raises(ValueError, match=r"expected \(B, V, 16, h, w\)"):
        denoiser(conditions.reference_latent, torch.tensor([0.5]), conditions)
