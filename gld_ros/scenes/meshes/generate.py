"""Entry point of mesh worlds: scene ids in, sample dictionaries out, as for procedural rooms.

A scene of a world is a camera path, a light and a camera drawn from its id: the same on every
machine, whatever the batch, the number of views or their size.
"""

from __future__ import annotations

import functools
import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gld_ros.scenes.meshes.free_space import FreeSpace, find_free_space, open_share
from gld_ros.scenes.meshes.light import Light, Sensor, draw_light, draw_sensor
from gld_ros.scenes.meshes.load import MeshAddress, MeshError, load_surfaces
from gld_ros.scenes.meshes.paths import PathStyle, draw_path
from gld_ros.scenes.meshes.raycast import Hits, RayCaster
from gld_ros.scenes.meshes.shading import LINEAR_OF_BYTE, shade, shadow_rays
from gld_ros.scenes.meshes.surfaces import FloatArray, MipMaps, Surfaces, mip_maps
from gld_ros.scenes.rooms.cameras import (
    CameraPath,
    pinhole_from_fov,
    reference_views,
    view_parameters,
)
from gld_ros.scenes.rooms.domains import split_of
from gld_ros.scenes.visibility import DepthViews, visible_fraction, visible_from

log = logging.getLogger(__name__)

# Raise it with every change that changes images: stores of different versions do not mix.
MESHES_VERSION = 1
MAX_ATTEMPTS = 2000
PROBE_VIEWS, PROBE_HW = 4, (24, 32)
OPEN_WARNING, OPEN_ERROR = 0.1, 0.6
# A material counts as seen from this share of all probe pixels on.
SEEN_PIXEL_SHARE = 0.004


@dataclass(frozen=True)
class MeshWorld:
    """A world ready to be seen: triangles, filtered textures, ray caster and free space."""

    name: str
    surfaces: Surfaces
    mips: MipMaps
    caster: RayCaster
    space: FreeSpace

    @classmethod
    def of(cls, name: str, surfaces: Surfaces) -> MeshWorld:
        """Prepare surfaces; raises MeshError when there is nowhere to stand."""
        caster = RayCaster(surfaces.corners)
        space = find_free_space(name, caster, surfaces.bounds)
        return cls(name, surfaces, mip_maps(surfaces), caster, space)


@functools.lru_cache(maxsize=4)
def open_world(address: MeshAddress) -> MeshWorld:
    """Read a mesh file as a world; raises MeshError that says why it cannot be one."""
    world = MeshWorld.of(address.path.stem, load_surfaces(address))
    share = open_share(world.caster, world.space)
    if share > OPEN_ERROR:
        raise MeshError(
            f"{address.path}: {share:.0%} of the rays from free places leave the mesh: it has "
            "holes or no walls. Close it (MeshLab: Filters > Remeshing > Close Holes), or scan "
            "the rest. If its rooms are lower than a robot's head room because it lies on its "
            "side or is in another unit, write ?up=y or ?scale=METRES_PER_UNIT behind its name"
        )
    if share > OPEN_WARNING:
        log.warning(
            "%s: %.0f %% of the rays from free places leave the mesh (holes, open sides or no "
            "ceiling); these pixels show a sky and have no depth",
            address.path,
            100 * share,
        )
    log.info(
        "%s: %d triangles, %.0f m2 of free floor at z = %.2f m",
        world.name,
        len(world.surfaces),
        world.space.area_m2,
        world.space.floor_m,
    )
    return world


def render_world(
    world: MeshWorld,
    style: PathStyle,
    ids: Sequence[int],
    num_views: int,
    image_hw: tuple[int, int],
    *,
    num_references: int | None = None,
    antialias: int = 2,
) -> dict[str, Any]:
    """Render the scenes of these ids as `rooms.render_rooms` does, on CPU.

    Pixels whose ray leaves the mesh have depth 0 (unknown). Raises ValueError for an id of no
    split, MeshError where no path is accepted.
    """
    references = reference_views(num_views, style.reference_target_split)
    if num_references is not None and style.reference_target_split is not None:
        if not 1 <= num_references < num_views:
            raise ValueError(f"num_references is {num_references}; use 1 to {num_views - 1}")
        references = tuple(range(num_references))
    s = view_parameters(num_views, len(references), style.reference_target_split)
    images = np.empty((len(ids), num_views, *image_hw, 3), np.float32)
    depth_m = np.empty((len(ids), num_views, *image_hw), np.float32)
    K_px = np.empty((len(ids), num_views, 3, 3), np.float32)
    T_world_cam = np.empty((len(ids), num_views, 4, 4), np.float32)
    for i, scene_id in enumerate(ids):
        scene = drawn_scene(world, style, scene_id)
        T_world_cam[i] = scene.path.poses(s)
        K_px[i] = pinhole_from_fov(scene.path.horizontal_fov, image_hw)
        images[i], depth_m[i] = render_views(
            world, T_world_cam[i], K_px[i], image_hw, scene.light, scene.sensor, antialias
        )
    depth, K, T = (torch.from_numpy(a) for a in (depth_m, K_px, T_world_cam))
    return {
        "images": torch.from_numpy(images).permute(0, 1, 4, 2, 3).contiguous(),
        "depth_m": depth,
        "K_px": K,
        "T_world_cam": T,
        "visible_fraction": _fractions(depth, K, T, references),
        "reference_views": references,
        "scene_id": [f"{world.name}/{scene_id}" for scene_id in ids],
        "metric": True,
    }


@dataclass(frozen=True)
class DrawnScene:
    """What an id stands for in a world."""

    path: CameraPath
    light: Light
    sensor: Sensor


def drawn_scene(world: MeshWorld, style: PathStyle, scene_id: int) -> DrawnScene:
    """The path, light and camera of an id; raises MeshError where no draw is accepted."""
    split_of(scene_id)
    seed = [zlib.crc32(f"{world.name} {style.name}".encode()), scene_id]
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))
    for _ in range(MAX_ATTEMPTS):
        path = draw_path(rng, style, world.space)
        if path is None or not _acceptable(world, style, path):
            continue
        middle = path.positions(np.array([0.5]))[0, :2]
        light = draw_light(rng, world.space, middle)
        seen, _ = _linear_views(world, *_probe(path, style), PROBE_HW, light, 1)
        sensor = draw_sensor(rng, float(seen.mean()), int(rng.integers(2**31)))
        return DrawnScene(path, light, sensor)
    raise MeshError(
        f"{world.name}: none of {MAX_ATTEMPTS} draws of scene {scene_id} gave a path "
        f"({style.name}) through its {world.space.area_m2:.0f} m2 of free floor"
    )


def render_views(
    world: MeshWorld,
    T_world_cam: FloatArray,
    K_px: FloatArray,
    image_hw: tuple[int, int],
    light: Light,
    sensor: Sensor,
    antialias: int = 2,
) -> tuple[FloatArray, FloatArray]:
    """Images (V, H, W, 3) in [0, 1] and z-depth (V, H, W), 0 = unknown, of any cameras.

    T_world_cam (V, 4, 4) camera-to-world, OpenCV axes; K_px (V, 3, 3), pixel centres at integers.
    Every pixel is the mean of its centre and antialias x antialias further rays.
    """
    linear, depth_m = _linear_views(world, T_world_cam, K_px, image_hw, light, antialias)
    images = np.stack([sensor.image(view.reshape(-1, 3), v) for v, view in enumerate(linear)])
    return images.reshape(*depth_m.shape, 3), depth_m


def _linear_views(
    world: MeshWorld,
    T_world_cam: FloatArray,
    K_px: FloatArray,
    image_hw: tuple[int, int],
    light: Light,
    antialias: int,
) -> tuple[FloatArray, FloatArray]:
    offsets = _sample_offsets(antialias)
    surfaces, mips = world.surfaces, world.mips
    images = np.empty((len(T_world_cam), *image_hw, 3), np.float32)
    depth_m = np.empty((len(T_world_cam), *image_hw), np.float32)
    for v, (T, K) in enumerate(zip(T_world_cam, K_px, strict=True)):
        origin, direction = _rays(T, K, image_hw, offsets)
        found = world.caster.hits(np.broadcast_to(origin, direction.shape), direction)
        lit = np.zeros((0, 0), bool)
        if light.shadows:
            lit = np.stack([_lit(world, found, origin, direction, lamp) for lamp in light.lamps])
        sample_angle = 1.0 / float(K[0, 0]) / max(antialias, 1)
        colour = shade(
            found.triangle,
            found.u,
            found.v,
            found.along,
            direction,
            surfaces.normals,
            surfaces.corners,
            surfaces.uv,
            surfaces.colours,
            surfaces.material,
            surfaces.tint,
            surfaces.texture,
            mips.texels,
            mips.first,
            mips.width,
            mips.height,
            mips.texels_per_m,
            light.lamps,
            lit,
            light.ambient,
            light.sky,
            sample_angle,
            len(offsets),
            LINEAR_OF_BYTE,
        )
        images[v] = colour.reshape(*image_hw, 3)
        centre = slice(0, None, len(offsets))
        known = found.triangle[centre] >= 0
        depth_m[v] = np.where(known, found.along[centre], 0.0).reshape(image_hw)
    return images, depth_m


def _lit(
    world: MeshWorld, found: Hits, origin: FloatArray, direction: FloatArray, lamp: FloatArray
) -> np.ndarray:
    start, way = shadow_rays(found.triangle, found.along, origin, direction, lamp[:3])
    return ~world.caster.blocked(start, way)


def _sample_offsets(antialias: int) -> FloatArray:
    """Places in a pixel (n, 2) that rays go through; the first is its centre."""
    if antialias < 1:
        raise ValueError(f"antialias is {antialias}; use 1 (off) or more")
    places = [(0.0, 0.0)]
    if antialias > 1:
        steps = (np.arange(antialias) + 0.5) / antialias - 0.5
        places += [(float(x), float(y)) for y in steps for x in steps]
    return np.array(places, np.float32)


def _rays(
    T_world_cam: FloatArray, K_px: FloatArray, image_hw: tuple[int, int], offsets: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Origin (3,) and directions (H * W * samples, 3), samples of a pixel side by side."""
    height, width = image_hw
    x = np.arange(width, dtype=np.float32)[None, :, None] + offsets[None, None, :, 0]
    y = np.arange(height, dtype=np.float32)[:, None, None] + offsets[None, None, :, 1]
    right = ((x - K_px[0, 2]) / K_px[0, 0])[..., None]
    down = ((y - K_px[1, 2]) / K_px[1, 1])[..., None]
    R = T_world_cam[:3, :3].astype(np.float32)
    direction = right * R[:, 0] + down * R[:, 1] + R[:, 2]
    return T_world_cam[:3, 3].astype(np.float32), direction.reshape(-1, 3)


def _probe(path: CameraPath, style: PathStyle) -> tuple[FloatArray, FloatArray]:
    references = reference_views(PROBE_VIEWS, style.reference_target_split)
    s = view_parameters(PROBE_VIEWS, len(references), style.reference_target_split)
    K_px = np.tile(pinhole_from_fov(path.horizontal_fov, PROBE_HW), (PROBE_VIEWS, 1, 1))
    return path.poses(s).astype(np.float32), K_px.astype(np.float32)


def _acceptable(world: MeshWorld, style: PathStyle, path: CameraPath) -> bool:
    """Whether small probe images of a path show what its style asks for."""
    T_world_cam, K_px = _probe(path, style)
    depth_m = np.zeros((PROBE_VIEWS, *PROBE_HW), np.float32)
    triangles = np.full((PROBE_VIEWS, PROBE_HW[0] * PROBE_HW[1]), -1)
    for v in range(PROBE_VIEWS):
        origin, direction = _rays(T_world_cam[v], K_px[v], PROBE_HW, _sample_offsets(1))
        found = world.caster.hits(np.broadcast_to(origin, direction.shape), direction)
        known = found.triangle >= 0
        triangles[v] = found.triangle
        depth_m[v] = np.where(known, found.along, 0.0).reshape(PROBE_HW)
        if known.mean() < 1 - style.unknown_share:
            return False
        near, mean = np.percentile(found.along[known], 2), found.along[known].mean()
        if near < style.nearest_m or not style.mean_depth_m[0] <= mean <= style.mean_depth_m[1]:
            return False
    materials = world.surfaces.material[triangles[triangles >= 0]]
    share = np.bincount(materials) / triangles.size
    if (share >= SEEN_PIXEL_SHARE).sum() < style.materials_seen:
        return False
    references = reference_views(PROBE_VIEWS, style.reference_target_split)
    depth, K, poses = (torch.from_numpy(a)[None] for a in (depth_m, K_px, T_world_cam))
    fraction = _fractions(depth, K, poses, references)[0]
    targets = [float(fraction[v]) for v in range(PROBE_VIEWS) if v not in references]
    low, high = style.target_visible
    return all(low <= share <= high for share in targets)


def _fractions(
    depth_m: torch.Tensor, K_px: torch.Tensor, T_world_cam: torch.Tensor, references: Sequence[int]
) -> torch.Tensor:
    """(B, V): share of every view that the references see; 1 for the references themselves."""
    fraction = torch.ones(depth_m.shape[:2])
    shown = list(references)
    targets = [v for v in range(depth_m.shape[1]) if v not in shown]
    if targets:
        seen = visible_from(
            DepthViews(depth_m[:, shown], K_px[:, shown], T_world_cam[:, shown]),
            DepthViews(depth_m[:, targets], K_px[:, targets], T_world_cam[:, targets]),
        )
        fraction[:, targets] = visible_fraction(seen, depth_m[:, targets])
    return fraction
