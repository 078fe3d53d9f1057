"""The sample dictionary: what it must hold, and that a violation names the scene."""

import pytest
import torch

from gld_ros.scenes.sample import SampleError, batch_samples, validate_sample


def good_sample(**changes):
    K_px = torch.tensor([[10.0, 0.0, 5.0], [0.0, 10.0, 4.0], [0.0, 0.0, 1.0]])
    sample = {
        "images": torch.rand(2, 3, 8, 10),
        "K_px": K_px.expand(2, 3, 3).clone(),
        "T_world_cam": torch.eye(4).expand(2, 4, 4).clone(),
        "depth_m": torch.ones(2, 8, 10),
        "scene_id": "lab/7",
        "metric": True,
    }
    return {**sample, **changes}


def test_a_good_sample_passes_with_and_without_depth():
    validate_sample(good_sample())
    without = good_sample()
    del without["depth_m"]
    validate_sample(without)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.rand(2, 8, 10, 3)}, r"images are \(2, 8, 10, 3\)"),
        ({"images": torch.full((2, 3, 8, 10), 1.5)}, "not within"),
        ({"images": torch.full((2, 3, 8, 10), torch.nan)}, "images has values that are not finite"),
        ({"images": torch.zeros(2, 3, 8, 10, dtype=torch.float64)}, "expected torch.float32"),
        ({"depth_m": torch.ones(2, 8, 9)}, "depth_m is"),
        ({"depth_m": -torch.ones(2, 8, 10)}, "negative"),
        ({"K_px": torch.zeros(2, 3, 3)}, "fx and fy must be positive"),
        ({"K_px": torch.eye(3).expand(3, 3, 3)}, "K_px is"),
        ({"T_world_cam": 2 * torch.eye(4).expand(2, 4, 4)}, "not a rigid transform"),
        ({"visible_fraction": torch.ones(3)}, "visible_fraction is"),
    ],
)
def test_a_violation_is_named_with_its_scene(changes, message):
    with pytest.raises(SampleError, match=f"scene lab/7: .*{message}"):
        validate_sample(good_sample(**changes))


def test_a_missing_entry_is_named():
    sample = good_sample()
    del sample["T_world_cam"]
    with pytest.raises(SampleError, match="has no 'T_world_cam'"):
        validate_sample(sample)


def test_batches_keep_what_all_samples_have():
    without = good_sample(metric=False)
    del without["depth_m"]
    batch = batch_samples([good_sample(), without])
    assert batch["images"].shape == (2, 2, 3, 8, 10)
    assert batch["scene_id"] == ["lab/7", "lab/7"]
    assert batch["metric"] is False
    assert "depth_m" not in batch


def test_samples_of_different_sizes_make_no_batch():
    with pytest.raises(SampleError, match="differ in views or size"):
        batch_samples([good_sample(), good_sample(images=torch.rand(2, 3, 8, 12))])
    with pytest.raises(SampleError, match="no samples"):
        batch_samples([])
