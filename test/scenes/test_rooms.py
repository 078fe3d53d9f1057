"""Procedural rooms: reproducible, geometrically exact, accepted as their domain promises."""

import itertools

import numpy as np
import pytest
import torch

from gld_ros.scenes.rooms import (
    DOMAINS,
    SPLIT_IDS,
    render_room_views,
    render_rooms,
    room_of,
    room_surface_distance,
    split_ids,
    split_of,
)
from gld_ros.scenes.sample import validate_sample

SMALL_HW = (24, 32)
ALL_DOMAINS = sorted(DOMAINS)


def one_of(batch, index):
    sample = {k: v[index] if torch.is_tensor(v) else v for k, v in batch.items()}
    sample["scene_id"] = batch["scene_id"][index]
    return sample


def world_points(sample):
    """Points (V, H * W, 3) of every pixel, by the textbook."""
    views, height, width = sample["depth_m"].shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack((x, y, torch.ones_like(x)), -1).reshape(-1, 3).float()
    points = []
    for v in range(views):
        rays = pixels @ torch.linalg.inv(sample["K_px"][v]).T
        camera = rays * sample["depth_m"][v].reshape(-1, 1)
        T = sample["T_world_cam"][v]
        points.append(camera @ T[:3, :3].T + T[:3, 3])
    return torch.stack(points)


def test_no_scene_id_belongs_to_two_splits():
    ranges = sorted(SPLIT_IDS.values(), key=lambda ids: ids.start)
    for earlier, later in itertools.pairwise(ranges):
        assert earlier.stop <= later.start
    for split, ids in SPLIT_IDS.items():
        assert split_of(ids.start) == split
        assert split_of(ids.stop - 1) == split


def test_ids_outside_their_split_are_refused():
    with pytest.raises(ValueError, match="belongs to no split"):
        split_of(-1)
    with pytest.raises(ValueError, match="has 100000"):
        split_ids("demo", 2, 99_999)
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        split_ids("dev", 1)


@pytest.mark.parametrize("domain", ["narrow", "wide", "look_around_wide"])
def test_a_scene_does_not_depend_on_the_batch_it_is_rendered_in(domain):
    ids = split_ids("test", 3)
    together = render_rooms(domain, ids, 3, SMALL_HW)
    alone = render_rooms(domain, [ids[1]], 3, SMALL_HW)
    for name in ("images", "depth_m", "K_px", "T_world_cam", "visible_fraction"):
        assert torch.equal(together[name][1], alone[name][0]), name


def test_a_scene_does_not_depend_on_number_or_size_of_its_images():
    ids = split_ids("test", 1)
    few = render_rooms("narrow", ids, 2, SMALL_HW)
    many = render_rooms("narrow", ids, 5, (48, 64))
    assert torch.equal(few["T_world_cam"][0], many["T_world_cam"][0, [0, 4]])
    # The middle of a 2 x 2 block of the large image is the pixel centre of the small one.
    fine = 1 / many["depth_m"][0, 0]
    coarse = (fine[0::2, 0::2] + fine[1::2, 0::2] + fine[0::2, 1::2] + fine[1::2, 1::2]) / 4
    difference = (1 / few["depth_m"][0, 0] - coarse).abs()
    assert difference.median() < 1e-4


def test_scenes_of_different_ids_and_domains_differ():
    first, second = (render_rooms("narrow", [i], 1, SMALL_HW)["images"] for i in (5, 6))
    other = render_rooms("medium", [5], 1, SMALL_HW)["images"]
    assert (first - second).abs().mean() > 0.02
    assert (first - other).abs().mean() > 0.02


@pytest.mark.parametrize("domain", ALL_DOMAINS)
def test_every_pixel_lies_on_a_true_surface(domain):
    ids = split_ids("test", 2, first=10)
    batch = render_rooms(domain, ids, 2, SMALL_HW)
    for index, scene_id in enumerate(ids):
        points = world_points(one_of(batch, index)).reshape(-1, 3)
        assert room_surface_distance(scene_id, points, domain).max() < 1e-4


@pytest.mark.parametrize("domain", ALL_DOMAINS)
def test_rendered_scenes_are_valid_samples_within_the_promises_of_their_domain(domain):
    config = DOMAINS[domain]
    batch = render_rooms(domain, split_ids("test", 4, first=20), 4, SMALL_HW)
    for index in range(4):
        validate_sample(one_of(batch, index))
    mean_depth = batch["depth_m"].mean((2, 3))
    assert mean_depth.min() > 0.9 * config.mean_depth_m[0]
    assert mean_depth.max() < 1.1 * config.mean_depth_m[1]
    targets = [v for v in range(4) if v not in batch["reference_views"]]
    fraction = batch["visible_fraction"][:, targets]
    if config.reference_target_split is None:
        assert fraction.min() > config.target_visible[0] - 0.05
    else:
        assert fraction.max() <= 0.75


def test_cameras_keep_their_distance_from_every_surface():
    for domain in ("narrow", "look_around"):
        for scene_id in split_ids("test", 3, first=40):
            path = room_of(DOMAINS[domain], scene_id).path
            centres = torch.from_numpy(path.positions(np.linspace(0, 1, 30)))
            distance = room_surface_distance(scene_id, centres, domain)
            assert distance.min() > 0.23


def test_imagination_targets_hide_a_quarter_at_any_size_and_number_of_references():
    ids = split_ids("test", 3, first=60)
    for image_hw, views, references in (((42, 56), 4, 1), ((84, 112), 4, 2), ((24, 32), 6, 3)):
        batch = render_rooms("look_around", ids, views, image_hw, num_references=references)
        assert batch["reference_views"] == tuple(range(references))
        assert batch["visible_fraction"][:, references:].max() <= 0.75


def test_any_camera_sees_the_same_room_as_the_scene_itself():
    scene_id = SPLIT_IDS["test"].start
    batch = render_rooms("wide", [scene_id], 2, SMALL_HW)
    truth = render_room_views(scene_id, "wide", batch["T_world_cam"][0], batch["K_px"][0], SMALL_HW)
    assert torch.equal(truth["images"], batch["images"][0])
    assert torch.equal(truth["depth_m"], batch["depth_m"][0])


def test_depth_does_not_change_with_antialiasing_but_edges_do():
    ids = split_ids("test", 1)
    plain = render_rooms("narrow", ids, 1, SMALL_HW, antialias=1)
    smooth = render_rooms("narrow", ids, 1, SMALL_HW, antialias=2)
    assert torch.equal(plain["depth_m"], smooth["depth_m"])
    changed = (plain["images"] != smooth["images"]).any(dim=2).float().mean()
    assert 0.02 < changed < 0.7


def test_antialiasing_comes_closer_to_many_rays_per_pixel():
    """An 8 times larger image, averaged, is the image of 64 rays per pixel."""
    scene_id = SPLIT_IDS["test"].start
    batch = render_rooms("narrow", [scene_id], 1, SMALL_HW, antialias=1)
    T_world_cam, K_px = batch["T_world_cam"][0], batch["K_px"][0]
    factor = 8
    K_large = K_px.clone()
    K_large[:, :2] *= factor
    K_large[:, :2, 2] += 0.5 * (factor - 1)
    large_hw = (SMALL_HW[0] * factor, SMALL_HW[1] * factor)
    large = render_room_views(scene_id, "narrow", T_world_cam, K_large, large_hw, antialias=1)
    truth = torch.nn.functional.avg_pool2d(large["images"], factor)
    errors = [
        (
            render_room_views(scene_id, "narrow", T_world_cam, K_px, SMALL_HW, antialias=a)[
                "images"
            ]
            - truth
        )
        .square()
        .mean()
        for a in (1, 2, 4)
    ]
    assert errors[1] < 0.5 * errors[0]
    assert errors[2] < errors[1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares CPU with CUDA; no CUDA here")
@pytest.mark.parametrize("domain", ALL_DOMAINS)
def test_gpu_renders_what_cpu_renders(domain):
    ids = split_ids("test", 2)
    cpu = render_rooms(domain, ids, 2, SMALL_HW)
    gpu = render_rooms(domain, ids, 2, SMALL_HW, device="cuda")
    assert (cpu["depth_m"] - gpu["depth_m"].cpu()).abs().median() < 1e-5
    assert (cpu["images"] - gpu["images"].cpu()).abs().mean() < 1e-3


def test_bad_requests_say_what_is_wrong():
    good = {"domain": "narrow", "ids": [1], "num_views": 2, "image_hw": (8, 8)}
    for change, message in (
        ({"domain": "palace"}, "unknown domain 'palace'"),
        ({"ids": []}, "no scene ids"),
        ({"ids": [-3]}, "belongs to no split"),
        ({"num_views": 0}, "num_views is 0"),
        ({"image_hw": (0, 8)}, "at least 1 pixel"),
        ({"antialias": 0}, "antialias is 0"),
        ({"domain": "look_around", "num_references": 2}, "use 1 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            render_rooms(**{**good, **change})
