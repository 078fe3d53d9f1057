"""Every number of the VGGT backbone against an independent run of the published architecture."""

import pytest
import torch

from gld_ros.backbones.images import imagenet_normalise
from gld_ros.backbones.interface import LevelTokens
from gld_ros.backbones.pose_encoding import decode_transform, encode_transform
from gld_ros.backbones.vggt.camera_head import CameraHead
from gld_ros.backbones.vggt.config import VggtConfig
from gld_ros.backbones.vggt.dpt_head import DptHead
from gld_ros.backbones.vggt.model import VggtBackbone

pytestmark = pytest.mark.usefixtures("_no_grad")


@pytest.fixture
def _no_grad():
    with torch.no_grad():
        yield


def backbone_from(golden):
    config = golden.config
    head = config.get("depth_head", {"features": 8, "out_channels": (4, 4, 4, 4)})
    model = VggtBackbone(
        VggtConfig(
            embed_dim=config["embed_dim"],
            depth=config["depth"],
            num_heads=config["num_heads"],
            image_depth=config["dino_depth"],
            image_heads=config["dino_heads"],
            tap_layers=config["out_layers"],
            head_features=head["features"],
            head_out_channels=head["out_channels"],
            num_registers=config["num_register_tokens"],
            image_size=config["img_size"],
            patch_size=config["patch_size"],
            mlp_ratio=config["mlp_ratio"],
        )
    )
    model.aggregator.load_state_dict(golden.params("aggregator."))
    return model.eval()


def as_views(images):
    return images if images.ndim == 5 else images[:, None]


@pytest.mark.parametrize("golden", ["vggt_aggregator"], indirect=True)
@pytest.mark.parametrize("case", ["s1", "s3", "flat"])
def test_image_transformer(golden, case, close):
    model = backbone_from(golden)
    images = as_views(golden[f"in/{case}/images"]).flatten(0, 1)
    tokens = model.aggregator.patch_embed(imagenet_normalise(images))
    close(tokens, golden[f"out/{case}/dino_patchtokens"])


@pytest.mark.parametrize("golden", ["vggt_aggregator"], indirect=True)
@pytest.mark.parametrize("case", ["s1", "flat"])
def test_levels(golden, case, close):
    levels = backbone_from(golden).encode_levels(as_views(golden[f"in/{case}/images"]), range(4))
    for level, tokens in levels.items():
        close(tokens.patches.flatten(0, 1), golden[f"out/{case}/level{level}_patches"])
        close(tokens.special.flatten(0, 1), golden[f"out/{case}/level{level}_special"])


@pytest.mark.parametrize("golden", ["vggt_aggregator"], indirect=True)
def test_every_block_of_several_views(golden, close):
    for block in range(golden.config["depth"]):
        # Whichever four blocks are tapped, the one asked for must be among them.
        taps = sorted({block, *[i for i in range(golden.config["depth"]) if i != block][:3]})
        golden.config["out_layers"] = taps
        level = taps.index(block)
        tokens = backbone_from(golden).encode_levels(golden["in/s3/images"], [level])[level]
        close(torch.cat([tokens.special, tokens.patches], dim=2), golden[f"out/s3/block{block}"])


@pytest.mark.parametrize("golden", ["vggt_aggregator"], indirect=True)
def test_propagation_with_true_and_with_learned_special_tokens(golden, close):
    model = backbone_from(golden)
    images = golden["in/s3/images"]
    height, width = images.shape[-2:]
    grid_hw = height // 14, width // 14
    encoded = model.encode_levels(images, range(4))
    for start in range(3):
        later = model.propagate(encoded[start], start, grid_hw)
        for level in range(start + 1, 4):
            expected = golden.tensors.get(f"out/from{start}/level{level}_patches")
            if expected is None:
                expected = encoded[level].patches.flatten(0, 1)
            close(later[level].patches.flatten(0, 1), expected)
    tokens = LevelTokens(
        encoded[1].patches, model.learned_special_tokens(images.shape[0], images.shape[1])
    )
    later = model.propagate(tokens, 1, grid_hw)
    for level in (2, 3):
        close(
            later[level].patches.flatten(0, 1), golden[f"out/from1_nospecial/level{level}_patches"]
        )
        assert not torch.allclose(later[level].patches, encoded[level].patches, atol=1e-2)


@pytest.mark.parametrize("golden", ["vggt_dpt"], indirect=True)
@pytest.mark.parametrize("case", ["a", "b"])
@pytest.mark.parametrize("name", ["depth_head", "point_head"])
def test_dense_heads(golden, case, name, close):
    config, head_config = golden.config, golden.config["heads"][name]
    head = DptHead(
        config["dim_in"],
        config["features"],
        config["out_channels"],
        outputs=head_config["output_dim"],
        activation=head_config["activation"],
        hidden_features=config["hidden_last"],
        patch_size=config["patch_size"],
    )
    head.load_state_dict(golden.params(f"{name}."))
    levels = [golden[f"in/{case}/level{level}"][:, :, 5:] for level in range(4)]
    height, width = golden[f"in/{case}/image_hw"].tolist()
    values, confidence = head(levels, (height, width))
    close(values, golden[f"out/{case}/{name}_pred"])
    close(confidence, golden[f"out/{case}/{name}_conf"])


@pytest.mark.parametrize("golden", ["vggt_camera_head"], indirect=True)
def test_camera_head_rounds(golden, close):
    config = golden.config
    head = CameraHead(
        config["dim_in"],
        num_heads=config["num_heads"],
        depth=config["trunk_depth"],
        mlp_ratio=config["mlp_ratio"],
    )
    head.load_state_dict(golden.params("camera_head."))
    rounds = head(golden["in/last_tokens"][:, :, 0])
    assert len(rounds) == config["num_iterations"]
    for i, estimate in enumerate(rounds):
        close(estimate, golden[f"out/pose_enc_iter{i}"])


@pytest.mark.parametrize("golden", ["vggt_camera_head"], indirect=True)
def test_pose_encoding_both_ways(golden, close):
    height, width = golden.config["image_hw"]
    T_cam_world, K_px = decode_transform(golden["out/decode/pose_enc"], (height, width))
    close(T_cam_world[..., :3, :], golden["out/decode/extrinsics"])
    torch.testing.assert_close(K_px, golden["out/decode/intrinsics"], atol=2e-5, rtol=1e-6)

    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(*golden["in/extrinsics"].shape[:-2], 1, 4)
    T_cam_world = torch.cat([golden["in/extrinsics"], bottom], dim=-2)
    encoding = encode_transform(T_cam_world, golden["in/intrinsics"], (height, width))
    expected = golden["out/encode/pose_enc"]
    # Where the scalar part is zero both signs are the same rotation.
    same_sign = (encoding[..., 3:7] * expected[..., 3:7]).sum(-1, keepdim=True).sign()
    encoding[..., 3:7] *= same_sign
    assert (encoding[..., 6] * same_sign[..., 0] >= -2e-5).all()
    close(encoding, expected)
