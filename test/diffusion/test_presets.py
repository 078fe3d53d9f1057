"""Named ways to sample."""

from gld_ros.diffusion.presets import PRESET_NAMES, PRESETS, preset_of
from gld_ros.diffusion.solvers import UPDATE_RULES


def test_every_name_has_a_preset_with_a_known_solver():
    assert (*PRESETS, "fastest") == PRESET_NAMES  # which runs another network, not another solver
    assert {preset.solver for preset in PRESETS.values()} <= set(UPDATE_RULES)


def test_published_keeps_the_steps_of_the_bundle_and_fast_takes_fewer():
    for own in (1, 12, 13, 49):
        assert preset_of("published", own).steps(own) == own
    assert preset_of("fast", 13).steps(13) == 5
    assert preset_of("fast", 49).steps(49) == 18


def test_a_bundle_of_few_steps_is_sampled_as_published():
    assert preset_of("fast", 12) == PRESETS["published"]
