"""Named ways to sample."""

from gld_ros.diffusion.presets import PRESET_NAMES, PRESETS
from gld_ros.diffusion.solvers import UPDATE_RULES


def test_every_name_has_a_preset_with_a_known_solver():
    assert tuple(PRESETS) == PRESET_NAMES
    assert {preset.solver for preset in PRESETS.values()} <= set(UPDATE_RULES)


def test_published_keeps_the_steps_of_the_bundle_and_fast_takes_fewer():
    for own in (1, 2, 5, 10, 49):
        assert PRESETS["published"].steps(own) == own
        assert 1 <= PRESETS["fast"].steps(own) <= own
    assert PRESETS["fast"].steps(49) < 25
