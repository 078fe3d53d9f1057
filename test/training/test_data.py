"""Where training scenes come from: stores, recordings, mixtures, sizes, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gld_ros.scenes.folders import write_scene_folder
from gld_ros.scenes.store import StoreError
from gld_ros.training.config import (
    ConfigError,
    DataConfig,
    OptimizerConfig,
    PartConfig,
    RunConfig,
    load_run_config,
    parse,
    with_recordings,
)
from gld_ros.training.data import BadBatch, open_held_out, open_scenes, size_weights
from gld_ros.training.randomness import sample_generators
from gld_ros.training.view_order import draw_reference_count, draw_view_order, evenly_spaced

from .conftest import SIZE_WH, run_values

CPU = torch.device("cpu")


ROOT = Path(__file__).resolve().parents[2]


def data_config(store, **changes):
    values = run_values(store, "level1")["data"]
    return parse(DataConfig, {**values, **changes}, "data")


def test_a_batch_is_a_function_of_seed_step_and_position(rooms):
    pool = open_scenes(data_config(rooms))
    whole = pool.training_batch(3, 5, 4, range(4), CPU)
    again = open_scenes(data_config(rooms)).training_batch(3, 5, 4, range(2, 4), CPU)
    for name, value in again.items():
        assert torch.equal(value, whole[name][2:])
    other = pool.training_batch(4, 5, 4, range(4), CPU)
    assert not torch.equal(other["images"], whole["images"])
    assert whole["images"].shape == (4, 3, 3, *SIZE_WH[::-1])
    assert 0 <= float(whole["images"].min()) <= float(whole["images"].max()) <= 1


def test_an_epoch_shows_every_scene_once(rooms):
    pool = open_scenes(data_config(rooms))
    for first_step in (0, 3):
        seen = torch.cat(
            [pool.training_batch(0, first_step + i, 2, range(2), CPU)["K_px"] for i in range(3)]
        )
        images = torch.cat(
            [pool.training_batch(0, first_step + i, 2, range(2), CPU)["images"] for i in range(3)]
        )
        assert len(seen) == len(pool) == 6
        assert len({row.numpy().tobytes() for row in images}) == 6


def test_fewer_views_than_stored_are_a_subset_in_order(rooms):
    full = open_scenes(data_config(rooms)).training_batch(0, 0, 1, range(1), CPU)
    part = open_scenes(data_config(rooms, views=2)).training_batch(0, 0, 1, range(1), CPU)
    stored = [v.numpy().tobytes() for v in full["T_world_cam"][0]]
    places = [stored.index(v.numpy().tobytes()) for v in part["T_world_cam"][0]]
    assert places == sorted(places)
    assert len(set(places)) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"paths": []}, "paths of kind 'rooms' is empty"),
        ({"paths": ["/does/not/exist"]}, "does not exist"),
        ({"views": 4}, "data.views is 4, but .* holds 3"),
        (
            {"kind": "video"},
            "data kind 'video' is unknown; use one of rooms, meshes, furnished, folders",
        ),
        ({"sizes_wh": [[30, 28]]}, "multiples of 14"),
        ({"sizes_wh": []}, "sizes_wh is empty"),
        ({"size_weights": [1, 1]}, "one non-negative weight for each"),
        ({"kind": "mix"}, "a mix needs at least one part"),
    ],
)
def test_bad_data_settings_are_refused(rooms, changes, message):
    with pytest.raises(ConfigError, match=message):
        open_scenes(data_config(rooms, **changes))


def test_a_size_that_no_store_has_is_named(rooms):
    pool = open_scenes(data_config(rooms, sizes_wh=[[42, 28]]))
    with pytest.raises(ConfigError, match=r"42x28 .* there are 28x28"):
        pool.training_batch(0, 0, 1, range(1), CPU)


def test_a_smaller_size_is_cut_from_a_larger_store(rooms):
    full = open_scenes(data_config(rooms)).training_batch(0, 0, 4, range(4), CPU)
    small = open_scenes(data_config(rooms, sizes_wh=[[28, 14]])).training_batch(
        0, 0, 4, range(4), CPU
    )
    assert small["images"].shape[-2:] == small["depth_m"].shape[-2:] == (14, 28)
    # The middle rows of 28x28 images, pixel for pixel, and the camera that saw them.
    torch.testing.assert_close(small["images"], full["images"][..., 7:21, :])
    assert torch.equal(small["T_world_cam"], full["T_world_cam"])
    shift = full["K_px"] - small["K_px"]
    assert torch.allclose(shift[..., 1, 2], torch.tensor(7.0))
    assert float(shift.abs().sum()) == pytest.approx(7.0 * shift[..., 1, 2].numel())


def test_stores_that_are_absent_unfinished_or_empty_are_refused(rooms, tmp_path):
    with pytest.raises(StoreError, match="not a scene store"):
        open_scenes(data_config(tmp_path))
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    for path in rooms.iterdir():
        (unfinished / path.name).write_bytes(path.read_bytes())
    description = json.loads((rooms / "store.json").read_text())
    (unfinished / "store.json").write_text(json.dumps({**description, "complete": 4}))
    with pytest.raises(StoreError, match=r"unfinished \(4 of 6 scenes\)"):
        open_scenes(data_config(unfinished))


def test_no_held_out_paths_mean_no_validation(rooms):
    assert open_held_out(data_config(rooms, held_out_paths=[])) is None


def write_recording(path, frames=6, *, depth=True, far=False):
    rng = np.random.default_rng(0)
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, 0, 3] = np.arange(frames) * 0.1 + (1000.0 if far else 0.0)
    images = [rng.integers(0, 255, (30, 40, 3), dtype=np.uint8) for _ in range(frames)]
    K_px = np.array([[30.0, 0, 19.5], [0, 30.0, 14.5], [0, 0, 1]])
    depths = [np.full((30, 40), 2.0, np.float32)] * frames if depth else None
    write_scene_folder(path, images, K_px, poses, depths, metric=True)


def test_recordings_give_samples_of_every_listed_size(tmp_path):
    write_recording(tmp_path / "site")
    config = data_config(tmp_path, kind="folders", sizes_wh=[[28, 28], [42, 28]], held_out_paths=[])
    pool = open_scenes(config)
    assert pool.has_depth
    assert len(pool) == 6
    sizes = {
        tuple(pool.training_batch(0, s, 2, range(2), CPU)["images"].shape[-2:]) for s in range(12)
    }
    assert sizes == {(28, 28), (28, 42)}
    epochs = [pool.training_batch(0, s, 6, range(6), CPU)["T_world_cam"] for s in range(2)]
    assert not torch.equal(*epochs)


def test_reading_ahead_changes_nothing(tmp_path):
    write_recording(tmp_path / "site", depth=False)
    config = data_config(tmp_path, kind="folders", held_out_paths=[])
    ahead, fresh = open_scenes(config), open_scenes(config)
    ahead.training_batch(0, 0, 2, range(2), CPU)
    expected = fresh.training_batch(0, 1, 2, range(2), CPU)
    assert torch.equal(ahead.training_batch(0, 1, 2, range(2), CPU)["images"], expected["images"])
    assert not ahead.has_depth
    assert float(expected["depth_m"].max()) == 0.0


def test_poses_out_of_range_and_unreadable_images_are_counted(tmp_path):
    write_recording(tmp_path / "near")
    write_recording(tmp_path / "far", far=True)
    (tmp_path / "near" / "images" / "000002.png").write_bytes(b"no image")
    pool = open_scenes(data_config(tmp_path, kind="folders", held_out_paths=[]))
    for step in range(4):
        batch = pool.training_batch(0, step, 2, range(2), CPU)
        assert float(batch["T_world_cam"][..., 0, 3].max()) < 10
    assert sum(pool.skipped.values()) > 0


def test_nothing_usable_is_a_bad_batch(tmp_path):
    write_recording(tmp_path / "far", far=True)
    pool = open_scenes(data_config(tmp_path, kind="folders", held_out_paths=[]))
    with pytest.raises(BadBatch, match="no sample of 3 views"):
        pool.training_batch(0, 0, 1, range(1), CPU)


def test_too_short_recordings_are_refused_at_once(tmp_path):
    write_recording(tmp_path / "short", frames=2)
    with pytest.raises(ConfigError, match="samples need 3 frames; the longest recording has 2"):
        open_scenes(data_config(tmp_path, kind="folders", held_out_paths=[]))


def test_a_preprocessed_layout_is_read(tmp_path):
    scene = tmp_path / "scene"
    scene.mkdir()
    for i in range(5):
        pose = np.eye(4)
        pose[0, 3] = 0.1 * i
        Image.fromarray(np.full((30, 40, 3), 40 * i, np.uint8)).save(scene / f"{1000 + i}.png")
        K_px = np.array([[30.0, 0, 19.5], [0, 30.0, 14.5], [0, 0, 1]])
        np.savez(scene / f"{1000 + i}_cam.npz", intrinsics=K_px, pose=pose)
    pool = open_scenes(data_config(tmp_path, kind="re10k", held_out_paths=[], draws=7))
    assert len(pool) == 7
    assert not pool.has_depth
    assert pool.training_batch(0, 0, 2, range(2), CPU)["images"].shape[:2] == (2, 3)


def test_a_mix_keeps_its_shares_and_its_held_out_parts(rooms, tmp_path):
    write_recording(tmp_path / "site", depth=False)
    config = data_config(
        rooms,
        kind="mix",
        paths=[],
        held_out_paths=[],
        parts=[
            {"kind": "rooms", "paths": [str(rooms)], "held_out_paths": [str(rooms)], "draws": 40},
            {"kind": "folders", "paths": [str(tmp_path)], "draws": 2},
        ],
    )
    pool = open_scenes(config)
    assert len(pool) == 42
    assert not pool.has_depth
    batch = torch.cat([pool.training_batch(0, s, 2, range(2), CPU)["depth_m"] for s in range(21)])
    assert int((batch.amax((1, 2, 3)) > 0).sum()) == 40
    held_out = open_held_out(config)
    assert held_out is not None
    assert list(held_out.parts) == ["rooms 0"]
    stored = len(held_out.parts["rooms 0"])
    assert len(held_out) == stored < 40  # shares are of training; held-out scenes count once
    held_out.held_out_batch(range(stored), CPU)


def test_the_first_half_of_the_sizes_counts_double(rooms):
    sizes = [[28, 28], [42, 28], [56, 28]]
    assert size_weights(data_config(rooms, sizes_wh=sizes)) == [2, 1, 1]
    assert size_weights(data_config(rooms, sizes_wh=[*sizes, [70, 28]])) == [2, 2, 1, 1]


def test_reference_views_come_first_and_follow_the_mode():
    generators = sample_generators(0, 0, range(200), "test")
    random = [draw_view_order(6, 2, 0.0, g) for g in generators]
    assert all(sorted(order) == list(range(6)) for order in random)
    assert len({tuple(sorted(order[:2])) for order in random}) == 15
    spread = [draw_view_order(6, 2, 1.0, g) for g in sample_generators(0, 1, range(20), "test")]
    assert {tuple(sorted(order[:2])) for order in spread} == {(0, 5)}
    assert evenly_spaced(8, 4) == [0, 2, 5, 7]
    counts = [draw_reference_count(0, step, (0.25, 0.5, 0.25)) for step in range(400)]
    assert set(counts) == {1, 2, 3}
    assert 150 < counts.count(2) < 250
    assert counts == [draw_reference_count(0, step, (0.25, 0.5, 0.25)) for step in range(400)]


def test_recordings_are_named_on_the_command_line():
    bags = PartConfig("bags", ("site",), ("other day",), draws=20)
    rooms_beside = PartConfig("rooms", ("rooms",), draws=20)
    data = DataConfig("mix", ((112, 84),), parts=(bags, rooms_beside))
    site = RunConfig("level1", 1, 1, data, OptimizerConfig(1e-4))
    config = with_recordings(site, ["a", "b"], ["c"])
    recorded, rooms = config.data.parts
    assert (recorded.paths, recorded.held_out_paths) == (("a", "b"), ("c",))
    assert rooms == site.data.parts[1]
    kept = with_recordings(site, [], ["c"]).data.parts[0]
    assert (kept.paths, kept.held_out_paths) == (site.data.parts[0].paths, ("c",))
    rooms_alone = load_run_config(ROOT / "config/train/tiny/level1.yaml")
    with pytest.raises(ConfigError, match="need one part of recordings in the data; it has 0"):
        with_recordings(rooms_alone, ["a"], [])
    # As the error advises.
    bags_instead = load_run_config(ROOT / "config/train/tiny/level1.yaml", ["data.kind=bags"])
    assert with_recordings(bags_instead, ["a"], ["b"]).data.paths == ("a",)


def test_yaml_settings_and_overrides(tmp_path, rooms):
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(run_values(rooms, "level1")))
    config = load_run_config(path, ["optimizer.learning_rate=3e-4", "data.paths=[a, b]", "seed=3"])
    assert config.optimizer.learning_rate == 3e-4
    assert config.data.paths == ("a", "b")
    for override, message in (
        ("steps", "not of the form name=value"),
        ("steps=many", r"steps must be of type int, got 'many'"),
        ("stepz=3", "unknown field.*stepz.*allowed: stage, steps"),
        ("steps=0", "steps is 0; it must be at least 1"),
        ("seed.x=1", "'seed' is no section"),
        ("distributed=horovod", "use ddp or fsdp"),
        ("steps=[", "not valid YAML"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_run_config(path, ["seed=1", override])
    with pytest.raises(ConfigError, match="cannot read"):
        load_run_config(tmp_path / "absent.yaml")
    path.write_text("stage: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_run_config(path)


def test_the_shipped_configurations_are_valid():
    from pathlib import Path

    paths = sorted((Path(__file__).parents[2] / "config" / "train").rglob("*.yaml"))
    recipes = ("recipe.yaml", "furnished.yaml")  # test/recipes reads those
    stages = [path for path in paths if path.name not in recipes]
    assert len(stages) >= 7
    for path in stages:
        load_run_config(path)
