"""Batched ray casting and shading of packed rooms in plain torch, on CPU or GPU.

Rays are parameterised by z-depth: a ray direction has length 1 along the optical axis, so the ray
parameter of a hit *is* its z-depth in metres. Shapes: B rooms, V views, N rays per view.
Surface patterns belong to textures.py, drawing rooms to layout.py.

Decisions per ray are float masks (0 or 1) and arithmetic instead of booleans and `torch.where`:
on CPU the latter cost ten times a multiplication.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gld_ros.scenes.rooms.layout import MATERIAL_COLUMNS, NO_OBJECT, TEXTURES, Room
from gld_ros.scenes.rooms.textures import SurfacePoints, pattern_gain

NEAR_M = 1e-3
SHADOW_BIAS_M = 2e-3
# Added to ray directions: keeps an axis-parallel ray from dividing by zero, moves nothing.
_TINY = 1e-12
# Columns of PackedRooms.shape: what shading needs to know of the primitive that a ray hit
_SHAPE_COLUMNS = 11
_CX, _CY, _CZ, _HX, _HY, _HZ, _COS, _SIN, _IS_SPHERE, _IS_CYLINDER, _MATERIAL = range(11)


@dataclass(frozen=True)
class PackedRooms:
    """Several rooms as tensors, float32, padded to the largest number of each primitive.

    Padding primitives are never hit. Primitive 0 is the shell; boxes, spheres and cylinders follow
    in this order.
    """

    size: Tensor  # (B, 3)
    boxes: Tensor  # (B, nb, 8): centre, half size, cos, sin
    spheres: Tensor  # (B, ns, 4): centre, radius
    cylinders: Tensor  # (B, nc, 5): centre, radius, half height
    panels: Tensor  # (B, np, 6): face, u low/high, v low/high, material row
    lights: Tensor  # (B, nl, 4): position, weight
    ambient: Tensor  # (B,)
    materials: Tensor  # (B, nm, 8): see layout.MATERIAL_COLUMNS
    shape: Tensor  # (B, 1 + nb + ns + nc, 11): centre, half size, cos, sin, kinds, material row
    object_of: Tensor  # (B, 1 + nb + ns + nc) int64, -1: shell, partitions and padding
    shadows: bool
    textures: tuple[str, ...]  # the patterns that occur, "plain" left out
    curved_textures: bool  # whether any of them is on a sphere or cylinder


def pack_rooms(rooms: Sequence[Room], device: torch.device | str = "cpu") -> PackedRooms:
    """Stack rooms of one domain into padded tensors."""
    # A box of negative size is left before it is entered; a sphere of no size lies out of the way.
    boxes = _padded([r.boxes for r in rooms], [0, 0, 0, -1, -1, -1, 1, 0])
    spheres = _padded([r.spheres for r in rooms], [0, 0, -1000, 0])
    cylinders = _padded([r.cylinders for r in rooms], [0, 0, -1000, 0, -1])
    shell = [[[0.0, 0.0, r.size[2] / 2, *(s / 2 for s in r.size), 1, 0, 0, 0, 0]] for r in rooms]

    def shapes(names: Callable[[Room], tuple[list[list[float]], list[int]]], kind: str) -> Tensor:
        rows = []
        for room in rooms:
            primitives, materials = names(room)
            rows.append(
                [_shape_row(p, kind, m) for p, m in zip(primitives, materials, strict=True)]
            )
        return _padded(rows, _shape_row([0, 0, -1000, -1, -1, -1, 1, 0], "padding", 0))

    shape = torch.cat(
        (
            torch.tensor(shell, dtype=torch.float32),
            shapes(lambda r: (r.boxes, r.box_material), "box"),
            shapes(lambda r: (r.spheres, r.sphere_material), "sphere"),
            shapes(lambda r: (r.cylinders, r.cylinder_material), "cylinder"),
        ),
        dim=1,
    )
    owners = torch.cat(
        (
            torch.full((len(rooms), 1), NO_OBJECT),
            _padded_owners([r.box_object for r in rooms]),
            _padded_owners([r.sphere_object for r in rooms]),
            _padded_owners([r.cylinder_object for r in rooms]),
        ),
        dim=1,
    )
    texture, contrast = MATERIAL_COLUMNS.index("texture"), MATERIAL_COLUMNS.index("contrast")
    shown = {m[texture] for r in rooms for m in r.materials if m[contrast] > 0}
    curved = any(
        r.materials[row][contrast] > 0
        for r in rooms
        for row in (*r.sphere_material, *r.cylinder_material)
    )
    tensors = {
        "size": torch.tensor([r.size for r in rooms], dtype=torch.float32),
        "boxes": boxes,
        "spheres": spheres,
        "cylinders": cylinders,
        "panels": _padded([r.panels for r in rooms], [-1, 0, 0, 0, 0, 0]),
        "lights": _padded([r.lights for r in rooms], [0, 0, 0, 0]),
        "ambient": torch.tensor([r.ambient for r in rooms], dtype=torch.float32),
        "materials": _padded([r.materials for r in rooms], [0, 0, 0, 0, 0, 1, 0, 0]),
        "shape": shape,
        "object_of": owners,
    }
    return PackedRooms(
        **{name: tensor.to(device) for name, tensor in tensors.items()},
        shadows=any(r.shadows for r in rooms),
        textures=tuple(TEXTURES[int(k)] for k in sorted(shown)),
        curved_textures=curved,
    )


def _padded(rows: Sequence[Sequence[Sequence[float]]], filler: Sequence[float]) -> Tensor:
    longest = max(len(r) for r in rows)
    padded = [[*r, *([filler] * (longest - len(r)))] for r in rows]
    return torch.tensor(padded, dtype=torch.float32).reshape(len(rows), longest, len(filler))


def _padded_owners(rows: Sequence[Sequence[int]]) -> Tensor:
    longest = max(len(r) for r in rows)
    padded = [[*r, *([NO_OBJECT] * (longest - len(r)))] for r in rows]
    return torch.tensor(padded, dtype=torch.long).reshape(len(rows), longest)


def _shape_row(primitive: Sequence[float], kind: str, material: int) -> list[float]:
    centre, size = list(primitive[:3]), list(primitive[3:])
    if kind == "sphere":
        return [*centre, size[0], size[0], size[0], 1, 0, 1, 0, material]
    if kind == "cylinder":
        return [*centre, size[0], size[0], size[1], 1, 0, 0, 1, material]
    return [*centre, *size, 0, 0, material]


Vec = tuple[Tensor, Tensor, Tensor]


def _each(function: Callable[..., Tensor], *vectors: Vec) -> Vec:
    """Apply a function to the x, then the y, then the z components of vectors."""
    x, y, z = (function(*components) for components in zip(*vectors, strict=True))
    return x, y, z


def _dot(a: Vec, b: Vec) -> Tensor:
    return (a[0] * b[0]).addcmul_(a[1], b[1]).addcmul_(a[2], b[2])


def _less(a: Tensor, b: Tensor | float) -> Tensor:
    """1.0 where a < b, else 0.0, in the shape of a."""
    return torch.lt(a, b, out=torch.empty_like(a))


def _equal(a: Tensor, b: Tensor | float) -> Tensor:
    """1.0 where a == b, else 0.0, in the shape of a."""
    return torch.eq(a, b, out=torch.empty_like(a))


@dataclass(frozen=True)
class Hits:
    """Where rays end: depth_m (B, V, N) z-depth; primitive (B, V, N) float, 0 is the shell."""

    depth_m: Tensor
    primitive: Tensor


def pixel_rays(K_px: Tensor, T_world_cam: Tensor, x: Tensor, y: Tensor) -> tuple[Vec, Vec]:
    """Origins (B, V, 1) and directions (B, V, N) in the world through pixels x, y.

    K_px (B, V, 3, 3), T_world_cam (B, V, 4, 4), x and y broadcastable to (B, V, N).
    """
    right = (x - K_px[..., 0, 2, None]) / K_px[..., 0, 0, None]
    down = (y - K_px[..., 1, 2, None]) / K_px[..., 1, 1, None]
    d = [
        (right * T_world_cam[..., i, 0, None])
        .addcmul_(down, T_world_cam[..., i, 1, None])
        .add_(T_world_cam[..., i, 2, None])
        for i in range(3)
    ]
    o = [T_world_cam[..., i, 3, None] for i in range(3)]
    return (o[0], o[1], o[2]), (d[0], d[1], d[2])


def cast_rays(rooms: PackedRooms, origin: Vec, direction: Vec) -> Hits:
    """First surface along every ray. origin broadcastable to direction, each (B, V, N)."""
    direction = _each(lambda d: d + _TINY, direction)
    inverse = _each(torch.reciprocal, direction)
    closeness = _shell_exit(rooms.size, origin, inverse).reciprocal_()
    primitive = torch.zeros_like(closeness)
    for slot, candidate in enumerate(_entries(rooms, origin, direction, inverse), start=1):
        nearer = _less(closeness, candidate)
        torch.maximum(closeness, candidate, out=closeness)
        primitive.lerp_(torch.full_like(primitive[:1, :1, :1], float(slot)), nearer)
    return Hits(closeness.reciprocal_(), primitive)


def _unoccluded(rooms: PackedRooms, origin: Vec, direction: Vec) -> Tensor:
    """1.0 where nothing stands between origin and origin + direction, else 0.0, (B, V, N)."""
    direction = _each(lambda d: d + _TINY, direction)
    inverse = _each(torch.reciprocal, direction)
    closeness = torch.zeros_like(direction[0])
    for candidate in _entries(rooms, origin, direction, inverse):
        torch.maximum(closeness, candidate, out=closeness)
    return _less(closeness, 1.0)


def _shell_exit(size: Tensor, origin: Vec, inverse: Vec) -> Tensor:
    half_x, half_y, half_z = (0.5 * size[:, i, None, None] for i in range(3))
    exits = [
        (half * inv.abs()).addcmul_(-at, inv)
        for half, at, inv in (
            (half_x, origin[0], inverse[0]),
            (half_y, origin[1], inverse[1]),
            (half_z, origin[2] - half_z, inverse[2]),
        )
    ]
    nearest = torch.minimum(exits[0], exits[1])
    return torch.minimum(nearest, exits[2], out=nearest)


def _entries(rooms: PackedRooms, origin: Vec, direction: Vec, inverse: Vec) -> Iterator[Tensor]:
    """Yield, for each primitive in order, 1 / depth where rays enter it; 0 or less: they miss."""
    ox, oy, oz = origin
    dx, dy, _ = direction
    inverse_z, abs_inverse_z = inverse[2], inverse[2].abs()
    for i in range(rooms.boxes.shape[1]):
        cx, cy, cz, hx, hy, hz, cos, sin = (rooms.boxes[:, i, k, None, None] for k in range(8))
        rx, ry = cx - ox, cy - oy
        middle, reach = (cz - oz) * inverse_z, hz * abs_inverse_z
        enter, leave = middle - reach, middle.add_(reach)
        for ahead, along, half in (
            (cos * rx + sin * ry, (cos * dx).addcmul_(sin, dy), hx),
            (cos * ry - sin * rx, (cos * dy).addcmul_(-sin, dx), hy),
        ):
            inv = along.add_(_TINY).reciprocal_()
            middle = ahead * inv
            reach = inv.abs_().mul_(half)
            torch.maximum(enter, middle - reach, out=enter)
            torch.minimum(leave, middle.add_(reach), out=leave)
        hit = _less(enter, leave)
        yield hit.mul_(_less(-enter, -NEAR_M)).div_(enter)
    if rooms.spheres.shape[1]:
        length2 = _dot(direction, direction)
        for i in range(rooms.spheres.shape[1]):
            cx, cy, cz, radius = (rooms.spheres[:, i, k, None, None] for k in range(4))
            to_centre = (cx - ox, cy - oy, cz - oz)
            half_b = _dot(direction, to_centre)
            behind = radius * radius - _dot(to_centre, to_centre)
            discriminant = (half_b * half_b).addcmul_(length2, behind)
            hit = _less(-discriminant, 0.0)
            enter = half_b.sub_(discriminant.clamp_(min=0).sqrt_()).div_(length2)
            yield hit.mul_(_less(-enter, -NEAR_M)).div_(enter)
    if rooms.cylinders.shape[1]:
        length2 = (dx * dx).addcmul_(dy, dy)
        for i in range(rooms.cylinders.shape[1]):
            cx, cy, cz, radius, hz = (rooms.cylinders[:, i, k, None, None] for k in range(5))
            rx, ry = cx - ox, cy - oy
            half_b = (dx * rx).addcmul_(dy, ry)
            behind = radius * radius - (rx * rx + ry * ry)
            discriminant = (half_b * half_b).addcmul_(length2, behind)
            hit = _less(-discriminant, 0.0)
            root = discriminant.clamp_(min=0).sqrt_()
            middle, reach = (cz - oz) * inverse_z, hz * abs_inverse_z
            enter = torch.maximum(middle - reach, (half_b - root).div_(length2))
            leave = torch.minimum(middle.add_(reach), half_b.add_(root).div_(length2))
            hit = hit.mul_(_less(enter, leave)).mul_(_less(-enter, -NEAR_M))
            yield hit.div_(enter)


@dataclass(frozen=True)
class Shading:
    """Colour of ray hits: rgb (B, V, 3, N) in [0, 1].

    surface (B, V, N) differs between neighbouring pixels wherever an edge runs between them:
    other primitive, face, painted panel or shadow.
    """

    rgb: Tensor
    surface: Tensor


def shade(
    rooms: PackedRooms, origin: Vec, direction: Vec, hits: Hits, pixel_angle: Tensor
) -> Shading:
    """Colour where rays end: pattern, ambient light, ceiling lights with or without shadows.

    pixel_angle (B, V, 1) is the size of a pixel at 1 m depth, for the band limit of patterns.
    """
    depth = hits.depth_m
    num_rooms, num_primitives = rooms.shape.shape[:2]
    room_index = torch.arange(num_rooms, device=depth.device)[:, None, None]
    hit_shape = _rows(rooms.shape, hits.primitive.long() + room_index * num_primitives)
    cos, sin, is_sphere, is_cylinder = (
        hit_shape[k] for k in (_COS, _SIN, _IS_SPHERE, _IS_CYLINDER)
    )
    half = (hit_shape[_HX], hit_shape[_HY], hit_shape[_HZ])

    world = _each(lambda o, d: torch.addcmul(o, depth, d), origin, direction)
    rx, ry = world[0] - hit_shape[_CX], world[1] - hit_shape[_CY]
    local = (
        (cos * rx).addcmul_(sin, ry),
        (cos * ry).sub_(sin * rx),
        world[2] - hit_shape[_CZ],
    )
    out = _each(torch.div, local, half)  # 1 or -1 on the faces of a box
    square = _each(torch.square, out)

    # Boxes and the shell: the face is the axis along which the point lies farthest out.
    is_shell = _equal(hits.primitive, 0.0)
    straight = (1.0 - is_sphere).sub_(is_cylinder)
    on_z = _less(torch.maximum(square[0], square[1]), square[2])
    on_x = _less(-square[0], -square[1]) * (1.0 - on_z)
    on_y = (1.0 - on_z).sub_(on_x)
    on_cap = _less(square[0] + square[1], square[2]).mul_(is_cylinder)
    on_x, on_y = on_x.mul_(straight), on_y.mul_(straight)
    on_z = on_z.mul_(straight).add_(on_cap)
    curved = (1.0 - on_x).sub_(on_y).sub_(on_z)
    outward = 1.0 - 2.0 * is_shell  # the shell is seen from inside
    nx, ny, nz = _each(
        lambda o, on: torch.sign(o).mul_(on).mul_(outward).addcmul_(curved, o),
        out,
        (on_x, on_y, on_z),
    )
    nz = nz.addcmul_(curved * is_cylinder, out[2], value=-1.0)  # the side of a cylinder is upright

    positive = _less(-(out[0] * on_x).addcmul_(out[1], on_y).addcmul_(out[2], on_z), 0.0)
    face = (2.0 * on_y).add_(on_z, alpha=4.0).add_(positive)
    material = torch.addcmul(hit_shape[_MATERIAL], is_shell, face)
    for i in range(rooms.panels.shape[1]):
        panel_face, u0, u1, v0, v1, row = (rooms.panels[:, i, k, None, None] for k in range(6))
        u = torch.lerp(local[0], local[1], (panel_face < 2).float())
        # Products of distances to opposite borders are positive inside.
        within = _less(-((u - u0) * (u1 - u)), 0.0)
        within.mul_(_less(-((local[2] - v0) * (v1 - local[2])), 0.0))
        within.mul_(_equal(face, panel_face)).mul_(is_shell)
        material.lerp_(row, within)
    # 8 faces, up to 256 primitives and materials, then a bit per light: exact in float32.
    surface = (face * (1.0 - curved)).add_(material, alpha=8.0)
    surface = surface.add_(hits.primitive, alpha=8.0 * 64)

    hit_material = _rows(rooms.materials, material.long() + room_index * rooms.materials.shape[1])
    gain: Tensor | None = None
    if rooms.textures:
        ray = (
            (cos * direction[0]).addcmul_(sin, direction[1]),
            (cos * direction[1]).sub_(sin * direction[0]),
            direction[2],
        )
        points = SurfacePoints(
            local=local,
            normal=(nx, ny, nz),
            ray=ray,
            radius=half[0],
            on_x=on_x,
            on_z=on_z,
            curved=curved if rooms.curved_textures else None,
            pixel_m=depth * pixel_angle,
        )
        columns = dict(zip(MATERIAL_COLUMNS, hit_material, strict=True))
        gain = pattern_gain(points, columns, rooms.textures)

    normal = ((cos * nx).sub_(sin * ny), (sin * nx).addcmul_(cos, ny), nz)
    brightness = rooms.ambient[:, None, None].expand_as(depth).clone()
    for i in range(rooms.lights.shape[1]):
        to_light = _each(
            lambda p, at: at - p,
            world,
            tuple(rooms.lights[:, i, k, None, None] for k in range(3)),  # type: ignore[arg-type]
        )
        weight = rooms.lights[:, i, 3, None, None]
        distance2 = _dot(to_light, to_light).clamp_(min=1e-6)
        lambert = _dot(normal, to_light).mul_(distance2.rsqrt_()).clamp_(min=0)
        if rooms.shadows:
            start = _each(lambda p, n: p + SHADOW_BIAS_M * n, world, normal)
            lit = _unoccluded(rooms, start, to_light)
            lambert.mul_(lit)
            # A light of no weight pads the batch; its shadows are no edges.
            surface.addcmul_(lit, (weight > 0).float(), value=float(2 ** (17 + i)))
        brightness.addcmul_(weight, lambert)
    if gain is not None:
        brightness.mul_(gain)
    rgb = torch.empty(*depth.shape[:2], 3, depth.shape[2], device=depth.device)
    for k in range(3):
        torch.mul(hit_material[k], brightness, out=rgb[:, :, k])
    return Shading(rgb.clamp_(0, 1), surface)


def _rows(table: Tensor, row: Tensor) -> Sequence[Tensor]:
    """Columns, each in the shape of row, of the chosen rows of a table (B, rows, columns)."""
    columns = table.flatten(0, 1).t().contiguous().index_select(1, row.flatten())
    return columns.reshape(-1, *row.shape).unbind(0)


def render(
    rooms: PackedRooms,
    T_world_cam: Tensor,
    K_px: Tensor,
    image_hw: tuple[int, int],
    antialias: int = 1,
) -> tuple[Tensor, Tensor]:
    """Pictures of packed rooms: rgb (B, V, 3, H, W) in [0, 1] and depth_m (B, V, H, W).

    antialias k > 1 casts k x k rays in the pixels that an edge runs through; depth is always that
    of the ray through the pixel centre.
    """
    height, width = image_hw
    origin, direction = image_rays(T_world_cam, K_px, image_hw)
    hits = cast_rays(rooms, origin, direction)
    pixel_angle = (1.0 / K_px[..., 0, 0])[..., None]
    shading = shade(rooms, origin, direction, hits, pixel_angle)
    rgb = shading.rgb
    if antialias > 1:
        edge = _edge_pixels(shading.surface.unflatten(2, image_hw))
        _supersample(rooms, T_world_cam, K_px, width, edge, rgb, antialias)
    return rgb.unflatten(3, (height, width)), hits.depth_m.unflatten(2, (height, width))


def image_rays(T_world_cam: Tensor, K_px: Tensor, image_hw: tuple[int, int]) -> tuple[Vec, Vec]:
    """Rays through all pixel centres, row by row."""
    height, width = image_hw
    device = T_world_cam.device
    y = torch.arange(height, device=device, dtype=torch.float32)[:, None].expand(height, width)
    x = torch.arange(width, device=device, dtype=torch.float32).expand(height, width)
    return pixel_rays(K_px, T_world_cam, x.reshape(-1), y.reshape(-1))


def _edge_pixels(surface: Tensor) -> Tensor:
    """1.0 on both sides of every edge between pixels, (B, V, H * W), from surface (B, V, H, W)."""
    edge = torch.zeros_like(surface)
    across, down = surface.diff(dim=-1).abs_(), surface.diff(dim=-2).abs_()
    edge[..., 1:] += across
    edge[..., :-1] += across
    edge[..., 1:, :] += down
    edge[..., :-1, :] += down
    return edge.flatten(2).clamp_(max=1.0)


def _supersample(
    rooms: PackedRooms, T_world_cam: Tensor, K_px: Tensor, width: int, edge: Tensor, rgb: Tensor,
    antialias: int,
) -> None:  # fmt: skip
    """Replace the edge pixels of rgb (B, V, 3, N) by the mean of antialias^2 rays."""
    most = int(edge.sum(-1).max())
    if most == 0:
        return
    # All edge pixels of every view; views with fewer fill up with pixels that keep their colour.
    is_edge, pixel = edge.topk(most, dim=-1, sorted=False)
    x, y = (pixel % width).float(), (pixel // width).float()
    pixel_angle = (1.0 / K_px[..., 0, 0])[..., None] / antialias
    total = torch.zeros(*pixel.shape[:2], 3, most, device=rgb.device)
    for i in range(antialias):
        for j in range(antialias):
            shift_x, shift_y = (i + 0.5) / antialias - 0.5, (j + 0.5) / antialias - 0.5
            origin, direction = pixel_rays(K_px, T_world_cam, x + shift_x, y + shift_y)
            hits = cast_rays(rooms, origin, direction)
            total += shade(rooms, origin, direction, hits, pixel_angle).rgb
    index = pixel[:, :, None].expand(-1, -1, 3, -1)
    single = rgb.gather(3, index)
    rgb.scatter_(3, index, single.lerp(total / antialias**2, is_edge[:, :, None]))


def surface_distance(rooms: PackedRooms, points: Tensor) -> Tensor:
    """Distance in metres of world points (B, N, 3) to the nearest true surface, (B, N)."""
    columns = rooms.shape[..., None, :].unbind(-1)  # each (B, P, 1)
    half = torch.stack(columns[_HX : _HZ + 1], dim=-1)
    cos, sin = columns[_COS], columns[_SIN]
    x, y, z = (points[:, None, :, i] - columns[i] for i in range(3))
    local = torch.stack((cos * x + sin * y, cos * y - sin * x, z), dim=-1)  # (B, P, N, 3)
    beyond = local.abs() - half
    box = beyond.clamp(min=0).norm(dim=-1) + beyond.amax(-1).clamp(max=0)
    sphere = local.norm(dim=-1) - half[..., 0]
    side = torch.hypot(local[..., 0], local[..., 1]) - half[..., 0]
    rim = torch.stack((side, beyond[..., 2]), dim=-1)
    cylinder = rim.clamp(min=0).norm(dim=-1) + rim.amax(-1).clamp(max=0)
    distance = torch.where(columns[_IS_CYLINDER] > 0, cylinder, box)
    distance = torch.where(columns[_IS_SPHERE] > 0, sphere, distance).abs()
    return torch.where(half[..., 0] > 0, distance, torch.inf).amin(dim=1)
