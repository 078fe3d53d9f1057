"""`gld-ros export`: files that run without gld_ros, compared, described; clear errors otherwise."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from gld_ros.cli.main import main
from gld_ros.export import run as export_run
from gld_ros.export.parts import RunSize, build_part
from gld_ros.export.run import export_bundle

SIZE = ["--size", "56x42", "--views", "2", "1", "--repeats", "1"]
TRTEXEC = """\
#!{python}
import sys
given = dict(word[2:].split("=", 1) for word in sys.argv[1:] if "=" in word)
assert open(given["onnx"], "rb").read(), "an empty model"
if {fails}:
    sys.exit("[E] no builder for this network")
open(given["saveEngine"], "wb").write(b"engine")
"""


def needs_onnx():
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)


def fake_trtexec(folder, monkeypatch, *, fails):
    """A stand-in for NVIDIA's program, which needs a GPU, on the PATH."""
    program = folder / "bin" / "trtexec"
    program.parent.mkdir()
    program.write_text(TRTEXEC.format(python=sys.executable, fails=fails))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.slow
def test_an_onnx_file_has_named_inputs_and_outputs_and_the_networks_numbers(
    da3_bundle, tmp_path, capsys
):
    needs_onnx()
    import onnxruntime

    out = tmp_path / "onnx"
    words = ["export", str(da3_bundle.folder), str(out), "--format", "onnx", *SIZE]
    assert main([*words, "--parts", "level1", "geometry_head"]) == 0
    said = capsys.readouterr().out
    assert "level1 " in said
    assert "geometry_head " in said
    assert "RANDOM weights" in said
    report = json.loads((out / "export.json").read_text())
    assert report["image_hw"] == [42, 56]
    assert report["versions"]["torch"] == torch.__version__
    assert set(report["parts"]) == {"level1", "geometry_head"}
    for name, described in report["parts"].items():
        assert 0 < described["relative_error"] < 1e-4
        assert described["size_bytes"] == sum((out / f).stat().st_size for f in described["files"])
        part = build_part(da3_bundle, name, RunSize((42, 56), 2, 1), torch.device("cpu"))
        session = onnxruntime.InferenceSession(str(out / f"{name}.onnx"))
        assert {i.name: list(i.shape) for i in session.get_inputs()} == described["inputs"]
        assert [o.name for o in session.get_outputs()] == list(described["outputs"])
        made = session.run(None, {key: x.numpy() for key, x in part.inputs.items()})
        for right, found in zip(part.eager(), made, strict=True):
            np.testing.assert_allclose(found, right.numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_package_runs_in_a_process_that_knows_no_gld_ros(da3_bundle, tmp_path):
    size = RunSize((42, 56), 2, 1)
    done = export_bundle(da3_bundle, tmp_path / "aoti", "aoti", size=size, repeats=1)
    assert all(part.relative_error < 1e-4 for part in done)
    for exported in done:
        part = build_part(da3_bundle, exported.name, size, torch.device("cpu"))
        torch.save([list(part.inputs.values()), part.eager()], tmp_path / f"{exported.name}.pt")
    script = """\
        import sys, torch
        sys.modules["gld_ros"] = None  # importing it would be an error
        for name in sys.argv[3:]:
            network = torch._inductor.aoti_load_package(f"{sys.argv[1]}/{name}.pt2")
            inputs, truth = torch.load(f"{sys.argv[2]}/{name}.pt")
            made = network(*inputs)
            for right, found in zip(truth, [made] if len(truth) == 1 else made, strict=True):
                torch.testing.assert_close(found, right, rtol=1e-3, atol=1e-4)
            print(name)
        """
    names = [part.name for part in done]
    finished = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), tmp_path / "aoti", tmp_path, *names],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == names
    assert len(names) == 7


@pytest.mark.slow
def test_engines_are_made_of_the_onnx_files_where_trtexec_is(
    backbone_alone, tmp_path, monkeypatch, capsys
):
    needs_onnx()
    fake_trtexec(tmp_path, monkeypatch, fails=False)
    out = tmp_path / "engines"
    words = ["export", str(backbone_alone.folder), str(out), "--format", "tensorrt", *SIZE]
    assert main([*words, "--parts", "features"]) == 0
    assert (out / "features.engine").read_bytes() == b"engine"
    assert (out / "features.onnx").is_file()
    assert "the engines were not run" in capsys.readouterr().out


@pytest.mark.slow
def test_what_trtexec_says_when_it_fails_is_told_and_no_folder_is_left(
    backbone_alone, tmp_path, monkeypatch, capsys
):
    needs_onnx()
    fake_trtexec(tmp_path, monkeypatch, fails=True)
    out = tmp_path / "engines"
    words = ["export", str(backbone_alone.folder), str(out), "--format", "tensorrt", *SIZE]
    assert main([*words, "--parts", "features"]) == 1
    told = capsys.readouterr().err
    assert "part features: trtexec made no engine of features.onnx (exit status 1)" in told
    assert "[E] no builder for this network" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin"]


def test_without_trtexec_the_error_says_where_it_comes_from(
    backbone_alone, tmp_path, monkeypatch, capsys
):
    needs_onnx()
    monkeypatch.setenv("PATH", str(tmp_path))
    words = ["export", str(backbone_alone.folder), str(tmp_path / "o"), "--format", "tensorrt"]
    assert main(words) == 1
    told = capsys.readouterr().err
    assert "no trtexec on the PATH" in told
    assert "--format onnx" in told


def test_without_the_packages_of_onnx_the_error_says_what_to_install(
    backbone_alone, tmp_path, monkeypatch, capsys
):
    from gld_ros.export import onnx_file

    monkeypatch.setattr(onnx_file, "PACKAGES", ("onnx", "no_such_package"))
    words = ["export", str(backbone_alone.folder), str(tmp_path / "o"), "--format", "onnx"]
    assert main(words) == 1
    told = capsys.readouterr().err
    assert "ONNX needs no_such_package, not installed here" in told
    assert "pip install onnx onnxscript onnxruntime" in told


@pytest.mark.slow
def test_a_network_that_is_another_one_is_refused(backbone_alone, tmp_path, monkeypatch):
    needs_onnx()
    honest = export_run.load_onnx
    monkeypatch.setattr(
        export_run, "load_onnx", lambda path: lambda x: [1.01 * out for out in honest(path)(x)]
    )
    with pytest.raises(ValueError, match=r"part features: .* another one: relative error 1\.0e-02"):
        export_bundle(
            backbone_alone,
            tmp_path / "out",
            "onnx",
            size=RunSize((42, 56), 1, 0),
            parts=["features"],
            repeats=1,
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--parts", "level1"], "no part level1; it has features, geometry_head"),
        (["--size", "56x50"], "multiples of 14"),
        (["--device", "tpu"], "device is 'tpu'"),
        (["--repeats", "0"], "repeats is 0"),
    ],
)
def test_what_cannot_be_exported_is_told_before_anything_is_written(
    backbone_alone, tmp_path, capsys, words, told
):
    out = tmp_path / "out"
    assert main(["export", str(backbone_alone.folder), str(out), "--format", "aoti", *words]) == 1
    assert told in capsys.readouterr().err
    assert not out.exists()


def test_an_existing_folder_is_kept(backbone_alone, tmp_path, capsys):
    words = ["export", str(backbone_alone.folder), str(tmp_path), "--format", "aoti"]
    assert main(words) == 1
    assert "exists" in capsys.readouterr().err
