"""Named ways to sample."""

from typing import get_args

from gld_ros.diffusion.presets import PRESET_NAMES, SolverPresetName, SolverSteps, solver_steps


def euler(steps):
    return SolverSteps("euler", steps)


def test_every_preset_but_that_of_students_says_how_to_solve():
    # "fastest" runs another network, not another solver.
    assert (*get_args(SolverPresetName), "fastest") == PRESET_NAMES


def test_published_is_a_bundles_own_procedure():
    for own in (euler(1), euler(49), SolverSteps("abm2", 4)):
        assert solver_steps("published", own) == own


def test_fast_takes_about_a_fifth_of_many_steps_and_never_more_than_there_were():
    fast = [solver_steps("fast", euler(own)) for own in (1, 2, 3, 5, 10, 49, 99)]
    assert [how.steps for how in fast] == [1, 2, 3, 4, 5, 10, 16]
    assert {how.solver for how in fast} == {"abm2"}


def test_fast_leaves_a_bundle_alone_that_has_another_solver_of_its_own():
    own = SolverSteps("abm2", 4)
    assert solver_steps("fast", own) == own
