"""`gld-ros selftest`: the report and its exit status."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from gld_ros.cli.main import main
from gld_ros.selftest.run import DEFAULT_FOLDERS

DA3 = DEFAULT_FOLDERS[0]


@pytest.fixture
def folder(tmp_path):
    for name in ("config.json", "stats.safetensors", "weights_da3.safetensors"):
        shutil.copyfile(DA3 / name, tmp_path / name)
    shutil.copyfile(DA3 / "preprocess.safetensors", tmp_path / "preprocess.safetensors")
    return tmp_path


def test_table_and_status_of_a_good_folder(folder, capsys):
    assert main(["selftest", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "image_u8_2" in out
    assert "quantities agree" in out


def test_json_rows_have_the_five_fields(folder, capsys):
    assert main(["selftest", str(folder), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) > 5
    for row in rows:
        assert set(row) == {"fixture", "quantity", "max_abs", "relative", "ok"}
        assert row["ok"] is True
        assert row["max_abs"] >= 0


def test_any_failure_is_status_1(folder, capsys):
    path = folder / "preprocess.safetensors"
    tensors = load_file(path)
    tensors["out.image_u8_2"] = tensors["out.image_u8_2"] ^ torch.tensor(1, dtype=torch.uint8)
    save_file(tensors, path)
    assert main(["selftest", str(folder), "--json"]) == 1
    captured = capsys.readouterr()
    wrong = [row for row in json.loads(captured.out) if not row["ok"]]
    assert [row["quantity"] for row in wrong] == ["image_u8_2"]
    assert "FAILED preprocess image_u8_2" in captured.err


def test_a_device_that_is_not_there_is_a_clear_error(folder, capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    assert main(["selftest", str(folder), "--device", "cuda"]) == 1
    assert "torch sees no CUDA device" in capsys.readouterr().err
