"""Triangles with materials as flat arrays: what the ray caster and the shading loop read.

Reading them from files belongs to load.py; furnished rooms build them from pieces.
World: metres, z up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]

LARGEST_TEXTURE_PX = 1024
UNTEXTURED = -1


@dataclass(frozen=True)
class Surfaces:
    """n triangles; `material` indexes `tint` and `texture`.

    corners, normals: (n, 3, 3) metres / unit vectors per corner. uv: (n, 3, 2), v upwards, in
    repeats of the texture. colours: (n, 3, 3) uint8 sRGB per corner. material: (n,) int32.
    tint: (m, 3) linear factor of every material. texture: (m,) index into `images`, -1 for none.
    images: sRGB textures, each (h, w, 3) uint8.
    """

    corners: FloatArray
    normals: FloatArray
    uv: FloatArray
    colours: NDArray[np.uint8]
    material: NDArray[np.int32]
    tint: FloatArray
    texture: NDArray[np.int32]
    images: tuple[NDArray[np.uint8], ...]

    def __len__(self) -> int:
        """Return the number of triangles."""
        return len(self.corners)

    @property
    def bounds(self) -> FloatArray:
        """Lowest and highest corner, (2, 3) metres."""
        points = self.corners.reshape(-1, 3)
        return np.stack((points.min(0), points.max(0)))

    def moved(self, T_world_piece: NDArray[np.floating]) -> Surfaces:
        """The same surfaces under a rigid transform (4, 4)."""
        rotation = T_world_piece[:3, :3].astype(np.float32)
        corners = self.corners @ rotation.T + T_world_piece[:3, 3].astype(np.float32)
        return replace(self, corners=corners, normals=self.normals @ rotation.T)

    def tinted(self, factors: FloatArray) -> Surfaces:
        """The same surfaces with every material's colour multiplied, factors (m, 3) linear."""
        return replace(self, tint=(self.tint * factors).astype(np.float32))


def joined(parts: Sequence[Surfaces]) -> Surfaces:
    """All parts as one; materials and images are appended, and shared images kept once."""
    images: list[NDArray[np.uint8]] = []
    number_of: dict[int, int] = {}
    materials, tints, textures = [], [], []
    offset = 0
    for part in parts:
        numbers = []
        for image in part.images:
            if id(image) not in number_of:
                number_of[id(image)] = len(images)
                images.append(image)
            numbers.append(number_of[id(image)])
        lookup = np.array([*numbers, UNTEXTURED], np.int32)
        materials.append(part.material + np.int32(offset))
        tints.append(part.tint)
        textures.append(lookup[part.texture])
        offset += len(part.tint)
    return Surfaces(
        np.concatenate([p.corners for p in parts]),
        np.concatenate([p.normals for p in parts]),
        np.concatenate([p.uv for p in parts]),
        np.concatenate([p.colours for p in parts]),
        np.concatenate(materials).astype(np.int32),
        np.concatenate(tints).astype(np.float32),
        np.concatenate(textures).astype(np.int32),
        tuple(images),
    )


def face_normals(corners: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Unit normals (n, 3) by the winding and areas (n,) of triangles (n, 3, 3)."""
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(cross, axis=1)
    return (cross / np.maximum(length, 1e-20)[:, None]).astype(np.float32), 0.5 * length


@dataclass(frozen=True)
class MipMaps:
    """All textures with all their halvings in one buffer of texels.

    texels: (t, 3) uint8 sRGB. first, width, height: (textures, levels) where each level starts and
    its size; levels beyond the last repeat it. repeats_per_m: (n,) square root of the texture area
    per square metre of every triangle, in texels of the full level per metre.
    """

    texels: NDArray[np.uint8]
    first: NDArray[np.int64]
    width: NDArray[np.int32]
    height: NDArray[np.int32]
    texels_per_m: FloatArray


def mip_maps(surfaces: Surfaces) -> MipMaps:
    """Halve every texture down to one texel, for filtering over the footprint of a pixel."""
    chains = [_halvings(image) for image in surfaces.images] or [
        [np.full((1, 1, 3), 255, np.uint8)]
    ]
    levels = max(len(chain) for chain in chains)
    first = np.zeros((len(chains), levels), np.int64)
    width, height = (np.ones((len(chains), levels), np.int32) for _ in range(2))
    position = 0
    for i, chain in enumerate(chains):
        for level in range(levels):
            kept = min(level, len(chain) - 1)
            if kept == level:
                start, position = position, position + chain[level].size // 3
            first[i, level] = start
            height[i, level], width[i, level] = chain[kept].shape[:2]
    texels = np.concatenate([image.reshape(-1, 3) for chain in chains for image in chain])

    _, area_m2 = face_normals(surfaces.corners)
    texture = surfaces.texture[surfaces.material]
    size = np.maximum(texture, 0)
    texels_of = (width[size, 0] * height[size, 0]).astype(np.float64)
    a, b = surfaces.uv[:, 1] - surfaces.uv[:, 0], surfaces.uv[:, 2] - surfaces.uv[:, 0]
    area_uv = 0.5 * np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])
    density = np.sqrt(area_uv * texels_of / np.maximum(area_m2, 1e-12))
    return MipMaps(texels, first, width, height, density.astype(np.float32))


def _halvings(image: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    largest = max(image.shape[:2])
    if largest > LARGEST_TEXTURE_PX:
        scale = LARGEST_TEXTURE_PX / largest
        size = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    chain = [np.ascontiguousarray(image)]
    while max(chain[-1].shape[:2]) > 1:
        height, width = chain[-1].shape[:2]
        half = (max(1, width // 2), max(1, height // 2))
        chain.append(cv2.resize(chain[-1], half, interpolation=cv2.INTER_AREA))
    return chain
