"""Drawing samples: gaps, filters, skips that are counted, and epochs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gld_ros.scenes.picking import (
    MAX_POSE_TRIES,
    NoSample,
    RecordedScenes,
    epoch_draws,
    pick_frames,
)
from gld_ros.scenes.recording import Frame, Recording, RecordingError

K_PX = np.array([[40.0, 0.0, 19.5], [0.0, 40.0, 14.5], [0.0, 0.0, 1.0]])


def recording(num_frames=12, broken=(), place=0.1, K_px=K_PX, depth=False, name="lab"):
    poses = np.tile(np.eye(4), (num_frames, 1, 1))
    poses[:, 0, 3] = place * np.arange(num_frames)

    def load(i):
        if i in broken:
            raise RecordingError(f"frame {i} is broken")
        rgb = np.full((30, 40, 3), i, dtype=np.uint8)
        depth_m = np.full((30, 40), 2.0, dtype=np.float32) if depth else None
        return Frame(rgb, K_px, poses[i], depth_m, i)

    return Recording(name, True, poses, np.arange(num_frames), load, gap_range=(1, 4))


@given(
    seed=st.integers(0, 2**32),
    num_frames=st.integers(1, 60),
    num_views=st.integers(1, 8),
    low=st.integers(1, 5),
    width=st.integers(0, 6),
)
def test_picked_frames_are_distinct_and_inside(seed, num_frames, num_views, low, width):
    rng = np.random.default_rng(seed)
    picked = pick_frames(rng, num_frames, num_views, (low, low + width))
    if picked is None:
        return
    assert len(set(picked)) == num_views
    assert all(0 <= i < num_frames for i in picked)


def test_gaps_keep_their_range_when_there_is_room():
    rng = np.random.default_rng(0)
    for _ in range(50):
        picked = pick_frames(rng, 400, 5, (2, 6))
        if picked is not None and picked[0] < 300:
            gaps = np.diff(picked)
            assert gaps.min() >= 2
            assert gaps.max() <= 6


def test_same_seed_same_sample_and_views_come_in_any_order():
    scenes = RecordedScenes([recording()], 4, (14, 28))
    first, again = scenes.sample(5), scenes.sample(5)
    assert (first["images"] == again["images"]).all()
    orders = {
        tuple(np.argsort(scenes.sample(s)["T_world_cam"][:, 0, 3].numpy())) for s in range(20)
    }
    assert len(orders) > 5


def test_intrinsics_follow_crop_and_resize():
    """Depth of a wall and a pixel's ray stay the same: 30 x 40 becomes 14 x 28."""
    sample = RecordedScenes([recording(depth=True)], 2, (14, 28)).sample(0)
    assert (sample["depth_m"] - 2.0).abs().max() < 1e-5
    assert float(sample["K_px"][0, 0, 0]) == pytest.approx(40.0 * 28 / 40, rel=0.06)
    assert float(sample["K_px"][0, 0, 2]) == pytest.approx(13.5, abs=0.51)


def test_broken_frames_are_skipped_and_counted():
    scenes = RecordedScenes([recording(num_frames=8, broken=(3,))], 4, (14, 28))
    for seed in range(10):
        sample = scenes.sample(seed)
        assert (sample["images"].amax((1, 2, 3)) * 255).round().int().tolist().count(3) == 0
    assert scenes.skipped["RecordingError"] > 0


def test_a_hopeless_dataset_says_why():
    scenes = RecordedScenes([recording(broken=range(12))], 2, (14, 28))
    with pytest.raises(NoSample, match=rf"in {MAX_POSE_TRIES} tries; .* is broken"):
        scenes.sample(0)


def test_cameras_too_far_away_are_filtered():
    scenes = RecordedScenes([recording(place=1000.0), recording(name="near")], 2, (14, 28))
    assert {scenes.sample(seed)["scene_id"] for seed in range(8)} == {"near"}
    lost = recording()
    lost.T_world_cam[:, 0, 3] = np.nan
    with pytest.raises(NoSample, match="from the origin"):
        RecordedScenes([lost], 2, (14, 28)).sample(0)


def test_a_principal_point_at_the_border_is_refused():
    odd = K_PX.copy()
    odd[0, 2] = 3.0
    with pytest.raises(NoSample, match=r"principal point 3\.0 of 40"):
        RecordedScenes([recording(K_px=odd)], 2, (14, 28)).sample(0)


def test_empty_and_short_datasets_are_refused_at_once():
    with pytest.raises(NoSample, match="is empty"):
        RecordedScenes([], 2, (14, 28))
    with pytest.raises(NoSample, match="need 9 frames; the longest recording has 4"):
        RecordedScenes([recording(num_frames=4)], 9, (14, 28))


def test_epochs_mix_by_number_and_repeat_small_datasets_evenly():
    draws = epoch_draws({"a": 3, "b": 100}, {"a": 7, "b": 10}, epoch=2)
    assert len(draws) == 17
    counts = [draws.count(("a", i)) for i in range(3)]
    assert sorted(counts) == [2, 2, 3]
    assert len({pair for pair in draws if pair[0] == "b"}) == 10
    assert draws == epoch_draws({"a": 3, "b": 100}, {"a": 7, "b": 10}, epoch=2)
    assert draws != epoch_draws({"a": 3, "b": 100}, {"a": 7, "b": 10}, epoch=3)
    # Mixed, not one dataset after the other
    assert {name for name, _ in draws[:9]} == {"a", "b"}


def test_draws_from_an_empty_dataset_are_refused():
    with pytest.raises(ValueError, match="dataset 'b', which has no scenes"):
        epoch_draws({"a": 3}, {"a": 1, "b": 1}, 0)
