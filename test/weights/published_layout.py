"""The published GLD (DA3) files with random small weights, laid out as upstream has them."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from gld_ros.backbones.da3.model import DepthAnything3
from gld_ros.backbones.da3.official_keys import official_key
from gld_ros.decoders.rgb import RgbDecoder
from gld_ros.diffusion.denoiser import Denoiser

ENCODER_REPOSITORY, GLD_REPOSITORY = "depth-anything/DA3-BASE", "SeonghuJeon/GLD"
# Files of the GLD repository that gld-da3 does not need.
OTHER_FILES = (
    ".gitattributes",
    "README.md",
    "checkpoints/vggt_cascade.pt",
    "checkpoints/vggt_level1.pt",
    "pretrained_models/vggt/mae_decoder.pt",
)
# Bytes of the published files: four per parameter, containers left out.
PUBLISHED_BYTES = {
    "checkpoints/da3_level1.pt": 3_133_200_000,
    "checkpoints/da3_cascade.pt": 1_890_000_000,
    "pretrained_models/mae_decoder.pt": 1_690_000_000,
    "pretrained_models/da3/model.safetensors": 541_600_000,
    "pretrained_models/da3/dpt_decoder.pt": 61_600_000,
    "model.safetensors": 541_600_000,
}


def random_state(module, seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: scale * torch.randn(values.shape, generator=generator)
        for name, values in module.state_dict().items()
    }


def write_gld_da3(root, da3, rgb_decoder, level1, cascade, scale=1.0):
    """Write all files below `root`: hub files by their paths, statistics as the code has them."""

    def place(name):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    model = DepthAnything3(da3)
    for seed, name in ((1, ENCODER_REPOSITORY), (2, "pretrained_models/da3")):
        state = {official_key(k): v for k, v in random_state(model, seed, scale).items()}
        save_file(state, place(f"{name}/model.safetensors"))
    head = {f"decoder.{k}": v for k, v in random_state(model.head, 3, scale).items()}
    torch.save({"model": head, "epoch": 3}, place("pretrained_models/da3/dpt_decoder.pt"))
    mae = {f"decoder.{k}": v for k, v in random_state(RgbDecoder(rgb_decoder), 4, scale).items()}
    torch.save({"ema": mae}, place("pretrained_models/mae_decoder.pt"))
    state = {f"module.{k}": v for k, v in random_state(Denoiser(level1), 5, scale).items()}
    wrong = {"x": torch.zeros(1)}
    torch.save({"model": wrong, "ema": state}, place("checkpoints/da3_level1.pt"))
    torch.save(random_state(Denoiser(cascade), 6, scale), place("checkpoints/da3_cascade.pt"))
    for level in (0, 1):
        values = torch.full((1, level1.channels, 1, 1), 2.0 + level)
        torch.save(
            {"mean": values, "var": values, "std": values.sqrt(), "count": 5, "level": level},
            place(f"model_stats/da3/normalization_stats_level{level}.pt"),
        )
    return root


def hub_repositories(root: Path) -> dict[str, dict[str, bytes]]:
    """What the hub holds of it: everything but the statistics, in two repositories."""
    encoder = {"model.safetensors": (root / ENCODER_REPOSITORY / "model.safetensors").read_bytes()}
    gld = {
        str(path.relative_to(root)): path.read_bytes()
        for folder in ("checkpoints", "pretrained_models")
        for path in sorted((root / folder).rglob("*"))
        if path.is_file()
    }
    gld |= dict.fromkeys(OTHER_FILES, b"not fetched")
    return {ENCODER_REPOSITORY: encoder | {"config.json": b"{}"}, GLD_REPOSITORY: gld}
