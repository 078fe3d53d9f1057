"""Measurements drawn for training: where they land, and what is wrong with them."""

import numpy as np
import pytest
import torch

from gld_ros.measuring.rendering import render_surfaces
from gld_ros.measuring.surfaces import Surface
from gld_ros.scenes.rooms import render_rooms, split_ids
from gld_ros.scenes.visibility import DepthViews
from gld_ros.training.carried_measurements import carry
from gld_ros.training.measured_batch import measured_targets
from gld_ros.training.randomness import sample_generators
from gld_ros.training.spoilt_depth import spoil

HW = (42, 56)


@pytest.fixture(scope="module")
def scenes():
    rendered = render_rooms("look_around", split_ids("train", 4), 4, HW, antialias=1)
    return {name: rendered[name] for name in ("images", "depth_m", "K_px", "T_world_cam")}


def carried(scenes, sources, targets):
    views = DepthViews(*(scenes[k][:, sources] for k in ("depth_m", "K_px", "T_world_cam")))
    cameras = (scenes[name][:, targets] for name in ("K_px", "T_world_cam"))
    return carry(scenes["images"][:, sources], views, *cameras)


def test_a_view_carried_into_itself_is_itself(scenes):
    own = slice(0, 1)
    result = carried(scenes, own, own)
    same = (result.depth_m / scenes["depth_m"][:, own] - 1).abs() < 1e-3
    same &= (result.rgb - scenes["images"][:, own]).abs().amax(2) < 1e-3
    assert float((same & result.covered).float().mean()) > 0.97  # corners of objects are rounded


def test_surfaces_land_where_the_renderer_of_the_robot_puts_them(scenes):
    result = carried(scenes, slice(0, 2), slice(2, 4))
    agree, both, ours, theirs = 0, 0, 0, 0
    for b in range(4):
        surfaces = [
            Surface(
                scenes["images"][b, v].permute(1, 2, 0).mul(255).byte().numpy(),
                scenes["K_px"][b, v].double().numpy(),
                scenes["T_world_cam"][b, v].double().numpy(),
                scenes["depth_m"][b, v].numpy(),
                np.ones(HW, np.float32),
            )
            for v in range(2)
        ]
        for t in range(2):
            K_px, T_world_cam = (scenes[k][b, 2 + t].double() for k in ("K_px", "T_world_cam"))
            rendered = render_surfaces(
                surfaces, K_px.numpy(), T_world_cam.numpy(), HW, through_unseen=True
            )
            known = rendered.covered & result.covered[b, t].numpy()
            depth_m = result.depth_m[b, t].numpy()
            agree += int((np.abs(depth_m / rendered.depth_m - 1)[known] < 0.05).sum())
            both += int(known.sum())
            ours, theirs = ours + int(result.covered[b, t].sum()), theirs + rendered.covered.sum()
    assert both > 0.9 * theirs > 1000
    assert ours < 1.2 * theirs
    assert agree > 0.95 * both


def test_a_share_of_depth_from_none_to_nearly_all_is_kept_and_some_of_it_is_wrong(scenes):
    many = {name: scenes[name][:1].repeat(64, *(1,) * (scenes[name].ndim - 1)) for name in scenes}
    generators = sample_generators(0, 0, range(64), "test")
    images, depth_m = spoil(many["images"], many["depth_m"], generators)
    kept = (depth_m > 0).float().mean((1, 2, 3))
    assert float(kept.min()) < 0.05
    assert float(kept.max()) > 0.75
    assert 0.2 < float(kept.mean()) < 0.6
    off = (depth_m / many["depth_m"] - 1).abs()[depth_m > 0]
    assert 0.01 < float((off > 0.1).float().mean()) < 0.1
    assert float(off.median()) < 0.03
    brightness = images.mean((2, 3, 4)) / many["images"].mean((2, 3, 4))
    assert 0.03 < float(brightness.std()) < 0.15
    assert 0 <= float(images.min()) <= float(images.max()) <= 1


def test_a_scene_is_spoilt_the_same_in_every_batch(scenes):
    def rendered(some):
        batch = {name: value[some] for name, value in scenes.items()}
        return measured_targets(batch, 2, 4, 0.8, sample_generators(0, 3, range(4)[some], "test"))

    together, apart = rendered(slice(0, 4)), rendered(slice(2, 4))
    assert bool(apart.covered.any())
    for name in ("rgb", "depth_m", "covered"):
        assert torch.equal(getattr(together, name)[2:], getattr(apart, name)), name
