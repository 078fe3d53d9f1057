"""A bag that is demonstrated waits for keyframes to be measured."""

from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.ros


class Machine:
    """A player and a node that measures slowly: one keyframe every third look at it."""

    def __init__(self, images: int, measures: bool = True):
        self.images, self.measures = images, measures
        self.sent = self.measured = self.looks = self.highest = 0
        self.held = False
        self.arrived = self

    def poll(self):
        if not self.held and self.sent < self.images:
            self.sent += 1
        return 0 if self.sent == self.images else None

    def hold_bag(self, hold):
        self.held = hold
        return True

    @property
    def status(self):
        self.looks += 1
        if self.measures and self.looks % 3 == 0 and self.measured < self.sent:
            self.measured += 1
        behind = self.sent - self.measured
        self.highest = max(self.highest, behind)
        return SimpleNamespace(
            images_received=self.sent, keyframes_measured=self.measured, keyframes_behind=behind
        )


def test_the_bag_waits_until_all_is_measured(monkeypatch):
    from gld_ros.demo import run

    monkeypatch.setattr(run.time, "sleep", lambda seconds: None)
    machine = Machine(images=40)
    run.play_at_measuring_pace(machine, machine)
    assert machine.sent == machine.measured == 40
    assert machine.highest <= run.MOST_BEHIND + 2


def test_a_node_that_measures_nothing_ends_the_wait(monkeypatch):
    from gld_ros.demo import run

    monkeypatch.setattr(run, "STANDSTILL_S", 0.3)
    machine = Machine(images=40, measures=False)
    with pytest.raises(run.DemoFailed, match="no keyframe was measured"):
        run.play_at_measuring_pace(machine, machine)
