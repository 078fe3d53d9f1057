"""Checks of the backbone, its heads and its cameras: backbone, from_layer, dualdpt, camera.

All of these run in float32, whatever precision is asked for: so does the pipeline.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from gld_ros.backbones.da3.camera import cameras_from_pose_encoding, pose_encoding
from gld_ros.backbones.da3.ray_cameras import cameras_from_ray_map
from gld_ros.backbones.images import imagenet_denormalise
from gld_ros.backbones.interface import LevelTokens
from gld_ros.geometry.rays import cameras_from_rays
from gld_ros.geometry.rigid import invert_rigid
from gld_ros.selftest.da3.models import Da3Models
from gld_ros.selftest.da3.tolerances import FLOAT32, RANDOMISED
from gld_ros.selftest.fixture import Fixture
from gld_ros.selftest.rows import EXACT, Row

# Ending of a `full_*` case -> how the stand-alone model picks its reference view.
_STRATEGIES = {
    "noposes": "saddle_balanced",
    "saddle": "saddle_balanced",
    "first": "first",
    "middle": "middle",
    "simrange": "saddle_sim_range",
}
_LEVELS = range(4)


def check_backbone(fixture: Fixture, models: Da3Models) -> Iterator[Row]:
    """Raw levels with view 0 as reference, and the stand-alone model's own levels."""
    for case, normalised in fixture.inputs.items():
        images = models.to_device(normalised)
        if fixture.expects(f"{case}.gld_raw."):
            levels, _ = models.da3.backbone(images)
            for level in _LEVELS:
                raw = torch.cat([levels[level].special, levels[level].patches], dim=2)
                yield from fixture.check(f"{case}.gld_raw.level{level}", raw.flatten(0, 1), FLOAT32)
        if fixture.expects(f"{case}.da3_") or fixture.expects(f"{case}.ref_idx"):
            levels, reference = models.da3.backbone(images, reference_strategy="saddle_balanced")
            patches = [models.da3.decoder_input(levels[level]) for level in _LEVELS]
            for level in _LEVELS:
                yield from fixture.check(f"{case}.da3_patches.{level}", patches[level], FLOAT32)
                yield from fixture.check(
                    f"{case}.da3_cls.{level}", levels[level].special[:, :, 0], FLOAT32
                )
            yield from fixture.check(f"{case}.ref_idx", reference, EXACT)


def check_from_layer(fixture: Fixture, models: Da3Models) -> Iterator[Row]:
    """Raw tokens of each level carried on to the last level."""
    views = int(fixture.inputs["total_view"])
    rows, columns = (int(side) for side in fixture.inputs["grid"])
    for start in _LEVELS:
        if not fixture.expects(f"from{start}."):
            continue
        raw = models.to_device(fixture.inputs[f"level{start}"]).unflatten(0, (-1, views))
        levels = models.da3.propagate(
            LevelTokens(patches=raw[:, :, 1:], special=raw[:, :, :1]), start, (rows, columns)
        )
        for level, tokens in levels.items():
            name = f"from{start}.level{level}"
            special = tokens.special[:, :, 0].flatten(0, 1)
            patches = models.da3.decoder_input(tokens).flatten(0, 1)
            yield from fixture.check(f"{name}.cls_raw", special, FLOAT32)
            yield from fixture.check(f"{name}.patches_norm", patches, FLOAT32)


def check_dualdpt(fixture: Fixture, models: Da3Models) -> Iterator[Row]:
    """Depth and rays from four feature maps, with the published and the fine-tuned head."""
    image_hw = fixture.size_hw()
    features = [models.to_device(fixture.inputs[f"feat{level}"]) for level in _LEVELS]
    for prefix in ("", "finetuned."):
        if not fixture.expects(f"{prefix}depth"):
            continue
        model = models.gld_backbone if prefix else models.da3
        geometry = model.decode_geometry(features, image_hw)
        quantities = {
            "depth": geometry.depth,
            "depth_conf": geometry.depth_confidence,
            "ray": geometry.ray,
            "ray_conf": geometry.ray_confidence,
        }
        for quantity, values in quantities.items():
            if values is not None:
                yield from fixture.check(prefix + quantity, values, FLOAT32)


def check_camera(fixture: Fixture, models: Da3Models) -> Iterator[Row]:
    """Pose encoding, camera encoder and decoder, whole-model runs, cameras from rays."""
    inputs = {name: models.to_device(values) for name, values in fixture.inputs.items()}
    image_hw = fixture.size_hw()
    T_cam_world, K_px = inputs["w2c"], inputs["K"]

    encoding = pose_encoding(T_cam_world, K_px, image_hw)
    yield from fixture.check("pose_encoding_from_c2w", encoding, FLOAT32)
    tokens = models.da3.camera_encoder(T_cam_world, K_px, image_hw)
    yield from fixture.check("camera_tokens", tokens, FLOAT32)

    decoded = models.da3.camera_decoder(inputs["cls_feat"])
    yield from fixture.check("pose_enc_decoded", decoded, FLOAT32)
    T_world_cam, decoded_K = cameras_from_pose_encoding(decoded, image_hw)
    yield from fixture.check("decoded_c2w_3x4", T_world_cam[..., :3, :], FLOAT32)
    yield from fixture.check("decoded_w2c_3x4", invert_rigid(T_world_cam)[..., :3, :], FLOAT32)
    yield from fixture.check("decoded_K", decoded_K, FLOAT32)

    if fixture.expects("full_"):
        images = imagenet_denormalise(inputs["images"])
        for case in sorted({n.split(".")[0] for n in fixture.outputs if n.startswith("full_")}):
            yield from _check_whole_model(fixture, models, case, images, T_cam_world, K_px)

    if fixture.expects("camray_"):
        fitted = cameras_from_ray_map(inputs["ray"], inputs["ray_conf"], image_hw)
        focal, principal = _half_image_units(fitted.K_px, image_hw)
        yield from fixture.check("camray_c2w", fitted.T_world_cam, RANDOMISED)
        yield from fixture.check("camray_focal", focal, RANDOMISED)
        yield from fixture.check("camray_pp", principal, RANDOMISED)
    if fixture.expects("recover_poses_"):
        recovered = cameras_from_rays(inputs["ray"], inputs["ray_conf"], image_hw)
        yield from fixture.check("recover_poses_c2w", recovered.T_model_cam.flatten(0, 1), FLOAT32)
        yield from fixture.check("recover_poses_K", recovered.K_px[0], FLOAT32)


def _check_whole_model(
    fixture: Fixture,
    models: Da3Models,
    case: str,
    images: Tensor,
    T_cam_world: Tensor,
    K_px: Tensor,
) -> Iterator[Row]:
    kind = case.removeprefix("full_")
    if kind == "posed":
        prediction = models.da3(images, T_cam_world, K_px)
    elif kind in _STRATEGIES:
        prediction = models.da3(images, reference_strategy=_STRATEGIES[kind])
    else:
        return
    yield from fixture.check(f"{case}.depth", prediction.depth, FLOAT32)
    yield from fixture.check(f"{case}.depth_conf", prediction.depth_confidence, FLOAT32)
    yield from fixture.check(f"{case}.extrinsics", prediction.T_cam_world[..., :3, :], FLOAT32)
    yield from fixture.check(f"{case}.intrinsics", prediction.K_px, FLOAT32)
    yield from fixture.check(f"{case}.ref_idx", prediction.reference, EXACT)


def _half_image_units(K_px: Tensor, image_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Focal lengths and principal point (x, y) in units of half the image size."""
    half = K_px.new_tensor([image_hw[1], image_hw[0]]) / 2
    focal = torch.stack([K_px[..., 0, 0], K_px[..., 1, 1]], dim=-1)
    return focal / half, K_px[..., :2, 2] / half
