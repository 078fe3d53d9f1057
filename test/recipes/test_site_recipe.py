"""`gld-ros train site`: any bundle on recordings of a site, judged on one that shares no frame."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from gld_ros.cli.main import main
from gld_ros.recipes.chain import ChainError, read_records, run_chain
from gld_ros.recipes.held_out_recordings import OverlapError
from gld_ros.recipes.site_recipe import Site, site_chain
from gld_ros.scenes.recording import RecordingError
from gld_ros.training.bundle_parts import WorkingBundle
from gld_ros.training.config import ConfigError
from gld_ros.training.environment import ALLOCATOR_ENVIRONMENT
from gld_ros.weights.bundle import Bundle, save_bundle

from .conftest import CPU, MICRO, small_and_quiet, write_drive

SMALL = [
    "stores.site=4",
    "stores.rooms=4",
    "stores.held_out=2",
    "decoder.steps=3",
    "decoder.batch_size=2",
    "level1.steps=3",
    "level1.batch_size=2",
    "level1.precision=fp32",
    "decoder.precision=fp32",
    "level1.checkpoint_minutes=0.0",
    "evaluation.rooms=3",
    "evaluation.references=1",
    "evaluation.targets=2",
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A whole micro-bundle with random weights, of three views of 28x28."""
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "plan").mkdir()
    (folder / "plan" / "config.json").write_text(json.dumps(MICRO))
    torch.manual_seed(0)
    working = WorkingBundle.open(None, folder / "plan")
    channels = 2 * MICRO["backbone"]["config"]["embed_dim"]
    statistics = {
        f"level{level}.{name}": value(channels)
        for level in range(4)
        for name, value in (("mean", torch.zeros), ("var", torch.ones))
    }
    modules = {name: working.trainable(name, CPU) for name in working.plan.module_names}
    return working.write(folder / "micro", modules, statistics).folder


@pytest.fixture(scope="module")
def drives(tmp_path_factory):
    """Scene folders of drives through three rooms."""
    folder = tmp_path_factory.mktemp("drives")
    return [write_drive(folder / name, i) for i, name in enumerate(("monday", "tuesday", "friday"))]


@pytest.fixture
def site(drives):
    return Site(tuple(drives[:2]), drives[2], licence="CC0-1.0")


def fine_tune(site, bundle, folder, overrides=SMALL, **limits):
    chain = site_chain(site, str(bundle), overrides, folder, CPU)
    return run_chain(chain, folder, CPU, **limits)


@pytest.fixture(scope="module")
def straight(tmp_path_factory, bundle, drives):
    """The folder of an uninterrupted run."""
    with small_and_quiet():
        folder = tmp_path_factory.mktemp("run") / "site"
        site = Site(tuple(drives[:2]), drives[2], licence="CC0-1.0")
        assert fine_tune(site, bundle, folder)
    return folder


def test_decoder_and_diffusion_learn_and_the_encoder_stays(straight, bundle):
    before, after = Bundle.open(bundle), Bundle.open(straight / "bundle")
    assert after.config.name == "micro-site"
    assert "fine-tuned on monday, tuesday (gld-ros train site)" in after.config.origin
    assert after.config.licence == "Apache-2.0; recordings of the site: CC0-1.0"

    def changed(module, part=""):
        old, new = (b.load_module(module).state_dict() for b in (before, after))
        return [n for n in old if n.startswith(part) and not torch.equal(old[n], new[n])]

    assert changed("level1")
    assert changed("rgb_decoder")
    assert changed("backbone")
    assert not changed("backbone", "backbone.")


def test_before_and_after_are_judged_on_the_same_views_with_the_same_seeds(straight):
    before, after = (
        json.loads((straight / "evaluation" / f"held_out_{when}.json").read_text())
        for when in ("before", "after")
    )
    assert before["data"] == after["data"]
    assert before["settings"] == after["settings"]
    for baseline in ("copy nearest reference", "mean colour of references"):
        assert before["views"][baseline] == after["views"][baseline]
    psnr = [report["views"]["generated"]["psnr"]["mean"] for report in (before, after)]
    assert psnr[0] != psnr[1]
    text = (straight / "bundle" / "model_card.md").read_text()
    assert f"| generated | {psnr[0]:.1f} | {psnr[1]:.1f} |" in text
    assert "Generated views, after against before: PSNR dB" in text
    assert "**Trained on: monday, tuesday.**" in text
    assert "friday, was never learned from" in text
    assert "| site | monday, tuesday | 4 | training | CC0-1.0 |" in text


def test_what_is_learned_from_never_shows_the_held_out_drive(straight, drives):
    for name, held_out in (("site", False), ("held_out", True)):
        poses = np.load(straight / "stores" / name / "T_world_cam.npy")
        cameras = json.loads((drives[2] / "cameras.json").read_text())["frames"]
        of_friday = np.array([frame["T_world_camera"] for frame in cameras])
        distance = np.abs(poses[:, :, None] - of_friday).max((-2, -1)).min(-1)
        assert (distance < 1e-5).all() == held_out
        assert (distance < 1e-5).any() == held_out


def test_interrupted_it_goes_on_and_ends_with_the_same_bytes(
    tmp_path, site, bundle, straight, monkeypatch
):
    from gld_ros.recipes import steps

    def interrupted(*args, **kwargs):
        kwargs["after_step"](1)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(steps, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(site, bundle, tmp_path / "run")
    records = read_records(tmp_path / "run")
    assert records["evaluation/held_out_before"].finished
    assert not records["decoder"].finished
    assert fine_tune(site, bundle, tmp_path / "run")
    for name in ("level1", "rgb_decoder", "backbone"):
        files = (f / "bundle" / f"{name}.safetensors" for f in (tmp_path / "run", straight))
        assert len({file.read_bytes() for file in files}) == 1


def test_another_site_is_refused_in_the_same_folder(straight, site, bundle, drives):
    with pytest.raises(
        ChainError, match=r"tuesday \('17 file\(s\), \d+ bytes, .*' there, None here"
    ):
        fine_tune(replace(site, recordings=(drives[0],)), bundle, straight)
    with pytest.raises(ChainError, match=r"stages\.level1\.steps \(3 there, 9 here\)"):
        fine_tune(site, bundle, straight, [*SMALL, "level1.steps=9"])


def test_a_held_out_drive_that_is_learned_from_is_refused(tmp_path, drives, bundle):
    everything = tmp_path / "all"
    everything.mkdir()
    for drive in drives[:2]:
        (everything / drive.name).symlink_to(drive)
    shutil.copytree(drives[0], tmp_path / "copy")
    for learned, held_out, message in (
        ([drives[0]], drives[0], "is .*monday, which is learned from"),
        ([drives[0], drives[1]], drives[1].parent / "." / "tuesday", "which is learned from"),
        ([drives[0]], tmp_path / "copy", "shares frames with .*monday: its frame 0 is frame 0"),
        ([everything], drives[1], "shares frames with .*all: its frame 0 is frame 0"),
    ):
        with pytest.raises(OverlapError, match=message):
            site_chain(Site(tuple(learned), held_out), str(bundle), [], tmp_path / "run", CPU)


def test_a_piece_of_a_learned_drive_is_refused(tmp_path, drives, bundle):
    piece = tmp_path / "piece"
    shutil.copytree(drives[0], piece)
    cameras = json.loads((piece / "cameras.json").read_text())
    cameras["frames"] = cameras["frames"][5:]
    (piece / "cameras.json").write_text(json.dumps(cameras))
    with pytest.raises(OverlapError, match="its frame 0 is frame 5 there"):
        site_chain(Site((drives[0],), piece), str(bundle), [], tmp_path / "run", CPU)


def test_a_drive_that_begins_at_the_same_pose_is_another_drive(tmp_path, drives, bundle):
    """Odometry begins at the origin every day: poses alone are no overlap."""
    same_start = tmp_path / "wednesday"
    shutil.copytree(drives[2], same_start)
    cameras, monday = (
        json.loads((drive / "cameras.json").read_text()) for drive in (same_start, drives[0])
    )
    for frame, other in zip(cameras["frames"], monday["frames"], strict=True):
        frame["T_world_camera"] = other["T_world_camera"]
    (same_start / "cameras.json").write_text(json.dumps(cameras))
    chain = site_chain(Site((drives[0],), same_start), str(bundle), SMALL, tmp_path / "run", CPU)
    assert len(chain.steps) == 12


def test_recordings_that_cannot_serve_are_named(tmp_path, drives, bundle):
    short = write_drive(tmp_path / "short", 3, frames=2)
    for learned, held_out, error, message in (
        (tmp_path / "absent", drives[2], RecordingError, "absent does not exist"),
        (drives[0], tmp_path / "absent", RecordingError, "absent does not exist"),
        (short, drives[2], ValueError, "samples need 3 frames; the longest recording has 2"),
        (drives[0], short, ValueError, "samples need 3 frames; the longest recording has 2"),
    ):
        with pytest.raises(error, match=message):
            site_chain(Site((learned,), held_out), str(bundle), SMALL, tmp_path / "run", CPU)
    with pytest.raises(RecordingError, match="no sample of 12 views"):
        site_chain(
            Site((drives[0],), drives[2]),
            str(bundle),
            [*SMALL, "evaluation.targets=11"],
            tmp_path / "run",
            CPU,
        )


def without(bundle, folder, *parts):
    """A copy of a bundle without some of its parts."""
    opened = Bundle.open(bundle)
    config = opened.config
    if "rgb_decoder" in parts:
        config = replace(config, rgb_decoder=None)
    if "level1" in parts:
        config = replace(config, denoisers={})
    modules = {name: opened.load_module(name) for name in config.module_names}
    tables = {}
    if "statistics" not in parts:
        for level in range(4):
            found = opened.statistics(level)
            tables |= {f"level{level}.mean": found.mean, f"level{level}.var": found.var}
    return save_bundle(folder, config, modules, tables).folder


def test_stages_that_a_bundle_has_not_are_left_out_with_a_line(tmp_path, site, bundle):
    only_decoder = without(bundle, tmp_path / "decoder", "level1")
    chain = site_chain(site, str(only_decoder), SMALL, tmp_path / "run", CPU)
    assert chain.notes == ("stage level1 is left out: bundle 'micro' has no denoiser",)
    assert [s.name for s in chain.steps if "/" not in s.name] == ["decoder", "bundle", "card"]
    assert run_chain(chain, tmp_path / "run", CPU)
    assert "figures of its decoders" in (tmp_path / "run/bundle/model_card.md").read_text()
    only_diffusion = without(bundle, tmp_path / "diffusion", "rgb_decoder")
    chain = site_chain(site, str(only_diffusion), SMALL, tmp_path / "run2", CPU)
    assert "stage decoder is left out" in chain.notes[0]
    bare = without(bundle, tmp_path / "bare", "level1", "rgb_decoder")
    with pytest.raises(ConfigError, match="there is nothing to fine-tune"):
        site_chain(site, str(bare), SMALL, tmp_path / "run3", CPU)
    unmeasured = without(bundle, tmp_path / "unmeasured", "statistics")
    with pytest.raises(ConfigError, match="has no feature statistics"):
        site_chain(site, str(unmeasured), SMALL, tmp_path / "run4", CPU)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps=3", "--set steps is unknown; use a name below stores, decoder, level1"),
        ("stores.bags=3", r"stores\.bags=3: use site, mesh, rooms, held_out"),
        ("stores.site=0", "whole number from 1 on"),
        ("level1.stepz=3", r"unknown field\(s\) 'stepz'"),
        ("level1", "not of the form name=value"),
    ],
)
def test_settings_that_do_not_exist_are_named(tmp_path, site, bundle, override, message):
    with pytest.raises(ConfigError, match=message):
        site_chain(site, str(bundle), [override], tmp_path / "run", CPU)


def test_the_command_shows_the_plan_and_reports_bad_input(
    tmp_path, drives, bundle, monkeypatch, capsys
):
    for name, value in ALLOCATOR_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)  # no restart inside the test
    monday, tuesday, friday = map(str, drives)
    typed = ["train", "site", "--bag", monday, tuesday, "--bundle", str(bundle)]
    typed += ["--run", str(tmp_path / "run")]
    assert main([*typed, "--held-out", friday, "--plan"]) == 0
    planned = capsys.readouterr().out
    assert "1500 scenes of recordings folders monday tuesday" in planned
    assert "time left here: unknown" in planned
    assert main([*typed, "--held-out", tuesday]) == 1
    assert "which is learned from; hold out another drive" in capsys.readouterr().err
    assert main([*typed, "--held-out", friday, "--mesh", "absent.glb"]) == 1
    assert "absent.glb does not exist" in capsys.readouterr().err
