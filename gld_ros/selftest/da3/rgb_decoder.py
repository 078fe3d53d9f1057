"""Checks of the RGB decoder: mae."""

from collections.abc import Iterator

from gld_ros.selftest.da3.models import Da3Models
from gld_ros.selftest.fixture import Fixture
from gld_ros.selftest.rows import Row


def check_mae(fixture: Fixture, models: Da3Models) -> Iterator[Row]:
    """Position tables, pixel logits and images of every `tokens_*` case."""
    decoder, tolerance = models.rgb_decoder, models.limits.module
    patch = decoder.config.patch_size
    for case in (n.removeprefix("tokens_") for n in fixture.inputs if n.startswith("tokens_")):
        height, width = fixture.size_hw(f"size_hw_{case}")
        grid_hw = (height // patch, width // patch)
        tokens = models.to_network(fixture.inputs[f"tokens_{case}"])
        table = decoder.position_table(grid_hw)
        yield from fixture.check(f"pos_embed_{case}", table, tolerance)
        yield from fixture.check(f"logits_{case}", decoder.patch_pixels(tokens, grid_hw), tolerance)
        yield from fixture.check(f"rgb_{case}", decoder(tokens, grid_hw), tolerance)
        if fixture.expects(f"logits_bf16_autocast_{case}"):
            with models.bfloat16_autocast():
                rounded = decoder.patch_pixels(tokens, grid_hw)
            yield from fixture.check(
                f"logits_bf16_autocast_{case}", rounded, models.limits.bfloat16_reference
            )
