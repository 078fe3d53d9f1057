"""A random micro model."""

import pytest
import torch

from gld_ros.backbones.vggt.config import VggtConfig
from gld_ros.backbones.vggt.model import VggtBackbone


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
