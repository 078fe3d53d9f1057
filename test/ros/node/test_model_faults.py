"""Configure with a real bundle that is damaged, or that does not fit into memory."""

import json

import pytest

from gld_ros.mapping.model import load_model

pytestmark = pytest.mark.ros


@pytest.fixture
def bundle(tmp_path, save_vggt_bundle):
    """A bundle folder that a test may spoil."""
    return save_vggt_bundle(tmp_path / "bundle")


@pytest.fixture
def rig_of(make_rig, bundle):
    def make(**parameters):
        values = {"model.bundle": str(bundle.folder), "device": "cpu", "model.self_test": False}
        return make_rig(None, values | parameters, model_factory=load_model)

    return make


def configured(rig):
    """Try to configure; (whether that worked, the state it left)."""
    from rclpy.lifecycle import TransitionCallbackReturn as Result

    result = rig.node.trigger_configure()
    assert result in (Result.SUCCESS, Result.FAILURE)
    return result == Result.SUCCESS, rig.node._state_machine.current_state[1]


def test_damaged_weights_are_refused_with_file_and_hashes(rig_of, bundle):
    weights = bundle.folder / "backbone.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))  # one bit of the last value
    expected = json.loads((bundle.folder / "config.json").read_text())["files"][weights.name]
    rig = rig_of()
    rig.watch()
    assert configured(rig) == (False, "unconfigured")
    assert str(weights) in rig.node.problem
    assert expected["sha256"][:12] in rig.node.problem
    rig.wait_level("gld: model", 2, says="backbone.safetensors")
    weights.write_bytes(good)
    assert configured(rig) == (True, "inactive")


def test_a_device_that_is_lost_while_the_model_is_tried_asks_for_a_respawn(rig_of, monkeypatch):
    import torch
    from rclpy.lifecycle import TransitionCallbackReturn as Result

    from gld_ros.pipeline import NovelViewPipeline

    def run(pipeline, request):
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(NovelViewPipeline, "run", run)
    rig = rig_of(**{"model.self_test": True})
    assert rig.node.trigger_configure() in (Result.ERROR, Result.FAILURE)
    assert rig.node.exit_code == 70
    assert "illegal memory access" in rig.node.problem


def test_weights_cut_short_or_missing_are_refused(rig_of, bundle):
    weights = bundle.folder / "level1.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[: len(good) // 2])
    rig = rig_of()
    assert configured(rig) == (False, "unconfigured")
    assert str(weights) in rig.node.problem
    weights.unlink()
    assert configured(rig) == (False, "unconfigured")
    assert "level1.safetensors" in rig.node.problem
    weights.write_bytes(good)
    assert configured(rig) == (True, "inactive")


def test_a_model_beyond_the_budget_is_refused_with_what_would_fit(rig_of, bundle, monkeypatch):
    from rclpy.parameter import Parameter

    from gld_ros.mapping.memory_preflight import GIB
    from gld_ros.pipeline import NovelViewPipeline

    needed = {
        targets: NovelViewPipeline(bundle, device="cpu").estimate(4, targets).peak_bytes / GIB
        for targets in (2, 4)
    }
    rig = rig_of(**{"gpu.memory_budget": (needed[2] + needed[4]) / 2})
    assert configured(rig) == (False, "unconfigured")
    assert "gpu.memory_budget" in rig.node.problem
    assert "sampler.max_targets 2" in rig.node.problem
    assert rig.node.set_parameters([Parameter("sampler.max_targets", value=2)])[0].successful
    assert configured(rig) == (True, "inactive")
    assert rig.node.session.model.description["memory"].endswith("GiB")


def test_a_machine_without_free_memory_is_refused(rig_of, monkeypatch):
    from gld_ros.mapping import memory_preflight

    with monkeypatch.context() as patched:
        patched.setattr(memory_preflight, "available_host_bytes", lambda: 4096)
        rig = rig_of()
        assert configured(rig) == (False, "unconfigured")
    assert "no smaller job fits" in rig.node.problem
    assert "model.precision bf16" in rig.node.problem
    assert configured(rig) == (True, "inactive")
