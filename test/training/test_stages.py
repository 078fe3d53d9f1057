"""Every training job on micro-models: what it leaves behind, exact resume, clear errors."""

import re

import numpy as np
import pytest
import torch

from gld_ros.scenes.store import write_store
from gld_ros.training.adversary import AdversaryOptions
from gld_ros.training.config import ConfigError
from gld_ros.training.data import open_held_out, open_scenes
from gld_ros.training.jobs import build_stage
from gld_ros.training.loop import train
from gld_ros.weights.bundle import Bundle

from .conftest import PLAN, SIZE_WH, assert_same, checkpoint_state, run_config

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("no_curves")


def make_stage(config, bundle, plan):
    return build_stage(
        config, bundle, plan, open_scenes(config.data), open_held_out(config.data), CPU
    )


def test_encoder_trains_every_part_and_exports_a_backbone(tmp_path, rooms, plan_folder):
    config = run_config(rooms, "encoder")
    stage = make_stage(config, None, plan_folder)
    before = {name: p.detach().clone() for name, p in stage.named_parameters()}
    outcome = train(stage, config, tmp_path, device=CPU)
    assert outcome.progress.skipped_batches == outcome.progress.dropped_steps == 0
    unchanged = [n for n, p in stage.named_parameters() if torch.equal(p, before[n])]
    # Published layers of the ray branch that no output depends on.
    unused = re.compile(r"head\.scratch\.output_conv[12]_aux\.[012]\.")
    assert not [name for name in unchanged if not unused.search(name)]
    assert {"abs_rel_posed", "abs_rel_unposed_without_level0", "readout_psnr_level1"} <= {
        name.removeprefix("validation/") for name in outcome.figures
    }
    assert Bundle.open(tmp_path / "export").has("backbone")


@pytest.mark.parametrize("stage_name", ["encoder", "level1"])
def test_resume_is_bit_for_bit(tmp_path, rooms, plan_folder, micro_bundle, stage_name):
    config = run_config(rooms, stage_name, steps=8)
    bundle = None if stage_name == "encoder" else micro_bundle
    for folder, stops in (("straight", [None]), ("halves", [4, None])):
        for stop in stops:
            stage = make_stage(config, bundle, plan_folder)
            train(stage, config, tmp_path / folder, device=CPU, stop_at_step=stop)
    straight, halves = (checkpoint_state(tmp_path / f / "last.pt") for f in ("straight", "halves"))
    for part in ("model", "ema", "optimizer", "random"):
        assert_same(straight[part], halves[part], part)


def test_decoder_trains_rgb_and_geometry_head(tmp_path, rooms, plan_folder, micro_bundle):
    config = run_config(rooms, "decoder", options={"geometry_weight": 0.3})
    stage = make_stage(config, micro_bundle, plan_folder)
    encoder = stage.backbone.backbone.state_dict()
    frozen = {name: value.clone() for name, value in encoder.items()}
    outcome = train(stage, config, tmp_path, device=CPU)
    assert_same(frozen, stage.backbone.backbone.state_dict(), "encoder must stay frozen")
    assert "validation/psnr_level1_propagated" in outcome.figures
    exported = Bundle.open(tmp_path / "export")
    assert exported.has("rgb_decoder")
    old, new = (
        b.load_module("backbone").head.state_dict() for b in (Bundle.open(micro_bundle), exported)
    )
    assert any(not torch.equal(old[name], new[name]) for name in old)


def test_a_geometry_head_can_be_tuned_for_known_cameras_too(
    tmp_path, rooms, plan_folder, micro_bundle
):
    heads, losses = [], []
    for number, share in enumerate((0.0, 1.0)):
        options = {
            "geometry_weight": 0.3,
            "propagated_probability": 0.0,
            "posed_probability": share,
        }
        config = run_config(rooms, "decoder", options=options)
        stage = make_stage(config, micro_bundle, plan_folder)
        outcome = train(stage, config, tmp_path / str(number), device=CPU)
        losses.append(outcome.figures["validation/abs_rel_posed"])
        heads.append(stage.backbone.geometry_head.state_dict())
    assert all(np.isfinite(losses))
    assert any(not torch.equal(heads[0][name], heads[1][name]) for name in heads[0])


def test_level1_reports_true_and_shuffled_poses_and_samples(
    tmp_path, rooms, micro_bundle, plan_folder
):
    options = {
        "reference_weights": [0.5, 0.5],
        "validation_references": 1,
        "validation_euler_points": 3,
    }
    config = run_config(rooms, "level1", options=options)
    outcome = train(make_stage(config, micro_bundle, plan_folder), config, tmp_path, device=CPU)
    figures = {name.removeprefix("validation/") for name in outcome.figures}
    assert {"psnr", "psnr_shuffled", "psnr_sampled", "latent_error"} <= figures
    exported = Bundle.open(tmp_path / "export")
    assert exported.config.module_names == ("backbone", "level1", "rgb_decoder")


def test_level1_gains_embedders_of_measurements_and_trains_them(
    tmp_path, rooms, micro_bundle, plan_folder
):
    plain = run_config(rooms, "level1")
    train(make_stage(plain, micro_bundle, plan_folder), plain, tmp_path / "plain", device=CPU)
    options = {
        "reference_weights": [0.5, 0.5],
        "validation_references": 1,
        "measured_probability": 0.7,
    }
    config = run_config(rooms, "level1", options=options, steps=8)
    for folder, stops in (("straight", [None]), ("halves", [4, None])):
        for stop in stops:
            stage = make_stage(config, tmp_path / "plain" / "export", None)
            outcome = train(stage, config, tmp_path / folder, device=CPU, stop_at_step=stop)
    straight, halves = (checkpoint_state(tmp_path / f / "last.pt") for f in ("straight", "halves"))
    assert_same(straight["model"], halves["model"], "model")
    assert outcome.progress.skipped_batches == outcome.progress.dropped_steps == 0
    figures = {name.removeprefix("validation/") for name in outcome.figures}
    assert {"psnr_measured", "latent_error_uncovered", "latent_error_uncovered_measured"} <= figures
    exported = Bundle.open(tmp_path / "straight" / "export")
    assert exported.config.denoisers["level1"].config.measured
    denoiser = exported.load_module("level1")
    for embedder in (denoiser.s_measured, denoiser.x_measured):
        assert all(float(p.abs().max()) > 0 for p in embedder.parameters())
    again = make_stage(plain, tmp_path / "straight" / "export", None)
    assert again.denoiser.config.measured  # also where nothing is measured any more


def test_cascade_learns_beside_level1(tmp_path, rooms, plan_folder, micro_bundle):
    first = run_config(rooms, "level1")
    train(make_stage(first, micro_bundle, plan_folder), first, tmp_path / "a", device=CPU)
    options = {
        "reference_weights": [0.5, 0.5],
        "validation_references": 1,
        "source_noise_tau": 0.2,
    }
    config = run_config(rooms, "cascade", options=options)
    stage = make_stage(config, tmp_path / "a" / "export", plan_folder)
    clean = stage.source_codec.encode(open_held_out(config.data).held_out_batch([0], CPU)["images"])
    assert clean.shape[2] == 32
    outcome = train(stage, config, tmp_path / "b", device=CPU)
    assert "validation/psnr" in outcome.figures
    assert Bundle.open(tmp_path / "b" / "export").has("cascade")


def test_source_noise_follows_the_recipe(rooms, plan_folder, micro_bundle):
    options = {"reference_weights": [1.0], "validation_references": 1, "camera_drop": 0.0}
    sources = []
    for tau in (0.0, 3.0):
        config = run_config(rooms, "cascade", options={**options, "source_noise_tau": tau})
        stage = make_stage(config, micro_bundle, plan_folder)
        sources.append(stage.batch(0, range(2))["conditions"].source)
    clean, noisy = sources
    # (f + s n) / sqrt(1 + s^2) with one s per batch: the part along f shrinks by 1 / sqrt(1 + s^2).
    along = float((clean * noisy).sum() / clean.square().sum())
    assert 0 < along < 0.95
    rest = noisy - along * clean
    assert float(rest.square().mean()) == pytest.approx(1 - along**2, rel=0.35)


def test_decoder_with_a_discriminator_resumes_bit_for_bit(
    tmp_path, rooms, plan_folder, micro_bundle
):
    adversary = {"features": "backbone", "discriminator_start": 1, "generator_start": 2}
    config = run_config(rooms, "decoder", steps=6, options={"adversary": adversary})
    for folder, stops in (("straight", [None]), ("halves", [3, None])):
        for stop in stops:
            stage = make_stage(config, micro_bundle, plan_folder)
            train(stage, config, tmp_path / folder, device=CPU, stop_at_step=stop)
    straight, halves = (checkpoint_state(tmp_path / f / "last.pt") for f in ("straight", "halves"))
    assert straight["extra"]["adversary"][0]["updates"] == 5
    for part in ("model", "extra", "optimizer"):
        assert_same(straight[part], halves[part], part)


def test_an_unknown_discriminator_network_is_refused(rooms, plan_folder, micro_bundle):
    for adversary, message in (
        ({"features": "vgg"}, "use dino or backbone"),
        ({"features": "dino"}, "is no file"),
    ):
        config = run_config(rooms, "decoder", options={"adversary": adversary})
        with pytest.raises(ConfigError, match=message):
            make_stage(config, micro_bundle, plan_folder)
    assert AdversaryOptions().weight == 0.75


def test_fine_tuning_starts_from_the_weights_of_the_bundle(
    rooms, plan_folder, micro_bundle, tmp_path
):
    config = run_config(rooms, "level1")
    train(make_stage(config, micro_bundle, plan_folder), config, tmp_path, device=CPU)
    trained = Bundle.open(tmp_path / "export")
    stage = make_stage(config, trained.folder, None)
    assert_same(trained.load_module("level1").state_dict(), stage.denoiser.state_dict())


def store_without_depth(folder):
    def render(positions):
        count = len(positions)
        eye = torch.eye(4).expand(count, 3, 4, 4).clone()
        eye[:, :, 0, 3] = torch.arange(3) * 0.2
        K_px = torch.tensor([[20.0, 0, 13.5], [0, 20.0, 13.5], [0, 0, 1]])
        generator = torch.Generator().manual_seed(positions[0])
        return {
            "images": torch.rand(count, 3, 3, *SIZE_WH[::-1], generator=generator),
            "depth_m": torch.zeros(count, 3, *SIZE_WH[::-1]),
            "K_px": K_px.expand(count, 3, 3, 3),
            "T_world_cam": eye,
            "visible_fraction": torch.full((count, 3), torch.nan),
        }

    write_store(folder, "no depth", 4, 3, SIZE_WH[::-1], render)
    return folder


def test_scenes_without_depth_train_everything_but_the_encoder(tmp_path, plan_folder, micro_bundle):
    store = store_without_depth(tmp_path / "store")
    with pytest.raises(ConfigError, match="true depth"):
        make_stage(run_config(store, "encoder"), None, plan_folder)
    config = run_config(store, "decoder", options={"geometry_weight": 0.3})
    outcome = train(
        make_stage(config, micro_bundle, plan_folder), config, tmp_path / "run", device=CPU
    )
    assert outcome.progress.skipped_batches == outcome.progress.dropped_steps == 0
    assert not any("abs_rel" in name for name in outcome.figures)
    config = run_config(store, "level1")
    outcome = train(
        make_stage(config, micro_bundle, plan_folder), config, tmp_path / "run2", device=CPU
    )
    assert outcome.progress.skipped_batches == 0
    options = {**config.options, "measured_probability": 1.0}
    config = run_config(store, "level1", options=options, steps=1)
    stage = make_stage(config, micro_bundle, plan_folder)
    assert not bool(stage.batch(0, range(2))["conditions"].measured_map.any())


@pytest.mark.parametrize(
    ("stage", "options", "message"),
    [
        ("level1", {"reference_weights": [1, 1, 1]}, "has 3 views"),
        ("level1", {"reference_weights": [0, 0]}, "not be negative, nor all zero"),
        ("level1", {"refs": 2}, "unknown field"),
        (
            "level1",
            {"reference_weights": [1], "validation_references": 1, "measured_probability": 1.5},
            "share from 0 to 1",
        ),
        (
            "cascade",
            {"reference_weights": [1], "validation_references": 1, "measured_probability": 0.5},
            "a cascade takes no measurements",
        ),
        ("decoder", {"perceptual": "vgg"}, "perceptual 'vgg' is unknown"),
    ],
)
def test_bad_options_are_named(rooms, plan_folder, micro_bundle, stage, options, message):
    config = run_config(rooms, stage, options=options)
    with pytest.raises(ConfigError, match=message):
        make_stage(config, micro_bundle, plan_folder)


def test_a_job_says_which_part_is_missing(rooms, plan_folder, tmp_path):
    with pytest.raises(ConfigError, match="give --model FOLDER"):
        make_stage(run_config(rooms, "encoder"), None, None)
    with pytest.raises(ConfigError, match="needs a bundle that has 'backbone'"):
        make_stage(run_config(rooms, "level1"), None, plan_folder)
    config = run_config(rooms, "encoder", steps=1)
    train(make_stage(config, None, plan_folder), config, tmp_path, device=CPU)
    with pytest.raises(ConfigError, match="gld-ros train statistics"):
        make_stage(run_config(rooms, "level1"), tmp_path / "export", plan_folder)


def test_statistics_are_those_of_the_features(rooms, plan_folder, micro_bundle):
    bundle = Bundle.open(micro_bundle)
    backbone = bundle.load_module("backbone")
    pool = open_scenes(run_config(rooms, "level1").data)
    tokens = []
    for step in range(3):
        images = pool.training_batch(0, step, 2, range(2), CPU)["images"]
        levels = backbone.encode_levels(images, [1])[1]
        tokens.append(torch.cat([levels.special, levels.patches], 2).detach().flatten(0, 2))
    values = torch.cat(tokens).double().numpy()
    statistics = bundle.statistics(1)
    np.testing.assert_allclose(statistics.mean.numpy(), values.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(statistics.var.numpy(), values.var(0), rtol=1e-3, atol=1e-6)
    assert PLAN["boundary_level"] == 1
