"""Mesh worlds: exact geometry, filtered textures, free paths, the same scene every time."""

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("embreex")

from gld_ros.scenes.meshes.generate import (
    MeshWorld,
    drawn_scene,
    open_world,
    render_views,
    render_world,
)
from gld_ros.scenes.meshes.light import Light, Sensor
from gld_ros.scenes.meshes.load import MeshAddress, MeshError, load_surfaces
from gld_ros.scenes.meshes.paths import ALONG, LOOK_AROUND
from gld_ros.scenes.rooms.cameras import camera_to_world, pinhole_from_fov
from gld_ros.scenes.sample import validate_sample

HW = (42, 56)
TEST_ID = 2_000_000_000
ROOM_STYLE = replace(ALONG, materials_seen=2)
PLAIN_LIGHT = Light(
    np.zeros((0, 7), np.float32), np.ones(3, np.float32), np.zeros(3, np.float32), False
)
EXACT = Sensor(np.ones(3, np.float32), 0.0, 0.0, 0)


@pytest.fixture(scope="module")
def world(room_glb):
    return open_world(MeshAddress(room_glb))


def camera(x, y, z, yaw):
    one = np.array([yaw])
    return camera_to_world(np.array([[x, y, z]]), one, 0 * one, 0 * one).astype(np.float32)


def test_depth_is_the_distance_to_the_wall(world):
    K_px = pinhole_from_fov(np.radians(70), HW)[None].astype(np.float32)
    _, depth_m = render_views(world, camera(0.0, 0.0, 1.3, 0.0), K_px, HW, PLAIN_LIGHT, EXACT)
    # The wall x = 3 fills the middle; z-depth of a frontal plane is the same in all its pixels.
    np.testing.assert_allclose(depth_m[0, 12:30, 8:48], 3.0, atol=1e-4)


def test_floor_and_free_space_keep_clear_of_walls_and_furniture(world):
    space = world.space
    assert space.floor_m == pytest.approx(0.0, abs=1e-3)
    places = space.places_xy_m()
    assert np.abs(places[:, 0]).max() < 3.0 - 0.3
    assert np.abs(places[:, 1]).max() < 2.5 - 0.3
    inside_box = (places[:, 0] > -2.9 - 0.25) & (places[:, 0] < -2.2 + 0.25)
    inside_box &= (places[:, 1] > -2.4 - 0.25) & (places[:, 1] < -1.4 + 0.25)
    assert not inside_box.any()
    assert space.area_m2 > 10
    assert space.ceiling_at(np.zeros(2)) == pytest.approx(2.6, abs=1e-3)


def test_scenes_are_valid_and_independent_of_their_batch(world):
    ids = [TEST_ID, TEST_ID + 7]
    both = render_world(world, ROOM_STYLE, ids, 4, HW)
    alone = render_world(world, ROOM_STYLE, ids[1:], 4, HW)
    for i in range(2):
        validate_sample(
            {k: v[i] if torch.is_tensor(v) else v for k, v in both.items()}
            | {"scene_id": both["scene_id"][i]}
        )
    torch.testing.assert_close(both["images"][1:], alone["images"], rtol=0, atol=0)
    assert not torch.equal(both["T_world_cam"][0], both["T_world_cam"][1])
    assert float(both["visible_fraction"].min()) >= 0.3


def test_look_around_hides_part_of_every_target(world):
    style = replace(LOOK_AROUND, materials_seen=2)
    scenes = render_world(world, style, range(TEST_ID, TEST_ID + 4), 4, HW, num_references=2)
    assert scenes["reference_views"] == (0, 1)
    hidden = 1 - scenes["visible_fraction"][:, 2:]
    assert float(hidden.min()) > 0.2


def test_views_agree_about_the_surfaces_they_share(world):
    scenes = render_world(world, ROOM_STYLE, [TEST_ID + 3], 2, HW)
    # The probe accepted it with a large shared part, and full size agrees with the probe.
    assert float(scenes["visible_fraction"][0, 0]) == 1.0
    scene = drawn_scene(world, ROOM_STYLE, TEST_ID + 3)
    places = scene.path.positions(np.linspace(0, 1, 30))[:, :2]
    assert world.space.are_free(places).all()


def test_textures_finer_than_a_pixel_show_their_mean(room_glb):
    surfaces = load_surfaces(MeshAddress(room_glb))
    checker = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    fine = MeshWorld.of("fine", replace(surfaces, images=(checker,) * 4))
    K_px = pinhole_from_fov(np.radians(70), HW)[None].astype(np.float32)
    images, _ = render_views(fine, camera(0.0, 0.0, 1.3, 0.0), K_px, HW, PLAIN_LIGHT, EXACT)
    wall = images[0, 12:30, 8:48]
    assert wall.std() < 0.03
    assert 0.3 < wall.mean() < 0.8


def test_the_winding_of_triangles_does_not_matter(room_glb, world):
    surfaces = load_surfaces(MeshAddress(room_glb))
    flipped = replace(
        surfaces,
        corners=surfaces.corners[:, ::-1].copy(),
        uv=surfaces.uv[:, ::-1].copy(),
        normals=-surfaces.normals[:, ::-1].copy(),
    )
    K_px = pinhole_from_fov(np.radians(70), HW)[None].astype(np.float32)
    pose = camera(0.5, 0.2, 1.0, 2.0)
    ours, _ = render_views(world, pose, K_px, HW, PLAIN_LIGHT, EXACT)
    theirs, _ = render_views(MeshWorld.of("flipped", flipped), pose, K_px, HW, PLAIN_LIGHT, EXACT)
    assert np.abs(ours - theirs).mean() < 1e-3


def test_a_lamp_behind_furniture_throws_a_shadow(world):
    lamp = np.array([[-2.6, -1.9, 2.3, 1, 1, 1, 3.0]], np.float32)
    light = replace(PLAIN_LIGHT, lamps=lamp, ambient=np.zeros(3, np.float32), shadows=True)
    K_px = pinhole_from_fov(np.radians(70), HW)[None].astype(np.float32)
    pose = camera(0.0, 0.5, 1.4, np.radians(225))
    shadowed, _ = render_views(world, pose, K_px, HW, light, EXACT)
    plain, _ = render_views(world, pose, K_px, HW, replace(light, shadows=False), EXACT)
    assert (shadowed <= plain + 1e-5).all()
    assert (plain - shadowed > 0.02).mean() > 0.01


def test_a_world_full_of_holes_is_refused(room_glb, tmp_path):
    trimesh = pytest.importorskip("trimesh")
    scene = trimesh.load_scene(room_glb)
    name = max(scene.geometry, key=lambda n: scene.geometry[n].extents.max())
    shell = scene.geometry[name]
    shell.update_faces(shell.triangles_center[:, 2] < 0.1)  # the floor alone
    scene.export(tmp_path / "open.glb")
    with pytest.raises(MeshError, match="holes or no walls"):
        open_world(MeshAddress(tmp_path / "open.glb"))


def test_a_world_too_low_to_stand_in_asks_for_its_up_axis_and_unit(room_glb, tmp_path):
    trimesh = pytest.importorskip("trimesh")
    scene = trimesh.load_scene(room_glb)
    scene.apply_transform(np.diag([1.0, 1.0, 0.4, 1.0]))  # a ceiling at 1.04 m: only the roof
    scene.export(tmp_path / "low.glb")
    with pytest.raises(MeshError, match=r"\?up=y or \?scale="):
        open_world(MeshAddress(tmp_path / "low.glb"))
