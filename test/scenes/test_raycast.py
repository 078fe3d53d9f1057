"""Ray casting and shading against closed forms."""

import math

import pytest
import torch

from gld_ros.scenes.rooms.cameras import CameraPath
from gld_ros.scenes.rooms.layout import Room
from gld_ros.scenes.rooms.packed import pack_rooms
from gld_ros.scenes.rooms.raycast import cast_rays
from gld_ros.scenes.rooms.render import render
from gld_ros.scenes.rooms.surface_distance import surface_distance

K_PX = torch.tensor([[[[20.0, 0.0, 10.0], [0.0, 20.0, 10.0], [0.0, 0.0, 1.0]]]])
HW = (21, 21)
GREY = [0.5, 0.5, 0.5, 0.0, 0.0, 1.0, 0.0, 0.0]


def looking_along_x(x=0.0, y=0.0, z=1.0):
    T = torch.tensor([[0.0, 0.0, 1.0, x], [-1.0, 0.0, 0.0, y], [0.0, -1.0, 0.0, z], [0, 0, 0, 1.0]])
    return T[None, None]


def empty_room(**parts):
    path = CameraPath((0, 0, 1), 0, 0, 0, 1, 0, 0, 0, math.pi / 2)
    materials = [list(GREY) for _ in range(8)]
    defaults = {"materials": materials, "lights": [[0.0, 0.0, 1.9, 0.65]]}
    return Room(0, (8.0, 6.0, 2.0), path, 0.35, False, **{**defaults, **parts})


def rendered(room, T=None, **options):
    T = looking_along_x() if T is None else T
    return render(pack_rooms([room]), T, K_PX, HW, **options)


def middle(values):
    return float(values[0, 0, 10, 10])


def test_depth_of_an_empty_room_is_the_distance_of_the_wall():
    _, depth = rendered(empty_room())
    assert middle(depth) == pytest.approx(4.0, abs=1e-5)


def test_z_depth_of_a_frontal_wall_is_constant():
    _, depth = rendered(empty_room())
    assert depth[0, 0, 8:13, :].sub(4.0).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("primitive", "expected"),
    [
        ({"spheres": [[3.0, 0.0, 1.0, 0.5]]}, 2.5),
        ({"cylinders": [[3.0, 0.0, 1.0, 0.4, 0.9]]}, 2.6),
        ({"boxes": [[3.0, 0, 1, 0.3, 0.3, 0.9, 1.0, 0.0]]}, 2.7),
        (
            {"boxes": [[3.0, 0, 1, 0.3, 0.3, 0.9, math.sqrt(0.5), math.sqrt(0.5)]]},
            3.0 - 0.3 * math.sqrt(2),
        ),
    ],
    ids=["sphere", "cylinder", "box", "turned box"],
)
def test_depth_of_each_primitive(primitive, expected):
    kind = {"spheres": "sphere", "cylinders": "cylinder", "boxes": "box"}[next(iter(primitive))]
    room = empty_room(**primitive, **{f"{kind}_object": [0], f"{kind}_material": [6]})
    _, depth = rendered(room)
    assert middle(depth) == pytest.approx(expected, abs=1e-4)


def test_top_of_a_cylinder_is_hit_from_above():
    room = empty_room(
        cylinders=[[3.0, 0.0, 0.25, 0.4, 0.25]], cylinder_material=[6], cylinder_object=[0]
    )
    packed = pack_rooms([room])
    origin = tuple(torch.tensor([[[v]]]) for v in (3.0, 0.1, 1.5))
    direction = tuple(torch.tensor([[[v]]]) for v in (0.0, 0.0, -1.0))
    hits = cast_rays(packed, origin, direction)
    assert float(hits.depth_m) == pytest.approx(1.0, abs=1e-5)
    assert float(hits.primitive) == 1


def test_rays_along_the_axes_of_a_box_hit_or_miss_without_nan():
    """Directions with exact zeros, through the box and exactly along its faces."""
    room = empty_room(
        boxes=[[2.0, 0, 1, 0.5, 0.5, 0.5, 1.0, 0.0]], box_material=[6], box_object=[0]
    )
    packed = pack_rooms([room])
    y = torch.tensor([[[0.0, 0.3, 0.5, -0.5, 0.7]]])
    origin = (torch.zeros_like(y), y, torch.ones_like(y))
    direction = (torch.ones_like(y), torch.zeros_like(y), torch.zeros_like(y))
    depth = cast_rays(packed, origin, direction).depth_m.flatten()
    assert torch.isfinite(depth).all()
    assert depth[:2].sub(1.5).abs().max() < 1e-5
    assert float(depth[4]) == pytest.approx(4.0, abs=1e-5)


def test_brightness_follows_lambert_and_ambient():
    """The point of the wall straight ahead: cosine of the angle to the ceiling light."""
    rgb, _ = rendered(empty_room())
    cosine = 4.0 / math.hypot(4.0, 0.9)
    expected = 0.5 * (0.35 + 0.65 * cosine)
    assert float(rgb[0, 0, 0, 10, 10]) == pytest.approx(expected, abs=1e-4)


def test_shadow_darkens_the_floor_behind_a_box_and_nothing_in_front():
    parts = {
        "boxes": [[1.0, 0, 0.5, 0.2, 1.0, 0.5, 1.0, 0.0]],
        "box_material": [6],
        "box_object": [0],
    }
    T = looking_along_x(x=-1.0, z=1.6)
    T[..., :3, 2] = torch.tensor([0.866, 0.0, -0.5])  # 30 degrees down
    T[..., :3, 1] = torch.tensor([-0.5, 0.0, -0.866])
    lit, depth = rendered(empty_room(**parts), T)
    room = empty_room(**parts)
    room.shadows = True
    shaded, _ = rendered(room, T)
    darker = (lit - shaded)[0, 0, 0] > 0.05
    assert darker.any()
    assert not darker.all()
    assert (shaded <= lit + 1e-6).all()
    # What lies between camera and box keeps its light.
    assert not darker[depth[0, 0] < 1.0].any()


def test_painted_panel_covers_its_rectangle_only():
    red = [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    room = empty_room(panels=[[1, -0.3, 0.3, -0.5, 0.5, 7]])  # +x wall
    room.materials[7] = red
    rgb, _ = rendered(room)
    is_red = (rgb[0, 0, 1] == 0) & (rgb[0, 0, 0] > 0)
    assert is_red[10, 10]
    # +-0.3 m at 4 m and 20 px focal length is +-1.5 px; +-0.5 m is +-2.5 px
    assert int(is_red.sum()) == 3 * 5


def textured_room(texture, period, contrast=0.5):
    room = empty_room()
    room.materials[1] = [0.5, 0.5, 0.5, texture, contrast, period, 0.1, 0.2]
    room.lights = [[0.0, 0.0, 1.9, 0.0]]
    return room


@pytest.mark.parametrize(
    "texture", [1.0, 2.0, 3.0, 4.0], ids=["checker", "stripes", "planks", "noise"]
)
def test_patterns_show_when_large_and_fade_to_their_mean_when_finer_than_pixels(texture):
    """A pixel is 0.2 m wide on the wall ahead."""
    wall = (slice(None), slice(None), slice(0, 1), slice(8, 13), slice(2, 19))
    coarse, _ = rendered(textured_room(texture, 3.0))
    fine, _ = rendered(textured_room(texture, 0.3))
    mean = 0.5 * 0.35
    assert coarse[wall].max() - coarse[wall].min() > 0.01
    assert (fine[wall] - mean).abs().max() < 1e-6


def test_contrast_is_peak_to_peak():
    room = textured_room(1.0, 6.0, contrast=0.4)
    rgb, _ = rendered(room)
    wall = rgb[0, 0, 0, 8:13, 2:19]
    assert float(wall.max() / (0.5 * 0.35)) == pytest.approx(1.2, abs=0.01)
    assert float(wall.min() / (0.5 * 0.35)) == pytest.approx(0.8, abs=0.01)


def test_surface_distance_of_known_points():
    room = empty_room(
        spheres=[[2.0, 0.0, 1.0, 0.5]],
        sphere_material=[6],
        sphere_object=[0],
        boxes=[[-2.0, 0, 0.5, 0.5, 0.5, 0.5, 1.0, 0.0]],
        box_material=[6],
        box_object=[1],
    )
    points = torch.tensor([[[2.0, 0.0, 1.0], [2.0, 0.7, 1.0], [-2.0, 0.0, 1.3], [0.0, 2.9, 1.0]]])
    expected = torch.tensor([0.5, 0.2, 0.3, 0.1])
    assert (surface_distance(pack_rooms([room]), points)[0] - expected).abs().max() < 1e-5
