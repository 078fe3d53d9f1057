"""Which image gets its depth next: the newest of each camera in turns, every other one counted."""

from types import SimpleNamespace

from gld_ros.mapping.depth_stream import DepthStream
from gld_ros.mapping.placed_frame import PlacedFrame

MS = 1_000_000


def image(stamp_ms, camera="front", decoded=True):
    frame = SimpleNamespace(camera=camera, stamp_ns=stamp_ms * MS) if decoded else None
    return PlacedFrame(camera, stamp_ms * MS, None, 0, lambda: frame)


def taken(stream):
    frames = []
    while (frame := stream.take()) is not None:
        frames.append((frame.camera, frame.stamp_ns // MS))
    return frames


def test_the_newest_image_wins_and_every_other_one_is_counted():
    stream = DepthStream()
    for stamp_ms in (10, 20, 30):
        stream.offer(image(stamp_ms), 0.0, newest_only=True)
    assert taken(stream) == [("front", 30)]
    assert stream.skipped == {"front": 2}


def test_a_recording_loses_none():
    stream = DepthStream()
    for stamp_ms in (10, 20, 30):
        stream.offer(image(stamp_ms), 0.0, newest_only=False)
    assert taken(stream) == [("front", 10), ("front", 20), ("front", 30)]
    assert not stream.skipped


def test_a_fast_camera_leaves_a_slow_one_its_turn():
    stream = DepthStream()
    stream.offer(image(10, "slow"), 0.0, newest_only=True)
    order = []
    for stamp_ms in (11, 12, 13):
        stream.offer(image(stamp_ms, "fast"), 0.0, newest_only=True)
        order.append(stream.take().camera)
        stream.offer(image(stamp_ms, "slow"), 0.0, newest_only=True)
    assert set(order[:2]) == {"slow", "fast"}


def test_a_rate_is_met_on_average_and_what_it_leaves_out_is_counted():
    stream = DepthStream()
    for i in range(60):  # 30 images per second for two seconds
        stream.offer(image(round(i * 1000 / 30)), 8.0, newest_only=False)
    assert len(taken(stream)) == 16
    assert stream.thinned == {"front": 44}


def test_what_cannot_be_decoded_is_passed_over():
    stream = DepthStream()
    stream.offer(image(10, decoded=False), 0.0, newest_only=False)
    stream.offer(image(20), 0.0, newest_only=False)
    assert taken(stream) == [("front", 20)]


def test_a_new_epoch_forgets_what_waits_and_when_the_next_is_due():
    stream = DepthStream()
    stream.offer(image(1000), 1.0, newest_only=True)
    stream.flush()
    assert stream.take() is None
    stream.offer(image(10), 1.0, newest_only=True)
    assert taken(stream) == [("front", 10)]
