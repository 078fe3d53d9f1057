"""The gate before any long run: the whole chain overfits 8 scenes."""

import pytest

from gld_ros.cli.main import main
from gld_ros.training.curves import read_metrics
from gld_ros.training.environment import ALLOCATOR_ENVIRONMENT

CONFIG = "config/train/tiny"


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_chain_overfits_eight_scenes_to_22_db(tmp_path, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    for name, value in ALLOCATOR_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)  # no restart inside the test
    store = tmp_path / "store"
    assert main(["scenes", "store", str(store), "--domain", "narrow", "--count", "8"]) == 0
    data = ["--set", f"data.paths=[{store}]", "--set", f"data.held_out_paths=[{store}]"]
    data += ["--set", "batch_size=8", "--set", "options.validation_scenes=8"]

    def job(stage, steps, bundle, *settings):
        arguments = ["train", stage, "--config", f"{CONFIG}/{stage}.yaml"]
        arguments += ["--model", f"{CONFIG}/model", "--run", str(tmp_path / stage)]
        arguments += ["--bundle", str(tmp_path / bundle / "export")] if bundle else []
        arguments += ["--set", f"steps={steps}", "--set", f"validate_every={steps}"]
        for setting in settings:
            arguments += ["--set", setting]
        assert main(arguments + data) == 0
        return read_metrics(tmp_path / stage / "metrics.jsonl")

    job("encoder", 200, None)
    statistics = ["train", "statistics", "--config", f"{CONFIG}/statistics.yaml"]
    statistics += ["--model", f"{CONFIG}/model", "--bundle", str(tmp_path / "encoder" / "export")]
    statistics += ["--run", str(tmp_path / "statistics"), *data[:2], "--set", "batch_size=8"]
    assert main(statistics) == 0
    job("decoder", 250, "statistics", "options.geometry_weight=0")
    rows = job("level1", 400, "decoder", "options.camera_drop=0", "optimizer.ema_decay=0.98")
    last = rows[-1]
    assert last["validation/psnr"] >= 22.0
    assert last["validation/psnr"] > last["validation/psnr_shuffled"] + 1.0
