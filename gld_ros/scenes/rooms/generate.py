"""Entry point of procedural rooms: scene ids in, sample dictionaries out.

Draws rooms (layout.py) until one is accepted, renders them (render.py) and measures what the
references see of every view. A scene depends on its domain and id alone: not on the batch it is
rendered in, nor on the number or size of the images.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gld_ros.scenes.rooms.cameras import pinhole_from_fov, reference_views, view_parameters
from gld_ros.scenes.rooms.domains import RoomDomain, domain_named, split_of
from gld_ros.scenes.rooms.layout import LayoutFailed, Room, draw_room
from gld_ros.scenes.rooms.packed import PackedRooms, pack_rooms
from gld_ros.scenes.rooms.raycast import cast_rays, image_rays
from gld_ros.scenes.rooms.render import render
from gld_ros.scenes.rooms.surface_distance import surface_distance
from gld_ros.scenes.visibility import DepthViews, visible_fraction, visible_from

MAX_ATTEMPTS = 200
PROBE_VIEWS, PROBE_HW = 4, (24, 32)
# An object counts as seen from this share of a probe image on.
SEEN_PIXEL_SHARE = 0.004
# Rays rendered at once: few enough on CPU for the temporaries of one operation to stay in cache.
RAYS_PER_CHUNK = {"cpu": 1 << 15, "cuda": 1 << 23}


def render_rooms(
    domain: RoomDomain | str,
    ids: Sequence[int],
    num_views: int,
    image_hw: tuple[int, int],
    *,
    num_references: int | None = None,
    antialias: int = 2,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Render the scenes of these ids, views in path order (references first in look_around).

    Returns images (B, V, 3, H, W) float32 in [0, 1], depth_m (B, V, H, W), K_px (B, V, 3, 3),
    T_world_cam (B, V, 4, 4), visible_fraction (B, V) (what the references see; 1 for themselves),
    reference_views (tuple of view indices), scene_id (list of str) and metric (True).
    num_references matters only to domains that keep references and targets apart on the path.
    Raises ValueError for an unknown domain, an id of no split, or a size below 1 pixel.
    """
    domain = domain_named(domain) if isinstance(domain, str) else domain
    _check_request(ids, num_views, image_hw, antialias)
    references = reference_views(num_views, domain.reference_target_split)
    if num_references is not None and domain.reference_target_split is not None:
        if not 1 <= num_references < num_views:
            raise ValueError(f"num_references is {num_references}; use 1 to {num_views - 1}")
        references = tuple(range(num_references))
    rooms = accepted_rooms(domain, ids, device)
    s = view_parameters(num_views, len(references), domain.reference_target_split)
    T_world_cam, K_px = _cameras(rooms, s, image_hw, device)

    images = torch.empty(len(ids), num_views, 3, *image_hw, device=device)
    depth_m = torch.empty(len(ids), num_views, *image_hw, device=device)
    fraction = torch.empty(len(ids), num_views, device=device)
    for part in _chunks(len(ids), num_views * image_hw[0] * image_hw[1], device):
        packed = pack_rooms(rooms[part], device)
        rgb, depth = render(packed, T_world_cam[part], K_px[part], image_hw, antialias)
        images[part], depth_m[part] = rgb, depth
        fraction[part] = _visible_fractions(depth, K_px[part], T_world_cam[part], references)
    return {
        "images": images,
        "depth_m": depth_m,
        "K_px": K_px,
        "T_world_cam": T_world_cam,
        "visible_fraction": fraction,
        "reference_views": references,
        "scene_id": [f"{domain.name}/{scene_id}" for scene_id in ids],
        "metric": True,
    }


def render_room_views(
    scene_id: int,
    domain: RoomDomain | str,
    T_world_cam: Tensor,
    K_px: Tensor,
    image_hw: tuple[int, int],
    *,
    antialias: int = 2,
) -> dict[str, Tensor]:
    """Ray-traced truth of one room for any cameras, on their device.

    T_world_cam (V, 4, 4), K_px (V, 3, 3) or (3, 3). Returns images (V, 3, H, W) in [0, 1] and
    depth_m (V, H, W).
    """
    domain = domain_named(domain) if isinstance(domain, str) else domain
    _check_request([scene_id], max(len(T_world_cam), 1), image_hw, antialias)
    device = T_world_cam.device
    packed = pack_rooms([room_of(domain, scene_id)], device)
    T_world_cam = T_world_cam.float()
    K_px = K_px.to(device).float().expand(len(T_world_cam), 3, 3)
    images = torch.empty(len(T_world_cam), 3, *image_hw, device=device)
    depth_m = torch.empty(len(T_world_cam), *image_hw, device=device)
    for part in _chunks(len(T_world_cam), image_hw[0] * image_hw[1], device):
        rgb, depth = render(packed, T_world_cam[None, part], K_px[None, part], image_hw, antialias)
        images[part], depth_m[part] = rgb[0], depth[0]
    return {"images": images, "depth_m": depth_m}


def room_surface_distance(
    scene_id: int, points: Tensor, domain: RoomDomain | str = "narrow"
) -> Tensor:
    """Distance in metres of world points (N, 3) to the nearest surface of one room, (N,)."""
    domain = domain_named(domain) if isinstance(domain, str) else domain
    packed = pack_rooms([room_of(domain, scene_id)], points.device)
    return surface_distance(packed, points[None].float())[0]


@functools.lru_cache(maxsize=64)
def room_of(domain: RoomDomain, scene_id: int) -> Room:
    """The accepted room of one id."""
    return accepted_rooms(domain, [scene_id])[0]


def accepted_rooms(
    domain: RoomDomain, ids: Sequence[int], device: torch.device | str = "cpu"
) -> list[Room]:
    """For every id the first draw that the domain accepts.

    Raises RuntimeError when none of MAX_ATTEMPTS draws is accepted: the ranges of the domain
    contradict each other.
    """
    rooms: list[Room | None] = [None] * len(ids)
    waiting = list(range(len(ids)))
    for attempt in range(MAX_ATTEMPTS):
        drawn: list[tuple[int, Room]] = []
        for position in waiting:
            try:
                drawn.append((position, draw_room(domain, ids[position], attempt)))
            except LayoutFailed:
                continue
        for part in _chunks(len(drawn), PROBE_VIEWS * PROBE_HW[0] * PROBE_HW[1], device):
            candidates = [room for _, room in drawn[part]]
            for (position, room), good in zip(
                drawn[part], _acceptable(domain, candidates, device).tolist(), strict=True
            ):
                if good:
                    rooms[position] = room
        waiting = [position for position in waiting if rooms[position] is None]
        if not waiting:
            return rooms  # type: ignore[return-value]
    raise RuntimeError(
        f"domain {domain.name!r}: none of {MAX_ATTEMPTS} draws of scene {ids[waiting[0]]} was "
        "accepted; loosen target_visible, objects_seen or the path ranges"
    )


def _acceptable(domain: RoomDomain, rooms: Sequence[Room], device: torch.device | str) -> Tensor:
    """Which rooms pass the domain's conditions, (B,) bool."""
    references = reference_views(PROBE_VIEWS, domain.reference_target_split)
    s = view_parameters(PROBE_VIEWS, len(references), domain.reference_target_split)
    T_world_cam, K_px = _cameras(rooms, s, PROBE_HW, device)
    packed = pack_rooms(rooms, device)
    origin, direction = image_rays(T_world_cam, K_px, PROBE_HW)
    hits = cast_rays(packed, origin, direction)
    depth = hits.depth_m.unflatten(2, PROBE_HW)
    targets = [v for v in range(PROBE_VIEWS) if v not in references]
    fraction = _visible_fractions(depth, K_px, T_world_cam, references)[:, targets]
    low, high = domain.target_visible
    good = ((fraction >= low) & (fraction <= high)).all(dim=1)
    mean_depth = depth.flatten(2).mean(-1)
    good &= ((mean_depth >= domain.mean_depth_m[0]) & (mean_depth <= domain.mean_depth_m[1])).all(1)
    good &= _objects_seen(packed, hits.primitive.long()) >= domain.objects_seen
    along = np.linspace(0.0, 1.0, 9)
    centres = np.stack([room.path.positions(along) for room in rooms])
    distance = surface_distance(packed, torch.as_tensor(centres, dtype=torch.float32).to(device))
    return good & (distance.amin(1) >= domain.clearance)


def _objects_seen(packed: PackedRooms, primitive: Tensor) -> Tensor:
    """Number of objects that fill a visible share of at least one view, (B,)."""
    owner = packed.object_of[:, None].expand(-1, primitive.shape[1], -1).gather(2, primitive)
    count = int(packed.object_of.max()) + 1
    share = torch.stack([(owner == number).float().mean(2) for number in range(count)], dim=-1)
    return (share >= SEEN_PIXEL_SHARE).any(dim=1).sum(dim=1)


def _visible_fractions(
    depth_m: Tensor, K_px: Tensor, T_world_cam: Tensor, references: Sequence[int]
) -> Tensor:
    """(B, V): share of every view that the references see; 1 for the references themselves."""
    fraction = torch.ones(depth_m.shape[:2], device=depth_m.device)
    targets = [v for v in range(depth_m.shape[1]) if v not in references]
    if targets:
        picked = list(references)
        seen = visible_from(
            DepthViews(depth_m[:, picked], K_px[:, picked], T_world_cam[:, picked]),
            DepthViews(depth_m[:, targets], K_px[:, targets], T_world_cam[:, targets]),
        )
        fraction[:, targets] = visible_fraction(seen, depth_m[:, targets])
    return fraction


def _cameras(
    rooms: Sequence[Room], s: np.ndarray, image_hw: tuple[int, int], device: torch.device | str
) -> tuple[Tensor, Tensor]:
    poses = np.stack([room.path.poses(s) for room in rooms])
    intrinsics = np.stack([pinhole_from_fov(room.path.horizontal_fov, image_hw) for room in rooms])
    K_px = torch.as_tensor(intrinsics, dtype=torch.float32).to(device)
    K_px = K_px[:, None].expand(-1, len(s), 3, 3).contiguous()
    return torch.as_tensor(poses, dtype=torch.float32).to(device), K_px


def _chunks(count: int, rays_each: int, device: torch.device | str) -> list[slice]:
    size = max(1, RAYS_PER_CHUNK.get(torch.device(device).type, 1 << 23) // rays_each)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _check_request(
    ids: Sequence[int], num_views: int, image_hw: tuple[int, int], antialias: int
) -> None:
    if len(ids) == 0:
        raise ValueError("no scene ids given; give at least one")
    for scene_id in ids:
        split_of(scene_id)
    if num_views < 1:
        raise ValueError(f"num_views is {num_views}; use at least 1")
    if min(image_hw) < 1:
        raise ValueError(f"image_hw is {image_hw}; both sides need at least 1 pixel")
    if antialias < 1:
        raise ValueError(f"antialias is {antialias}; use 1 (off) or more")
