"""Micro-models and micro-scenes on which every training job takes a fraction of a second."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gld_ros.scenes.rooms import render_rooms, split_ids
from gld_ros.scenes.store import write_store
from gld_ros.training.config import RunConfig, parse
from gld_ros.training.loop import Stage

SIZE_WH = (28, 28)

PLAN = {
    "name": "micro",
    "backbone": {
        "kind": "da3",
        "config": {
            "embed_dim": 16,
            "depth": 6,
            "num_heads": 2,
            "alt_start": 1,
            "qknorm_start": 1,
            "rope_start": 1,
            "tap_layers": [1, 3, 4, 5],
            "head_features": 8,
            "head_out_channels": [8, 8, 8, 8],
            "image_size": 28,
            "camera_heads": 2,
            "camera_depth": 1,
        },
    },
    "rgb_decoder": {
        "in_channels": 128,
        "width": 16,
        "depth": 1,
        "heads": 2,
        "mlp": 32,
        "table_hw": [2, 2],
        "linear_shortcut": True,
    },
    "denoisers": {
        name: {
            "config": {
                "channels": 32,
                "hidden": [16, 32],
                "depth": [1, 1],
                "heads": [2, 2],
                "prediction": "clean",
                **extra,
            },
            "time_shift": None,
        }
        for name, extra in (
            ("level1", {}),
            ("cascade", {"separate_embedders": False, "source_conditioned": True}),
        )
    },
    "boundary_level": 1,
    "num_views": 3,
    "num_euler_points": 3,
    "guidance_scale": 1.0,
    "ray_grid": "centred",
    "pose_scale": "metric",
    "resolutions_hw": [[28, 28]],
    "licence": "Apache-2.0",
    "origin": "test",
    "non_commercial": False,
    "random_weights": True,
    "format_version": 1,
}


@pytest.fixture
def no_curves(monkeypatch) -> None:
    """Spare tests that do not look at the image of the curves the time to draw it."""
    monkeypatch.setattr("gld_ros.training.curves.draw_curves", lambda rows, path: None)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def plan_folder(tmp_path_factory) -> Path:
    """The sizes of a whole micro-model."""
    folder = tmp_path_factory.mktemp("plan")
    (folder / "config.json").write_text(json.dumps(PLAN))
    return folder


@pytest.fixture(scope="session")
def rooms(tmp_path_factory) -> Path:
    """A store of 6 rendered scenes of 3 views."""
    ids = split_ids("train", 6)

    def render(positions):
        return render_rooms("narrow", [ids[i] for i in positions], 3, SIZE_WH[::-1], antialias=1)

    folder = tmp_path_factory.mktemp("stores") / "rooms"
    write_store(folder, "rooms for tests", 6, 3, SIZE_WH[::-1], render)
    return folder


@pytest.fixture(scope="session")
def micro_bundle(tmp_path_factory, plan_folder, rooms) -> Path:
    """A bundle with random weights and statistics, as far as a diffusion job needs it."""
    from gld_ros.training.bundle_parts import WorkingBundle
    from gld_ros.training.data import open_scenes
    from gld_ros.training.stages.statistics import feature_statistics, statistics_tensors

    torch.manual_seed(0)
    device = torch.device("cpu")
    bundle = WorkingBundle.open(None, plan_folder)
    backbone = bundle.trainable("backbone", device)
    summaries = feature_statistics(
        backbone,
        open_scenes(run_config(rooms, "statistics").data),
        scenes=6,
        batch_size=2,
        seed=0,
        device=device,
    )
    folder = tmp_path_factory.mktemp("bundle") / "micro"
    modules = {"backbone": backbone, "rgb_decoder": bundle.trainable("rgb_decoder", device)}
    bundle.write(folder, modules, statistics_tensors(summaries))
    return folder


def run_values(store: Path, stage: str, **changes) -> dict:
    """The plain values of a run of 4 steps of 2 scenes."""
    values = {
        "stage": stage,
        "steps": 4,
        "batch_size": 2,
        "precision": "fp32",
        "validate_every": 1000,
        "data": {
            "kind": "rooms",
            "sizes_wh": [list(SIZE_WH)],
            "views": 3,
            "paths": [str(store)],
            "held_out_paths": [str(store)],
        },
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 2, "final_fraction": 0.1},
    }
    if stage in ("level1", "cascade", "diffusion"):
        values["options"] = {"reference_weights": [0.5, 0.5], "validation_references": 1}
    return {**values, **changes}


def run_config(store: Path, stage: str, **changes) -> RunConfig:
    """The configuration of `run_values`."""
    return parse(RunConfig, run_values(store, stage, **changes), "test")


class LineStage(Stage):
    """Fits w to 3 by one number per sample: the smallest thing that the loop can train."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2))
        self.losses: dict[int, float] = {}
        self.spoil: dict[int, str] = {}
        self.exported: list[Tensor] = []

    def batch(self, step: int, samples: range) -> dict:
        noise = torch.stack([torch.rand(2, generator=_generator(step, i)) for i in samples])
        return {"x": noise, "step": step}

    def forward(self, batch: dict) -> dict[str, Tensor]:
        loss = ((self.w - 3) * (1 + batch["x"])).square().mean()
        spoil = self.spoil.get(batch["step"])
        if spoil == "nan loss":
            loss = loss * float("nan")
        if spoil == "huge loss":
            loss = loss + 1e6
        if spoil == "nan gradient":
            loss = loss + (self.w * 0).sqrt().sum()  # finite value, infinite slope times zero
        return {"loss": loss}

    def validate(self) -> dict[str, float]:
        return {"distance": float((self.w.detach() - 3).abs().mean())}

    def trained_modules(self) -> dict[str, nn.Module]:
        return {"line": self}

    def export(self, folder: Path, tensors: dict) -> None:
        self.exported.append(tensors["line"]["w"].clone())


def _generator(*parts: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 * parts[0] + parts[1])


def line_config(**changes) -> RunConfig:
    """A configuration for `LineStage`, which reads no data."""
    values = run_values(Path("nowhere"), "encoder", steps=20, **changes)
    return parse(RunConfig, values, "test")


def checkpoint_state(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def assert_same(left, right, where="") -> None:
    """Compare nested containers of tensors bit for bit."""
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_same(left[key], right[key], f"{where}/{key}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), where
        for i, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_same(a, b, f"{where}/{i}")
    else:
        assert left == right, where
