"""`gld-ros eval` of a backbone without rays says so, and gives no figures for cameras."""

import json

import torch

from gld_ros.cli.main import main
from gld_ros.evaluation import methods


def test_no_recovered_cameras_is_said_not_scored(
    save_vggt_bundle, wall_scene, tmp_path, capsys, monkeypatch
):
    def picture(domain, image_hw, num_views, num_scenes):
        return torch.linspace(3.0, 1.0, image_hw[0])[:, None].expand(image_hw)

    monkeypatch.setattr("gld_ros.evaluation.run.mean_depth_picture", picture)
    bundle = save_vggt_bundle(tmp_path / "bundle")
    figures = tmp_path / "figures.json"
    arguments = ["eval", "--bundle", str(bundle.folder), "--data", str(wall_scene(8))]
    arguments += ["--every", "1", "--steps", "1", "--device", "cpu", "--json", str(figures)]
    assert main([*arguments, "--real-features"]) == 0
    out = capsys.readouterr().out
    assert "Recovered cameras: none" in out
    assert "RANDOM WEIGHTS" in out
    report = json.loads(figures.read_text())
    cameras = report["cameras"]
    assert cameras["scenes"] == 0
    assert cameras["scenes_without_recovered_cameras"] == report["data"]["scenes"] == 2
    measured = {n: v for n, v in cameras.items() if not n.startswith("scenes")}
    assert all(value is None for value in measured.values()), measured
    generated = report["views"][methods.GENERATED]
    assert generated["psnr"]["mean"] is not None
    assert generated["abs_rel_median"]["mean"] is not None
    assert all(v["mean"] is None for n, v in generated.items() if n.endswith("_cameras"))
