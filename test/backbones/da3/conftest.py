"""A random micro model."""

import pytest
import torch

from gld_ros.backbones.da3.config import Da3Config
from gld_ros.backbones.da3.model import DepthAnything3

MICRO = Da3Config(
    embed_dim=16,
    depth=6,
    num_heads=2,
    image_size=42,
    alt_start=2,
    qknorm_start=2,
    rope_start=2,
    tap_layers=(2, 3, 4, 5),
    head_features=8,
    head_out_channels=(4, 8, 8, 12),
    camera_heads=2,
    camera_depth=1,
)


@pytest.fixture
def micro_config():
    return MICRO


@pytest.fixture
def micro():
    """A micro model whose every parameter is random, so that each influences the result."""
    torch.manual_seed(0)
    model = DepthAnything3(MICRO).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif not name.startswith("head"):
                parameter.mul_(5)
    return model
