"""What is typed for many items becomes items, each with a name of its own for its output."""

from pathlib import Path

import pytest

from gld_ros.batch.inputs import (
    find_bags,
    find_held_out,
    find_recordings,
    output_names,
    source_path,
)


def bag_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "metadata.yaml").touch()
    return path


@pytest.fixture
def recordings(tmp_path, monkeypatch):
    """Two days with a bag of the same name each, a lone file, and what is not a bag."""
    bag_folder(tmp_path / "rec/monday/drive")
    bag_folder(tmp_path / "rec/tuesday/drive")
    (tmp_path / "rec/yard.mcap").touch()
    (tmp_path / "rec/notes.txt").touch()
    bag_folder(tmp_path / "rec/.drive.partial-1/drive")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "rec"


def test_a_folder_stands_for_all_bags_below_it(recordings):
    expected = [str(recordings / name) for name in ("monday/drive", "tuesday/drive", "yard.mcap")]
    assert find_bags(["rec"], Path("out")) == expected


def test_globs_and_lists_give_each_bag_once_in_the_order_given(recordings):
    Path("list.txt").write_text("# the yard first\nrec/yard.mcap\n\nrec/*/drive\n")
    found = find_bags(["@list.txt", "rec/tuesday/drive"], Path("out"))
    assert [Path(bag).relative_to(recordings).as_posix() for bag in found] == [
        "yard.mcap",
        "monday/drive",
        "tuesday/drive",
    ]


def test_what_was_written_is_not_read(recordings):
    bag_folder(recordings / "views/bags/drive")
    assert len(find_bags(["rec"], recordings / "views")) == 3


def test_a_named_bag_that_is_missing_is_left_to_its_run(recordings):
    assert find_bags(["rec/gone"], Path("out")) == [str(recordings / "gone")]


@pytest.mark.parametrize("entry", ["rec/*.db3", "rec/*.txt", "empty"])
def test_an_entry_without_bags_is_refused(recordings, entry):
    Path("empty").mkdir()
    with pytest.raises(ValueError, match="holds no bag; a bag is a folder"):
        find_bags([entry], Path("out"))


def test_equal_names_are_told_apart_by_their_folders(recordings):
    bags = find_bags(["rec"], Path("out"))
    assert list(output_names(bags, {}).values()) == ["monday-drive", "tuesday-drive", "yard"]


def test_names_that_were_given_stay_when_bags_are_added(recordings):
    first, *others = find_bags(["rec"], Path("out"))
    taken = output_names([first], {})
    assert taken == {first: "drive"}
    names = output_names([first, *others, str(recordings / "yard")], taken)
    assert names[first] == "drive"
    assert len(set(names.values())) == 4


@pytest.fixture
def scenes(recordings):
    """Beside the recordings: a scene folder, a store and a mesh."""
    for name in ("scenes/lounge/cameras.json", "scenes/rooms/store.json", "site.glb"):
        (recordings / name).parent.mkdir(parents=True, exist_ok=True)
        (recordings / name).touch()
    return recordings


def test_recordings_are_bags_and_scene_folders(scenes):
    found = find_recordings(["rec/scenes", "rec/yard.mcap"], Path("out"))
    assert found == [str(scenes / "scenes/lounge"), str(scenes / "yard.mcap")]


def test_held_out_scenes_are_also_stores_and_addresses_whose_paths_become_absolute(scenes):
    given = ["rooms:narrow:4", "rec/scenes", "meshes:rec/site.glb:8", "meshes:rec/site.glb?up=y"]
    assert find_held_out(given, Path("out"), ("rooms", "meshes")) == [
        "rooms:narrow:4",
        str(scenes / "scenes/lounge"),
        str(scenes / "scenes/rooms"),
        f"meshes:{scenes}/site.glb:8",
        f"meshes:{scenes}/site.glb?up=y",
    ]


def test_an_address_of_rooms_names_no_file_and_one_of_a_mesh_does(scenes):
    Path("narrow").touch()
    assert source_path("rooms:narrow") is None
    assert source_path(f"meshes:{scenes}/site.glb:8") == scenes / "site.glb"


def test_outputs_of_addresses_are_named_by_their_words():
    names = output_names(["rooms:narrow:4", "rooms:narrow:8"], {})
    assert list(names.values()) == ["rooms-narrow-4", "rooms-narrow-8"]


def test_a_folder_without_scenes_is_refused_with_what_there_can_be(scenes):
    with pytest.raises(ValueError, match="holds no scene; give bags, scene folders"):
        find_held_out(["rec/empty*"], Path("out"), ("rooms",))
