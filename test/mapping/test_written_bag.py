"""A written bag alone: every product is there, is decoded by another reader, and can be placed."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from mcap_ros2.reader import read_ros2_messages

from gld_ros.bags.reader import BagReader
from gld_ros.cli.main import main
from gld_ros.scenes.tour_bag import OPTICAL_FRAME, first_room_with_tour, write_tour_bag

LAYOUT = Path(__file__).resolve().parents[2] / "config" / "foxglove_layout.json"
FIXED_FRAME = "map"
MERGED = "cloud.publish_merged=true"
OPTIONS = ["--every", "3", "--threads", "1"]
for setting in ("keyframes.min_interval=0.0", "keyframes.max_angular_velocity=100.0", MERGED):
    OPTIONS += ["--set", setting]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    """A bag of six images, with depth, on a tour through a room."""
    path = tmp_path_factory.mktemp("tour") / "tour"
    room = first_room_with_tour("narrow")
    write_tour_bag(path, "narrow", room, image_hw=(42, 56), seconds=6.0, rate_hz=1.0)
    return path


@pytest.fixture(scope="module", params=["views", "depth"])
def written(request, tour, tmp_path_factory):
    """The mode, and what was written in it."""
    path = tmp_path_factory.mktemp(request.param) / "out"
    assert main(["bag", str(tour), str(path), "--mode", request.param, *OPTIONS]) == 0
    return request.param, path


def of_the_layout():
    return set(re.findall(r'"(/gld/[a-z_/]+)"', LAYOUT.read_text()))


def mcap_of(bag):
    return next(bag.glob("*.mcap"))


# Why a topic of the layout has no message in a bag of a mode.
EXCUSED = {
    "views": {"/gld/observed/relative_depth/image", "/gld/observed/relative_depth/camera_info"},
    "depth": {topic for topic in of_the_layout() if not topic.startswith("/gld/observed/")},
}


def test_every_topic_of_the_foxglove_layout_has_messages_that_another_reader_decodes(written):
    mode, path = written
    decoded = {}
    for message in read_ros2_messages(mcap_of(path)):
        decoded.setdefault(message.channel.topic, []).append(message.ros_msg)
    with BagReader(path) as bag:
        counted = {t.name: t.num_messages for t in bag.topics.values() if t.num_messages}
    assert {topic: len(messages) for topic, messages in decoded.items()} == counted
    assert of_the_layout() - EXCUSED[mode] - set(counted) == set()


def test_every_frame_of_a_written_bag_is_joined_to_the_fixed_frame_at_its_stamp(written):
    mode, path = written
    frames = set()
    with BagReader(path) as bag:
        transforms, rejected = bag.transforms()
        assert rejected == []
        for message in bag.messages([name for name in bag.topics if name != "/tf"]):
            frame = message.content.header.frame_id
            if frame != FIXED_FRAME:
                T_fixed_frame = transforms.lookup(FIXED_FRAME, frame, message.stamp_ns)
                assert np.isfinite(T_fixed_frame).all()
            frames.add(frame)
    assert OPTICAL_FRAME in frames
    assert (FIXED_FRAME in frames) is (mode == "views")


def test_the_camera_of_a_written_bag_is_where_the_recording_has_it(written, tour):
    _, path = written
    with BagReader(path) as bag, BagReader(tour) as recorded:
        stamps = {m.stamp_ns for m in bag.raw_messages(["/gld/observed/depth/image"])}
        assert stamps
        for stamp_ns in stamps:
            found, true = (
                reader.transforms()[0].lookup(FIXED_FRAME, OPTICAL_FRAME, stamp_ns)
                for reader in (bag, recorded)
            )
            np.testing.assert_allclose(found, true, atol=1e-9)


def test_the_layout_lets_foxglove_choose_the_frame_that_a_bag_has():
    # A named one that a bag lacks shows nothing: fixed frames are called odom, map or otherwise.
    panel = json.loads(LAYOUT.read_text())["configById"]["3D!views"]
    assert "followTf" not in panel
    assert panel["followMode"] == "follow-none"


@pytest.fixture(scope="module")
def recording(written, tmp_path_factory):
    """The mode, the written bag, and what `rerun rrd print` says of its recording."""
    pytest.importorskip("rerun", reason="rerun-sdk is not installed")
    mode, bag = written
    path = tmp_path_factory.mktemp("rrd") / "out.rrd"
    assert main(["rrd", str(bag), str(path)]) == 0
    printed = ""
    for verb in ("verify", "print"):
        done = subprocess.run(
            ["rerun", "rrd", verb, str(path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        printed = done.stdout
    return mode, bag, printed


def test_a_recording_for_rerun_has_every_topic_of_the_bag_and_a_layout(recording):
    _, path, printed = recording
    assert "Blueprint" in printed
    with BagReader(path) as bag:
        topics = {topic.name for topic in bag.topics.values() if topic.num_messages}
    entities = {line.split(" - ")[1] for line in printed.splitlines() if line.startswith("Chunk(")}
    for topic in topics:
        # A CameraInfo is the pinhole of its images.
        shown = topic.replace("camera_info", "image")
        assert any(e == shown or e.startswith(f"{shown}/") for e in entities), topic


@pytest.mark.parametrize(
    ("entity", "column"),
    [
        ("/gld/observed/points/FRAME", "Points3D:positions"),
        ("/gld/observed/points/FRAME", "Transform3D:translation"),
        ("/gld/observed/depth/image/FRAME", "Pinhole:image_from_camera"),
        ("/gld/observed/depth/image/FRAME", "DepthImage:buffer"),
        ("/gld/observed/provenance/image/FRAME", "SegmentationImage:buffer"),
        ("/tf/FRAME", "Transform3D:translation"),
    ],
)
def test_a_recording_for_rerun_places_what_a_real_camera_saw(recording, entity, column):
    _, _, printed = recording
    entity = entity.replace("FRAME", OPTICAL_FRAME)
    assert any(f" - {entity} - " in line and column in line for line in printed.splitlines())


def test_a_recording_for_rerun_keeps_the_target_views_of_a_job_apart(recording):
    mode, _, printed = recording
    views = set(re.findall(r"/gld/predicted/color/image/gld_view_\d_optical", printed))
    assert len(views) == (4 if mode == "views" else 0)


def test_a_bag_without_products_is_no_recording(tour, tmp_path, capsys):
    assert main(["rrd", str(tour), str(tmp_path / "tour.rrd")]) == 1
    assert "has no topic of the node" in capsys.readouterr().err
    assert main(["rrd", str(tour), str(tmp_path / "tour.bag")]) == 1
    assert "does not end in .rrd" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
