import dataclasses

import pytest
import torch

from gld_ros.backbones.interface import Geometry, GeometryBackbone, LevelTokens
from gld_ros.backbones.pose_encoding import encode_transform
from gld_ros.backbones.vggt.config import VggtConfig
from gld_ros.backbones.vggt.model import VggtBackbone
from gld_ros.geometry.rigid import matrix_from_quaternion_xyzw, rigid_transform

HW, GRID = (42, 56), (3, 4)
NO_GEOMETRY = Geometry(torch.ones(2, 3, *HW), torch.ones(2, 3, *HW), None, None)


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.rand(1, 3, 3, *HW)


def test_is_a_geometry_backbone(micro_model):
    assert isinstance(micro_model, GeometryBackbone)
    assert micro_model.diffused_special_tokens == 5
    assert micro_model.channels == 32


def test_only_the_first_view_is_special(micro_model, images):
    with torch.no_grad():
        levels = micro_model.encode_levels(images, [3])[3]
        swapped = micro_model.encode_levels(images[:, [0, 2, 1]], [3])[3]
        reversed_order = micro_model.encode_levels(images.flip(1), [3])[3]
    torch.testing.assert_close(swapped.patches[:, [0, 2, 1]], levels.patches)
    assert not torch.allclose(reversed_order.patches.flip(1), levels.patches, atol=1e-3)


def test_no_block_runs_beyond_the_last_wanted_level(micro_model, images):
    ran = []
    for i, block in enumerate(micro_model.aggregator.global_blocks):
        block.register_forward_hook(lambda *_, i=i: ran.append(i))
    micro_model.encode_levels(images, [1, 0])
    assert ran == [0, 1]


def test_propagation_reads_the_global_half_alone(micro_model, images):
    with torch.no_grad():
        tokens = micro_model.encode_levels(images, [1])[1]
        expected = micro_model.propagate(tokens, 1, GRID)[3].patches
        for part in (tokens.patches, tokens.special):
            part[..., : micro_model.config.embed_dim] = 7.0
        assert torch.equal(micro_model.propagate(tokens, 1, GRID)[3].patches, expected)


def test_propagation_returns_the_special_tokens_of_later_levels(micro_model, images):
    with torch.no_grad():
        encoded = micro_model.encode_levels(images, range(4))
        later = micro_model.propagate(encoded[0], 0, GRID)
    assert list(later) == [0, 1, 2, 3]
    torch.testing.assert_close(later[3].special, encoded[3].special)


@pytest.mark.parametrize(
    ("patches", "special", "message"),
    [
        ((1, 2, 11, 32), (1, 2, 5, 32), "tokens.patches"),
        ((1, 2, 12, 30), (1, 2, 5, 32), "tokens.patches"),
        ((1, 2, 12, 32), (1, 2, 0, 32), "tokens.special"),
        ((1, 2, 12, 32), (1, 2, 1, 32), "tokens.special"),
    ],
)
def test_propagation_refuses_tokens_that_do_not_fit(micro_model, patches, special, message):
    tokens = LevelTokens(torch.zeros(patches), torch.zeros(special))
    with pytest.raises(ValueError, match=message):
        micro_model.propagate(tokens, 1, GRID)


def test_refuses_bad_images_levels_and_cameras(micro_model, images):
    with pytest.raises(ValueError, match="multiples of 14"):
        micro_model.encode_levels(images[..., :50], [0])
    with pytest.raises(ValueError, match="levels must be"):
        micro_model.encode_levels(images, [4])
    with pytest.raises(ValueError, match="levels must be"):
        micro_model.encode_levels(images, [])
    with pytest.raises(ValueError, match="no known cameras"):
        micro_model.encode_levels(images, [0], camera_tokens=torch.zeros(1, 3, 16))


def test_predicts_depth_points_and_rigid_cameras(micro_model, images):
    with torch.no_grad():
        prediction = micro_model(images)
    assert prediction.depth.shape == prediction.points_confidence.shape == (1, 3, *HW)
    assert prediction.points.shape == (1, 3, *HW, 3)
    assert (prediction.depth > 0).all()
    assert (prediction.depth_confidence >= 1).all()
    R = prediction.T_cam_world[..., :3, :3]
    torch.testing.assert_close(R @ R.mT, torch.eye(3).expand_as(R), atol=1e-4, rtol=0)
    assert torch.isfinite(prediction.K_px).all()


def test_without_the_optional_heads_points_and_cameras_are_absent(micro_config, images):
    config = dataclasses.replace(micro_config, point_head=False, camera_head=False)
    with torch.no_grad():
        prediction = VggtBackbone(config)(images)
    assert prediction.points is None
    assert prediction.T_cam_world is None


def test_head_in_slices_equals_head_at_once(micro_model):
    torch.manual_seed(2)
    levels = [torch.randn(2, 5, 12, 32) for _ in range(4)]
    together, _ = micro_model.depth_head(levels, HW)
    with torch.no_grad():
        sliced, _ = micro_model.depth_head(levels, HW)
    torch.testing.assert_close(sliced, together.detach())


def test_every_parameter_is_trained(micro_model, images):
    prediction = micro_model(images)
    loss = prediction.depth.sum() + prediction.depth_confidence.sum()
    loss = loss + prediction.points.sum() + prediction.points_confidence.sum()
    (loss + prediction.T_cam_world.sum() + prediction.K_px.sum()).backward()
    unused = [name for name, p in micro_model.named_parameters() if p.grad is None]
    assert unused == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 3}, "multiple of 4 channels"),
        ({"image_heads": 3}, "image_heads"),
        ({"tap_layers": (0, 1, 2, 4)}, "tap_layers"),
        ({"tap_layers": (0, 2, 1, 3)}, "tap_layers"),
        ({"image_size": 57}, "image_size"),
        ({"head_features": 6}, "head_features"),
        ({"head_out_channels": (8, 8, 8, 6)}, "head_out_channels"),
        ({"camera_heads": 5}, "camera_heads"),
    ],
)
def test_config_names_what_is_wrong(micro_config, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(micro_config, **change)


def test_config_survives_json_lists(micro_config):
    sizes = dataclasses.asdict(micro_config)
    lists = {k: list(v) if isinstance(v, tuple) else v for k, v in sizes.items()}
    assert VggtConfig(**lists) == micro_config


def last_tokens():
    return LevelTokens(torch.zeros(2, 3, 12, 32), torch.randn(2, 3, 5, 32))


def test_recovered_cameras_are_those_the_last_round_of_the_camera_head_reads(
    micro_model, monkeypatch
):
    torch.manual_seed(3)
    quaternion = torch.nn.functional.normalize(torch.randn(2, 3, 4, dtype=torch.float64), dim=-1)
    T_cam_model = rigid_transform(
        matrix_from_quaternion_xyzw(quaternion), torch.randn(2, 3, 3, dtype=torch.float64)
    )
    K_px = torch.tensor([[50.0, 0, 28], [0, 40, 21], [0, 0, 1]], dtype=torch.float64)
    K_px = K_px.expand(2, 3, 3, 3)
    reading = encode_transform(T_cam_model, K_px, HW)
    rounds = torch.stack([torch.zeros_like(reading), reading])
    monkeypatch.setattr(micro_model.camera_head, "forward", lambda tokens: rounds)
    cameras = micro_model.recover_cameras(NO_GEOMETRY, last_tokens(), HW)
    torch.testing.assert_close(cameras.T_model_cam, torch.linalg.inv(T_cam_model))
    torch.testing.assert_close(cameras.K_px_per_view, K_px)
    torch.testing.assert_close(cameras.K_px, K_px[:, 0])


def test_cameras_survive_propagation_of_special_tokens(micro_model, images):
    # What the diffusion does with perfect tokens: level 1 is known, the rest is propagated.
    # Four rounds add up to view angles around 1.6 rad.
    torch.nn.init.constant_(micro_model.camera_head.pose_branch.fc2.bias, 0.4)
    with torch.no_grad():
        expected = micro_model(images)
        tokens = micro_model.encode_levels(images, [1])[1]
        last = micro_model.propagate(tokens, 1, GRID)[3]
        cameras = micro_model.recover_cameras(NO_GEOMETRY, last, HW)
        last.special[:, :, 0, ::2] += 0.3
        changed = micro_model.recover_cameras(NO_GEOMETRY, last, HW)
    T_cam_model = torch.linalg.inv(cameras.T_model_cam).float()
    torch.testing.assert_close(T_cam_model, expected.T_cam_world, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(cameras.K_px_per_view.float(), expected.K_px, rtol=1e-4, atol=1e-3)
    assert not torch.allclose(changed.T_model_cam, cameras.T_model_cam, atol=1e-3)


@pytest.mark.parametrize(
    ("number", "value", "message"),
    [
        (0, float("nan"), "not finite"),
        (slice(3, 7), 0.0, "length zero"),
        (7, 0.0, "between 0 and pi"),
        (8, 3.2, "between 0 and pi"),
    ],
)
def test_a_reading_that_is_no_camera_is_an_error(micro_model, monkeypatch, number, value, message):
    rounds = torch.ones(1, 2, 3, 9)
    rounds[0, 1, 2, number] = value
    monkeypatch.setattr(micro_model.camera_head, "forward", lambda tokens: rounds)
    with pytest.raises(ValueError, match=message):
        micro_model.recover_cameras(NO_GEOMETRY, last_tokens(), HW)


def test_without_a_camera_head_no_cameras_are_recovered(micro_config):
    model = VggtBackbone(dataclasses.replace(micro_config, camera_head=False))
    assert model.recover_cameras(NO_GEOMETRY, last_tokens(), HW) is None
