"""A random micro model, and the recorded reference numbers where they are at hand."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gld_ros.backbones.da3.config import Da3Config
from gld_ros.backbones.da3.model import DepthAnything3
from gld_ros.backbones.da3.official_keys import key_from_official

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


@pytest.fixture(scope="session")
def golden():
    """Loader of one recorded file: golden("camera") -> tensors by name."""
    root = Path(__file__).resolve().parents[3]
    folder = Path(os.environ.get("GLD_SHARED", root.parent / "shared")) / "golden" / "da3"
    if not folder.is_dir():
        pytest.skip("reference numbers not found; set GLD_SHARED to the folder with golden/da3")

    def load(name):
        path = folder / name
        if path.suffix == ".json":
            return json.loads(path.read_text())
        return load_file(path.with_suffix(".safetensors"))

    return load


@pytest.fixture(scope="session")
def golden_model(golden):
    """The model the reference numbers were recorded with."""
    sizes = golden("config.json")["da3"]
    model = DepthAnything3(
        Da3Config(
            embed_dim=sizes["embed_dim"],
            depth=sizes["depth"],
            num_heads=sizes["num_heads"],
            image_size=sizes["img_size"],
            alt_start=sizes["alt_start"],
            qknorm_start=sizes["qknorm_start"],
            rope_start=sizes["rope_start"],
            tap_layers=sizes["out_layers"],
            head_features=sizes["features"],
            head_out_channels=sizes["out_channels"],
            camera_heads=sizes["cam_heads"],
        )
    )
    weights = {key_from_official(key): value for key, value in golden("weights_da3").items()}
    model.load_state_dict(weights, strict=True)
    return model.eval().requires_grad_(False)
