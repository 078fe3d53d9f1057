"""gld_ros: imagined views, depth and safe point clouds for robots.

Kept light on purpose, because importing a message (``gld_ros.msg``) runs this file. Photographs to
3D is `gld_ros.reconstruct`, views from other cameras `gld_ros.NovelViewPipeline`, a network alone
`gld_ros.DepthAnything3` or `gld_ros.Vggt`.
"""

from importlib import import_module
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gld_ros.photos.reconstruct import reconstruct as reconstruct
    from gld_ros.pipeline import NovelViewPipeline as NovelViewPipeline
    from gld_ros.pretrained import DepthAnything3 as DepthAnything3
    from gld_ros.pretrained import Vggt as Vggt

# The generated messages live in the install space, the sources may be found first: join both.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"

# What a newcomer asks for by name; imported when it is asked for, because torch takes seconds.
_FRONT_DOORS = {
    "reconstruct": "gld_ros.photos.reconstruct",
    "DepthAnything3": "gld_ros.pretrained",
    "Vggt": "gld_ros.pretrained",
    "NovelViewPipeline": "gld_ros.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _FRONT_DOORS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_FRONT_DOORS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_FRONT_DOORS])
