"""`gld-ros bags` and `gld-ros bag`: the same bytes, resumed, judged and reported."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

from gld_ros.bags.reader import BagReader
from gld_ros.batch.bag_summary import bag_batch
from gld_ros.batch.manifest import manifest_lock
from gld_ros.batch.table import table_columns
from gld_ros.cli.main import main
from gld_ros.scenes.tour_bag import first_room_with_tour, write_tour_bag

OPTIONS = ["--every", "4", "--threads", "1"]
for setting in (
    "policy.yaw_offsets=[0.2]",
    "keyframes.min_interval=0.0",
    "keyframes.max_angular_velocity=100.0",
):
    OPTIONS += ["--set", setting]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    """A bag of six images on a tour through a room."""
    path = tmp_path_factory.mktemp("tour") / "good"
    room = first_room_with_tour("narrow")
    write_tour_bag(path, "narrow", room, image_hw=(42, 56), seconds=6.0, rate_hz=1.0)
    return path


@pytest.fixture
def recordings(tour, tmp_path, monkeypatch):
    """A folder with a good bag and one that was cut off."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tour, tmp_path / "rec/good")
    shutil.copytree(tour, tmp_path / "rec/cut")
    stored = next((tmp_path / "rec/cut").glob("*.mcap"))
    stored.write_bytes(stored.read_bytes()[:2000])
    return tmp_path / "rec"


def bags(*arguments):
    return main(["bags", "rec", "--out", "views", "--workers", "0", *OPTIONS, *arguments])


def rows():
    with Path("views/summary.csv").open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_bad_bag_stays_alone_and_the_good_one_has_the_bytes_of_the_single_command(
    recordings, tmp_path, capsys
):
    assert bags() == 1
    printed = capsys.readouterr()
    assert "cut: PROBLEM: bag" in printed.out
    assert "1 of 2 bags without a problem" in printed.out
    assert printed.err == ""  # no bar where nobody watches
    assert main(["bag", "rec/good", "single/good", *OPTIONS]) == 0
    assert files_of(tmp_path / "single/good") == files_of(tmp_path / "views/bags/good")
    assert not (tmp_path / "views/bags/cut").exists()

    table = rows()
    assert table["good"]["status"] == "done"
    assert int(table["good"]["jobs"]) > 0
    assert table["good"]["problem"] == ""
    assert table["cut"]["status"] == "failed"
    assert "cut" in table["cut"]["problem"]
    page = (tmp_path / "views/index.html").read_text()
    assert page.index("<h2>cut</h2>") < page.index("<h2>good</h2>")
    assert page.count('src="data:image/jpeg;base64,') == 1
    assert "http" not in page  # it needs no other file


def test_the_same_command_goes_on_and_changes_are_seen(recordings, tour, tmp_path, capsys):
    assert bags("--fail-on", "all") == 0
    stored = next((tmp_path / "views/bags/good").glob("*.mcap"))
    written_ns = stored.stat().st_mtime_ns

    # The bad bag is mended; the good one is left alone.
    shutil.rmtree(recordings / "cut")
    shutil.copytree(tour, recordings / "cut")
    capsys.readouterr()
    assert bags() == 0
    assert "2 bags, 1 done already, 1 to run" in capsys.readouterr().out
    assert stored.stat().st_mtime_ns == written_ns

    # Other options are refused by name, until they are wanted for all.
    assert bags("--set", "sampler.seed=5") == 1
    assert "sampler.seed was -1 and is 5" in capsys.readouterr().err
    assert stored.stat().st_mtime_ns == written_ns

    # A changed bag is run again, and only that.
    next((recordings / "good").glob("*.mcap")).touch()
    assert bags() == 0
    printed = capsys.readouterr().out
    assert "good has changed since it was run" in printed
    assert "1 to run" in printed
    assert stored.stat().st_mtime_ns > written_ns


def test_the_exit_status_follows_the_policy(recordings, capsys):
    assert bags("--fail-on", "none") == 0
    metric = ["--set", "scale.mode=none", "--again", "--require-metric"]
    assert bags(*metric, "--fail-on", "all") == 1
    printed = capsys.readouterr().out
    assert "0 of 2 bags without a problem" in printed
    assert "jobs metric: scale.mode is none: colour only" in printed
    assert int(rows()["good"]["withheld_jobs"]) > 0


def test_an_output_that_nobody_recorded_is_not_overwritten(recordings, tmp_path, capsys):
    (tmp_path / "views/bags/good").mkdir(parents=True)
    assert bags() == 1
    assert "bags/good is in the way" in capsys.readouterr().err
    assert not list((tmp_path / "views/bags/good").iterdir())


def test_a_folder_that_another_run_writes_is_refused(recordings, tmp_path, capsys):
    with manifest_lock(tmp_path / "views"):
        assert bags() == 1
    assert f"another run writes {tmp_path / 'views'} now; wait for it" in capsys.readouterr().err
    assert not (tmp_path / "views/manifest.json").exists()
    assert bags("--fail-on", "all") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--every", "0"], "--every is 0; at least 1"),
        (["--workers", "-1"], "--workers is -1; at least 0"),
        (["--address", "auto", "--workers", "0"], "--address names a cluster"),
        (["--bundle", "no-such"], "no-such"),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(recordings, capsys, arguments, message):
    assert bags(*arguments) == 1
    assert message in capsys.readouterr().err


def test_without_ray_bags_run_here_and_workers_are_refused(recordings, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    command = ["bags", "rec/good", "--out", "views", *OPTIONS]
    assert main([*command, "--workers", "2"]) == 1
    assert "pip install ray pyarrow), and --workers" in capsys.readouterr().err
    assert main(command) == 0
    assert "bags run in this process, one after the other" in capsys.readouterr().out


def test_one_bag_tells_what_was_withheld_and_why(tour, tmp_path, capsys):
    command = ["bag", str(tour), str(tmp_path / "views"), *OPTIONS]
    command += ["--set", "scale.mode=none", "--require-metric"]
    assert main(command) == 1
    printed = capsys.readouterr()
    assert "0 of 2 jobs metric; depth and clouds of 2 withheld" in printed.out
    assert "2 times: scale.mode is none: colour only" in printed.out
    assert "none of 2 jobs is metric" in printed.err


def test_the_summary_of_one_bag_as_json(tour, tmp_path, capsys):
    assert main(["bag", str(tour), str(tmp_path / "views"), "--json", *OPTIONS]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["images"] == 6
    assert document["jobs"] == 2  # of the second and the sixth keyframe
    assert document["without_job"][0]["count"] == 1
    with BagReader(tmp_path / "views") as bag:
        assert bag.topics["/gld/predicted/color/image"].num_messages == document["views"]


def test_the_table_of_many_bags_as_json(recordings, capsys):
    assert bags("--json") == 1
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["out"] == str(Path("views").absolute())
    assert "1 of 2 bags without a problem" in printed.err
    found = {row["name"]: row for row in document["bags"]}
    for name, row in rows().items():
        assert found[name]["status"] == row["status"]
        assert found[name]["problem"] == row["problem"]
        assert found[name]["jobs"] == (int(row["jobs"]) if row["jobs"] else None)
    assert found["good"]["notes"] == rows()["good"]["notes"].split("; ")


def test_parquet_holds_the_rows_of_the_table_with_types_and_meanings(recordings):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert bags("--fail-on", "none") == 0
    stored = parquet.read_table("views/summary.parquet")
    documented = [(name, kind) for name, kind, _ in table_columns(bag_batch())]
    found = [(f.name, str(f.type).replace("element: ", "")) for f in stored.schema]
    assert found == documented
    assert all(field.metadata[b"description"] for field in stored.schema)
    table = rows()
    for row in stored.to_pylist():
        text = table[row["name"]]
        assert row["status"] == text["status"]
        assert str(row["jobs"] if row["jobs"] is not None else "") == text["jobs"]
        assert "; ".join(row["notes"]) == text["notes"]
    assert stored.num_rows == 2


def test_every_column_of_the_table_is_documented():
    text = (Path(__file__).resolve().parents[2] / "docs/bags.md").read_text()
    columns = table_columns(bag_batch())
    assert [c for c in columns if f"| `{c[0]}` | {c[1]} | {c[2]} |" not in text] == []


def test_without_pyarrow_the_table_is_csv_alone(recordings, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["bags", "rec/cut", "--out", "views", *OPTIONS]) == 1
    assert "no Parquet without pyarrow: pip install ray pyarrow" in capsys.readouterr().out
    assert not Path("views/summary.parquet").exists()


def test_depth_alone_is_no_problem_and_has_its_image(recordings):
    command = ["bags", "rec/good", "--out", "views", "--mode", "depth", "--workers", "0"]
    assert main([*command, "--threads", "1"]) == 0
    row = rows()["good"]
    assert (int(row["depth_images"]), int(row["views"])) == (6, 0)
    assert "data:image/jpeg;base64," in Path("views/index.html").read_text()
