"""What is typed for many bags becomes bags, each with a name of its own for its output."""

from pathlib import Path

import pytest

from gld_ros.batch.inputs import find_bags, output_names


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
    expected = [recordings / name for name in ("monday/drive", "tuesday/drive", "yard.mcap")]
    assert find_bags(["rec"], Path("out")) == expected


def test_globs_and_lists_give_each_bag_once_in_the_order_given(recordings):
    Path("list.txt").write_text("# the yard first\nrec/yard.mcap\n\nrec/*/drive\n")
    found = find_bags(["@list.txt", "rec/tuesday/drive"], Path("out"))
    assert [bag.relative_to(recordings).as_posix() for bag in found] == [
        "yard.mcap",
        "monday/drive",
        "tuesday/drive",
    ]


def test_what_was_written_is_not_read(recordings):
    bag_folder(recordings / "views/bags/drive")
    assert len(find_bags(["rec"], recordings / "views")) == 3


def test_a_named_bag_that_is_missing_is_left_to_its_run(recordings):
    assert find_bags(["rec/gone"], Path("out")) == [recordings / "gone"]


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
    names = output_names([first, *others, recordings / "yard"], taken)
    assert names[first] == "drive"
    assert len(set(names.values())) == 4
