"""Modules without storage."""

import subprocess
import sys

import torch
from torch import nn

from gld_ros.weights.without_storage import without_storage


class Initialised(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        nn.init.normal_(self.linear.weight, std=0.1)
        nn.init.trunc_normal_(tensor=self.linear.bias)
        self.register_buffer("frequencies", torch.randn(5))
        self.scale = nn.Parameter(torch.ones(4).uniform_())


def test_shapes_are_those_of_the_module():
    with without_storage():
        module = Initialised()
    assert all(t.device.type == "meta" for t in module.state_dict().values())
    expected = {name: t.shape for name, t in Initialised().state_dict().items()}
    assert {name: t.shape for name, t in module.state_dict().items()} == expected


def test_a_bundle_is_verified_and_loaded_without_torchs_compiler():
    program = """
import sys
from gld_ros.weights.bundle import Bundle
from gld_ros.weights.verify import verify_bundle
bundle = Bundle.open("tiny")
assert not [check.problem for check in verify_bundle(bundle.folder) if check.problem]
for name in bundle.config.module_names:
    bundle.load_module(name)
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
