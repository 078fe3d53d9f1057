"""Stores: written once, completed after a stop, refused when damaged or of other scenes."""

import numpy as np
import pytest

from gld_ros.scenes.rooms import render_rooms, split_ids
from gld_ros.scenes.store import CHUNK, SceneStore, StoreError, write_store

HW = (8, 12)


def draw(positions):
    return render_rooms("narrow", [int(i) for i in positions], 2, HW)


def test_a_store_gives_back_what_was_rendered(tmp_path):
    store = write_store(tmp_path / "s", "rooms narrow", 3, 2, HW, draw)
    assert len(store) == 3
    truth = render_rooms("narrow", split_ids("train", 3), 2, HW)
    stored = store.arrays(2)
    assert np.abs(stored["images"] / 255.0 - truth["images"][2].numpy()).max() <= 0.501 / 255
    assert np.abs(stored["depth_m"] - truth["depth_m"][2].numpy()).max() < 0.004
    np.testing.assert_array_equal(stored["T_world_cam"], truth["T_world_cam"][2].numpy())


def test_a_stopped_store_is_completed_with_the_same_scenes(tmp_path):
    count = CHUNK + 2
    calls = []

    def stop_at_second_chunk(positions):
        calls.append(len(positions))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return draw(positions)

    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path / "s", "rooms", count, 2, HW, stop_at_second_chunk)
    with pytest.raises(StoreError, match=f"{CHUNK} of {count} scenes"):
        SceneStore.open(tmp_path / "s")
    resumed = write_store(tmp_path / "s", "rooms", count, 2, HW, draw)
    straight = write_store(tmp_path / "t", "rooms", count, 2, HW, draw)
    for i in (0, CHUNK - 1, CHUNK, count - 1):
        for name, value in straight.arrays(i).items():
            np.testing.assert_array_equal(resumed.arrays(i)[name], value)


def test_a_store_of_other_scenes_is_not_overwritten(tmp_path):
    write_store(tmp_path / "s", "rooms", 2, 2, HW, draw)
    with pytest.raises(StoreError, match="Choose another folder"):
        write_store(tmp_path / "s", "other rooms", 2, 2, HW, draw)


def test_damage_is_named(tmp_path):
    with pytest.raises(StoreError, match="is not a scene store"):
        SceneStore.open(tmp_path)
    write_store(tmp_path / "s", "rooms", 2, 2, HW, draw)
    np.save(tmp_path / "s" / "K_px.npy", np.zeros((1, 2, 3, 3), np.float32))
    with pytest.raises(StoreError, match="K_px"):
        SceneStore.open(tmp_path / "s")
    (tmp_path / "s" / "store.json").write_text("{")
    with pytest.raises(StoreError, match="is damaged"):
        SceneStore.open(tmp_path / "s")
