"""The denoiser: published layout, symmetries, training, rejected input."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from micro_scenes import CHANNELS, conditions_of, micro_denoiser, noise_for, random_poses

from gld_ros.diffusion.conditioning import concatenate_conditions, unconditional
from gld_ros.diffusion.config import GLD_DA3_CASCADE, GLD_DA3_LEVEL1, DenoiserConfig
from gld_ros.diffusion.denoiser import Denoiser

KEYS = Path(__file__).resolve().parents[1] / "data" / "official_keys"
LAYOUTS = ["level1", "cascade"]


@pytest.mark.parametrize(
    ("config", "keys", "millions"),
    [(GLD_DA3_LEVEL1, "da3_level1", 783.3), (GLD_DA3_CASCADE, "da3_cascade", 472.5)],
    ids=LAYOUTS,
)
def test_names_and_shapes_are_the_published_ones(config, keys, millions):
    published = json.loads((KEYS / f"{keys}.json").read_text())
    with torch.device("meta"):
        denoiser = Denoiser(config)
    state = denoiser.state_dict()
    assert {name: list(value.shape) for name, value in state.items()} == published
    assert sum(value.numel() for value in state.values()) / 1e6 == pytest.approx(millions, abs=0.1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_targets_are_exchangeable(layout):
    # The last view stays last: it is the origin that positions are relative to.
    order = [0, 1, 3, 2, 4]
    poses = random_poses(views=5)
    conditions = conditions_of(poses, source=layout == "cascade")
    noisy = noise_for(conditions)
    reordered = replace(
        conditions_of(poses[:, order], source=layout == "cascade"),
        source=None if conditions.source is None else conditions.source[:, order],
    )
    denoiser = micro_denoiser(layout)
    t = torch.tensor([0.4])
    with torch.no_grad():
        output = denoiser(noisy, t, conditions)
        torch.testing.assert_close(
            denoiser(noisy[:, order], t, reordered), output[:, order], atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_output_ignores_world_frame_and_unit_of_length(layout):
    poses = random_poses()
    moved = random_poses(views=1, seed=7) @ poses
    moved[..., :3, 3] *= 1000.0
    denoiser = micro_denoiser(layout)
    first, second = (conditions_of(p, source=layout == "cascade") for p in (poses, moved))
    noisy, t = noise_for(first), torch.tensor([0.4])
    with torch.no_grad():
        torch.testing.assert_close(
            denoiser(noisy, t, first), denoiser(noisy, t, second), atol=1e-4, rtol=1e-3
        )


def test_metric_poses_do_feel_the_unit_of_length():
    poses = random_poses()
    longer = poses.clone()
    longer[..., :3, 3] *= 2
    denoiser = micro_denoiser()
    first, second = (conditions_of(p, pose_scale="metric") for p in (poses, longer))
    noisy, t = noise_for(first), torch.tensor([0.4])
    with torch.no_grad():
        assert (denoiser(noisy, t, first) - denoiser(noisy, t, second)).abs().max() > 1e-2


def test_scenes_of_a_batch_do_not_mix():
    denoiser = micro_denoiser()
    poses = random_poses(batch=2)
    conditions = conditions_of(poses)
    noisy, t = noise_for(conditions), torch.tensor([0.9, 0.2])
    with torch.no_grad():
        together = denoiser(noisy, t, conditions)
        for i in (0, 1):
            alone = replace(
                conditions,
                reference_latent=conditions.reference_latent[i : i + 1],
                camera_map=conditions.camera_map[i : i + 1],
                viewmats=conditions.viewmats[i : i + 1],
                K_px=conditions.K_px[i : i + 1],
            )
            torch.testing.assert_close(
                denoiser(noisy[i : i + 1], t[i : i + 1], alone),
                together[i : i + 1],
                atol=1e-5,
                rtol=1e-4,
            )


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16 autocast"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_parameter_gets_a_finite_gradient(layout, autocast):
    denoiser = micro_denoiser(layout)
    conditions = conditions_of(random_poses(batch=2), source=layout == "cascade")
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = denoiser(noise_for(conditions), torch.tensor([0.3, 0.8]), conditions)
    assert output.dtype == torch.float32
    output.square().mean().backward()
    for name, parameter in denoiser.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_half_precision_weights_stay_close_to_float32():
    denoiser = micro_denoiser()
    conditions = conditions_of(random_poses())
    noisy, t = noise_for(conditions), torch.tensor([0.5])
    with torch.no_grad():
        exact = denoiser(noisy, t, conditions)
        rough = denoiser.to(torch.bfloat16)(noisy, t, conditions)
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max()


def test_fresh_model_outputs_zero_and_can_learn():
    torch.manual_seed(0)
    denoiser = Denoiser(DenoiserConfig(CHANNELS, hidden=(32, 48), depth=(1, 1), heads=(2, 2)))
    conditions = conditions_of(random_poses())
    noisy, t = noise_for(conditions), torch.tensor([0.5])
    assert torch.count_nonzero(denoiser(noisy, t, conditions)) == 0
    optimiser = torch.optim.Adam(denoiser.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        loss = (denoiser(noisy, t, conditions) - noisy).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_conditions_join_along_the_batch():
    conditions = conditions_of(random_poses())
    joined = concatenate_conditions(conditions, unconditional(conditions))
    assert joined.viewmats.shape[0] == 2
    assert joined.num_references == conditions.num_references
    with pytest.raises(ValueError, match="differ in num_references: 2 and 1"):
        concatenate_conditions(conditions, replace(conditions, num_references=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference_latent": torch.zeros(1, 4, 8, 2, 3)}, r"expected \(B, V, 16, h, w\)"),
        ({"camera_map": torch.zeros(1, 4, 7, 28, 28)}, "camera_map has shape"),
        ({"viewmats": torch.zeros(1, 3, 4, 4)}, "viewmats has shape"),
        ({"K_px": torch.zeros(1, 4, 4, 4)}, "K_px has shape"),
        ({"source": torch.zeros(1, 4, 16, 2, 3)}, "takes no source latent"),
        ({"num_references": 0}, "num_references is 0; expected 1 to 4"),
        ({"num_references": 5}, "num_references is 5; expected 1 to 4"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(change, message):
    conditions = conditions_of(random_poses())
    with pytest.raises(ValueError, match=message):
        micro_denoiser()(noise_for(conditions), torch.ones(1), replace(conditions, **change))


def test_noisy_of_other_shape_is_refused():
    conditions = conditions_of(random_poses())
    with pytest.raises(ValueError, match="noisy has shape"):
        micro_denoiser()(noise_for(conditions)[:, :3], torch.ones(1), conditions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": (5, 16)}, "encoder width 768 with 5 attention heads"),
        ({"hidden": (768, 72), "heads": (16, 6)}, "head width 72 with 6 attention heads"),
        ({"prediction": "noise"}, "prediction is 'noise'"),
    ],
)
def test_impossible_configurations_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DenoiserConfig(channels=8, **options)


def test_all_views_may_be_references():
    conditions = conditions_of(random_poses(), references=4)
    with torch.no_grad():
        assert micro_denoiser()(noise_for(conditions), torch.ones(1), conditions).isfinite().all()
