"""Mesh files of any common format as surfaces, and clear errors for unusable ones.

Coordinates are taken as stored, z up and in metres, unless the address says otherwise:
`site.glb?up=y&scale=0.001`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from gld_ros.scenes.meshes.surfaces import (
    UNTEXTURED,
    FloatArray,
    Surfaces,
    face_normals,
    joined,
)

log = logging.getLogger(__name__)

SUFFIXES = (".glb", ".gltf", ".obj", ".dae", ".ply")
MAX_TRIANGLES = 3_000_000
# Horizontal extent and height, in metres, of what a robot could drive through.
WIDTH_M, HEIGHT_M = (1.5, 1000.0), (0.8, 150.0)
# A corner normal farther than this from its face's is rubbish of an inconsistent winding.
_CORNER_NORMAL_COSINE = 0.5
_GREY = 200


NEEDED = "meshes need more libraries: pip install trimesh embreex numba pycollada"


class MeshError(ValueError):
    """A mesh that cannot serve as a scene; the message says why and what to do."""


@dataclass(frozen=True)
class MeshAddress:
    """A mesh file and how to read it: `PATH?up=y&scale=0.001`, plus what only others read."""

    path: Path
    up: str = "z"
    scale: float = 1.0
    rest: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, address: str, known: tuple[str, ...] = ()) -> MeshAddress:
        """Read an address; `known` names options beside up and scale. Raises MeshError."""
        path, _, query = address.partition("?")
        options = dict(parse_qsl(query, keep_blank_values=True))
        unknown = sorted(options.keys() - {"up", "scale", *known})
        if unknown:
            allowed = ", ".join(("up", "scale", *known))
            raise MeshError(f"{address}: unknown option {unknown[0]!r}; use {allowed}")
        up = options.pop("up", "z")
        if up not in ("y", "z"):
            raise MeshError(f"{address}: up is {up!r}; use y or z")
        try:
            scale = float(options.pop("scale", "1"))
        except ValueError as error:
            raise MeshError(f"{address}: scale is not a number") from error
        if not 0 < scale < float("inf"):
            raise MeshError(f"{address}: scale is {scale}; use metres per unit of the file")
        return cls(Path(path).expanduser(), up, scale, tuple(sorted(options.items())))

    def option(self, name: str, default: str) -> str:
        """An option that only the caller understands."""
        return dict(self.rest).get(name, default)

    def without_options(self) -> MeshAddress:
        """The file alone: what a world depends on."""
        return MeshAddress(self.path, self.up, self.scale)


def load_surfaces(address: MeshAddress, *, is_world: bool = True) -> Surfaces:
    """Read a mesh file; raises MeshError that says what is wrong with it and what to do.

    is_world asks for the size of a place and for colours; single pieces of furniture need neither.
    """
    path = address.path
    if path.suffix.lower() not in SUFFIXES:
        raise MeshError(f"{path}: unknown kind of mesh; use one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise MeshError(f"{path} does not exist")
    scene = _read(path)
    images: dict[int, NDArray[np.uint8]] = {}
    parts, triangles, missing_images = [], 0, 0
    for node in scene.graph.nodes_geometry:
        T_scene_mesh, name = scene.graph[node]
        mesh = scene.geometry[name]
        if not hasattr(mesh, "faces") or len(mesh.faces) == 0:
            continue
        triangles += len(mesh.faces)
        if triangles > MAX_TRIANGLES:
            raise MeshError(
                f"{path} has more than {MAX_TRIANGLES:,} triangles; reduce it, for example with "
                "MeshLab (Filters > Remeshing > Quadric Edge Collapse Decimation (with texture)) "
                "or Blender (Decimate); 500,000 are plenty for images of this size"
            )
        part, lacks_image = _part(mesh, np.asarray(T_scene_mesh), images)
        missing_images += lacks_image
        if len(part):
            parts.append(part)
    if not parts:
        raise MeshError(
            f"{path} holds no triangles (a point cloud?); make a surface of it first, for example "
            "with MeshLab (Filters > Remeshing > Screened Poisson) or CloudCompare (PoissonRecon)"
        )
    surfaces = _upright(joined(parts), address)
    if missing_images:
        log.warning(
            "%s: %d of its materials name a texture that was not found; keep the image files "
            "where the mesh file expects them",
            path,
            missing_images,
        )
    if is_world:
        _require_colours(path, surfaces, missing_images)
        _require_metres(path, surfaces)
    return surfaces


def _read(path: Path) -> Any:
    try:
        import trimesh
    except ImportError as error:
        raise MeshError(NEEDED) from error
    try:
        return trimesh.load_scene(path, process=False)
    except Exception as error:  # the readers of the many formats fail in ways of their own
        raise MeshError(f"{path} cannot be read as a mesh: {error!r}") from error


def _part(
    mesh: Any, T_scene_mesh: NDArray[np.floating], images: dict[int, NDArray[np.uint8]]
) -> tuple[Surfaces, bool]:
    """One mesh of a scene, and whether its material names an image that is not there."""
    faces = np.asarray(mesh.faces)
    rotation = T_scene_mesh[:3, :3]
    vertices = np.asarray(mesh.vertices) @ rotation.T + T_scene_mesh[:3, 3]
    if not np.isfinite(vertices).all():
        raise MeshError("a mesh has vertices that are not finite; export it again")
    corners = vertices[faces].astype(np.float32)
    flat, area_m2 = face_normals(corners)
    normals = np.asarray(mesh.vertex_normals)[faces] @ np.linalg.inv(rotation)
    normals = normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)
    cosine = np.abs(np.einsum("nci,ni->nc", normals, flat))
    normals = np.where((cosine < _CORNER_NORMAL_COSINE)[..., None], flat[:, None], normals)

    visual, material = mesh.visual, getattr(mesh.visual, "material", None)
    uv = getattr(visual, "uv", None)
    image, factor, lacks_image = _material(material, images)
    colours = np.full((len(faces), 3, 3), 255, np.uint8)
    if visual.kind == "vertex":
        colours = np.asarray(visual.vertex_colors)[faces, :3]
    elif visual.kind == "face":
        colours = np.repeat(np.asarray(visual.face_colors)[:, None, :3], 3, axis=1)
    elif visual.kind is None:
        colours[:] = _GREY
    textured = image is not None and uv is not None
    kept = area_m2 > 1e-12
    part = Surfaces(
        corners[kept],
        normals[kept].astype(np.float32),
        (np.asarray(uv)[faces] if uv is not None else np.zeros((*faces.shape, 2)))[kept].astype(
            np.float32
        ),
        colours[kept].astype(np.uint8),
        np.zeros(int(kept.sum()), np.int32),
        factor[None],
        np.array([0 if textured else UNTEXTURED], np.int32),
        (image,) if textured and image is not None else (),
    )
    return part, lacks_image


def _material(
    material: Any, images: dict[int, NDArray[np.uint8]]
) -> tuple[NDArray[np.uint8] | None, FloatArray, bool]:
    """Texture (shared between meshes that share it), linear colour factor, "image is missing"."""
    texture = getattr(material, "baseColorTexture", None)
    is_pbr = hasattr(material, "baseColorFactor")
    if texture is None:
        texture = getattr(material, "image", None)
    colour = getattr(material, "baseColorFactor" if is_pbr else "diffuse", None)
    factor = np.ones(3, np.float32)
    if colour is not None:
        values = np.asarray(colour, np.float64).reshape(-1)[:3]
        values = values / 255 if np.asarray(colour).dtype.kind in "ui" else values
        # glTF's factor is linear light; the diffuse colours of the older formats are as displayed.
        factor = (values if is_pbr else linear_from_srgb(values)).astype(np.float32)
    if texture is None:
        named: Mapping[str, Any] = getattr(material, "kwargs", None) or {}
        return None, factor, any("map_kd" in key.lower() for key in named)
    if not is_pbr:
        factor = np.ones(3, np.float32)  # a diffuse map replaces the diffuse colour
    if id(texture) not in images:
        images[id(texture)] = np.asarray(texture.convert("RGB"))
    return images[id(texture)], factor, False


def _upright(surfaces: Surfaces, address: MeshAddress) -> Surfaces:
    turn = (
        np.eye(4)
        if address.up == "z"
        else np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    )
    return replace(surfaces, corners=surfaces.corners * np.float32(address.scale)).moved(turn)


def _require_colours(path: Path, surfaces: Surfaces, missing_images: int) -> None:
    if surfaces.images:
        return
    shades = np.unique(surfaces.colours.reshape(-1, 3), axis=0)
    if len(shades) > 2 or len(np.unique(surfaces.tint.round(2), axis=0)) > 2:
        return
    reason = (
        f"the images of its {missing_images} textured materials were not found beside it"
        if missing_images
        else "it has neither textures nor vertex colours"
    )
    raise MeshError(
        f"{path} has no colours: {reason}. Export it with them (one .glb file holds all); bare "
        "geometry teaches a model grey walls"
    )


def _require_metres(path: Path, surfaces: Surfaces) -> None:
    low, high = surfaces.bounds
    size = high - low
    width, height = float(size[:2].max()), float(size[2])
    if WIDTH_M[0] <= width <= WIDTH_M[1] and HEIGHT_M[0] <= height <= HEIGHT_M[1]:
        return
    hint = ""
    for unit, metres in (("millimetres", 0.001), ("centimetres", 0.01), ("inches", 0.0254)):
        if WIDTH_M[0] <= width * metres <= 100 and HEIGHT_M[0] <= height * metres <= 30:
            hint = f"; if it is in {unit}, write {path.name}?scale={metres:g}"
            break
    raise MeshError(
        f"{path} measures {size[0]:.4g} x {size[1]:.4g} x {size[2]:.4g} (z up): no place to drive "
        f"through in metres{hint}. Other options: ?scale=METRES_PER_UNIT, ?up=y"
    )


def linear_from_srgb(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Linear light in [0, 1] of sRGB values in [0, 1] (IEC 61966-2-1)."""
    low = values <= 0.04045
    return np.where(low, values / 12.92, ((np.maximum(values, 0) + 0.055) / 1.055) ** 2.4)
