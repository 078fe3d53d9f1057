"""Which frame is found for poses where none is named."""

import pytest

from gld_ros.messages.fixed_frame import NoFixedFrame, find_fixed_frame
from gld_ros.messages.transforms import TransformBuffer

IDENTITY = (0.0, 0.0, 0.0, 1.0)


def tree(*edges):
    """A buffer with edges "parent > child" that move and "parent = child" that are static."""
    buffer = TransformBuffer()
    for edge in edges:
        parent, kind, child = edge.split()
        buffer.insert(parent, child, (0, 0, 0), IDENTITY, 10**9, static=kind == "=")
    return buffer


@pytest.mark.parametrize(
    ("edges", "cameras", "name", "still"),
    [
        (["map > odom", "odom > base", "base = cam"], ["cam"], "odom", False),
        (["map > r1/odom", "r1/odom > base", "base = cam"], ["cam"], "r1/odom", False),
        (["map > base", "base = cam"], ["/cam"], "map", False),
        (["link = optical"], ["optical"], "link", True),
        (["link = optical"], ["link"], "link", True),
        # Another robot's odometry is nothing to these cameras.
        (["odom > other", "map > base", "base = cam"], ["cam"], "map", False),
        (["odom > base", "base = left", "base = right"], ["left", "right"], "odom", False),
        # Frames that TF does not know yet do not hide the others.
        (["odom > base", "base = left"], ["left", "right"], "odom", False),
    ],
)
def test_the_frame_above_the_cameras_is_found_odom_first(edges, cameras, name, still):
    found = find_fixed_frame(tree(*edges), cameras)
    assert (found.name, found.still) == (name, still)


@pytest.mark.parametrize(
    ("edges", "cameras", "says"),
    [
        ([], ["cam"], "there is no TF"),
        (["odom > base"], ["cam"], "frame of the images, 'cam'; its frames are: base, odom"),
        (["a = left", "b = right"], ["left", "right"], "below several roots, a, b"),
    ],
)
def test_why_there_is_none_is_told(edges, cameras, says):
    with pytest.raises(NoFixedFrame, match=says):
        find_fixed_frame(tree(*edges), cameras)
