"""Which frames are shown and which withheld, from every kind of data; faults are counted."""

import pytest

from gld_ros.evaluation.held_out import ViewPlan, batches, open_held_out
from gld_ros.scenes.rooms import render_rooms, split_of
from gld_ros.scenes.store import write_store

SIZES = ((28, 42),)


def test_references_are_spread_over_the_path_and_come_first(wall_scene):
    folder = wall_scene(8)
    held_out = open_held_out(str(folder), ViewPlan(2, 2, every=2), SIZES)
    (sample,) = held_out.samples
    assert sample["scene_id"] == "wall/0-6-2-4"
    x = sample["T_world_cam"][:, 0, 3]
    assert x[0] < x[2] < x[3] < x[1]


def test_references_can_be_the_first_of_the_path(wall_scene):
    folder = wall_scene(4)
    held_out = open_held_out(str(folder), ViewPlan(1, 3, references="first", every=1), SIZES)
    assert next(iter(held_out.samples))["scene_id"] == "wall/0-1-2-3"


def test_samples_share_no_frames_unless_more_are_asked_for(wall_scene):
    folder = str(wall_scene(9))
    assert open_held_out(folder, ViewPlan(every=1), SIZES).count == 2
    assert open_held_out(folder, ViewPlan(every=1, max_scenes=5), SIZES).count == 5
    assert open_held_out(folder, ViewPlan(every=1, max_scenes=1), SIZES).count == 1


def test_short_recordings_say_what_would_fit(wall_scene):
    folder = wall_scene(3)
    with pytest.raises(ValueError, match="longest of 1 recordings has 3"):
        open_held_out(str(folder), ViewPlan(2, 2), SIZES)


def test_unreadable_frames_cost_their_sample_and_are_counted(wall_scene):
    folder = wall_scene(8)
    (folder / "images" / "000001.png").write_bytes(b"no image")
    held_out = open_held_out(str(folder), ViewPlan(every=1), SIZES)
    assert [s["scene_id"] for s in held_out.samples] == ["wall/4-7-5-6"]
    assert sum(held_out.skipped.values()) == 1
    assert "000001.png" in next(iter(held_out.skipped))


def test_rooms_come_from_the_test_split():
    held_out = open_held_out("rooms:narrow:2", ViewPlan(1, 1), ((14, 14),))
    samples = list(held_out.samples)
    assert [split_of(int(s["scene_id"].partition("/")[2])) for s in samples] == ["test"] * 2
    assert samples[0]["images"].shape == (2, 3, 14, 14)
    assert samples[0]["depth_m"].min() > 0


def test_stores_are_read_in_their_own_size(tmp_path):
    def render(positions):
        ids = [1_000_000_000 + p for p in positions]
        return render_rooms("narrow", ids, 2, (14, 28), antialias=1)

    write_store(tmp_path / "store", "narrow validation", 2, 2, (14, 28), render)
    held_out = open_held_out(str(tmp_path / "store"), ViewPlan(1, 1), SIZES)
    assert held_out.image_hw == (14, 28)
    assert len(list(held_out.samples)) == 2
    with pytest.raises(ValueError, match="2 views"):
        open_held_out(str(tmp_path / "store"), ViewPlan(2, 2), SIZES)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("rooms:castle", "unknown domain"),
        ("rooms:narrow:many", "not a number"),
        ("no/such/place", "does not exist"),
    ],
)
def test_wrong_data_is_explained(data, words):
    with pytest.raises(ValueError, match=words):
        open_held_out(data, ViewPlan(), SIZES)


def test_views_must_be_positive():
    with pytest.raises(ValueError, match="targets is 0"):
        ViewPlan(2, 0)


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [1]), (2, [2]), (4, [4]), (5, [3, 2]), (9, [4, 3, 2]), (10, [4, 4, 2])]
)
def test_no_batch_holds_a_single_sample_unless_there_is_but_one(count, sizes):
    samples = ({"number": i} for i in range(count))
    made = list(batches(samples, 4))
    assert [len(batch) for batch in made] == sizes
    assert [sample["number"] for batch in made for sample in batch] == list(range(count))


def test_tiny_batches_are_refused():
    with pytest.raises(ValueError, match="at least 3"):
        list(batches([{}], 2))
