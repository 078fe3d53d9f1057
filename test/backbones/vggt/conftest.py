import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from gld_ros.backbones.vggt.config import VggtConfig
from gld_ros.backbones.vggt.model import VggtBackbone

TOLERANCE = 2e-5


@dataclass
class Golden:
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def params(self, prefix: str = "") -> dict[str, Tensor]:
        start = f"param/{prefix}"
        return {k.removeprefix(start): v for k, v in self.tensors.items() if k.startswith(start)}


def shared_folder() -> Path:
    given = os.environ.get("GLD_SHARED")
    return Path(given) if given else Path(__file__).resolve().parents[4] / "shared"


@pytest.fixture
def golden(request):
    name = request.param
    path = shared_folder() / "golden" / "vggt" / f"{name}.safetensors"
    if not path.is_file():
        pytest.skip(f"reference numbers {path} are not on this machine; set GLD_SHARED")
    with safe_open(path, framework="pt") as file:
        return Golden(
            config=json.loads(file.metadata()["config"]),
            tensors={key: file.get_tensor(key) for key in file.keys()},  # noqa: SIM118
        )


@pytest.fixture
def close():
    def check(actual: Tensor, expected: Tensor) -> None:
        assert actual.shape == expected.shape
        torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=0)

    return check


@pytest.fixture
def micro_config() -> VggtConfig:
    return VggtConfig(
        embed_dim=16,
        depth=4,
        num_heads=2,
        image_depth=1,
        image_heads=2,
        tap_layers=(0, 1, 2, 3),
        head_features=8,
        head_out_channels=(8, 8, 12, 12),
        image_size=56,
        point_head=True,
        camera_head=True,
        camera_heads=4,
        camera_depth=1,
    )


@pytest.fixture
def micro_model(micro_config) -> VggtBackbone:
    torch.manual_seed(0)
    return VggtBackbone(micro_config).eval()
