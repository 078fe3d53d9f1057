"""Time that is left: from measured rates alone, unknown without them, never negative."""

from hypothesis import given
from hypothesis import strategies as st

from gld_ros.recipes.estimate import StepTime, TimeLeft, duration, time_left

NUMBERS = st.integers(0, 10**6)
RATES = st.none() | st.floats(0, 1e6)
STEPS = st.builds(
    StepTime,
    name=st.sampled_from("abcdef"),
    units=NUMBERS,
    done=NUMBERS,
    seconds_per_unit=RATES,
    minutes_elsewhere=RATES,
    like=st.sampled_from(["", *"abcdef"]),
    finished=st.booleans(),
)


@given(st.lists(STEPS, max_size=8))
def test_an_estimate_is_never_negative(steps):
    left = time_left(steps)
    assert left.seconds >= 0
    assert "-" not in str(left)


def test_nothing_measured_is_unknown():
    left = time_left([StepTime("encoder", 100, 0), StepTime("level1", 50, 0, None, 3.0)])
    assert left.unknown == ("encoder", "level1")
    assert str(left) == "unknown"


def test_a_running_step_counts_with_its_own_rate():
    left = time_left([StepTime("encoder", 100, 40, 2.0), StepTime("level1", 50, 0)])
    assert left.seconds == 120
    assert str(left) == "at least 2 min (not measured yet: level1)"


def test_a_step_not_begun_takes_its_time_elsewhere_as_this_machine_goes():
    # 100 units of 3 s here against 1 minute elsewhere: five times slower.
    steps = [StepTime("encoder", 100, 100, 3.0, 1.0, finished=True)]
    assert time_left([*steps, StepTime("level1", 50, 0, None, 2.0)]).seconds == 5 * 120


def test_a_step_of_the_same_work_lends_its_rate():
    before = StepTime("before", 10, 10, 4.0, finished=True)
    assert time_left([before, StepTime("after", 10, 0, like="before")]).seconds == 40


def test_durations_read_as_people_say_them():
    assert [duration(s) for s in (-1, 40, 600, 3900, 7200)] == [
        "0 s",
        "40 s",
        "10 min",
        "65 min",
        "2 h 0 min",
    ]


def test_a_step_that_took_no_time_elsewhere_does_not_set_the_pace():
    steps = [
        StepTime("a", units=1, done=0, seconds_per_unit=2.0, minutes_elsewhere=1e-308),
        StepTime("b", units=1, done=0, minutes_elsewhere=1.0),
    ]
    assert time_left(steps) == TimeLeft(2.0, ("b",))
