"""Folders of VGGT fixtures: any sizes, every quantity, and nothing passes that was not compared."""

import json

import pytest
import torch
from safetensors.torch import save_file

from gld_ros.backbones.pose_encoding import decode_transform, encode_transform
from gld_ros.backbones.vggt.camera_head import CameraHead
from gld_ros.selftest.run import run_selftest


def save_camera_fixture(folder, **changes):
    """A fixture of sizes that no stored set has, made with the library itself."""
    torch.manual_seed(0)
    config = {
        "kind": "camera_head",
        "dim_in": 24,
        "num_heads": 3,
        "trunk_depth": 2,
        "mlp_ratio": 2.0,
        "num_iterations": 4,
        "image_hw": [70, 98],
    }
    head = CameraHead(24, num_heads=3, depth=2, mlp_ratio=2.0)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    tokens = torch.randn(1, 4, 6, 24)
    encoding = torch.cat([torch.randn(1, 4, 7), torch.rand(1, 4, 2) + 0.5], dim=-1)
    with torch.no_grad():
        rounds = head(tokens[:, :, 0])
    T_cam_world, K_px = decode_transform(encoding, (70, 98))
    tensors = {f"param/camera_head.{k}": v for k, v in head.state_dict().items()}
    tensors |= {
        "in/last_tokens": tokens,
        "in/extrinsics": T_cam_world[..., :3, :].contiguous(),
        "in/intrinsics": K_px,
        "out/decode/pose_enc": encoding,
        "out/decode/extrinsics": T_cam_world[..., :3, :].clone(),
        "out/decode/intrinsics": K_px.clone(),
        "out/encode/pose_enc": encode_transform(T_cam_world, K_px, (70, 98)),
    }
    tensors |= {f"out/pose_enc_iter{i}": values.clone() for i, values in enumerate(rounds)}
    config |= changes.pop("config", {})
    tensors |= changes
    save_file(tensors, folder / "some_head.safetensors", {"config": json.dumps(config)})


def test_sizes_come_from_the_file(tmp_path):
    save_camera_fixture(tmp_path)
    rows = run_selftest(tmp_path)
    assert len(rows) == 7
    assert [row for row in rows if not row.ok] == []


@pytest.mark.parametrize(
    ("changes", "quantity", "note"),
    [
        ({"out/pose_enc_iter1": torch.zeros(1, 4, 9)}, "pose_enc_iter1", "outside"),
        ({"out/pose_enc_iter9": torch.zeros(1, 4, 9)}, "pose_enc_iter9", "not covered"),
        ({"stray": torch.zeros(1)}, "stray", "not covered"),
        ({"param/camera_head.extra": torch.zeros(1)}, "-", "unexpected"),
        ({"config": {"trunk_depth": 3}}, "-", "missing"),
        ({"config": {"adaln_norm_eps": 1e-5}}, "-", "made with {'adaln_norm_eps': 1e-05}"),
    ],
)
def test_what_differs_or_is_not_compared_fails(tmp_path, changes, quantity, note):
    save_camera_fixture(tmp_path, **changes)
    failures = {row.quantity: row.note for row in run_selftest(tmp_path) if not row.ok}
    assert note in failures[quantity]


def test_unknown_files_fail(tmp_path):
    save_camera_fixture(tmp_path)
    (tmp_path / "README.md").write_text("words")
    (tmp_path / "notes.txt").write_text("words")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors", {"config": '{"kind": "new"}'})
    failed = {row.fixture for row in run_selftest(tmp_path) if not row.ok}
    assert failed == {"notes.txt", "broken.safetensors", "other.safetensors"}
