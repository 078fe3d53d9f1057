"""Depth Anything 3 folders: the package's own set, other sizes, and everything that must fail."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from gld_ros.backbones.da3.config import Da3Config
from gld_ros.backbones.da3.model import DepthAnything3
from gld_ros.backbones.da3.official_keys import official_key
from gld_ros.selftest.run import DEFAULT_FOLDERS, run_selftest

DA3 = DEFAULT_FOLDERS[0]
NEEDED = ("config.json", "stats.safetensors", "weights_da3.safetensors")


@pytest.fixture
def folder(tmp_path):
    """A copy with few fixtures, quick to run, that a test may change."""
    target = tmp_path / "fixtures"
    target.mkdir()
    for name in (*NEEDED, "dualdpt.safetensors", "preprocess.safetensors"):
        shutil.copyfile(DA3 / name, target / name)
    return target


def edit(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def failures(folder):
    return {(r.fixture, r.quantity): r.note for r in run_selftest(folder) if not r.ok}


def test_a_changed_reference_fails_alone(folder):
    def shift(tensors):
        tensors["out.depth"][0, 0, 3, 4] += 1e-3

    edit(folder / "dualdpt.safetensors", shift)
    assert failures(folder) == {("dualdpt", "depth"): "outside the tolerance"}


def test_a_changed_weight_is_noticed(folder):
    def shift(tensors):
        tensors["model.head.scratch.output_conv2.2.bias"][0] += 1e-3

    edit(folder / "weights_da3.safetensors", shift)
    assert ("dualdpt", "depth") in failures(folder)


def test_a_quantity_that_nothing_computes_fails(folder):
    extra = {"out.normals": torch.zeros(3), "something": torch.zeros(2)}
    edit(folder / "dualdpt.safetensors", lambda tensors: tensors.update(extra))
    found = failures(folder)
    assert set(found) == {("dualdpt", "normals"), ("dualdpt", "something")}
    assert found["dualdpt", "normals"] == "not covered by any check"


@pytest.mark.parametrize("name", ["other.safetensors", "notes.txt", "weights_x.safetensors"])
def test_an_unknown_file_fails(folder, name):
    save_file({"out.x": torch.zeros(1)}, folder / name)
    assert failures(folder) == {(name, "-"): "unknown file: nothing checks it"}


def test_an_unreadable_fixture_fails_and_the_others_still_run(folder):
    (folder / "dualdpt.safetensors").write_bytes(b"garbage")
    found = failures(folder)
    assert set(found) == {("dualdpt", "-")}
    assert "unreadable" in found["dualdpt", "-"]


def test_missing_weights_fail_every_quantity_that_needs_them(folder):
    edit(folder / "weights_da3.safetensors", lambda t: t.pop("model.head.norm.bias"))
    found = failures(folder)
    assert {quantity for _, quantity in found} == {"-", "depth", "depth_conf", "ray", "ray_conf"}
    assert all("missing head.norm.bias" in note for note in found.values())


def test_cases_of_other_names_and_numbers_are_covered(folder):
    def renumber(tensors):
        for key in list(tensors):
            tensors[re.sub(r"_2$", "_17", key)] = tensors[key].clone()

    edit(folder / "preprocess.safetensors", renumber)
    rows = run_selftest(folder)
    assert all(row.ok for row in rows)
    assert {"image_u8_17", "K_2", "da3_lower_bound_crop_res70_K_17"} <= {r.quantity for r in rows}


def test_other_sizes_are_covered(tmp_path):
    """References made with the library itself: this shows that no size is built in."""
    torch.manual_seed(3)
    sizes = {
        "embed_dim": 24,
        "depth": 8,
        "num_heads": 3,
        "img_size": 56,
        "alt_start": 2,
        "qknorm_start": 3,
        "rope_start": 2,
        "out_layers": [2, 3, 5, 7],
        "features": 8,
        "out_channels": [4, 8, 8, 12],
        "cam_heads": 2,
    }
    model = DepthAnything3(
        Da3Config(
            embed_dim=24,
            depth=8,
            num_heads=3,
            image_size=56,
            alt_start=2,
            qknorm_start=3,
            rope_start=2,
            tap_layers=(2, 3, 5, 7),
            head_features=8,
            head_out_channels=(4, 8, 8, 12),
            camera_heads=2,
        )
    ).eval()
    images = torch.randn(2, 5, 3, 28, 70)
    with torch.no_grad():
        levels, reference = model.backbone(images, reference_strategy="saddle_balanced")
        geometry = model.decode_geometry(
            [model.decoder_input(levels[level]) for level in range(4)], (28, 70)
        )
    (tmp_path / "config.json").write_text(json.dumps({"da3": sizes}))
    save_file(
        {official_key(k): v.contiguous() for k, v in model.state_dict().items()},
        tmp_path / "weights_da3.safetensors",
    )
    patches = {f"in.feat{level}": model.decoder_input(levels[level]) for level in range(4)}
    save_file(
        {k: v.detach().contiguous() for k, v in patches.items()}
        | {"in.size_hw": torch.tensor([28, 70]), "out.depth": geometry.depth.contiguous()},
        tmp_path / "dualdpt.safetensors",
    )
    save_file(
        {
            "in.five_views": images,
            "out.five_views.ref_idx": reference,
            "out.five_views.da3_cls.3": levels[3].special[:, :, 0].contiguous(),
        },
        tmp_path / "backbone.safetensors",
    )
    rows = run_selftest(tmp_path)
    assert len(rows) == 3
    assert all(row.ok for row in rows), rows


def test_a_folder_of_no_known_kind_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="not a folder of fixtures"):
        run_selftest(tmp_path)
    with pytest.raises(ValueError, match="not a folder of fixtures"):
        run_selftest(tmp_path / "nothing")
