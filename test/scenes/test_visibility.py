"""Visibility by depth reprojection, against rays cast through the true room."""

import pytest
import torch

from gld_ros.scenes.rooms import DOMAINS, render_rooms, room_of, split_ids
from gld_ros.scenes.rooms.packed import pack_rooms
from gld_ros.scenes.rooms.raycast import cast_rays
from gld_ros.scenes.visibility import DepthViews, visible_fraction, visible_from

HW = (42, 56)


def views_of(batch, index, views):
    rows = slice(index, index + 1)
    return DepthViews(
        batch["depth_m"][rows, views], batch["K_px"][rows, views], batch["T_world_cam"][rows, views]
    )


def truly_visible(domain, scene_id, target, reference):
    """Ray-traced: the point of every target pixel is the first surface from the reference."""
    height, width = target.depth_m.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack((x, y, torch.ones_like(x)), -1).reshape(-1, 3).float()
    T, K = target.T_world_cam[0, 0], target.K_px[0, 0]
    camera = (pixels @ torch.linalg.inv(K).T) * target.depth_m[0, 0].reshape(-1, 1)
    points = camera @ T[:3, :3].T + T[:3, 3]
    T_ref, K_ref = reference.T_world_cam[0, 0], reference.K_px[0, 0]
    seen = (points - T_ref[:3, 3]) @ T_ref[:3, :3]
    uv = (seen / seen[:, 2:]) @ K_ref.T
    inside = (seen[:, 2] > 0) & (uv[:, :2] > -0.5).all(1)
    inside &= (uv[:, 0] < width - 0.5) & (uv[:, 1] < height - 0.5)
    towards = points - T_ref[:3, 3]
    origin = tuple(T_ref[i, 3].reshape(1, 1, 1) for i in range(3))
    direction = tuple(towards[:, i].reshape(1, 1, -1) for i in range(3))
    packed = pack_rooms([room_of(DOMAINS[domain], scene_id)])
    first = cast_rays(packed, origin, direction).depth_m.flatten()
    return (inside & (first > 0.999)).reshape(height, width)


@pytest.mark.parametrize("domain", ["narrow", "wide", "look_around"])
def test_agrees_with_ray_traced_truth_away_from_edges(domain):
    ids = split_ids("test", 3)
    batch = render_rooms(domain, ids, 4, HW)
    agreeing, counted = 0, 0
    for index, scene_id in enumerate(ids):
        reference, target = views_of(batch, index, [0]), views_of(batch, index, [2])
        found = visible_from(reference, target)[0, 0]
        true = truly_visible(domain, scene_id, target, reference)
        # A border between visible and hidden is known to a pixel of the reference only.
        spread = torch.nn.functional.max_pool2d(true[None, None].float(), 5, 1, 2)[0, 0]
        shrunk = -torch.nn.functional.max_pool2d(-true[None, None].float(), 5, 1, 2)[0, 0]
        clear = spread == shrunk
        agreeing += int((found == true)[clear].sum())
        counted += int(clear.sum())
    assert agreeing / counted >= 0.99


def test_a_view_sees_all_of_itself():
    batch = render_rooms("medium", split_ids("test", 2), 2, HW)
    own = DepthViews(batch["depth_m"][:, :1], batch["K_px"][:, :1], batch["T_world_cam"][:, :1])
    assert visible_from(own, own).all()


def test_more_references_never_hide_anything():
    batch = render_rooms("wide", split_ids("test", 1), 4, HW)
    target = views_of(batch, 0, [2])
    one = visible_from(views_of(batch, 0, [0]), target)
    two = visible_from(views_of(batch, 0, [0, 3]), target)
    assert (two | ~one).all()


def test_unknown_depth_is_never_visible_and_does_not_count():
    batch = render_rooms("narrow", split_ids("test", 1), 2, HW)
    views = views_of(batch, 0, [0])
    holes = DepthViews(views.depth_m.clone(), views.K_px, views.T_world_cam)
    holes.depth_m[..., :10, :] = 0.0
    visible = visible_from(views, holes)
    assert not visible[..., :10, :].any()
    assert visible[..., 10:, :].all()
    assert float(visible_fraction(visible, holes.depth_m)) == 1.0
    # A reference that knows nothing shows nothing.
    blind = DepthViews(torch.zeros_like(views.depth_m), views.K_px, views.T_world_cam)
    assert not visible_from(blind, views).any()


def test_a_camera_that_looks_away_sees_nothing():
    batch = render_rooms("narrow", split_ids("test", 1), 2, HW)
    views = views_of(batch, 0, [0])
    turned = views.T_world_cam.clone()
    turned[..., :3, 0] *= -1
    turned[..., :3, 2] *= -1
    away = DepthViews(views.depth_m, views.K_px, turned)
    assert not visible_from(away, views).any()


def test_scenes_must_match():
    batch = render_rooms("narrow", split_ids("test", 2), 2, HW)
    both = DepthViews(batch["depth_m"], batch["K_px"], batch["T_world_cam"])
    with pytest.raises(ValueError, match="references hold 2 scenes, target 1"):
        visible_from(both, views_of(batch, 0, [0]))
