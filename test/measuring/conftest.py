"""Textured planes for the tests of this folder, and the devices on which depth is searched."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

TORCH = [
    pytest.param(torch.device("cpu"), id="torch-cpu"),
    pytest.param(
        torch.device("cuda"),
        id="torch-cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here"),
    ),
]


@pytest.fixture(params=TORCH)
def torch_device(request):
    """Where torch searches."""
    return request.param


@pytest.fixture(params=[pytest.param(None, id="numpy"), *TORCH])
def device(request):
    """Where depth is searched; None is NumPy."""
    return request.param
