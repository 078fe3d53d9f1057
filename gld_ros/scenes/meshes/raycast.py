"""First hits and shadows of rays among triangles, by Embree.

Rays are parameterised by z-depth: a camera ray's direction has length 1 along the optical axis, so
the ray parameter of a hit is its z-depth in metres.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gld_ros.scenes.meshes.load import NEEDED, MeshError
from gld_ros.scenes.meshes.surfaces import FloatArray


@dataclass(frozen=True)
class Hits:
    """Where n rays end: triangle (n,) int32, -1 for none; barycentric u, v; ray parameter."""

    triangle: NDArray[np.int32]
    u: FloatArray
    v: FloatArray
    along: FloatArray


class RayCaster:
    """An Embree scene of triangles (n, 3, 3); rays of several threads may run at once."""

    def __init__(self, corners: FloatArray) -> None:
        try:
            from embreex.mesh_construction import TriangleMesh
            from embreex.rtcore_scene import EmbreeScene
        except ImportError as error:
            raise MeshError(NEEDED) from error
        self._scene: Any = EmbreeScene()
        self._mesh: Any = TriangleMesh(self._scene, np.ascontiguousarray(corners, np.float32))

    def hits(self, origin: FloatArray, direction: FloatArray) -> Hits:
        """First hits of rays, origin and direction (n, 3) in metres."""
        found = self._scene.run(_rows(origin), _rows(direction), output=True)
        return Hits(found["primID"], found["u"], found["v"], found["tfar"])

    def distance_m(self, origin: FloatArray, direction: FloatArray) -> FloatArray:
        """Ray parameter of the first hit (n,), infinite where there is none."""
        found = self.hits(origin, direction)
        return np.where(found.triangle >= 0, found.along, np.inf).astype(np.float32)

    def blocked(self, origin: FloatArray, direction: FloatArray) -> NDArray[np.bool_]:
        """Whether anything stands between origin and origin + direction, (n,)."""
        reach = np.full(len(origin), 0.999, np.float32)
        found = self._scene.run(_rows(origin), _rows(direction), dists=reach, query="OCCLUDED")
        return np.asarray(found) >= 0


def _rows(vectors: FloatArray) -> FloatArray:
    return np.ascontiguousarray(vectors, np.float32)
