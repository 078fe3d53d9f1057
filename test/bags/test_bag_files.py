"""Bags: what is written is read, by us and by others; damage is named; nothing half-written."""

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from gld_ros.bags.interface_files import message_definitions
from gld_ros.bags.reader import BagError, BagReader
from gld_ros.bags.writer import BagWriter
from gld_ros.messages.frame_tree import FutureTransform
from gld_ros.messages.images import rgb_from_image

START_NS = 1_700_000_000 * 10**9


def test_topics_counts_times_and_durability(small_bag):
    with BagReader(small_bag) as bag:
        assert {t.name: t.num_messages for t in bag.topics.values()} == {
            "/tf_static": 1,
            "/tf": 20,
            "/camera/camera_info": 20,
            "/camera/image": 20,
        }
        assert bag.topics["/tf_static"].latched
        assert not bag.topics["/tf"].latched
        assert bag.topics["/camera/image"].reliable
        assert not bag.topics["/camera/camera_info"].reliable
        assert (bag.start_ns, bag.end_ns) == (START_NS, START_NS + 19 * 10**8)
        assert bag.num_messages == 61


def test_images_come_in_the_order_of_recording(small_bag):
    with BagReader(small_bag) as bag:
        (topic,) = bag.image_topics()
        assert topic.name == "/camera/image"
        for frame, message in enumerate(bag.messages([topic.name])):
            assert message.stamp_ns == START_NS + frame * 10**8
            assert (rgb_from_image(message.content).rgb == frame).all()


def test_transforms_of_the_whole_bag_are_known_ahead(small_bag):
    with BagReader(small_bag) as bag:
        transforms, refused = bag.transforms()
    assert not refused
    T = transforms.lookup("odom", "camera", START_NS + 150_000_000)
    assert T[0, 3] == pytest.approx(1.5 + 0.5)
    with pytest.raises(FutureTransform):
        transforms.lookup("odom", "camera", START_NS + 2 * 10**9)


def test_part_of_the_time(small_bag):
    with BagReader(small_bag) as bag:
        span = (START_NS + 5 * 10**8, START_NS + 8 * 10**8)
        frames = [m.content.data[0] for m in bag.messages(["/camera/image"], *span)]
    assert frames == [5, 6, 7]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_own_types_round_trip(tmp_path, storage):
    with BagWriter(tmp_path / "own", storage) as bag:
        bag.add_topic("/provenance", "gld_ros/msg/Provenance")
        bag.add_topic("/times", "gld_ros/msg/StageTimes")
        bag.write("/provenance", 5, bag.types["gld_ros/msg/Provenance"](value=3))
        names = [
            "wait_tf",
            "queue",
            "encode",
            "sample",
            "decode",
            "postprocess",
            "publish",
            "total",
        ]
        times = bag.types["gld_ros/msg/StageTimes"](**{n: i / 2 for i, n in enumerate(names)})
        bag.write("/times", 6, times)
    with BagReader(tmp_path / "own") as bag:
        provenance, times = bag.messages()
    assert provenance.content.value == 3
    assert provenance.content.HALLUCINATED == 3
    assert times.content.total == 3.5


def test_another_library_reads_what_we_write(small_bag):
    from mcap_ros2.reader import read_ros2_messages

    (file,) = small_bag.glob("*.mcap")
    seen = [
        (message.channel.topic, message.log_time_ns, message.ros_msg)
        for message in read_ros2_messages(str(file))
    ]
    assert len(seen) == 61
    images = [content for topic, _, content in seen if topic == "/camera/image"]
    assert [image.data[0] for image in images] == list(range(20))


def copy_bag(source, target, storage="mcap"):
    with BagReader(source) as bag, BagWriter(target, storage) as copy:
        for topic in bag.topics.values():
            copy.add_topic(topic.name, topic.type, latched=topic.latched, reliable=topic.reliable)
        for message in bag.raw_messages():
            copy.write_cdr(message.topic, message.stamp_ns, message.cdr)


def test_the_same_content_gives_the_same_bytes(tmp_path, small_bag):
    for folder in ("one", "two"):
        copy_bag(small_bag, tmp_path / folder / "bag")
    one, two = (sorted((tmp_path / folder / "bag").iterdir()) for folder in ("one", "two"))
    assert [file.name for file in one] == ["bag.mcap", "metadata.yaml"]
    for first, second in zip(one, two, strict=True):
        assert first.read_bytes() == second.read_bytes()


def test_a_single_file_is_a_bag_too(small_bag):
    (file,) = small_bag.glob("*.mcap")
    with BagReader(file) as bag:
        assert len(list(bag.messages(["/camera/image"]))) == 20


def test_the_names_of_our_messages_are_complete():
    names = {name.removeprefix("gld_ros/msg/") for name in message_definitions()}
    assert names == {
        "GldStatus",
        "Provenance",
        "ScaleEstimate",
        "StageTimes",
        "SynthesizedView",
        "SynthesizedViewArray",
    }


def test_unknown_topics_are_named_with_those_there_are(small_bag):
    with BagReader(small_bag) as bag, pytest.raises(BagError, match=r"/lidar.*/camera/image"):
        list(bag.messages(["/lidar"]))


def folder_of_images(path):
    path.mkdir()
    (path / "000.png").write_bytes(b"\x89PNG")


def fifo_in_a_bag(path):
    path.mkdir()
    (path / "metadata.yaml").write_text("rosbag2_bagfile_information: {}")
    os.mkfifo(path / "bag.mcap")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "no metadata.yaml"),
        (folder_of_images, "ros2 bag record.*no metadata.yaml.*gld-ros image"),
        (os.mkfifo, "neither a folder nor a regular file"),
        (lambda path: path.touch(), "the file is empty"),
        (lambda path: path.write_bytes(b"not a bag at all"), "cannot be opened"),
        (fifo_in_a_bag, "not a regular file: bag.mcap"),
    ],
    ids=["absent", "empty folder", "images", "fifo", "empty file", "other content", "fifo inside"],
)
@pytest.mark.timeout(20)
def test_what_is_no_bag_is_named_at_once(tmp_path, make, message):
    path = tmp_path / "bag.mcap"
    make(path)
    with pytest.raises(BagError, match=message):
        BagReader(path)


def test_a_image_and_a_folder_of_scenes_are_sent_to_the_command_for_images(tmp_path):
    folder_of_images(tmp_path / "images")
    for path in (tmp_path / "images" / "000.png", tmp_path):
        with pytest.raises(BagError, match=r"a bag is what .* gld-ros image"):
            BagReader(path)


def test_a_folder_with_a_bag_file_alone_names_that_file(small_bag):
    (small_bag / "metadata.yaml").unlink()
    (file,) = small_bag.glob("*.mcap")
    with pytest.raises(BagError, match=f"give its file instead: {file}"):
        BagReader(small_bag)


@pytest.mark.parametrize("text", ["", "{", "[]", "rosbag2_bagfile_information: 5", "a: !!python/x"])
def test_broken_metadata(small_bag, text):
    (small_bag / "metadata.yaml").write_text(text)
    with pytest.raises(BagError, match="small"):
        BagReader(small_bag)


def read_all(path):
    with BagReader(path) as bag:
        bag.transforms()
        return list(bag.messages())


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.3, 0.99])
def test_truncated_files_are_bag_errors(tmp_path, small_bag, storage, kept):
    path = tmp_path / storage
    copy_bag(small_bag, path, storage)
    file = next(f for f in path.iterdir() if f.suffix in (".mcap", ".db3"))
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(BagError, match=storage):
        read_all(path)


def test_damaged_bytes_are_bag_errors_or_nothing(tmp_path, small_bag):
    random = np.random.default_rng(1)
    (file,) = small_bag.glob("*.mcap")
    content = file.read_bytes()
    outcomes = set()
    for _ in range(40):
        damaged = np.frombuffer(content, np.uint8).copy()
        places = random.integers(0, len(damaged), 20)
        damaged[places] = random.integers(0, 256, 20)
        file.write_bytes(damaged.tobytes())
        try:
            read_all(small_bag)
            outcomes.add("read")
        except BagError:
            outcomes.add("refused")
    assert "refused" in outcomes


def test_a_message_that_is_no_message_is_named(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.add_topic("/status", "gld_ros/msg/GldStatus")
        bag.write_cdr("/status", 7, b"\0\1\0\0\5")
    with BagReader(tmp_path / "bag") as bag, pytest.raises(BagError, match="/status at 7 ns"):
        list(bag.messages())


def test_an_unfinished_bag_does_not_exist(tmp_path):
    def fail_in_the_middle():
        with BagWriter(tmp_path / "bag") as bag:
            bag.add_topic("/tf", "tf2_msgs/msg/TFMessage")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_in_the_middle()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_nothing_under_the_name(tmp_path):
    script = textwrap.dedent(
        f"""
        import os, signal
        from gld_ros.bags.writer import BagWriter
        with BagWriter({str(tmp_path / "bag")!r}) as bag:
            bag.add_topic("/p", "gld_ros/msg/Provenance")
            for i in range(1000):
                bag.write("/p", i, bag.types["gld_ros/msg/Provenance"](value=1))
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    done = subprocess.run([sys.executable, "-c", script], env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "bag").exists()
    assert len(list(tmp_path.iterdir())) == 1  # hidden, and gone when the bag is written again
    with pytest.raises(ValueError, match="moved"), BagWriter(tmp_path / "bag"):
        raise ValueError("moved")
    assert list(tmp_path.iterdir()) == []


def test_what_another_process_is_writing_stays(tmp_path):
    with BagWriter(tmp_path / "bag") as first:
        with BagWriter(tmp_path / "bag_2"):
            pass
        first.add_topic("/p", "gld_ros/msg/Provenance")
        assert len(list(tmp_path.glob(".bag.partial-*"))) == 1
        other = BagWriter(tmp_path / "bag")
        assert len(list(tmp_path.glob(".bag.partial-*"))) == 2
        other.__exit__(KeyboardInterrupt, None, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bag", "bag_2"]


def test_existing_bags_are_not_overwritten(small_bag):
    with pytest.raises(ValueError, match="exists already"):
        BagWriter(small_bag)


def test_wrong_use_of_a_writer_is_explained(tmp_path):
    with pytest.raises(ValueError, match="mcap, sqlite3"):
        BagWriter(tmp_path / "bag", "zip")
    with BagWriter(tmp_path / "bag") as bag:
        bag.add_topic("/p", "gld_ros/msg/Provenance")
        with pytest.raises(ValueError, match="already"):
            bag.add_topic("/p", "gld_ros/msg/Provenance")
        with pytest.raises(ValueError, match="not known"):
            bag.add_topic("/q", "acme_msgs/msg/Thing")
        with pytest.raises(ValueError, match="not declared"):
            bag.write_cdr("/z", 0, b"")


def test_a_bag_without_stored_definitions_uses_the_known_ones(tmp_path, small_bag):
    path = tmp_path / "old"
    copy_bag(small_bag, path, "sqlite3")
    forget_definitions(path)
    with BagReader(path) as bag:
        assert len(list(bag.messages(["/camera/image"]))) == 20


def forget_definitions(path):
    import sqlite3

    with sqlite3.connect(next(path.glob("*.db3"))) as database:
        database.execute("DELETE FROM message_definitions")


def test_the_reader_needs_no_ros(small_bag):
    script = f"""
import sys
sys.modules["rclpy"] = None
from gld_ros.bags.reader import BagReader
with BagReader({str(small_bag)!r}) as bag:
    print(sum(1 for _ in bag.messages()))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "61"


@pytest.mark.ros
def test_rclpy_decodes_what_we_write(small_bag):
    from rclpy.serialization import deserialize_message

    from gld_ros.messages.types import rclpy_type

    with BagReader(small_bag) as bag:
        for message in bag.raw_messages():
            decoded = deserialize_message(message.cdr, rclpy_type(message.type))
    assert decoded.height == 3
