"""`gld-ros train bundle`: from nothing to a bundle that opens, killed anywhere, never mixed."""

import json
import shutil
from pathlib import Path

import pytest

from gld_ros.cli.main import main
from gld_ros.evaluation import run as evaluation_run
from gld_ros.pipeline import NovelViewPipeline
from gld_ros.recipes import steps as steps_module
from gld_ros.recipes.bundle_recipe import bundle_chain, load_recipe
from gld_ros.recipes.chain import ChainError, StepWatch, read_records
from gld_ros.training.config import ConfigError
from gld_ros.training.environment import ALLOCATOR_ENVIRONMENT
from gld_ros.weights.bundle import Bundle
from gld_ros.weights.verify import verify_bundle

from .conftest import CPU, make_bundle, small_and_quiet, write_drive, write_recipe


class Killed(BaseException):
    """What a kill looks like from inside: nothing catches it."""


@pytest.fixture(scope="module")
def straight(tmp_path_factory, recipe):
    """The folder of an uninterrupted run."""
    with small_and_quiet():
        folder = tmp_path_factory.mktemp("run") / "micro"
        assert make_bundle(recipe, folder)
    return folder


def weights(folder):
    """Bytes of every file of the finished bundle but the card, which tells times."""
    files = (folder / "bundle").iterdir()
    return {file.name: file.read_bytes() for file in files if file.suffix != ".md"}


def test_from_nothing_to_a_bundle_that_opens(straight):
    bundle = Bundle.open(straight / "bundle")
    assert bundle.config.name == "micro"
    assert bundle.config.imagines
    assert not bundle.config.random_weights
    assert bundle.config.origin == "trained from nothing on rooms narrow (gld-ros train bundle)"
    assert not [check for check in verify_bundle(bundle.folder) if check.problem]
    assert {record.dtype for record in bundle.config.files.values()} == {"float16", "float32"}
    NovelViewPipeline.from_pretrained(bundle.folder)
    records = read_records(straight)
    assert all(record.finished for record in records.values())
    assert records["encoder"].done == 4


def test_the_card_says_what_was_done_and_measured(straight):
    text = (straight / "bundle" / "model_card.md").read_text()
    report = json.loads((straight / "evaluation" / "rooms.json").read_text())
    psnr = report["views"]["generated"]["psnr"]["mean"]
    assert f"| generated | {psnr:.1f} |" in text
    assert "| narrow | rooms:narrow | 6 | training | Apache-2.0 |" in text
    assert "| watched | rooms:narrow | 2 | validation | Apache-2.0 |" in text
    assert "furnished" not in text
    assert "| level1 | level1 | 28x28 | 4 x 2 |" in text
    assert "gld-ros eval --bundle" in text


def test_a_finished_chain_does_nothing_more(straight, recipe, monkeypatch):
    monkeypatch.setattr(steps_module, "write_store", None)
    monkeypatch.setattr(steps_module, "train", None)
    assert make_bundle(recipe, straight)


def test_killed_between_and_inside_steps_it_ends_with_the_same_bytes(
    tmp_path, recipe, straight, monkeypatch
):
    folder = tmp_path / "micro"
    write_store, train = steps_module.write_store, steps_module.train
    kills = []

    def killing(name, where):
        """The hook of a step, which dies once when it is told `where`."""

        def hook(go_on):
            def told(count):
                if (name, count) == where and where not in kills:
                    kills.append(where)
                    raise Killed
                go_on(count)

            return told

        return hook

    for where in (("narrow", 4), ("watched", 2), ("encoder", 3), ("level1", 1), ("level1", 4)):
        with monkeypatch.context() as patch:

            def store(out, *args, after_chunk, where=where, **kwargs):
                told = killing(out.name, where)(after_chunk)
                return write_store(out, *args, after_chunk=told, **kwargs)

            def stage(made, config, *args, after_step, where=where, **kwargs):
                told = killing(config.stage, where)(after_step)
                return train(made, config, *args, after_step=told, **kwargs)

            patch.setattr(steps_module, "write_store", store)
            patch.setattr(steps_module, "train", stage)
            with pytest.raises(Killed):
                make_bundle(recipe, folder)
    with monkeypatch.context() as patch:
        patch.setattr(evaluation_run, "collate", lambda *args: kill())
        with pytest.raises(Killed):
            make_bundle(recipe, folder)
    assert make_bundle(recipe, folder)
    assert len(kills) == 5
    assert weights(folder) == weights(straight)
    for name in ("encoder", "level1"):
        assert read_records(folder)[name].done == 4


def kill():
    raise Killed


def test_in_pieces_of_one_unit_it_ends_with_the_same_bytes(tmp_path, recipe, straight, monkeypatch):
    monkeypatch.setattr(StepWatch, "must_stop", property(lambda self: True))
    monkeypatch.setattr(StepWatch, "minutes_left", property(lambda self: 0.0))
    folder, done = tmp_path / "micro", []
    while not make_bundle(recipe, folder):
        done.append(sum(record.done for record in read_records(folder).values()))
    assert len(done) >= 11  # 3 chunks, 3 stages of 4 steps, and what cannot be cut
    assert done == sorted(set(done))
    assert weights(folder) == weights(straight)


def test_a_changed_recipe_is_refused_by_field(straight, recipe):
    for override, message in (
        ("stages.level1.settings.steps=5", r"stages\.level1\.steps \(4 there, 5 here\)"),
        ("stores.narrow.count=7", r"stores\.narrow\.count \(6 there, 7 here\)"),
        ("stages.encoder.settings.optimizer.learning_rate=0.5", r"optimizer\.learning_rate"),
        ("evaluations.rooms.seeds=2", r"evaluations\.rooms\.seeds"),
        ("dtype=float32", r"dtype \('float16' there, 'float32' here\)"),
    ):
        with pytest.raises(ChainError, match=message):
            make_bundle(recipe, straight, [override])
    with pytest.raises(ChainError, match=r"stores\.furnished\.scenes"):
        make_bundle(recipe, straight, ["stores.furnished.scenes=rooms:wide"])


def test_times_of_another_machine_are_no_part_of_a_recipe(straight, recipe, monkeypatch):
    monkeypatch.setattr(steps_module, "train", None)
    assert make_bundle(recipe, straight, ["stages.encoder.minutes=77", "measured_on=a laptop"])


def test_a_changed_step_no_longer_takes_the_time_it_took_elsewhere(tmp_path, recipe):
    def minutes(*overrides):
        chain = bundle_chain(recipe, overrides, tmp_path / "run", CPU)
        return {step.name: step.minutes_elsewhere for step in chain.steps}

    assert minutes()["encoder"] == 2.0
    changed = minutes("stages.encoder.settings.steps=9", "stores.narrow.minutes=5.0")
    assert (changed["encoder"], changed["stores/narrow"]) == (None, 5.0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stores.narrow.scenes=rooms:nowhere", r"stores\.narrow: .*nowhere"),
        ("stores.furnished.scenes=furnished:no/folder", r"stores\.furnished: no/folder does not"),
        ("stores.watched.split=others", r"stores\.watched: unknown split 'others'"),
        ("stores.narrow.scenes=", "nothing to learn from"),
        ("stages.level1.config=other.yaml", r"other\.yaml"),
        ("stages.level1.settings.data.sizes_wh=[[42, 42]]", "larger than the stored images"),
        ("stages.level1.settings.data.views=4", r"data\.views is 4; stored scenes have 3"),
        ("stages.stores.config=level1.yaml", "'stores' cannot be the name"),
        ("dtype=int8", "use one of"),
        ("epochs=3", r"unknown field\(s\) 'epochs'"),
        ("evaluations.rooms.data=rooms:nowhere:3", "nowhere"),
        (
            "stores.narrow.scenes=meshes:{site}/a.glb",
            r"stores\.narrow\.scenes names the place {site}",
        ),
        ("evaluations.rooms.data=meshes:{site}/a.glb", r"evaluations\.rooms\.data names the place"),
        ("stores.narrow.scenes=recordings:no/bag", r"stores\.narrow: no/bag does not exist"),
        ("start=no/bundle", "no/bundle"),
    ],
)
def test_a_recipe_that_cannot_be_made_is_refused_before_anything_is_begun(
    tmp_path, recipe, override, message
):
    with pytest.raises(ValueError, match=message):
        make_bundle(recipe, tmp_path / "run", [override])
    assert not (tmp_path / "run").exists()


SHIPPED = Path(__file__).parents[2] / "config" / "train" / "tiny"


@pytest.mark.parametrize("recipe_file", ["recipe.yaml", "furnished.yaml"])
def test_the_shipped_recipes_can_be_made(tmp_path, recipe_file):
    chain = bundle_chain(SHIPPED / recipe_file, [], tmp_path / "run", CPU)
    names = [step.name for step in chain.steps]
    assert names[:3] == ["stores/narrow", "stores/look_around", "stores/watched"]
    assert [name for name in names if "/" not in name] == [
        "encoder_small",
        "encoder",
        "statistics",
        "decoder",
        "level1_small",
        "level1",
        "bundle",
        "card",
    ]
    assert "store hospital_hidden is left out" in "\n".join(chain.notes)


def test_recordings_are_a_store_and_places_and_shares_are_set_once(tmp_path, straight):
    """Two recordings below one folder, mixed one to three with rooms, from a bundle there is."""
    path = write_recipe(tmp_path)
    values = json.loads(path.read_text())
    learned, held_out = (write_drive(tmp_path / "drives" / f"{i}", i) for i in range(2))
    recordings = {"scenes": f"recordings:{{site}}/{learned.name}", "count": 4, "draws": 2}
    values["places"] = {"site": None}
    values["stores"] |= {"site": recordings}
    values["stores"]["narrow"]["draws"] = 6
    values["evaluations"]["held_out"] = {"data": f"{{site}}/{held_out.name}", "max_scenes": 2}
    path.write_text(json.dumps(values))
    without = bundle_chain(path, [], tmp_path / "run", CPU)
    assert "store site is left out" in without.notes[1]
    assert "--set places.site=FOLDER" in without.notes[1]
    assert "evaluation held_out is left out" in without.notes[2]
    assert "stores/site" not in [step.name for step in without.steps]

    place = f"places.site={learned.parent}"
    assert make_bundle(path, tmp_path / "run", [place])
    chain = json.loads((tmp_path / "run" / "chain.json").read_text())
    parts = chain["recipe"]["stages"]["level1"]["data"]["parts"]
    assert [part["draws"] for part in parts] == [6, 2]
    assert [len(part["held_out_paths"]) for part in parts] == [1, 0]
    origin = Bundle.open(tmp_path / "run" / "bundle").config.origin
    learned_from = f"rooms narrow, recording {learned.name}"
    assert origin == f"trained from nothing on {learned_from} (gld-ros train bundle)"
    card = (tmp_path / "run" / "bundle" / "model_card.md").read_text()
    assert "### held_out" in card

    start = f"start={tmp_path / 'run' / 'bundle'}"
    assert make_bundle(path, tmp_path / "more", [place, start])
    origin = Bundle.open(tmp_path / "more" / "bundle").config.origin
    assert origin.startswith("trained from micro on rooms narrow")
    shutil.copytree(straight / "bundle", tmp_path / "run" / "bundle", dirs_exist_ok=True)
    with pytest.raises(ChainError, match="start_hash"):
        make_bundle(path, tmp_path / "more", [place, start])


def test_a_recipe_without_stages_is_refused(tmp_path):
    path = write_recipe(tmp_path)
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "stages": {}}))
    with pytest.raises(ConfigError, match="stages is empty"):
        load_recipe(path, [])


def test_the_command_plans_runs_and_says_where_the_bundle_is(
    tmp_path, recipe, straight, monkeypatch, capsys
):
    for name, value in ALLOCATOR_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)  # no restart inside the test
    typed = ["train", "bundle", "--recipe", str(recipe), "--run"]
    assert main([*typed, str(tmp_path / "run"), "--plan"]) == 0
    planned = capsys.readouterr().out
    assert "store furnished is left out: no scenes are given" in planned
    assert "6 scenes of rooms" in planned
    assert "time left here: unknown" in planned
    assert not (tmp_path / "run").exists()
    assert main([*typed, str(straight), "--device", "cpu"]) == 0
    assert f"bundle {straight / 'bundle'}" in capsys.readouterr().out
    assert main([*typed, str(straight), "--set", "dtype=float32"]) == 1
    assert "dtype ('float16' there, 'float32' here)" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([*typed, str(tmp_path / "run")]) == 1
    assert "leave torchrun out" in capsys.readouterr().err
