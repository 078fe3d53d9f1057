"""The published GLD files as upstream has them: small with random weights, or full-size (DA3)."""

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch._subclasses.fake_tensor import FakeTensorMode

from gld_ros.backbones.da3.config import DA3_BASE
from gld_ros.backbones.da3.model import DepthAnything3
from gld_ros.backbones.da3.official_keys import official_key
from gld_ros.backbones.vggt.model import VggtBackbone
from gld_ros.decoders.rgb import RgbDecoder, RgbDecoderConfig
from gld_ros.diffusion.config import GLD_DA3_CASCADE, GLD_DA3_LEVEL1
from gld_ros.diffusion.denoiser import Denoiser
from gld_ros.weights.without_storage import without_storage

ENCODER_REPOSITORY, GLD_REPOSITORY = "depth-anything/DA3-BASE", "SeonghuJeon/GLD"
VGGT_REPOSITORY = "facebook/VGGT-1B"
# Files of the GLD repository that one family does not need.
OTHER_FILES = (
    ".gitattributes",
    "README.md",
    "checkpoints/da3_cascade.pt",
    "checkpoints/da3_level1.pt",
    "checkpoints/vggt_cascade.pt",
    "checkpoints/vggt_level1.pt",
    "pretrained_models/da3/dpt_decoder.pt",
    "pretrained_models/da3/model.safetensors",
    "pretrained_models/mae_decoder.pt",
    "pretrained_models/vggt/mae_decoder.pt",
)


def gld_da3_files(da3, rgb_decoder, level1, cascade, values):
    """Yield (path on the hub, content) of every file; `values(shape, seed)` makes its tensors."""

    state = _state_of(values)

    def model():
        return DepthAnything3(da3)

    for seed, name in ((1, ENCODER_REPOSITORY), (2, "pretrained_models/da3")):
        yield f"{name}/model.safetensors", state(model, seed, official_key)
    head = state(lambda: model().head, 3, "decoder.{}".format)
    yield "pretrained_models/da3/dpt_decoder.pt", {"model": head, "epoch": 3}
    mae = state(lambda: RgbDecoder(rgb_decoder), 4, "decoder.{}".format)
    yield "pretrained_models/mae_decoder.pt", {"ema": mae}
    wrong = {"x": torch.zeros(1)}
    ema = state(lambda: Denoiser(level1), 5, "module.{}".format)
    yield "checkpoints/da3_level1.pt", {"model": wrong, "ema": ema}
    yield "checkpoints/da3_cascade.pt", state(lambda: Denoiser(cascade), 6)


def gld_vggt_files(backbone, rgb_decoder, level1, cascade, values):
    """The same for the files of the VGGT family; both heads that GLD does not use are there."""
    state = _state_of(values)
    heads = replace(backbone, point_head=True, camera_head=True)
    encoder = state(lambda: VggtBackbone(heads), 1)
    yield f"{VGGT_REPOSITORY}/model.safetensors", encoder | {"track_head.x": values((2,), 1)}
    mae = state(lambda: RgbDecoder(rgb_decoder), 2, "decoder.{}".format)
    mae["encoder.x"] = values((1,), 2)
    yield "pretrained_models/vggt/mae_decoder.pt", {"state_dict": mae}
    ema = state(lambda: Denoiser(level1), 3, "module.{}".format)
    yield "checkpoints/vggt_level1.pt", {"ema": ema, "model": {}}
    yield "checkpoints/vggt_cascade.pt", state(lambda: Denoiser(cascade), 4)


def _state_of(values):
    def state(module, seed, named=str):
        with without_storage():
            layout = module().state_dict()
        return {named(name): values(entry.shape, seed) for name, entry in layout.items()}

    return state


def write_gld_da3(root, da3, rgb_decoder, level1, cascade, scale=1.0):
    """Write all files below `root`: hub files by their paths, statistics as the code has them."""
    _write_files(root, gld_da3_files(da3, rgb_decoder, level1, cascade, _random(scale)))
    for level in (0, 1):
        _write_statistics(root, "da3/normalization", level, level1.channels, 2.0 + level)
    return root


def write_gld_vggt(root, backbone, rgb_decoder, level1, cascade, scale=1.0):
    """The same for the VGGT family."""
    _write_files(root, gld_vggt_files(backbone, rgb_decoder, level1, cascade, _random(scale)))
    for level in (0, 1):
        for group, value in (("normalization", 1.0), ("special", 3.0)):
            _write_statistics(root, f"vggt/{group}", level, level1.channels, value + level)
    return root


def _random(scale):
    generators = {}

    def values(shape, seed):
        generator = generators.setdefault(seed, torch.Generator().manual_seed(seed))
        return scale * torch.randn(shape, generator=generator)

    return values


def _write_files(root, files):
    for name, content in files:
        path = _place(root, name)
        save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)


def write_published_sizes(root):
    """Write the same files in the published sizes, with holes for all values: they take no disk."""
    decoder = RgbDecoderConfig(in_channels=4 * DA3_BASE.channels)
    with FakeTensorMode(), torch.serialization.skip_data(materialize_fake_tensors=True):
        files = gld_da3_files(
            DA3_BASE, decoder, GLD_DA3_LEVEL1, GLD_DA3_CASCADE, lambda shape, _: torch.empty(shape)
        )
        for name, content in files:
            path = _place(root, name)
            if path.suffix == ".safetensors":
                _save_safetensors_with_holes(path, content)
            else:
                torch.save(content, path)
    for level in (0, 1):
        _write_statistics(root, "da3/normalization", level, GLD_DA3_LEVEL1.channels, 2.0 + level)
    return root


def _place(root, name):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _save_safetensors_with_holes(path, tensors):
    header, end = {}, 0
    for name, values in tensors.items():
        start, end = end, end + 4 * values.numel()
        header[name] = {"dtype": "F32", "shape": [*values.shape], "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def _write_statistics(root, group, level, channels, value):
    values = torch.full((1, channels, 1, 1), value)
    torch.save(
        {"mean": values, "var": values, "std": values.sqrt(), "count": 5, "level": level},
        _place(root, f"model_stats/{group}_stats_level{level}.pt"),
    )


def hub_repositories(root: Path, served=Path.read_bytes) -> dict[str, dict[str, Any]]:
    """What the hub holds of it: everything but the statistics, in two repositories.

    `served`: what a hub is given of a file (`fake_hub.FakeHub`).
    """
    encoders = {
        name: {"model.safetensors": served(root / name / "model.safetensors"), "config.json": b"{}"}
        for name in (ENCODER_REPOSITORY, VGGT_REPOSITORY)
        if (root / name).is_dir()
    }
    gld = dict.fromkeys(OTHER_FILES, b"not fetched") | {
        str(path.relative_to(root)): served(path)
        for folder in ("checkpoints", "pretrained_models")
        for path in sorted((root / folder).rglob("*"))
        if path.is_file()
    }
    return {**encoders, GLD_REPOSITORY: gld}
