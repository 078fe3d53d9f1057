"""Geometry backbones with their weights, in one call: Depth Anything 3 and VGGT on their own.

The networks are in `gld_ros.backbones`, which knows no weight files; here is where the two meet.

    network = DepthAnything3.from_pretrained("da3-base")
    prediction = network.infer([photo])
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import torch

from gld_ros.backbones.da3 import model as da3
from gld_ros.backbones.vggt import model as vggt
from gld_ros.pipeline_device import resolve_device
from gld_ros.weights.bundle import Bundle
from gld_ros.weights.without_storage import without_storage

Network = TypeVar("Network", bound="DepthAnything3 | Vggt")


class DepthAnything3(da3.DepthAnything3):
    """Depth Anything 3 that finds its weights by name; see `backbones.da3.model` for the rest."""

    @classmethod
    def from_pretrained(
        cls, bundle: str | Path = "tiny", *, device: str | torch.device = "auto"
    ) -> DepthAnything3:
        """The backbone of a bundle folder, a fetched bundle's name, or the embedded "tiny".

        In eval mode and float32 on `device` ("auto": CUDA where there is one). Raises BundleError
        that says what is missing, and ValueError for a bundle with another kind of backbone.
        """
        return _loaded(cls, "da3", Bundle.open(bundle), device)


class Vggt(vggt.VggtBackbone):
    """VGGT that finds its weights by name; see `backbones.vggt.model` for the rest."""

    @classmethod
    def from_pretrained(
        cls, bundle: str | Path = "vggt-1b", *, device: str | torch.device = "auto"
    ) -> Vggt:
        """The backbone of a bundle folder or a fetched bundle's name; else as `DepthAnything3`."""
        return _loaded(cls, "vggt", Bundle.open(bundle), device)


_NETWORKS: dict[str, Any] = {"da3": DepthAnything3, "vggt": Vggt}


def load_backbone(
    bundle: str | Path | Bundle = "tiny", *, device: str | torch.device = "auto"
) -> DepthAnything3 | Vggt:
    """The geometry backbone of a bundle, whichever kind it is; raises BundleError."""
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    kind = opened.config.backbone.kind
    network: DepthAnything3 | Vggt = _loaded(_NETWORKS[kind], kind, opened, device)
    return network


def _loaded(
    network_type: type[Network], kind: str, bundle: Bundle, device: str | torch.device
) -> Network:
    backbone = bundle.config.backbone
    if backbone.kind != kind:
        raise ValueError(
            f"bundle {bundle.config.name!r} has a {backbone.kind} backbone, not {kind}; use "
            f"gld_ros.{_NETWORKS[backbone.kind].__name__}.from_pretrained"
        )
    with without_storage():
        network = network_type(backbone.config)
    bundle.fill_module(network, "backbone", resolve_device(device), torch.float32)
    return network
