"""Distilling a student: exact resume, what it learns, and what of the bundle it becomes."""

import pytest
import torch

from gld_ros.training.config import ConfigError
from gld_ros.training.data import open_held_out, open_scenes
from gld_ros.training.jobs import build_stage
from gld_ros.training.loop import train
from gld_ros.weights.bundle import Bundle

from .conftest import assert_same, checkpoint_state, run_config

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("no_curves")

OPTIONS = {"reference_weights": [0.5, 0.5], "validation_references": 1, "teacher_steps": 4}


def make_stage(config, bundle):
    return build_stage(
        config, bundle, None, open_scenes(config.data), open_held_out(config.data), CPU
    )


@pytest.fixture(scope="module")
def taught_bundle(tmp_path_factory, rooms, plan_folder, micro_bundle):
    """A bundle with a level 1 and a cascade that have learnt a little."""
    folder, bundle = tmp_path_factory.mktemp("taught"), micro_bundle
    for name in ("level1", "cascade"):
        config = run_config(rooms, name, steps=20)
        stage = build_stage(config, bundle, plan_folder, open_scenes(config.data), None, CPU)
        train(stage, config, folder / name, device=CPU)
        bundle = folder / name / "export"
    return bundle


@pytest.mark.parametrize("cascade", [False, True])
def test_a_student_is_exported_beside_its_teacher(tmp_path, rooms, taught_bundle, cascade):
    name = "cascade" if cascade else "level1"
    config = run_config(rooms, "distill", options={**OPTIONS, "cascade": cascade})
    outcome = train(make_stage(config, taught_bundle), config, tmp_path, device=CPU)
    assert {"deviation", "deviation_of_teacher", "psnr"} <= {
        figure.removeprefix("validation/") for figure in outcome.figures
    }
    exported, before = Bundle.open(tmp_path / "export"), Bundle.open(taught_bundle)
    spec = exported.config.denoisers[f"{name}_student"]
    assert spec.calls == 2
    assert spec.time_shift == pytest.approx((32 * 2 * 2 * 3 / 4096) ** 0.5)
    teacher, student = (exported.load_module(n).state_dict() for n in (name, f"{name}_student"))
    assert_same(before.load_module(name).state_dict(), teacher)
    assert any(not torch.equal(teacher[key], student[key]) for key in teacher)


def test_resume_is_bit_for_bit(tmp_path, rooms, taught_bundle):
    config = run_config(rooms, "distill", steps=6, options=OPTIONS)
    for folder, stops in (("straight", [None]), ("halves", [3, None])):
        for stop in stops:
            stage = make_stage(config, taught_bundle)
            train(stage, config, tmp_path / folder, device=CPU, stop_at_step=stop)
    straight, halves = (checkpoint_state(tmp_path / f / "last.pt") for f in ("straight", "halves"))
    for part in ("model", "ema", "optimizer", "random"):
        assert_same(straight[part], halves[part], part)


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_a_student_comes_nearer_to_the_teachers_samples_than_few_steps_of_the_teacher(
    tmp_path, rooms, taught_bundle, guidance_scale
):
    options = {**OPTIONS, "guidance_scale": guidance_scale, "validation_scenes": 6}
    optimizer = {"learning_rate": 1e-3, "warmup_steps": 2, "ema_decay": 0.9}
    config = run_config(rooms, "distill", steps=30, options=options, optimizer=optimizer)
    figures = train(make_stage(config, taught_bundle), config, tmp_path, device=CPU).figures
    assert figures["validation/deviation"] < 0.8 * figures["validation/deviation_of_teacher"]


def test_a_copy_of_the_teacher_errs_by_what_its_straight_jumps_miss(rooms, taught_bundle):
    # As many teacher steps as calls: the trajectory is the student's own, and nothing is left over.
    options = {**OPTIONS, "teacher_steps": 1, "calls": 1}
    stage = make_stage(run_config(rooms, "distill", options=options), taught_bundle)
    assert float(stage(stage.batch(0, range(2)))["loss"].detach()) == pytest.approx(0, abs=1e-6)
    finer = run_config(rooms, "distill", options={**options, "teacher_steps": 8})
    missed = make_stage(finer, taught_bundle)(stage.batch(0, range(2)))["loss"]
    assert float(missed.detach()) > 1e-3


def test_a_student_that_is_there_is_trained_on(tmp_path, rooms, taught_bundle):
    config = run_config(rooms, "distill", options=OPTIONS)
    train(make_stage(config, taught_bundle), config, tmp_path, device=CPU)
    exported = Bundle.open(tmp_path / "export")
    student = exported.load_module("level1_student").state_dict()
    assert_same(student, make_stage(config, exported.folder).denoiser.state_dict())


def test_a_new_teacher_leaves_no_outdated_student_behind(
    tmp_path, rooms, plan_folder, taught_bundle
):
    config = run_config(rooms, "distill", options=OPTIONS)
    train(make_stage(config, taught_bundle), config, tmp_path / "a", device=CPU)
    config = run_config(rooms, "level1")
    train(make_stage(config, tmp_path / "a" / "export"), config, tmp_path / "b", device=CPU)
    exported = Bundle.open(tmp_path / "b" / "export").config
    assert set(exported.denoisers) == {"level1", "cascade"}


def test_a_student_of_a_teacher_that_reads_measurements_reads_them_too(
    tmp_path, rooms, plan_folder, taught_bundle
):
    measured = {"reference_weights": [0.5, 0.5], "validation_references": 1}
    config = run_config(rooms, "level1", options={**measured, "measured_probability": 1.0})
    stage = build_stage(config, taught_bundle, plan_folder, open_scenes(config.data), None, CPU)
    train(stage, config, tmp_path / "teacher", device=CPU)
    options = {**OPTIONS, "measured_probability": 1.0}
    stage = make_stage(run_config(rooms, "distill", options=options), tmp_path / "teacher/export")
    assert stage.denoiser.config.measured
    batch = stage.batch(0, range(2))
    assert float(batch["conditions"].measured_map[:, batch["references"] :].abs().sum()) > 0
    with torch.no_grad():
        assert torch.isfinite(stage(batch)["loss"])
    with pytest.raises(ConfigError, match="'level1' does not read measurements"):
        make_stage(run_config(rooms, "distill", options=options), taught_bundle)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calls": 5}, "calls is 5; a student takes 1 to 4"),
        ({"calls": 3, "teacher_steps": 8}, "multiple of calls"),
        ({"time_shift": -1.0}, "time_shift is -1"),
    ],
)
def test_bad_options_are_named(rooms, taught_bundle, options, message):
    config = run_config(rooms, "distill", options={**OPTIONS, **options})
    with pytest.raises(ConfigError, match=message):
        make_stage(config, taught_bundle)


def test_a_bundle_without_a_teacher_is_refused(rooms, micro_bundle):
    with pytest.raises(ConfigError, match="needs a bundle that has 'level1'"):
        make_stage(run_config(rooms, "distill", options=OPTIONS), micro_bundle)
