"""Checks of the RGB decoder: mae."""

from collections.abc import Iterator

import torch

from gld_ros.selftest.da3.models import Da3Models
from gld_ros.selftest.da3.tolerances import BFLOAT16_REFERENCE
from gld_ros.selftest.fixture import Fixture
from gld_ros.selftest.rows import Row


def check_mae(fixture: Fixture, models: Da3Models) -> Iterator[Row]:
    """Position tables, pixel logits and pictures of every `tokens_*` case."""
    decoder, tolerance = models.rgb_decoder, models.limits.module
    patch = decoder.config.patch_size
    for case in (n.removeprefix("tokens_") for n in fixture.inputs if n.startswith("tokens_")):
        height, width = (int(side) for side in fixture.inputs[f"size_hw_{case}"])
        grid_hw = (height // patch, width // patch)
        tokens = models.to_device(fixture.inputs[f"tokens_{case}"])
        table = decoder.position_table(grid_hw)
        yield from fixture.check(f"pos_embed_{case}", table, tolerance)
        with models.precision():
            logits, rgb = decoder.patch_pixels(tokens, grid_hw), decoder(tokens, grid_hw)
        yield from fixture.check(f"logits_{case}", logits, tolerance)
        yield from fixture.check(f"rgb_{case}", rgb, tolerance)
        if fixture.expects(f"logits_bf16_autocast_{case}"):
            with torch.autocast(models.device.type, dtype=torch.bfloat16):
                rounded = decoder.patch_pixels(tokens, grid_hw)
            limit = BFLOAT16_REFERENCE if models.dtype == torch.float32 else tolerance
            yield from fixture.check(f"logits_bf16_autocast_{case}", rounded, limit)
