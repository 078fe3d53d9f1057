"""A recipe, a site and bundles so small that a whole chain takes seconds."""

import json
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from gld_ros.evaluation.baselines import mean_depth_image
from gld_ros.recipes.bundle_recipe import bundle_chain
from gld_ros.recipes.chain import run_chain
from gld_ros.scenes.folders import write_scene_folder
from gld_ros.scenes.rooms import render_rooms, split_ids

from ..training.conftest import PLAN, SIZE_WH, run_values

CPU = torch.device("cpu")
MICRO = {**PLAN, "denoisers": {"level1": PLAN["denoisers"]["level1"]}}


@contextmanager
def small_and_quiet():
    """Chunks of two scenes, one process, one thread, no curves, a mean depth of two rooms."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gld_ros.scenes.store.CHUNK", 2)
        patch.setattr("gld_ros.recipes.steps.os.cpu_count", lambda: 1)
        patch.setattr("gld_ros.training.curves.draw_curves", lambda rows, path: None)
        patch.setattr(
            "gld_ros.evaluation.run.mean_depth_image",
            lambda domain, image_hw, views, rooms: mean_depth_image(domain, image_hw, views, 2),
        )
        yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _small_and_quiet():
    with small_and_quiet():
        yield


def write_recipe(folder: Path) -> Path:
    """The recipe of a whole micro-bundle: four stages of four steps, two evaluations' worth."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "config.json").write_text(json.dumps(MICRO))
    for stage in ("encoder", "statistics", "decoder", "level1"):
        values = run_values(Path("nowhere"), stage, checkpoint_minutes=0.0)
        if stage == "statistics":
            values["options"] = {"scenes": 4}
        (folder / f"{stage}.yaml").write_text(json.dumps(values))
    rooms = {"scenes": "rooms:narrow", "licence": "Apache-2.0"}
    recipe = {
        "name": "micro",
        "licence": "Apache-2.0",
        "model": "model",
        "image_wh": list(SIZE_WH),
        "views": 3,
        "stores": {
            "narrow": {**rooms, "count": 6, "minutes": 1.0},
            "furnished": {"scenes": None, "count": 6},
            "watched": {**rooms, "split": "validation", "count": 2},
        },
        "stages": {
            "encoder": {"config": "encoder.yaml", "minutes": 2.0},
            "statistics": {"config": "statistics.yaml"},
            "decoder": {"config": "decoder.yaml", "settings": {"optimizer": {"clip_norm": 0.5}}},
            "level1": {"config": "level1.yaml", "settings": {"options.camera_drop": 0.0}},
        },
        "evaluations": {"rooms": {"data": "rooms:narrow:3", "references": 1, "targets": 2}},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    return path


def make_bundle(recipe: Path, folder: Path, overrides=(), **limits) -> bool:
    """Run the recipe's chain in `folder`; whether it was finished."""
    chain = bundle_chain(recipe, list(overrides), folder, CPU)
    return run_chain(chain, folder, CPU, **limits)


@pytest.fixture(scope="session")
def recipe(tmp_path_factory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"))


def write_drive(folder: Path, number: int, frames: int = 8) -> Path:
    """A scene folder of a drive through room `number`."""
    views = render_rooms("narrow", [split_ids("demo", 8)[number]], frames, (42, 56), antialias=1)
    images = (views["images"][0].permute(0, 2, 3, 1) * 255).round().byte().numpy()
    write_scene_folder(
        folder,
        list(images),
        views["K_px"][0, 0].numpy(),
        views["T_world_cam"][0].numpy(),
        list(views["depth_m"][0].numpy()),
        metric=True,
    )
    return folder
