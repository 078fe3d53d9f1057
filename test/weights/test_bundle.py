"""Bundles: what is written is what is read, and nothing incomplete passes for complete."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from gld_ros.weights import bundle as bundle_module
from gld_ros.weights.bundle import Bundle, save_bundle
from gld_ros.weights.errors import BundleError, CoverageError, WeightsError
from gld_ros.weights.tensor_file import sha256_of
from gld_ros.weights.verify import verify_bundle


def edit_config(bundle, edit):
    path = bundle.folder / "config.json"
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


def replace_tensors(bundle, file, edit):
    """Change a file and its record, so that only its content is wrong."""
    path = bundle.folder / file
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)
    record = sha256_of(path), path.stat().st_size
    edit_config(
        bundle,
        lambda data: data["files"][file].update(sha256=record[0], size_bytes=record[1]),
    )


def student_of(name, calls):
    """An edit that gives a denoiser a student of so many calls, without weights."""

    def edit(data):
        spec = {**data["denoisers"]["level1"], "calls": calls}
        data["denoisers"][f"{name}_student"] = spec

    return edit


def test_modules_config_and_statistics_come_back_equal(
    saved, micro_config, micro_modules, micro_statistics
):
    assert dataclasses.replace(saved.config, files={}) == micro_config
    for name, module in micro_modules.items():
        loaded = saved.load_module(name)
        assert not loaded.training
        assert not any(p.requires_grad for p in loaded.parameters())
        for key, values in module.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], values), (name, key)
    statistics = saved.statistics(1)
    assert torch.equal(statistics.mean, micro_statistics["level1.mean"])
    assert torch.equal(statistics.var, micro_statistics["level1.var"])
    with pytest.raises(BundleError, match="level2"):
        saved.statistics(2)


def test_has_and_sizes_speak_of_what_is_there(saved, micro_modules):
    assert saved.has("cascade")
    assert saved.has("statistics")
    assert not saved.has("level0")
    counts = {
        name: sum(values.numel() for values in module.state_dict().values())
        for name, module in micro_modules.items()
    }
    assert saved.parameter_count() == counts
    assert saved.size_bytes()["level1.safetensors"] > 4 * counts["level1"]


def test_half_precision_halves_the_files_and_keeps_declared_parts_in_float32(
    tmp_path, micro_config, micro_modules, micro_statistics, saved
):
    half = save_bundle(
        tmp_path / "half", micro_config, micro_modules, micro_statistics, dtype=torch.float16
    )
    assert (
        half.size_bytes()["backbone.safetensors"] < 0.6 * saved.size_bytes()["backbone.safetensors"]
    )
    denoiser = half.load_module("level1", dtype=torch.bfloat16)
    assert denoiser.blocks[0].attn.qkv.weight.dtype == torch.bfloat16
    assert torch.equal(denoiser.t_embedder.W, micro_modules["level1"].t_embedder.W)
    backbone = half.load_module("backbone", dtype=torch.bfloat16)
    assert backbone.backbone.cls_token.dtype == torch.bfloat16
    assert {p.dtype for p in backbone.head.parameters()} == {torch.float32}
    assert {p.dtype for p in backbone.camera_encoder.parameters()} == {torch.float32}


def test_loading_initialises_nothing_at_random(saved, monkeypatch):
    state = torch.get_rng_state()
    saved.load_module("level1")
    saved.load_module("backbone")
    assert torch.equal(torch.get_rng_state(), state)


def test_a_value_too_large_for_half_precision_is_named(
    tmp_path, micro_config, micro_modules, micro_statistics
):
    level1 = dict(micro_modules["level1"].state_dict())
    level1["s_projector.bias"] = torch.full((32,), 1e6)
    modules = micro_modules | {"level1": level1}
    with pytest.raises(WeightsError, match=r"s_projector\.bias.*float16"):
        save_bundle(tmp_path / "half", micro_config, modules, micro_statistics, dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda t: t.pop("s_projector.bias"), r"missing s_projector\.bias \(32,\)"),
        (lambda t: t.update(other=torch.zeros(2)), r"unexpected other \(2,\)"),
        (lambda t: t.update({"s_projector.bias": torch.zeros(31)}), r"misshapen s_projector\.bias"),
    ],
)
def test_tensors_that_do_not_fit_are_named(saved, edit, words):
    replace_tensors(saved, "level1.safetensors", edit)
    with pytest.raises(CoverageError, match=words):
        Bundle.open(saved.folder).load_module("level1")


def test_a_tensor_of_another_dtype_is_named(saved):
    bias = torch.zeros(32, dtype=torch.float16)
    replace_tensors(saved, "level1.safetensors", lambda t: t.update({"s_projector.bias": bias}))
    with pytest.raises(WeightsError, match=r"s_projector\.bias is stored as torch\.float16"):
        Bundle.open(saved.folder).load_module("level1")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda d: d.update(colour="red"), "unknown field.*'colour'"),
        (lambda d: d.pop("licence"), "lacks field.*'licence'"),
        (lambda d: d.update(num_views="four"), "num_views must be of type int, got 'four'"),
        (lambda d: d.update(format_version=99), "format_version 99"),
        (
            lambda d: d["backbone"].update(kind="dino"),
            "unknown backbone kind 'dino'; allowed:.*da3",
        ),
        (lambda d: d["backbone"]["config"].pop("depth"), "config lacks field.*'depth'"),
        (lambda d: d["backbone"]["config"].update(num_heads=3), "not valid.*num_heads|heads"),
        (lambda d: d.update(ray_grid="round"), "ray_grid must be one of 'official', 'centred'"),
        (lambda d: d.update(boundary_level=0), "boundary_level 0"),
        (lambda d: d.update(solver="heun"), "solver must be one of 'euler', 'ab2'"),
        (lambda d: d["denoisers"].update(level7=d["denoisers"]["level1"]), "level7"),
        (student_of("level7", 2), "level7_student"),
        (student_of("level1", 0), "calls of a student must be at least 1"),
        (student_of("level1", None), "students must all take one number of calls"),
        (lambda d: d["denoisers"]["level1"].update(calls=2), "only students take a fixed number"),
        (student_of("level1", 2), r"does not list level1_student\.safetensors"),
        (lambda d: d.update(guidance_scale=float("nan")), "guidance_scale must be finite"),
        (lambda d: d["files"].pop("level1.safetensors"), "does not list level1.safetensors"),
        (
            lambda d: d["files"].update({"../x.safetensors": d["files"]["level1.safetensors"]}),
            "plain",
        ),
    ],
)
def test_a_wrong_config_is_refused_by_name(saved, edit, words):
    edit_config(saved, edit)
    with pytest.raises(BundleError, match=words):
        Bundle.open(saved.folder)


def test_a_config_that_is_no_json_is_refused(saved):
    (saved.folder / "config.json").write_text("{")
    with pytest.raises(BundleError, match="not valid JSON"):
        Bundle.open(saved.folder)


def test_missing_and_cut_files_are_refused_on_opening(saved):
    path = saved.folder / "cascade.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(BundleError, match=r"cascade\.safetensors has \d+ bytes"):
        Bundle.open(saved.folder)
    path.unlink()
    with pytest.raises(BundleError, match=r"cascade\.safetensors is missing"):
        Bundle.open(saved.folder)


def test_verify_finds_one_flipped_bit_and_strange_files(saved):
    assert [check.problem for check in verify_bundle(saved.folder)] == [""] * 5
    path = saved.folder / "rgb_decoder.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    (saved.folder / "extra.safetensors").write_bytes(b"x")
    problems = {check.file: check.problem for check in verify_bundle(saved.folder)}
    assert "SHA-256" in problems.pop("rgb_decoder.safetensors")
    assert "not recorded" in problems.pop("extra.safetensors")
    assert set(problems.values()) == {""}


def test_a_failing_save_leaves_nothing_and_keeps_what_was_there(
    tmp_path, saved, micro_config, micro_modules, micro_statistics, monkeypatch
):
    before = (saved.folder / "config.json").read_bytes()
    with pytest.raises(BundleError, match="exists"):
        save_bundle(saved.folder, micro_config, micro_modules, micro_statistics)

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(bundle_module, "_write_statistics", full_disk)
        with pytest.raises(OSError, match="No space"):
            save_bundle(saved.folder, micro_config, micro_modules, micro_statistics, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["micro"]
    assert (saved.folder / "config.json").read_bytes() == before

    changed = dataclasses.replace(micro_config, name="other")
    save_bundle(saved.folder, changed, micro_modules, micro_statistics, overwrite=True)
    assert Bundle.open(saved.folder).config.name == "other"
    assert [path.name for path in tmp_path.iterdir()] == ["micro"]


def test_modules_must_be_those_of_the_config(
    tmp_path, micro_config, micro_modules, micro_statistics
):
    modules = {name: module for name, module in micro_modules.items() if name != "cascade"}
    with pytest.raises(BundleError, match="needs the modules backbone, level1, cascade"):
        save_bundle(tmp_path / "b", micro_config, modules, micro_statistics)


def test_unknown_bundles_say_where_was_looked(tmp_path, monkeypatch):
    monkeypatch.setenv("GLD_ROS_DATA", str(tmp_path))
    with pytest.raises(BundleError, match=r"no bundle 'nowhere'.*weights list"):
        Bundle.open("nowhere")
    with pytest.raises(BundleError, match=r"not a bundle: it has no config\.json"):
        Bundle.open(tmp_path)


def test_fetched_bundles_are_found_by_name(tmp_path, monkeypatch, micro_bundle):
    monkeypatch.setenv("GLD_ROS_DATA", str(tmp_path))
    shutil.copytree(micro_bundle, tmp_path / "bundles" / "mine")
    assert Bundle.open("mine").config.name == "micro"


def test_an_absent_embedded_bundle_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setitem(bundle_module.EMBEDDED_BUNDLES, "tiny", tmp_path / "gld-tiny")
    with pytest.raises(BundleError, match="embedded bundle 'tiny' is not in this installation"):
        Bundle.open("tiny")


def test_statistics_normalise_and_restore(saved):
    statistics = saved.statistics(0)
    raw = torch.randn(2, 32, 3, 5)
    z = statistics.normalise(raw)
    expected = (raw - statistics.mean[:, None, None]) / (statistics.var + 1e-5).sqrt()[
        :, None, None
    ]
    torch.testing.assert_close(z, expected)
    torch.testing.assert_close(statistics.denormalise(z), raw)
    torch.testing.assert_close(
        statistics.normalise(raw.movedim(1, -1), channel_dim=-1), z.movedim(1, -1)
    )
    with pytest.raises(ValueError, match="31 channels on axis 1"):
        statistics.normalise(raw[:, :31])


def test_a_replacement_killed_half_way_brings_the_old_bundle_back(saved):
    taken_away = saved.folder.with_name(f".{saved.folder.name}.replaced")
    saved.folder.rename(taken_away)
    assert Bundle.open(saved.folder).config == saved.config
    assert not taken_away.exists()
