"""Published files become bundles completely or not at all."""

import io
import os
import pickle
import shutil
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from gld_ros.weights.bundle import Bundle
from gld_ros.weights.convert import convert as convert_published
from gld_ros.weights.errors import CoverageError, UnsafeCheckpointError, WeightsError
from gld_ros.weights.verify import verify_bundle


@pytest.fixture
def convert(official, tmp_path, micro_sizes):
    """Convert the (by now perhaps spoiled) copy; a failure must leave no bundle."""

    def run(**options):
        folder = tmp_path / "bundle"
        try:
            return convert_published(official, folder, sizes=micro_sizes, **options)
        except ValueError:
            assert sorted(path.name for path in tmp_path.iterdir()) == ["official"]
            raise

    return run


def edit_pt(path, edit):
    content = torch.load(path, weights_only=True)
    edit(content)
    torch.save(content, path)


def test_every_tensor_arrives_under_its_name(convert, official):
    bundle = convert().bundle
    level1 = torch.load(official / "checkpoints/da3_level1.pt", weights_only=True)["ema"]
    for key, values in bundle.load_module("level1").state_dict().items():
        assert torch.equal(values, level1[f"module.{key}"])
    mae = torch.load(official / "pretrained_models/mae_decoder.pt", weights_only=True)["ema"]
    for key, values in bundle.load_module("rgb_decoder").state_dict().items():
        assert torch.equal(values, mae[f"decoder.{key}"])
    backbone = bundle.load_module("backbone").state_dict()
    encoder = load_file(official / "depth-anything/DA3-BASE/model.safetensors")
    head = torch.load(official / "pretrained_models/da3/dpt_decoder.pt", weights_only=True)["model"]
    assert torch.equal(
        backbone["backbone.cls_token"], encoder["model.backbone.pretrained.cls_token"]
    )
    assert torch.equal(backbone["camera_decoder.fc_t.weight"], encoder["model.cam_dec.fc_t.weight"])
    assert torch.equal(backbone["head.norm.weight"], head["decoder.norm.weight"])
    assert bundle.statistics(0).mean.tolist() == [2.0] * 32
    assert bundle.statistics(1).var.tolist() == [3.0] * 32
    assert not any(check.problem for check in verify_bundle(bundle.folder))


def test_sizes_are_read_off_the_tensors(convert, micro_config):
    config = convert().bundle.config
    assert config.backbone == micro_config.backbone
    assert config.rgb_decoder == micro_config.rgb_decoder
    for name in ("level1", "cascade"):
        assert config.denoisers[name].config == micro_config.denoisers[name].config


def test_half_precision_and_progress(convert):
    seen = []
    bundle = convert(dtype=torch.float16, progress=lambda *step: seen.append(step)).bundle
    assert bundle.config.files["level1.safetensors"].dtype == "float16"
    assert seen[-1][1] == seen[-1][2] == len(seen)


def test_a_head_that_was_fine_tuned_in_part_keeps_the_rest(convert, official):
    def forget(content):
        del content["model"]["decoder.norm.weight"]
        content["model"]["optimizer.step"] = torch.zeros(1)

    edit_pt(official / "pretrained_models/da3/dpt_decoder.pt", forget)
    conversion = convert()
    head = load_file(official / "pretrained_models/da3/model.safetensors")
    backbone = conversion.bundle.load_module("backbone").state_dict()
    assert torch.equal(backbone["head.norm.weight"], head["model.head.norm.weight"])
    notes = " / ".join(conversion.notes)
    assert "lacks 1 head tensors" in notes
    assert "1 tensors outside decoder.*" in notes


def test_copies_of_the_shared_embedders_are_left_out_when_equal(convert, official):
    path = official / "checkpoints/da3_cascade.pt"

    def alias(content):
        for part in ("s_embedder", "x_embedder"):
            for suffix in ("ref", "tgt"):
                for leaf in ("weight", "bias"):
                    original = content[f"{part}.proj.{leaf}"]
                    content[f"{part}_{suffix}.proj.{leaf}"] = original.clone()

    edit_pt(path, alias)
    conversion = convert()
    assert "8 copies of the shared embedders" in conversion.notes[0]
    assert not conversion.bundle.config.denoisers["cascade"].config.separate_embedders


def test_copies_that_differ_are_an_error(convert, official):
    def alias(content):
        content["x_embedder_ref.proj.bias"] = content["x_embedder.proj.bias"] + 1

    edit_pt(official / "checkpoints/da3_cascade.pt", alias)
    with pytest.raises(CoverageError, match=r"x_embedder_ref\.proj\.bias"):
        convert()


@pytest.mark.parametrize(
    ("file", "wrapper"),
    [
        ("mae_decoder", "ema"),
        ("da3_level1", "ema"),
        ("da3_cascade", None),
        ("dpt_decoder", "model"),
    ],
)
@pytest.mark.parametrize("fault", ["missing", "unexpected", "misshapen"])
def test_every_fault_names_its_tensor(convert, official, file, wrapper, fault):
    name = {
        "mae_decoder": "decoder.decoder_norm.weight",
        "da3_level1": "module.final_layer.norm_final.weight",
        "da3_cascade": "final_layer.norm_final.weight",
        "dpt_decoder": "decoder.norm.weight",
    }[file]
    if (file, fault) == ("dpt_decoder", "missing"):
        name = "model.head.norm.weight"
        path = official / "pretrained_models/da3/model.safetensors"
        tensors = load_file(path)
        del tensors[name]
        save_file(tensors, path)
    else:

        def spoil(content):
            tensors = content[wrapper] if wrapper else content
            if fault == "missing":
                del tensors[name]
            elif fault == "unexpected":
                tensors[name + "_x"] = torch.zeros(3)
            else:
                tensors[name] = torch.zeros(3)

        edit_pt(next(official.rglob(f"{file}.pt")), spoil)
    bare = name.split("model.head.")[-1].removeprefix("decoder.").removeprefix("module.")
    with pytest.raises(CoverageError, match=bare) as caught:
        convert()
    assert fault in str(caught.value)


def test_a_foreign_tensor_in_the_encoder_file_is_an_error(convert, official):
    path = official / "depth-anything/DA3-BASE/model.safetensors"
    save_file(load_file(path) | {"gaussians.weight": torch.zeros(2)}, path)
    with pytest.raises(CoverageError, match=r"gaussians\.weight"):
        convert()


def test_missing_files_are_all_listed(convert, official):
    (official / "checkpoints/da3_cascade.pt").unlink()
    (official / "depth-anything/DA3-BASE/model.safetensors").unlink()
    with pytest.raises(WeightsError, match="encoder") as caught:
        convert()
    assert "da3_cascade.pt" in str(caught.value)


@pytest.mark.parametrize(
    ("file", "elsewhere"),
    [
        ("pretrained_models/da3/dpt_decoder.pt", "checkpoints/dpt_decoder.pt"),
        ("pretrained_models/mae_decoder.pt", "checkpoints/mae_decoder.pt"),
        ("depth-anything/DA3-BASE/model.safetensors", "depth-anything/DA3-Base/model.safetensors"),
        ("model_stats/da3", "da3"),
        ("model_stats/da3", "statistics"),
    ],
)
def test_every_published_place_is_found(convert, official, file, elsewhere):
    target = official / elsewhere
    target.parent.mkdir(parents=True, exist_ok=True)
    (official / file).rename(target)
    options = {"statistics": target} if elsewhere == "statistics" else {}
    bundle = convert(**options).bundle
    assert bundle.statistics(0).mean.tolist() == [2.0] * 32
    assert bundle.has("rgb_decoder")


def test_the_flat_layout_of_statistics_is_found(convert, official):
    for path in (official / "model_stats/da3").iterdir():
        path.rename(official / "model_stats" / path.name)
    assert convert().bundle.statistics(1).mean.tolist() == [3.0] * 32


def test_statistics_of_a_bundle_are_accepted(convert, official, micro_bundle):
    shutil.rmtree(official / "model_stats")
    bundle = convert(statistics=micro_bundle).bundle
    assert torch.equal(bundle.statistics(0).mean, Bundle.open(micro_bundle).statistics(0).mean)


def test_statistics_of_another_backbone_are_an_error(convert, official):
    for path in (official / "model_stats/da3").iterdir():
        edit_pt(path, lambda content: content.update(mean=torch.zeros(1, 64, 1, 1)))
    with pytest.raises(CoverageError, match=r"level0\.mean has 64 values, the backbone has 32"):
        convert()


def test_statistics_of_another_level_are_refused(convert, official):
    folder = official / "model_stats/da3"
    (folder / "normalization_stats_level0.pt").replace(folder / "normalization_stats_level1.pt")
    edit_pt(folder / "normalization_stats_level1.pt", lambda content: None)
    torch.save(
        torch.load(folder / "normalization_stats_level1.pt", weights_only=True),
        folder / "normalization_stats_level0.pt",
    )
    with pytest.raises(WeightsError, match="is of level 0, expected 1"):
        convert()


def test_head_counts_that_cannot_be_are_explained(official, tmp_path):
    with pytest.raises(WeightsError, match=r"not stored in the tensors|no valid model"):
        convert_published(official, tmp_path / "bundle")


class Bomb:
    """Makes a file when unpickled by a careless reader."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_a_pickle_with_code_is_refused_and_nothing_runs(convert, official, tmp_path):
    mark = tmp_path.parent / f"{tmp_path.name}-executed"
    path = official / "checkpoints/da3_level1.pt"
    torch.save({"ema": {"x": Bomb(mark)}}, path)
    with pytest.raises(UnsafeCheckpointError, match=r"da3_level1\.pt is refused.*nothing"):
        convert()
    path.write_bytes(pickle.dumps({"ema": Bomb(mark)}))  # the format of old versions
    with pytest.raises(WeightsError, match=r"da3_level1\.pt"):
        convert()
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut"])
def test_garbage_is_a_clear_error(convert, official, content):
    (official / "checkpoints/da3_level1.pt").write_bytes(content)
    with pytest.raises(WeightsError, match=r"da3_level1\.pt"):
        convert()


def test_tensors_saved_on_a_gpu_come_back_on_the_cpu(convert, official):
    path = official / "model_stats/da3/normalization_stats_level0.pt"
    content = path.read_bytes()
    # The storage tag is a short text inside the pickle; "cuda:0" takes the place of "cpu".
    source = zipfile.ZipFile(io.BytesIO(content))
    with zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            data = source.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert b"X\x03\x00\x00\x00cpu" in data
                data = data.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
            target.writestr(entry.filename, data)
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(path, weights_only=True)
    assert convert().bundle.statistics(0).mean.tolist() == [2.0] * 32


def test_one_model_file_becomes_a_backbone_alone(official, tmp_path, micro_sizes):
    path = official / "depth-anything/DA3-BASE/model.safetensors"
    bundle = convert_published(path, tmp_path / "da3", sizes=micro_sizes).bundle
    assert bundle.config.module_names == ("backbone",)
    assert torch.equal(
        bundle.load_module("backbone").state_dict()["head.norm.weight"],
        load_file(path)["model.head.norm.weight"],
    )
