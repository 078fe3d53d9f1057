"""The tour through a demo room: smooth, clear of furniture, and true when read back."""

import numpy as np
import pytest
import torch

from gld_ros.scenes.bags import open_bag
from gld_ros.scenes.rooms import SPLIT_IDS, render_room_views, room_surface_distance
from gld_ros.scenes.rooms.tour import CLEARANCE_M, find_tour
from gld_ros.scenes.tour_bag import OPTICAL_FRAME, first_room_with_tour, write_tour_bag


@pytest.fixture(scope="module")
def room():
    return first_room_with_tour("narrow")


@pytest.fixture(scope="module")
def bag(room, tmp_path_factory):
    path = tmp_path_factory.mktemp("tour") / "tour"
    assert write_tour_bag(path, "narrow", room, image_hw=(18, 24), seconds=1.0, rate_hz=7.0) == 7
    return path


def test_the_room_of_the_tour_is_held_out(room):
    assert room in SPLIT_IDS["demo"]


def test_the_tour_is_smooth_and_clear_of_every_surface(room):
    tour = find_tour("narrow", room)
    s = np.linspace(0, 1, 201)
    position, yaw = tour.position_and_yaw(s)
    assert room_surface_distance(room, torch.from_numpy(position)).min() > 0.9 * CLEARANCE_M
    steps = np.linalg.norm(np.diff(position, axis=0), axis=1)
    assert steps.max() < 0.1
    assert np.abs(np.diff(yaw, 2)).max() < 0.02
    np.testing.assert_allclose(position[0], position[-1], atol=1e-9)


def test_what_is_read_back_is_the_true_room(bag, room):
    (recording,) = open_bag(bag)
    assert len(recording) == 7
    assert recording.dropped == {}
    frame = recording.load(3)
    truth = render_room_views(
        room,
        "narrow",
        torch.from_numpy(frame.T_world_cam)[None].float(),
        torch.from_numpy(frame.K_px)[None].float(),
        (18, 24),
    )
    assert np.abs(truth["depth_m"][0].numpy() - frame.depth_m).max() < 0.01
    shown = truth["images"][0].permute(1, 2, 0).numpy() * 255
    assert np.abs(shown - frame.rgb).mean() < 1.0


def test_transforms_come_at_100_hz_and_frames_follow_rep_103(bag):
    from rosbags.highlevel import AnyReader

    with AnyReader([bag]) as reader:
        stamps, optical = [], None
        for connection, stamp, raw in reader.messages():
            content = reader.deserialize(raw, connection.msgtype)
            if connection.topic == "/tf":
                stamps.append(stamp)
            elif connection.topic == "/camera/image_raw":
                optical = content.header.frame_id
    assert optical == OPTICAL_FRAME
    assert np.median(np.diff(stamps)) == 10_000_000


def test_times_and_places_that_cannot_be_are_refused(bag, room, tmp_path):
    with pytest.raises(ValueError, match="exists already"):
        write_tour_bag(bag, "narrow", room)
    with pytest.raises(ValueError, match="fewer than 2 images"):
        write_tour_bag(tmp_path / "short", "narrow", room, seconds=0.1, rate_hz=10)
    assert not (tmp_path / "short").exists()
