"""What the demonstration hides from the node, and how it judges what comes back."""

import numpy as np
import pytest

from gld_ros.bags.reader import BagReader
from gld_ros.evaluation.withheld import depth_error, nearest_shown, split_bag
from gld_ros.geometry.poses import distance_m
from gld_ros.scenes.tour_bag import first_room_with_tour, write_tour_bag

RATE_HZ = 10


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    room = first_room_with_tour("narrow")
    write_tour_bag(folder / "tour", "narrow", room, image_hw=(18, 24), seconds=8, rate_hz=RATE_HZ)
    return split_bag(folder / "tour", folder / "played", count=3)


def played_stamps(split):
    with BagReader(split.path) as reader:
        messages = reader.messages([split.image_topic])
        return {
            m.content.header.stamp.sec * 10**9 + m.content.header.stamp.nanosec for m in messages
        }


def test_half_a_second_around_every_withheld_frame_is_not_played(split):
    assert len(split.withheld) == 3
    stamps = played_stamps(split)
    assert stamps == {frame.stamp_ns for frame in split.shown}
    for frame in split.withheld:
        assert min(abs(stamp - frame.stamp_ns) for stamp in stamps) > 0.5e9
    assert len(stamps) == 80 - 3 * (1 + RATE_HZ)


def test_the_nearest_shown_image_is_another_place(split):
    for frame in split.withheld:
        nearest = nearest_shown(split, frame)
        assert distance_m(frame.T_fixed_cam, nearest.T_fixed_cam) > 0.1


def test_a_short_bag_keeps_most_of_its_frames(split, tmp_path):
    again = split_bag(split.path, tmp_path / "again", count=16)
    assert len(again.withheld) == 15  # a third of what is there
    assert len(again.shown) >= 28
    assert played_stamps(again) < played_stamps(split)


def test_withheld_frames_bring_the_true_depth_of_the_bag(split):
    for frame in split.withheld:
        assert frame.depth_m.shape == frame.image.shape[:2]
        assert depth_error(frame.depth_m, frame.depth_m)["abs_rel"] == 0.0


def test_depth_is_judged_without_scaling_and_where_both_are_known():
    true = np.array([[2.0, 2.0, np.nan, 4.0, 0.0]])
    published = np.array([[2.2, 1.8, 3.0, np.nan, 1.0]])
    error = depth_error(published, true)
    assert error == {"abs_rel": 0.1, "median_ratio": 1.0, "share": 0.4}
    assert depth_error(np.full((1, 5), np.nan), true) is None
