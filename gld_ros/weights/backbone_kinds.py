"""The geometric foundation models that a bundle may contain, and the classes that build them.

Adding a backbone is one entry here. Classes are named, not imported, so that reading a bundle's
config costs no model import. The model classes themselves live in `gld_ros.backbones`.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from gld_ros.weights.errors import BundleError


@dataclass(frozen=True)
class BackboneKind:
    """Where the config dataclass and the module of one backbone are found ("module:name")."""

    config_path: str
    module_path: str

    def config_class(self) -> type[Any]:
        """The frozen dataclass that holds every size of this backbone."""
        return _resolve(self.config_path)

    def build(self, config: Any) -> Any:
        """A new module of this backbone; parameters go to the device in force (meta included)."""
        return _resolve(self.module_path)(config)


BACKBONE_KINDS: dict[str, BackboneKind] = {
    "da3": BackboneKind(
        config_path="gld_ros.backbones.da3.config:Da3Config",
        module_path="gld_ros.backbones.da3.model:DepthAnything3",
    ),
    "vggt": BackboneKind(
        config_path="gld_ros.backbones.vggt.config:VggtConfig",
        module_path="gld_ros.backbones.vggt.model:VggtBackbone",
    ),
}


def backbone_kind(name: str) -> BackboneKind:
    """The registered backbone called `name`; raises BundleError with the allowed names."""
    try:
        return BACKBONE_KINDS[name]
    except KeyError:
        allowed = ", ".join(sorted(BACKBONE_KINDS))
        raise BundleError(f"unknown backbone kind {name!r}; allowed: {allowed}") from None


def _resolve(path: str) -> Any:
    module_name, _, attribute = path.partition(":")
    return getattr(import_module(module_name), attribute)
