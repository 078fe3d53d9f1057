"""Furnished rooms: pieces stand where furniture stands, and test pieces never train."""

from itertools import combinations

import numpy as np
import pytest
import torch

pytest.importorskip("embreex")

from gld_ros.scenes.furnished.arrange import ROOM_KINDS, furnish
from gld_ros.scenes.furnished.generate import furnished_room, render_furnished
from gld_ros.scenes.furnished.pieces import open_pieces
from gld_ros.scenes.meshes.load import MeshError
from gld_ros.scenes.meshes.paths import ALONG

SIZE_M = (5.0, 4.0, 2.6)


@pytest.fixture(scope="module")
def pieces(furniture_folder):
    return open_pieces(furniture_folder, held_out=False)


def test_training_and_held_out_pieces_are_disjoint_and_cover_every_category(furniture_folder):
    train, held_out = (open_pieces(furniture_folder, h) for h in (False, True))
    assert not {p.name for p in train} & {p.name for p in held_out}
    assert {p.category for p in train} == {p.category for p in held_out}
    assert len(train) + len(held_out) == 18


def test_fronts_are_found_from_shape(pieces):
    by_category = {p.category: p for p in pieces}
    assert by_category["chair"].front == pytest.approx(-np.pi / 2)
    assert by_category["shelf"].front == pytest.approx(0.0)


@pytest.mark.parametrize("kind", list(ROOM_KINDS))
def test_pieces_stay_in_the_room_and_apart(pieces, kind):
    for seed in range(5):
        placed = furnish(np.random.default_rng(seed), SIZE_M, kind, pieces, [])
        bounds = []
        for piece, T in placed:
            low, high = piece.surfaces.moved(T).bounds
            assert (low[:2] >= -np.array(SIZE_M[:2]) / 2 - 1e-3).all()
            assert (high <= np.array([2.5, 2.0, 2.6]) + 1e-3).all()
            assert low[2] >= -1e-3
            bounds.append((low, high))
        for (a, b), (c, d) in combinations(bounds, 2):
            overlap = np.minimum(b, d) - np.maximum(a, c)
            assert overlap.min() < 2e-3


def test_shelves_stand_with_their_backs_to_a_wall(pieces):
    shelves = []
    for seed in range(12):
        placed = furnish(np.random.default_rng(seed), SIZE_M, "office", pieces, [])
        shelves += [(p, T) for p, T in placed if p.category == "shelf"]
    assert len(shelves) > 5
    for piece, T in shelves:
        front = T[:2, :2] @ [np.cos(piece.front), np.sin(piece.front)]
        axis = int(np.argmax(np.abs(front)))
        behind = T[axis, 3] - np.sign(front[axis]) * 0.5 * piece.size_m[0]
        gap = SIZE_M[axis] / 2 - abs(behind)
        assert 0 <= gap < 0.07
        assert np.sign(behind) == -np.sign(front[axis])


def test_a_scene_does_not_depend_on_its_batch(furniture_folder):
    ids = [4, 9]
    both = render_furnished(furniture_folder, ALONG, ids, 2, (14, 28))
    alone = render_furnished(furniture_folder, ALONG, ids[1:], 2, (14, 28))
    torch.testing.assert_close(both["images"][1:], alone["images"], rtol=0, atol=0)
    assert both["scene_id"] == ["furnished/4", "furnished/9"]
    assert float(both["depth_m"].min()) > 0


def test_a_room_of_the_test_split_holds_other_pieces(furniture_folder):
    room = furnished_room(furniture_folder, 500_000_000, "test", 0)
    held_out = open_pieces(furniture_folder, held_out=True)
    textures = {
        i.tobytes() for p in open_pieces(furniture_folder, False) for i in p.surfaces.images
    }
    assert held_out
    assert not any(image.tobytes() in textures for image in room.surfaces.images)


def test_a_folder_without_a_list_is_explained(tmp_path):
    with pytest.raises(MeshError, match=r"furniture.csv \(columns name, file"):
        open_pieces(tmp_path, held_out=False)
    (tmp_path / "furniture.csv").write_text("name,file,category,place\na,a.glb,chair,moon\n")
    with pytest.raises(MeshError, match="place 'moon'"):
        open_pieces(tmp_path, held_out=False)
