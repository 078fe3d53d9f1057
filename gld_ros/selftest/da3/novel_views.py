"""Checks of whole runs and of what surrounds them: e2e, preprocess, recon, stats."""

import re
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from gld_ros.backbones.da3.preprocess import resize_for_network
from gld_ros.backbones.interface import NUM_LEVELS
from gld_ros.diffusion.conditioning import camera_conditions
from gld_ros.diffusion.denoiser import Denoiser
from gld_ros.diffusion.guidance import Guidance
from gld_ros.geometry.crop_resize import gld_crop_resize
from gld_ros.geometry.reconstruction import (
    align_to_known_cameras,
    confidence_threshold,
    reconstruct,
)
from gld_ros.novel_view_stages import (
    decode,
    decode_rgb,
    decoder_inputs,
    encode_references,
    level_tokens,
    sample,
    sampling_conditions,
)
from gld_ros.selftest.da3.models import Da3Models
from gld_ros.selftest.da3.tolerances import FLOAT32, OPENCV_IMAGE
from gld_ros.selftest.fixture import Fixture
from gld_ros.selftest.rows import EXACT, Row, compare

_DA3_RESIZED = re.compile(r"da3_(\w+)_res(\d+)_(K|image_u8)_(\w+)")
_FIRST = re.compile(r"(colors|gltf_points|world_points)_first(\d+)")
_STATISTIC = re.compile(r"level(\d+)\.(?:mean|var)")
_THRESHOLD = re.compile(r"conf_thr_da3_default_(\d+)_(\d+)")


def check_e2e(fixture: Fixture, models: Da3Models) -> Iterator[Row]:
    """Images and cameras through encoding, both denoisers, propagation and all decoders."""
    limit = models.limits.run
    inputs = {name: models.to_device(values) for name, values in fixture.inputs.items()}
    references = int(fixture.inputs["cond_num"])
    images = inputs["images"]
    views = images.shape[:2]
    image_hw = (int(images.shape[-2]), int(images.shape[-1]))
    backbone = models.gld_backbone
    statistics = {level: models.statistics(level) for level in (0, 1)}

    reference_images = images[:, :references]
    encoded = encode_references(backbone, statistics, reference_images)
    for level, latent in encoded.latents.items():
        yield from fixture.check(f"ref_latent_l{level}", latent.flatten(0, 1), limit)
    alone = [
        backbone.encode_levels(reference_images[:, i : i + 1], [1])[1].special[:, 0, 0]
        for i in range(references)
    ]
    special = statistics[1].normalise(torch.stack(alone, dim=1).flatten(0, 1))
    yield from fixture.check("ref_cls_l1_single_view", special, limit)

    camera_map, viewmats, _ = camera_conditions(inputs["c2w"], inputs["K"], image_hw, references)

    def run(denoiser: Denoiser, level: int, noise: Tensor, source: Tensor | None) -> Tensor:
        conditions = sampling_conditions(
            denoiser, encoded.latents[level], camera_map, viewmats, inputs["K"], source
        )
        steps = sample(
            denoiser,
            conditions,
            noise.unflatten(0, views),
            num_steps=models.config["euler_points"] - 1,
            shift=models.config["time_dist_shift"],
            guidance=Guidance(models.config["cfg_scale"]),
        )
        return list(steps)[-1].latent

    z1 = run(models.level1, 1, inputs["noise_l1"], None)
    z0 = run(models.cascade, 0, inputs["noise_cas"], z1)
    for level, z in ((0, z0), (1, z1)):
        raw = statistics[level].denormalise(z, channel_dim=2)
        yield from fixture.check(f"feat_l{level}_norm", z.flatten(0, 1), limit)
        yield from fixture.check(f"feat_l{level}_raw", raw.flatten(0, 1), limit)

    tokens = level_tokens(backbone, statistics, {0: z0, 1: z1}, encoded.special)
    levels = decoder_inputs(backbone, tokens)
    for level, features in enumerate(levels):
        yield from fixture.check(f"decode_in.level{level}", features, limit)
    decoded = decode(backbone, models.rgb_decoder, levels, image_hw)
    yield from fixture.check("rgb", decoded.rgb, limit)
    if fixture.expects("rgb_mae_bf16_autocast"):
        with models.bfloat16_autocast():
            rgb = decode_rgb(models.rgb_decoder, levels, image_hw)
        yield from fixture.check("rgb_mae_bf16_autocast", rgb, models.limits.bfloat16_reference)

    geometry = decoded.geometry
    yield from fixture.check("depth", geometry.depth, limit)
    yield from fixture.check("depth_conf", geometry.depth_confidence, limit)
    cameras = backbone.recover_cameras(geometry, tokens[NUM_LEVELS - 1], image_hw)
    if geometry.ray is None or geometry.ray_confidence is None or cameras is None:
        return
    yield from fixture.check("ray", geometry.ray, limit)
    yield from fixture.check("ray_conf", geometry.ray_confidence, limit)
    yield from fixture.check("pred_c2w", cameras.T_model_cam.flatten(0, 1), limit)
    yield from fixture.check("pred_K", cameras.K_px[0], limit)


def check_preprocess(fixture: Fixture, models: Da3Models) -> Iterator[Row]:
    """Images and intrinsics through both preparations, those of GLD and of DA3."""
    numbers = [n.removeprefix("image_u8_") for n in fixture.inputs if n.startswith("image_u8_")]
    for number in numbers:
        image = fixture.inputs[f"image_u8_{number}"].numpy()
        K_px = fixture.inputs[f"K_{number}"].double().numpy()
        if f"target_wh_{number}" in fixture.inputs:
            width, height = (int(side) for side in fixture.inputs[f"target_wh_{number}"])
            cropped, K = gld_crop_resize(image, K_px, (height, width))
            yield from fixture.check(f"image_u8_{number}", _u8(cropped), EXACT)
            yield from fixture.check(f"K_{number}", torch.from_numpy(K), FLOAT32)
    for name in fixture.outputs:
        match = _DA3_RESIZED.fullmatch(name)
        if match is None:
            continue
        method, resolution, quantity, number = match.groups()
        resized, resized_K = resize_for_network(
            fixture.inputs[f"image_u8_{number}"].numpy(),
            fixture.inputs[f"K_{number}"].double().numpy(),
            process_res=int(resolution),
            method=method,  # type: ignore[arg-type]  # any other name is refused by the function
        )
        if quantity == "image_u8":
            yield from fixture.check(name, _u8(resized), OPENCV_IMAGE)
        elif resized_K is not None:
            yield from fixture.check(name, torch.from_numpy(resized_K), FLOAT32)


def check_recon(fixture: Fixture, models: Da3Models) -> Iterator[Row]:
    """Alignment to known cameras, confidence threshold, points and their export frame."""
    inputs = fixture.inputs
    similarity, aligned = align_to_known_cameras(inputs["pred_c2w"], inputs["gt_c2w"])
    yield from fixture.check("sim3_s", similarity.scale.reshape(1), FLOAT32)
    yield from fixture.check("sim3_R", similarity.R_a_b, FLOAT32)
    yield from fixture.check("sim3_t", similarity.t_a_b, FLOAT32)
    yield from fixture.check("aligned_c2w", aligned, FLOAT32)
    for name in fixture.outputs:
        if match := _THRESHOLD.fullmatch(name):
            percentiles = (float(match[1]), float(match[2]))
            other = confidence_threshold(inputs["depth_conf"], percentiles=percentiles)
            yield from fixture.check(name, torch.tensor([other]), FLOAT32)

    result = reconstruct(
        inputs["rgb"],
        inputs["depth"] * similarity.scale.float(),
        inputs["depth_conf"],
        inputs["pred_K"],
        aligned,
    )
    yield from fixture.check("conf_thr", torch.tensor([result.confidence_threshold]), FLOAT32)
    yield from fixture.check("num_points", torch.tensor([len(result.points_world)]), EXACT)
    yield from fixture.check("gltf_transform", result.T_gltf_world, FLOAT32)
    yield from fixture.check("scene_scale", torch.tensor([result.scene_scale]), FLOAT32)
    points = {
        "colors": result.colors,
        "gltf_points": result.points_gltf,
        "world_points": result.points_world,
    }
    for name in fixture.outputs:
        if match := _FIRST.fullmatch(name):
            tolerance = EXACT if match[1] == "colors" else FLOAT32
            yield from fixture.check(name, points[match[1]][: int(match[2])], tolerance)


def check_stats(fixture: Fixture, models: Da3Models) -> Iterator[Row]:
    """Normalising by the statistics, and back, against the formula in float64.

    The file holds the statistics themselves and no expected outputs.
    """
    for level in sorted({int(m[1]) for m in map(_STATISTIC.fullmatch, fixture.others) if m}):
        mean = fixture.claim(f"level{level}.mean").double().reshape(-1)
        var = fixture.claim(f"level{level}.var").double().reshape(-1)
        raw = mean + torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None] * var.sqrt()
        reference = (raw - mean) / (var + 1e-5).sqrt()
        statistics = models.statistics(level)
        normalised = statistics.normalise(raw.float())
        restored = statistics.denormalise(reference.float())
        for name, computed, expected in (
            ("normalised", normalised, reference),
            ("restored", restored, raw),
        ):
            yield compare(fixture.name, f"level{level}.{name}", computed, expected, FLOAT32)


def _u8(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(image))
