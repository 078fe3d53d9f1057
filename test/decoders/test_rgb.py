"""RGB decoder: published layout, grids, training, rejected input."""

import json
from pathlib import Path

import pytest
import torch

from gld_ros.backbones.images import imagenet_normalise
from gld_ros.decoders.rgb import RgbDecoder, RgbDecoderConfig

KEYS = Path(__file__).resolve().parents[1] / "data" / "official_keys"


def micro_decoder(**options):
    torch.manual_seed(0)
    return RgbDecoder(
        RgbDecoderConfig(32, width=16, depth=2, heads=2, mlp=24, table_hw=(4, 4), **options)
    )


def test_names_and_shapes_are_the_published_ones():
    published = json.loads((KEYS / "mae_decoder.json").read_text())
    with torch.device("meta"):
        decoder = RgbDecoder(RgbDecoderConfig(6144))
    shapes = {f"decoder.{name}": list(v.shape) for name, v in decoder.state_dict().items()}
    assert shapes == published


def test_pixels_of_a_patch_land_row_by_row_with_channel_fastest():
    decoder = micro_decoder()
    with torch.no_grad():
        decoder.decoder_pred.weight.zero_()
        decoder.decoder_pred.bias.copy_(torch.arange(588.0))
        rgb = decoder(torch.randn(1, 6, 32), (2, 3))
    patch = imagenet_normalise(rgb[0])[:, 14:28, 28:42]
    assert patch[2, 3, 5].item() == pytest.approx((3 * 14 + 5) * 3 + 2, abs=1e-2)


def test_views_are_decoded_independently():
    decoder = micro_decoder().eval()
    tokens = torch.randn(3, 6, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            decoder(tokens, (2, 3))[1:2], decoder(tokens[1:2], (2, 3)), atol=1e-5, rtol=1e-5
        )


def test_positions_follow_new_weights():
    decoder = micro_decoder()
    before = decoder.position_table((2, 3))
    assert decoder.position_table((2, 3)) is before
    state = decoder.state_dict()
    state["decoder_pos_embed"] = state["decoder_pos_embed"] + 1
    decoder.load_state_dict(state)
    torch.testing.assert_close(decoder.position_table((2, 3)), before + 1)


def test_class_token_has_no_position_of_its_own_at_the_start():
    table = micro_decoder().decoder_pos_embed
    assert torch.count_nonzero(table[:, 0]) == 0
    # First half of the width is the column, second half the row.
    patches = table[0, 1:].view(4, 4, 16)
    assert torch.equal(patches[0, :, :8], patches[3, :, :8])
    assert torch.equal(patches[:, 0, 8:], patches[:, 3, 8:])
    assert not torch.equal(patches[0, 0], patches[0, 1])


def test_shortcut_adds_a_linear_map_to_the_pixels():
    decoder = micro_decoder(linear_shortcut=True).eval()
    tokens = torch.randn(2, 6, 32)
    with torch.no_grad():
        whole = decoder.patch_pixels(tokens, (2, 3))
        share = decoder.shortcut(tokens)
        decoder.shortcut.weight.zero_()
        decoder.shortcut.bias.zero_()
        torch.testing.assert_close(decoder.patch_pixels(tokens, (2, 3)) + share, whole)


@pytest.mark.parametrize("autocast", [False, True])
def test_every_parameter_gets_a_finite_gradient(autocast):
    decoder = micro_decoder(linear_shortcut=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        rgb = decoder(torch.randn(2, 6, 32), (2, 3))
    rgb.float().square().mean().backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("shape", [(2, 5, 32), (2, 6, 16), (6, 32)])
def test_tokens_that_do_not_fit_the_grid_are_rejected(shape):
    with pytest.raises(ValueError, match=r"expected \(views, 2 \* 3, 32\)"):
        micro_decoder()(torch.zeros(shape), (2, 3))


def test_impossible_width_is_rejected():
    with pytest.raises(ValueError, match="width 30"):
        RgbDecoderConfig(32, width=30, heads=4)
