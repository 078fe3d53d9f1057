"""A chain of steps: resumed, ended by time and signals, tied to its recipe and to its disk."""

import json
import logging
import os
import signal
from dataclasses import replace

import pytest
import torch

from gld_ros.recipes.chain import Chain, ChainError, Step, plan_lines, read_records, run_chain
from gld_ros.training.run_lock import RunFolderInUse
from gld_ros.training.stop_request import StopRequest

CPU = torch.device("cpu")


def counting_step(folder, name, calls, *, units=3, during=lambda unit: None, **more):
    """A step of some units that goes on where it stopped."""
    product = folder / name

    def run(watch):
        calls.append(name)
        watch.done(watch.record.done)
        for unit in range(watch.record.done, units):
            if watch.must_stop:
                return False
            during(unit)
            watch.done(unit + 1)
        product.write_text("made")
        return True

    return Step(name, f"count to {units}", units, "units", product, run, **more)


def chain_of(*steps, recipe=None):
    return Chain("test", recipe or {"seed": 0}, steps)


def test_steps_run_in_order_and_finished_ones_are_skipped(tmp_path):
    calls = []
    chain = chain_of(*(counting_step(tmp_path, name, calls) for name in "abc"))
    assert run_chain(chain, tmp_path, CPU)
    assert run_chain(chain, tmp_path, CPU)
    assert calls == ["a", "b", "c"]


def test_a_step_whose_product_was_removed_is_run_again(tmp_path):
    calls = []
    chain = chain_of(*(counting_step(tmp_path, name, calls) for name in "ab"))
    run_chain(chain, tmp_path, CPU)
    (tmp_path / "a").unlink()
    assert run_chain(chain, tmp_path, CPU)
    assert calls == ["a", "b", "a"]


def test_an_error_keeps_what_was_finished(tmp_path):
    calls = []

    def fail(unit):
        if unit == 1 and calls.count("b") == 1:
            raise RuntimeError("power cut")

    chain = chain_of(
        counting_step(tmp_path, "a", calls), counting_step(tmp_path, "b", calls, during=fail)
    )
    with pytest.raises(RuntimeError, match="power cut"):
        run_chain(chain, tmp_path, CPU)
    assert run_chain(chain, tmp_path, CPU)
    assert calls == ["a", "b", "b"]


def test_the_time_limit_ends_the_chain_and_the_next_call_goes_on(tmp_path, caplog):
    calls = []
    chain = chain_of(*(counting_step(tmp_path, name, calls) for name in "ab"))
    with caplog.at_level(logging.INFO):
        assert not run_chain(chain, tmp_path, CPU, max_minutes=0)
    assert calls == []
    assert "Run the same command to go on" in caplog.text
    assert run_chain(chain, tmp_path, CPU)


def test_a_signal_ends_the_chain_inside_a_step_and_the_step_goes_on(tmp_path):
    calls, seen = [], []

    def interrupt_once(unit):
        seen.append(unit)
        if seen == [0, 1]:
            os.kill(os.getpid(), signal.SIGTERM)

    chain = chain_of(counting_step(tmp_path, "a", calls, units=4, during=interrupt_once))
    assert not run_chain(chain, tmp_path, CPU)
    assert read_records(tmp_path)["a"].done == 2
    assert run_chain(chain, tmp_path, CPU)
    assert seen == [0, 1, 2, 3]


def test_a_signal_that_a_finished_step_took_still_ends_the_chain(tmp_path):
    calls = []

    def signalled_in_training(unit):
        if calls == ["a"] and unit == 2:
            with StopRequest() as inner:
                os.kill(os.getpid(), signal.SIGTERM)
            assert inner.requested

    steps = (
        counting_step(tmp_path, "a", calls, during=signalled_in_training),
        counting_step(tmp_path, "b", calls),
    )
    assert not run_chain(chain_of(*steps), tmp_path, CPU)
    assert calls == ["a"]
    assert run_chain(chain_of(*steps), tmp_path, CPU)


def test_another_recipe_is_refused_by_field(tmp_path):
    step = counting_step(tmp_path, "a", [])
    recipe = {"stages": {"level1": {"steps": 60, "seed": 0}}}
    run_chain(chain_of(step, recipe=recipe), tmp_path, CPU)
    changed = {"stages": {"level1": {"steps": 70, "seed": 0}}}
    with pytest.raises(ChainError, match=r"differing: stages\.level1\.steps \(60 there, 70 here\)"):
        run_chain(chain_of(step, recipe=changed), tmp_path, CPU)
    with pytest.raises(ChainError, match="another recipe"):
        plan_lines(chain_of(step, recipe=changed), tmp_path)


def test_a_damaged_state_is_named(tmp_path):
    chain = chain_of(counting_step(tmp_path, "a", []))
    run_chain(chain, tmp_path, CPU)
    (tmp_path / "chain.json").write_text("{")
    with pytest.raises(ChainError, match=r"chain\.json is damaged"):
        run_chain(chain, tmp_path, CPU)
    (tmp_path / "chain.json").write_text(json.dumps({"format": 9}))
    with pytest.raises(ChainError, match="has format 9; this version reads 1"):
        run_chain(chain, tmp_path, CPU)


def test_one_process_at_a_time(tmp_path):
    def again(unit):
        with pytest.raises(RunFolderInUse, match="is in use by process"):
            run_chain(chain, tmp_path, CPU)

    chain = chain_of(counting_step(tmp_path, "a", [], during=again))
    assert run_chain(chain, tmp_path, CPU)


def test_stores_that_do_not_fit_on_the_disk_are_refused_before_they_are_begun(tmp_path):
    calls = []
    step = replace(counting_step(tmp_path, "a", calls), store_bytes=10**18)
    with pytest.raises(ChainError, match=r"need 1000000000\.00 GB more, and .* GB free"):
        run_chain(chain_of(step), tmp_path, CPU)
    assert calls == []


def test_the_plan_tells_steps_bytes_and_time(tmp_path):
    first = replace(counting_step(tmp_path, "a", []), store_bytes=2_500_000)
    second = counting_step(tmp_path, "b", [], minutes_elsewhere=12.0)
    chain = Chain("test", {}, (first, second), measured_on="a slow machine", notes=("no mesh",))
    lines = plan_lines(chain, tmp_path / "not there yet")
    assert lines[1] == "no mesh"
    assert "(2.5 MB)" in lines[2]
    assert lines[-2] == "time on a slow machine: 12 min in all"
    assert lines[-1] == "time left here: unknown"
    assert not (tmp_path / "not there yet").exists()
    run_chain(chain, tmp_path, CPU)
    lines = plan_lines(chain, tmp_path)
    assert "done in" in lines[2]
    assert lines[-1] == "time left here: about 0 s"


def test_progress_is_told_with_the_time_that_is_left(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("gld_ros.recipes.chain.SECONDS_BETWEEN_REPORTS", 0.0)
    chain = chain_of(*(counting_step(tmp_path, name, []) for name in "ab"))
    with caplog.at_level(logging.INFO):
        run_chain(chain, tmp_path, CPU)
    assert "step 1 of 2: a: 0 of 3 units; left in all: unknown" in caplog.text
    assert "step 1 of 2: a: 2 of 3 units; left in all: at least" in caplog.text
    assert "(not measured yet: b)" in caplog.text
    assert "step 2 of 2: b: 2 of 3 units; left in all: about" in caplog.text
