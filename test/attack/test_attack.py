"""A node among participants that do anything: it lives, answers, reports, and works afterwards."""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lifecycle_msgs.srv import GetState
from rcl_interfaces.msg import Parameter
from rcl_interfaces.srv import GetParameters, ListParameters, SetParameters

from gld_ros.srv import SaveScene

from . import attacker as attacker_module
from .attacker import Attacker
from .attacks import UNTOUCHED, Attacks
from .node_process import NodeProcess

pytestmark = pytest.mark.ros

DIAGNOSTICS_PERIOD_S = 1.0
PAUSE_S = 30.0  # of diagnostics, at most: what a loaded machine may add to their period
PARAMETERS = (
    "autostart:=true",
    f"diagnostics.period:={DIAGNOSTICS_PERIOD_S}",
    "keyframes.min_interval:=0.0",
    "keyframes.min_translation:=0.05",
    "keyframes.max_angular_velocity:=100.0",
    "depth.min_confidence:=0.0",
)
FROZEN_S = 2.0
BURST = 200
MANY_TARGETS = 100_000
SEED = int(os.environ.get("GLD_ATTACK_SEED", "0"))
MINUTES = float(os.environ.get("GLD_ATTACK_MINUTES", "10"))  # of the long set
MANY_ROUNDS = 8
OK = 0  # of diagnostics
FULL_DISK_BYTES = 2**20


@pytest.fixture
def under_attack(tmp_path, monkeypatch):
    """An active node process in its working folder, and who attacks it."""
    monkeypatch.chdir(tmp_path)
    with attacked(tmp_path) as parties:
        yield parties


@contextlib.contextmanager
def attacked(folder: Path) -> Iterator[tuple[NodeProcess, Attacker]]:
    log = (folder / "node.log").open("wb")
    attacker = Attacker()
    node = NodeProcess(log, *PARAMETERS)
    try:
        wait_for(lambda: attacker.diagnostics_s, "diagnostics", 180.0)
        attacker.bring_up()
        yield node, attacker
    finally:
        attacker.close()
        if node.alive:
            node.process.kill()
        log.close()
        print((folder / "node.log").read_text(errors="replace")[-5000:])


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={FULL_DISK_BYTES}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("file systems can be mounted by root only")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def wait_for(condition, what, timeout_s=60.0):
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, f"waited {timeout_s} s for {what}"
        time.sleep(0.05)


def parameters_of(attacker) -> list[Parameter]:
    """All parameters that an attack may set, as they are."""
    names = attacker.call("list_parameters", ListParameters.Request()).result.names
    names = sorted(set(names) - UNTOUCHED)
    values = attacker.call("get_parameters", GetParameters.Request(names=names)).values
    return [Parameter(name=n, value=v) for n, v in zip(names, values, strict=True)]


def normal_goal(attacker) -> None:
    """A robot drives, and a goal gets its view."""
    x_m = attacker.drive(0.0)
    deadline_s = time.monotonic() + 60.0
    while True:
        result = attacker.send_goal(attacker.good_goal(x_m), "the normal goal").wait()
        if result is not None and result.error_code == 0:
            break
        assert time.monotonic() < deadline_s, result.error_msg if result else "rejected"
        x_m = attacker.drive(x_m)
    assert len(result.views.views) == 1


def lost_robot(attacker) -> None:
    """While no image can be placed, diagnostics do not say that all is well."""
    deadline_s = time.monotonic() + 60.0
    attacker.levels.clear()  # what the attack left
    while attacker.levels.get("gld: tf", OK) == OK:
        assert time.monotonic() < deadline_s, f"nothing is placed, and levels are {attacker.levels}"
        attacker.drive(0.0, frame_id="a_frame_without_transforms")


def restore(attacker, parameters) -> None:
    """Withdraw latched transforms, give the node its parameters back, and bring it up."""
    from lifecycle_msgs.msg import Transition

    attacker.leave_static_tf()
    for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP):
        attacker.change_state(transition)
    for _ in parameters:  # until all are back: what depends on others is refused before them
        now = {p.name: p for p in parameters_of(attacker)}  # more, where cameras were added
        changed = [p for p in parameters if p != now[p.name]]
        if not changed:
            break
        request = SetParameters.Request(parameters=changed)
        outcomes = attacker.call("set_parameters", request).results
        assert any(o.successful for o in outcomes), [o.reason for o in outcomes]
    attacker.bring_up()


@contextlib.contextmanager
def killed_client() -> Iterator[None]:
    """Another client process, amid goals and images of its own, until it is killed."""
    client = subprocess.Popen(
        [sys.executable, attacker_module.__file__], stdout=subprocess.PIPE, text=True
    )
    try:
        assert client.stdout is not None
        assert client.stdout.readline(), "the other client ended"
        yield
    finally:
        client.kill()
        client.wait()


def rounds(node, attacker, scratch, numbers, cases, record, *, hardships=False):
    parameters = parameters_of(attacker)
    normal_goal(attacker)
    attacks = Attacks(attacker, SEED, str(scratch))
    memories = []
    for number in numbers:
        began = len(attacker.diagnostics_s)
        attacks.run(cases // 2)
        node.freeze()  # as swapping does; what is sent meanwhile comes at once, and late
        attacks.publish(cases // 10)
        time.sleep(FROZEN_S)
        node.thaw()
        with contextlib.ExitStack() as hardship:
            if hardships:
                hardship.enter_context(killed_client())
                hardship.enter_context((node.few_descriptors, node.little_memory)[number % 2]())
            attacks.run(cases // 2)
            attacks.await_goals()
        assert node.alive, f"the node ended: {node.process.returncode}"
        times_s = [*attacker.diagnostics_s[max(0, began - 1) :], time.monotonic()]
        pauses_s = [b - a for a, b in itertools.pairwise(times_s)]
        assert max(pauses_s) <= PAUSE_S, f"no diagnostics for {max(pauses_s):.1f} s"
        restore(attacker, parameters)
        lost_robot(attacker)
        normal_goal(attacker)
        memories.append(node.memory_mb())
        print(
            f"round {number}: {sum(attacks.cases.values())} cases, memory {memories[-1]}, "
            f"diagnostics at most {max(pauses_s):.1f} s apart"
        )
    for kind, count in attacks.cases.items():
        record(f"fuzz attack: {kind}", count)
    require_flat([memory.in_use_mb for memory in memories])
    if len(memories) >= MANY_ROUNDS:  # pages also tell how scattered the allocator's blocks are
        require_flat([memory.resident_mb for memory in memories])
    assert node.end() == 0


def require_flat(sizes_mb: list[float]) -> None:
    """The last quarter is within 10 % of the first; the first round loads what was not used before.

    What is in use at one moment depends on the last goals and keyframes.
    """
    quarter = max(1, len(sizes_mb) // 4)
    early = statistics.median(sizes_mb[:1] if quarter == 1 else sizes_mb[1 : 1 + quarter])
    late = statistics.median(sizes_mb[-quarter:])
    assert late < 1.1 * early, f"memory went from {early:.0f} to {late:.0f} MB"


def test_a_node_among_random_participants(under_attack, tmp_path, record_property):
    rounds(*under_attack, tmp_path, range(2), 100, record_property)


def test_each_of_a_burst_of_goals_is_answered(under_attack):
    node, attacker = under_attack
    x_m = attacker.drive(0.0)
    sent_s = time.monotonic()
    goals = [attacker.send_goal(attacker.good_goal(x_m), f"goal {i}") for i in range(BURST)]
    wait_for(lambda: all(g.stage != "sent" for g in goals), "an answer to each request")
    print(f"{BURST} requests answered in {time.monotonic() - sent_s:.1f} s")
    for goal in goals:
        goal.wait()
    assert {goal.stage for goal in goals} == {"accepted", "rejected"}
    normal_goal(attacker)
    assert node.end() == 0


@pytest.mark.slow
def test_a_huge_goal_keeps_nobody_waiting_long(under_attack):
    node, attacker = under_attack
    goal = attacker.good_goal(0.0)
    goal.targets.poses *= MANY_TARGETS
    asked_s = [time.monotonic()]
    huge = attacker.send_goal(goal, "a huge goal")
    while huge.stage == "sent":
        attacker.call("get_state", GetState.Request())
        asked_s.append(time.monotonic())
    longest_s = max(b - a for a, b in itertools.pairwise(asked_s))
    took_s = asked_s[-1] - asked_s[0]
    print(f"{MANY_TARGETS} targets: {took_s:.1f} s, states told within {longest_s:.1f} s meanwhile")
    assert longest_s < took_s / 2
    assert huge.wait().error_code == huge.result.INVALID_GOAL
    assert node.end() == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_node_among_random_participants_for_long(under_attack, tmp_path, record_property):
    end_s = time.monotonic() + 60 * MINUTES
    numbers = itertools.takewhile(lambda n: n < 2 or time.monotonic() < end_s, itertools.count())
    rounds(*under_attack, tmp_path, numbers, 150, record_property, hardships=True)


@pytest.mark.slow
def test_a_full_disk_is_told_and_forgotten_when_there_is_room(small_disk, tmp_path, monkeypatch):
    monkeypatch.setenv("ROS_LOG_DIR", str(small_disk))
    monkeypatch.chdir(tmp_path)
    with attacked(tmp_path) as (node, attacker):
        normal_goal(attacker)
        rest = small_disk / "rest"
        with contextlib.suppress(OSError), rest.open("wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
        request = SaveScene.Request(path=str(small_disk / "scene"), include_images=True)
        answer = attacker.call("save_scene", request)
        assert not answer.success
        assert "No space left" in answer.message
        normal_goal(attacker)  # logs go nowhere, all else goes on
        rest.unlink()
        answer = attacker.call("save_scene", request)
        assert answer.success, answer.message
        assert node.end() == 0
