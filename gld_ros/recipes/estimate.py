"""How long a chain still takes, from what its steps took so far; unknown where nothing tells."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class StepTime:
    """What is known about the time of one step.

    `seconds_per_unit` is measured here; `minutes_elsewhere` is what the whole step took on another
    machine. `like` names an earlier step of the same work, whose rate is as good as one's own.
    """

    name: str
    units: int
    done: int
    seconds_per_unit: float | None = None
    minutes_elsewhere: float | None = None
    like: str = ""
    finished: bool = False


@dataclass(frozen=True)
class TimeLeft:
    """Seconds that are left for all steps but those named in `unknown`."""

    seconds: float
    unknown: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.unknown:
            return f"about {duration(self.seconds)}"
        if not self.seconds:
            return "unknown"
        return f"at least {duration(self.seconds)} (not measured yet: {', '.join(self.unknown)})"


def time_left(steps: Sequence[StepTime]) -> TimeLeft:
    """Estimate what is left.

    A step counts with its own rate, else with that of the step it is like, else with its time
    elsewhere times how much slower or faster measured steps are here. Never negative.
    """
    rates = {step.name: step.seconds_per_unit for step in steps if step.seconds_per_unit}
    here = elsewhere = 0.0
    for step in steps:
        seconds_elsewhere = 60 * (step.minutes_elsewhere or 0.0)
        # What took less than a second elsewhere says nothing about how fast this machine is.
        if step.seconds_per_unit and seconds_elsewhere >= 1.0:
            here += step.seconds_per_unit * step.units
            elsewhere += seconds_elsewhere
    seconds = 0.0
    unknown: list[str] = []
    for step in steps:
        units_left = max(0, step.units - step.done)
        if step.finished or not step.units:
            continue
        rate = rates.get(step.name) or rates.get(step.like)
        if rate is None and elsewhere and step.minutes_elsewhere is not None:
            rate = 60 * step.minutes_elsewhere / step.units * here / elsewhere
        if rate is None:
            unknown.append(step.name)
        else:
            seconds += units_left * rate
    return TimeLeft(seconds, tuple(unknown))


def duration(seconds: float) -> str:
    """Seconds as a person says them: 40 s, 12 min, 1 h 5 min."""
    if seconds < 90:
        return f"{max(0.0, seconds):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
