"""Cameras in the evaluation of a backbone without rays: read by its camera head, or none."""

import json

import torch

from gld_ros.cli.main import main
from gld_ros.evaluation import methods
from gld_ros.evaluation.model_runs import EvaluatedModel


def test_no_recovered_cameras_is_said_not_scored(
    save_vggt_bundle, wall_scene, tmp_path, capsys, monkeypatch
):
    def image(domain, image_hw, num_views, num_scenes):
        return torch.linspace(3.0, 1.0, image_hw[0])[:, None].expand(image_hw)

    monkeypatch.setattr("gld_ros.evaluation.run.mean_depth_image", image)
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


def test_cameras_that_a_camera_head_reads_are_judged(save_vggt_bundle, tmp_path, monkeypatch):
    bundle = save_vggt_bundle(tmp_path / "bundle", camera_head=True)
    model = EvaluatedModel(bundle, torch.device("cpu"), torch.float32)
    torch.manual_seed(0)
    images = torch.rand(2, 3, 3, 28, 42)
    with torch.no_grad():
        expected = model.backbone(images)
    views = model.from_true_features(images, (28, 42), keep_level0=False)
    T_cam_model = torch.linalg.inv(views.T_model_cam).float()
    torch.testing.assert_close(T_cam_model, expected.T_cam_world, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(views.K_px.float(), expected.K_px, atol=1e-3, rtol=1e-4)
    # A scene whose reading is not a camera costs the other nothing.
    head = model.backbone.camera_head
    read = head.forward
    scenes = iter((read, lambda tokens: read(tokens) * torch.nan))
    monkeypatch.setattr(head, "forward", lambda tokens: next(scenes)(tokens))
    views = model.from_true_features(images, (28, 42), keep_level0=False)
    assert torch.isfinite(views.T_model_cam[0]).all()
    assert views.T_model_cam[1].isnan().all()
