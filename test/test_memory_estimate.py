"""The memory estimate: what makes it grow and shrink, and weights to the byte."""

from dataclasses import replace

import pytest
import torch

from gld_ros.memory_estimate import RunShape, estimate_memory, memory_bound
from gld_ros.weights.bundle import Bundle

SHAPE = RunShape(2, 2, (56, 84), guided=True)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, save_vggt_bundle):
    return save_vggt_bundle(tmp_path_factory.mktemp("estimate") / "bundle", cascade=True)


def estimate(bundle, dtype=torch.float32, keep_weights=True, **changes):
    shape = replace(SHAPE, **changes)
    return estimate_memory(bundle.config, shape, dtype=dtype, keep_weights=keep_weights)


@pytest.fixture(scope="module")
def plain(bundle):
    return estimate(bundle)


def test_weights_are_those_of_the_loaded_modules(bundle):
    found = estimate(bundle, torch.bfloat16).weights
    for name in bundle.config.module_names:
        dtype = torch.float32 if name == "backbone" else torch.bfloat16
        tensors = bundle.load_module(name, "cpu", dtype).state_dict().values()
        assert found[name] == sum(t.numel() * t.element_size() for t in tensors)


def test_weights_of_one_stage_at_a_time_take_less(bundle, plain):
    staged = estimate(bundle, keep_weights=False)
    own = staged.weights["backbone"] + staged.weights["level1"]
    assert staged.stages["level1"].weights == own < plain.stages["level1"].weights
    assert list(staged.stages) == ["encoding", "level1", "cascade", "decoding"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("encoding", {"num_references": 4}),
        ("level1", {"num_targets": 4}),
        ("decoding", {"samples": 3}),
        ("decoding", {"image_hw": (84, 84)}),
    ],
)
def test_a_larger_run_takes_more(bundle, plain, stage, changes):
    found = estimate(bundle, **changes).stages[stage]
    assert found.activations > 1.1 * plain.stages[stage].activations


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("level1", {"guided": False}),
        ("level1", {"branches": "in turn"}),
        ("decoding", {"decoded_together": 1}),
    ],
)
def test_what_saves_memory_takes_less(bundle, plain, stage, changes):
    found = estimate(bundle, **changes).stages[stage]
    assert found.activations < 0.9 * plain.stages[stage].activations


@pytest.mark.parametrize(
    "shape",
    [
        RunShape(1, 0, (84, 112)),
        RunShape(1, 1, (84, 112)),
        RunShape(4, 4, (168, 224), guided=True),
        RunShape(4, 4, (84, 112), samples=3),
    ],
)
def test_the_bound_is_far_above_the_estimate_and_still_small(shape):
    config = Bundle.open("tiny").config
    estimated = estimate_memory(config, shape, dtype=torch.float32, keep_weights=True).peak_bytes
    assert 1.2 * estimated < memory_bound(config, shape) < 1.5 * 2**30


@pytest.mark.parametrize("changes", [{}, {"samples": 3}, {"num_targets": 0, "guided": False}])
def test_the_bound_holds_for_special_tokens_and_a_cascade(bundle, changes):
    shape = replace(SHAPE, **changes)
    assert memory_bound(bundle.config, shape) > 1.2 * estimate(bundle, **changes).peak_bytes


def test_what_makes_no_views_is_refused(bundle):
    with pytest.raises(ValueError, match="multiples of 14"):
        estimate(bundle, image_hw=(56, 85))
    alone = replace(bundle.config, denoisers={}, rgb_decoder=None)
    with pytest.raises(ValueError, match="only a geometry backbone"):
        estimate_memory(alone, SHAPE, dtype=torch.float32, keep_weights=True)
