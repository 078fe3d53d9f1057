"""The stages of novel view synthesis against numbers recorded from the official code."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gld_ros.diffusion.conditioning import camera_conditions
from gld_ros.novel_view_stages import (
    decode,
    decode_rgb,
    decoder_inputs,
    encode_references,
    level_tokens,
    sample,
    sampling_conditions,
)
from gld_ros.weights.official import UnstoredSizes, convert_official

ATOL, RTOL = 5e-5, 5e-4


@pytest.fixture(scope="module")
def golden_dir() -> Path:
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("GLD_SHARED", root.parent / "shared")) / "golden" / "da3"
    if not folder.is_dir():
        pytest.skip("reference numbers not found; set GLD_SHARED to the folder with golden/da3")
    return folder


@pytest.fixture(scope="module")
def sizes(golden_dir):
    return json.loads((golden_dir / "config.json").read_text())


@pytest.fixture(scope="module")
def bundle(golden_dir, sizes, tmp_path_factory):
    """The recorded tiny weights, written as the published files are and converted."""
    root = tmp_path_factory.mktemp("official")
    weights = {p.stem: load_file(p) for p in golden_dir.glob("weights_*.safetensors")}
    for path in ("pretrained_models/da3", "depth-anything/DA3-Base", "checkpoints", "model_stats"):
        (root / path).mkdir(parents=True)
    save_file(weights["weights_da3"], root / "pretrained_models/da3/model.safetensors")
    save_file(weights["weights_da3"], root / "depth-anything/DA3-Base/model.safetensors")
    for name, container in (
        ("dpt_decoder", "model"),
        ("mae_decoder", "ema"),
        ("level1", "ema"),
        ("cascade", "ema"),
    ):
        file = f"da3_{name}.pt" if name in ("level1", "cascade") else f"{name}.pt"
        torch.save({container: weights[f"weights_{name}"]}, root / "checkpoints" / file)
    statistics = load_file(golden_dir / "stats.safetensors")
    for level in (0, 1):
        content = {name: statistics[f"level{level}.{name}"] for name in ("mean", "var")}
        torch.save(content, root / f"model_stats/normalization_stats_level{level}.pt")
    heads = UnstoredSizes(
        camera_heads=sizes["da3"]["cam_heads"],
        rgb_decoder_heads=sizes["mae"]["decoder_num_attention_heads"],
        level1_heads=tuple(sizes["l1"]["num_heads"]),
        cascade_heads=tuple(sizes["cas"]["num_heads"]),
    )
    return convert_official(root, root / "bundle", sizes=heads).bundle


@pytest.fixture(scope="module")
def golden(golden_dir):
    return load_file(golden_dir / "e2e.safetensors")


@pytest.fixture(scope="module")
def result(bundle, golden, sizes):
    """Everything the pipeline computes from pictures, cameras and noise of the fixture."""
    references = int(golden["in.cond_num"])
    images = golden["in.images"]
    image_hw = tuple(images.shape[-2:])
    statistics = {level: bundle.statistics(level) for level in (0, 1)}
    backbone = bundle.load_module("backbone")
    encoded = encode_references(backbone, statistics, images[:, :references])
    camera_map, viewmats, _ = camera_conditions(
        golden["in.c2w"], golden["in.K"], image_hw, references
    )

    def run(name, level, noise, source=None):
        denoiser = bundle.load_module(name)
        conditions = sampling_conditions(
            denoiser, encoded.latents[level], camera_map, viewmats, golden["in.K"], source
        )
        *_, last = sample(
            denoiser,
            conditions,
            noise[None],
            num_steps=sizes["euler_points"] - 1,
            shift=sizes["time_dist_shift"],
            guidance_scale=sizes["cfg_scale"],
        )
        return last.latent

    z1 = run("level1", 1, golden["in.noise_l1"])
    z0 = run("cascade", 0, golden["in.noise_cas"], z1)
    tokens = level_tokens(backbone, statistics, {0: z0, 1: z1}, encoded.special)
    inputs = decoder_inputs(backbone, tokens)
    rgb_decoder = bundle.load_module("rgb_decoder")
    views = decode(backbone, rgb_decoder, inputs, image_hw)
    return {
        "ref_latent_l0": encoded.latents[0][0],
        "ref_latent_l1": encoded.latents[1][0],
        "ref_cls_l1_single_view": statistics[1].normalise(encoded.special[0, 0], -1)[0],
        "feat_l1_norm": z1[0],
        "feat_l0_norm": z0[0],
        "feat_l1_raw": statistics[1].denormalise(z1[0], 1),
        "feat_l0_raw": statistics[0].denormalise(z0[0], 1),
        **{f"decode_in.level{level}": inputs[level] for level in range(4)},
        "rgb": views.rgb,
        "depth": views.geometry.depth,
        "depth_conf": views.geometry.depth_confidence,
        "ray": views.geometry.ray,
        "ray_conf": views.geometry.ray_confidence,
        "cameras": backbone.recover_cameras(views.geometry, tokens[3], image_hw),
    }


@pytest.mark.parametrize(
    "quantity",
    [
        "ref_latent_l0",
        "ref_latent_l1",
        "ref_cls_l1_single_view",
        "feat_l1_norm",
        "feat_l0_norm",
        "feat_l1_raw",
        "feat_l0_raw",
        "decode_in.level0",
        "decode_in.level1",
        "decode_in.level2",
        "decode_in.level3",
        "rgb",
        "depth",
        "depth_conf",
        "ray",
        "ray_conf",
    ],
)
def test_stage_equals_the_reference(golden, result, quantity):
    reference, found = golden[f"out.{quantity}"], result[quantity]
    if quantity == "ref_cls_l1_single_view":
        reference = reference[0]  # the only one that propagation uses
    torch.testing.assert_close(found, reference, atol=ATOL, rtol=RTOL)


def test_recovered_cameras_equal_the_reference(golden, result):
    cameras = result["cameras"]
    torch.testing.assert_close(cameras.T_model_cam[0], golden["out.pred_c2w"], atol=ATOL, rtol=RTOL)
    torch.testing.assert_close(cameras.K_px[0], golden["out.pred_K"], atol=ATOL, rtol=RTOL)


def test_rgb_decoder_in_bf16_equals_the_reference(bundle, golden, result):
    decoder = bundle.load_module("rgb_decoder", dtype=torch.bfloat16)
    inputs = [result[f"decode_in.level{level}"] for level in range(4)]
    rgb = decode_rgb(decoder, inputs, tuple(golden["in.images"].shape[-2:]))
    torch.testing.assert_close(rgb, golden["out.rgb_mae_bf16_autocast"], atol=2e-2, rtol=0)


def test_a_batch_of_scenes_equals_its_scenes(bundle, golden):
    """Two scenes at once, through encoding, sampling and decoding."""
    images = torch.cat([golden["in.images"], golden["in.images"].flip(-1)])
    T_world_cam = torch.cat([golden["in.c2w"], golden["in.c2w"].flip(1)])
    K_px = golden["in.K"].expand(2, -1, -1, -1)
    noise = torch.stack([golden["in.noise_l1"], golden["in.noise_cas"]])
    image_hw = tuple(images.shape[-2:])
    backbone, denoiser, rgb_decoder = (
        bundle.load_module(name) for name in ("backbone", "level1", "rgb_decoder")
    )
    statistics = {1: bundle.statistics(1)}

    def run(scenes):
        encoded = encode_references(backbone, statistics, images[scenes, :2])
        camera_map, viewmats, _ = camera_conditions(T_world_cam[scenes], K_px[scenes], image_hw, 2)
        conditions = sampling_conditions(
            denoiser, encoded.latents[1], camera_map, viewmats, K_px[scenes]
        )
        *_, last = sample(
            denoiser, conditions, noise[scenes], num_steps=2, shift=None, guidance_scale=1.5
        )
        tokens = level_tokens(backbone, statistics, {1: last.latent}, encoded.special)
        inputs = decoder_inputs(backbone, tokens)
        return decode(backbone, rgb_decoder, inputs, image_hw)

    together = run(slice(0, 2))
    for i in range(2):
        alone = run(slice(i, i + 1))
        torch.testing.assert_close(together.rgb[i], alone.rgb[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(
            together.geometry.depth[i], alone.geometry.depth[0], atol=1e-5, rtol=1e-4
        )
