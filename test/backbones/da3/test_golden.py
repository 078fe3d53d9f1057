"""The model reproduces the numbers recorded from the published implementation."""

import copy

import numpy as np
import pytest
import torch

from gld_ros.backbones.da3.camera import cameras_from_pose_encoding, pose_encoding
from gld_ros.backbones.da3.preprocess import resize_for_network
from gld_ros.backbones.da3.ray_cameras import cameras_from_ray_map
from gld_ros.backbones.images import IMAGENET_MEAN, IMAGENET_STD
from gld_ros.backbones.interface import LevelTokens
from gld_ros.geometry.rigid import invert_rigid

LEVELS = range(4)


def assert_near(actual, expected, rtol=1e-4, atol=1e-5):
    torch.testing.assert_close(
        actual, expected.to(actual.dtype), rtol=rtol, atol=atol, check_device=False
    )


def size_hw(numbers):
    return tuple(numbers["in.size_hw"].tolist())


@pytest.mark.parametrize("case", ["images_B2_S2", "images_S1", "images_S3", "images_square_native"])
def test_raw_levels_with_view_0_as_reference(golden, golden_model, case):
    numbers = golden("backbone")
    levels, _ = golden_model.backbone(numbers[f"in.{case}"])
    for level in LEVELS:
        tokens = torch.cat([levels[level].special, levels[level].patches], dim=2)
        assert_near(tokens.flatten(0, 1), numbers[f"out.{case}.gld_raw.level{level}"])


@pytest.mark.parametrize("case", ["images_B2_S2", "images_S1", "images_S3", "images_square_native"])
def test_stand_alone_levels(golden, golden_model, case):
    numbers = golden("backbone")
    levels, reference = golden_model.backbone(
        numbers[f"in.{case}"], reference_strategy="saddle_balanced"
    )
    if f"out.{case}.ref_idx" in numbers:
        assert reference.tolist() == numbers[f"out.{case}.ref_idx"].tolist()
    for level in LEVELS:
        patches = golden_model.decoder_input(levels[level])
        assert_near(patches, numbers[f"out.{case}.da3_patches.{level}"])
        assert_near(levels[level].special[:, :, 0], numbers[f"out.{case}.da3_cls.{level}"])


@pytest.mark.parametrize("start", LEVELS)
def test_propagation_from_a_level(golden, golden_model, start):
    numbers = golden("from_layer")
    tokens = numbers[f"in.level{start}"][None]
    raw = LevelTokens(patches=tokens[:, :, 1:], special=tokens[:, :, :1])
    levels = golden_model.propagate(raw, start, tuple(numbers["in.grid"].tolist()))
    assert sorted(levels) == list(range(start, 4))
    for level, propagated in levels.items():
        name = f"out.from{start}.level{level}"
        assert_near(golden_model.decoder_input(propagated)[0], numbers[f"{name}.patches_norm"])
        assert_near(propagated.special[0, :, 0], numbers[f"{name}.cls_raw"])


@pytest.mark.parametrize("finetuned", [False, True])
def test_dual_dpt(golden, golden_model, finetuned):
    numbers = golden("dualdpt")
    head, prefix = golden_model.head, "out."
    if finetuned:
        head, prefix = copy.deepcopy(head), "out.finetuned."
        weights = golden("weights_dpt_decoder")
        head.load_state_dict({k.removeprefix("decoder."): v for k, v in weights.items()})
    geometry = head([numbers[f"in.feat{level}"] for level in LEVELS], size_hw(numbers))
    assert_near(geometry.depth, numbers[prefix + "depth"])
    assert_near(geometry.depth_confidence, numbers[prefix + "depth_conf"])
    assert_near(geometry.ray, numbers[prefix + "ray"])
    assert_near(geometry.ray_confidence, numbers[prefix + "ray_conf"])


def test_camera_encoder(golden, golden_model):
    numbers = golden("camera")
    encoding = pose_encoding(numbers["in.w2c"], numbers["in.K"], size_hw(numbers))
    assert_near(encoding, numbers["out.pose_encoding_from_c2w"])
    tokens = golden_model.camera_encoder(numbers["in.w2c"], numbers["in.K"], size_hw(numbers))
    assert_near(tokens, numbers["out.camera_tokens"])


def test_camera_decoder(golden, golden_model):
    numbers = golden("camera")
    encoding = golden_model.camera_decoder(numbers["in.cls_feat"])
    assert_near(encoding, numbers["out.pose_enc_decoded"])
    T_world_cam, K_px = cameras_from_pose_encoding(encoding, size_hw(numbers))
    assert_near(T_world_cam[..., :3, :], numbers["out.decoded_c2w_3x4"])
    assert_near(invert_rigid(T_world_cam)[..., :3, :], numbers["out.decoded_w2c_3x4"])
    assert_near(K_px, numbers["out.decoded_K"])


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("noposes", "saddle_balanced"),
        ("first", "first"),
        ("middle", "middle"),
        ("simrange", "saddle_sim_range"),
        ("posed", "saddle_balanced"),
    ],
)
def test_whole_network(golden, golden_model, name, strategy):
    numbers = golden("camera")
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    images = numbers["in.images"] * std[:, None, None] + mean[:, None, None]
    cameras = (numbers["in.w2c"], numbers["in.K"]) if name == "posed" else (None, None)
    prediction = golden_model(images, *cameras, reference_strategy=strategy)
    expected = {
        key.removeprefix(f"out.full_{name}."): value
        for key, value in numbers.items()
        if key.startswith(f"out.full_{name}.")
    }
    assert_near(prediction.T_cam_world[..., :3, :], expected["extrinsics"])
    assert_near(prediction.K_px, expected["intrinsics"])
    if "ref_idx" in expected:
        assert prediction.reference.tolist() == expected["ref_idx"].tolist()
    if "depth" in expected:
        assert_near(prediction.depth, expected["depth"])
        assert_near(prediction.depth_confidence, expected["depth_conf"])


def test_cameras_from_rays(golden):
    numbers = golden("camera")
    height, width = size_hw(numbers)
    cameras = cameras_from_ray_map(numbers["in.ray"], numbers["in.ray_conf"], (height, width))
    half_size_xy = torch.tensor([width, height]) / 2
    focal = cameras.K_px[..., [0, 1], [0, 1]] / half_size_xy
    principal = cameras.K_px[..., :2, 2] / half_size_xy
    assert_near(cameras.T_world_cam, numbers["out.camray_c2w"], rtol=5e-3, atol=5e-3)
    assert_near(focal, numbers["out.camray_focal"], rtol=5e-3, atol=5e-3)
    assert_near(principal, numbers["out.camray_pp"], rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("photograph", [0, 1, 2])
@pytest.mark.parametrize("method", ["upper_bound_resize", "lower_bound_crop"])
def test_preprocessing(golden, method, photograph):
    numbers = golden("preprocess")
    image, K_px = resize_for_network(
        numbers[f"in.image_u8_{photograph}"].numpy(),
        numbers[f"in.K_{photograph}"].double().numpy(),
        process_res=70,
        method=method,
    )
    expected = numbers[f"out.da3_{method}_res70_image_u8_{photograph}"].numpy()
    assert image.shape == expected.shape
    # OpenCV versions differ by one grey level.
    assert np.abs(image.astype(int) - expected.astype(int)).max() <= 1
    assert_near(
        torch.from_numpy(K_px), numbers[f"out.da3_{method}_res70_K_{photograph}"], rtol=1e-6
    )
