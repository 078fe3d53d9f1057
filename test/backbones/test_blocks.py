"""Gated layers that are widened for a GPU's matrix units."""

import pytest
import torch

from gld_ros.backbones.blocks import SwiGlu, pad_gated_widths


@pytest.mark.parametrize("hidden", [1, 5, 63])
def test_a_widened_gated_layer_gives_the_same(hidden: int) -> None:
    torch.manual_seed(hidden)
    layer = torch.nn.Sequential(SwiGlu(12, hidden))
    x = torch.randn(3, 7, 12)
    expected = layer(x)
    pad_gated_widths(layer, 64)
    assert layer[0].w3.weight.shape == (12, 64)
    assert layer[0].w12.weight.shape == (128, 12)
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)


def test_a_gated_layer_of_whole_multiples_is_left_alone() -> None:
    layer = SwiGlu(8, 128)
    weights = layer.w12.weight, layer.w3.weight
    pad_gated_widths(layer, 64)
    assert layer.w12.weight is weights[0]
    assert layer.w3.weight is weights[1]
