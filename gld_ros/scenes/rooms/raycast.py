"""Batched ray casting and shading of packed rooms in plain torch, on CPU or GPU.

Rays are parameterised by z-depth: a ray direction has length 1 along the optical axis, so the ray
parameter of a hit *is* its z-depth in metres. Shapes: B rooms, V views, N rays per view.
Surface patterns belong to textures.py, drawing rooms to layout.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gld_ros.scenes.rooms.layout import NO_OBJECT, Room
from gld_ros.scenes.rooms.textures import textured_albedo

NEAR_M = 1e-3
SHADOW_BIAS_M = 2e-3
# Rows of PackedRooms.shape: what shading needs to know of the primitive that a ray hit
_CENTRE, _HALF, _COS, _SIN, _KIND = slice(0, 3), slice(3, 6), 6, 7, 8
_BOX, _SPHERE, _CYLINDER = 0.0, 1.0, 2.0


@dataclass(frozen=True)
class PackedRooms:
    """Several rooms as tensors, float32, padded to the largest number of each primitive.

    Padding primitives have negative size and are never hit. Primitive 0 is the shell; boxes,
    spheres and cylinders follow in this order.
    """

    size: Tensor  # (B, 3)
    boxes: Tensor  # (B, nb, 8): centre, half size, cos, sin
    spheres: Tensor  # (B, ns, 4): centre, radius
    cylinders: Tensor  # (B, nc, 5): centre, radius, half height
    panels: Tensor  # (B, np, 6): face, u low/high, v low/high, material row
    lights: Tensor  # (B, nl, 4): position, weight
    ambient: Tensor  # (B,)
    materials: Tensor  # (B, nm, 8): see layout.MATERIAL_COLUMNS
    shape: Tensor  # (B, 1 + nb + ns + nc, 9): centre, half size, cos, sin, kind
    material_of: Tensor  # (B, 1 + nb + ns + nc) int64, row in materials (0 for the shell)
    object_of: Tensor  # (B, 1 + nb + ns + nc) int64, -1: shell and partitions
    shadows: bool
    textured: bool


def pack_rooms(rooms: Sequence[Room], device: torch.device | str = "cpu") -> PackedRooms:
    """Stack rooms of one domain into padded tensors."""
    boxes = _padded([r.boxes for r in rooms], [0, 0, 0, -1, -1, -1, 1, 0])
    spheres = _padded([r.spheres for r in rooms], [0, 0, 0, -1])
    cylinders = _padded([r.cylinders for r in rooms], [0, 0, 0, -1, -1])
    size = torch.tensor([r.size for r in rooms], dtype=torch.float32)
    shell = torch.cat((torch.zeros(len(rooms), 2), size[:, 2:] / 2, size / 2), dim=1)
    shape = torch.cat(
        (
            _shape_rows(shell[:, None], _BOX),
            torch.cat((boxes, torch.full_like(boxes[..., :1], _BOX)), dim=-1),
            _shape_rows(torch.cat((spheres, spheres[..., 3:], spheres[..., 3:]), -1), _SPHERE),
            _shape_rows(
                torch.cat((cylinders[..., :4], cylinders[..., 3:4], cylinders[..., 4:]), -1),
                _CYLINDER,
            ),
        ),
        dim=1,
    )

    def per_primitive(shell_value: int, names: tuple[str, str, str]) -> Tensor:
        columns = [torch.full((len(rooms), 1), shell_value)]
        for name, slots in zip(names, (boxes, spheres, cylinders), strict=True):
            rows = [getattr(r, name) for r in rooms]
            columns.append(
                torch.tensor(
                    [row + [0] * (slots.shape[1] - len(row)) for row in rows], dtype=torch.long
                ).reshape(len(rooms), -1)
            )
        return torch.cat(columns, dim=1)

    materials = _padded([r.materials for r in rooms], [0.0] * 8)
    tensors = {
        "size": size,
        "boxes": boxes,
        "spheres": spheres,
        "cylinders": cylinders,
        "panels": _padded([r.panels for r in rooms], [-1, 0, 0, 0, 0, 0]),
        "lights": _padded([r.lights for r in rooms], [0, 0, 0, 0]),
        "ambient": torch.tensor([r.ambient for r in rooms], dtype=torch.float32),
        "materials": materials,
        "shape": shape,
        "material_of": per_primitive(0, ("box_material", "sphere_material", "cylinder_material")),
        "object_of": per_primitive(NO_OBJECT, ("box_object", "sphere_object", "cylinder_object")),
    }
    return PackedRooms(
        **{name: tensor.to(device) for name, tensor in tensors.items()},
        shadows=any(r.shadows for r in rooms),
        textured=bool((materials[..., 4] > 0).any()),
    )


def _padded(rows: Sequence[list[list[float]]], filler: list[float]) -> Tensor:
    longest = max(len(r) for r in rows)
    padded = [r + [filler] * (longest - len(r)) for r in rows]
    return torch.tensor(padded, dtype=torch.float32).reshape(len(rows), longest, len(filler))


def _shape_rows(centre_half: Tensor, kind: float) -> Tensor:
    unturned = torch.tensor([1.0, 0.0, kind]).expand(*centre_half.shape[:-1], 3)
    return torch.cat((centre_half, unturned), dim=-1)


Vec = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Hits:
    """Where rays end. depth_m (B, V, N) z-depth; primitive (B, V, N) int64, 0 is the shell."""

    depth_m: Tensor
    primitive: Tensor


def pixel_rays(K_px: Tensor, T_world_cam: Tensor, x: Tensor, y: Tensor) -> tuple[Vec, Vec]:
    """Origins (B, V, 1) and directions (B, V, N) in the world through pixels x, y.

    K_px (B, V, 3, 3), T_world_cam (B, V, 4, 4), x and y broadcastable to (B, V, N).
    """
    fx, fy = K_px[..., 0, 0, None], K_px[..., 1, 1, None]
    cx, cy = K_px[..., 0, 2, None], K_px[..., 1, 2, None]
    right, down = (x - cx) / fx, (y - cy) / fy
    rotation = T_world_cam[..., None]
    direction = tuple(
        rotation[..., i, 0, :] * right + rotation[..., i, 1, :] * down + rotation[..., i, 2, :]
        for i in range(3)
    )
    origin = tuple(T_world_cam[..., i, 3, None] for i in range(3))
    return origin, direction  # type: ignore[return-value]


def cast_rays(rooms: PackedRooms, origin: Vec, direction: Vec) -> Hits:
    """First surface along every ray. origin broadcastable to direction, each (B, V, N)."""
    dx, dy, dz = (_nonzero(d) for d in direction)
    inverse = (dx.reciprocal(), dy.reciprocal(), dz.reciprocal())
    depth = _shell_exit(rooms.size, origin, inverse)
    primitive = torch.zeros_like(depth)  # float: keeps the comparisons in one vector width
    slot = 1
    for entry in _entries(rooms, origin, (dx, dy, dz), inverse):
        nearer = entry < depth
        depth = torch.where(nearer, entry, depth)
        primitive.masked_fill_(nearer, float(slot))
        slot += 1
    return Hits(depth, primitive.long())


def _occluded(rooms: PackedRooms, origin: Vec, direction: Vec) -> Tensor:
    """Whether anything stands between origin and origin + direction, (B, V, N) bool."""
    dx, dy, dz = (_nonzero(d) for d in direction)
    inverse = (dx.reciprocal(), dy.reciprocal(), dz.reciprocal())
    occluded = torch.zeros_like(dx, dtype=torch.bool)
    for entry in _entries(rooms, origin, (dx, dy, dz), inverse):
        occluded |= entry < 1.0
    return occluded


def _nonzero(d: Tensor) -> Tensor:
    return torch.where(d.abs() < 1e-9, 1e-9, d)


def _shell_exit(size: Tensor, origin: Vec, inverse: Vec) -> Tensor:
    half_x, half_y, height = (size[:, i, None, None] for i in range(3))
    exit_x = half_x * inverse[0].abs() - origin[0] * inverse[0]
    exit_y = half_y * inverse[1].abs() - origin[1] * inverse[1]
    exit_z = 0.5 * height * inverse[2].abs() + (0.5 * height - origin[2]) * inverse[2]
    return torch.minimum(torch.minimum(exit_x, exit_y), exit_z)


def _entries(rooms: PackedRooms, origin: Vec, direction: Vec, inverse: Vec):  # type: ignore[no-untyped-def]
    """Yield, for each primitive slot in order, the depth where rays enter it (inf: they miss)."""
    ox, oy, oz = origin
    dx, dy, dz = direction
    inverse_z, abs_inverse_z = inverse[2], inverse[2].abs()
    miss = torch.tensor(torch.inf, device=dx.device)
    for i in range(rooms.boxes.shape[1]):
        cx, cy, cz, hx, hy, hz, cos, sin = (rooms.boxes[:, i, k, None, None] for k in range(8))
        rx, ry = ox - cx, oy - cy
        local_x, local_y = cos * rx + sin * ry, cos * ry - sin * rx
        inv_x = (cos * dx + sin * dy).reciprocal_()
        inv_y = (cos * dy - sin * dx).reciprocal_()
        middle, reach = (cz - oz) * inverse_z, hz * abs_inverse_z
        enter, leave = middle - reach, middle + reach
        for local, inv, half in ((local_x, inv_x, hx), (local_y, inv_y, hy)):
            middle = local * inv
            reach = inv.abs_().mul_(half)
            enter = torch.maximum(enter, -middle - reach)
            leave = torch.minimum(leave, reach.sub_(middle))
        # Comparisons are false for the NaN of a ray that runs exactly along a face.
        yield torch.where((enter < leave) & (enter > NEAR_M) & (hx > 0), enter, miss)
    if rooms.spheres.shape[1]:
        length2 = dx * dx + dy * dy + dz * dz
        for i in range(rooms.spheres.shape[1]):
            cx, cy, cz, radius = (rooms.spheres[:, i, k, None, None] for k in range(4))
            rx, ry, rz = cx - ox, cy - oy, cz - oz
            half_b = dx * rx + dy * ry + dz * rz
            c = rx * rx + ry * ry + rz * rz - radius * radius
            discriminant = half_b * half_b - length2 * c
            enter = (half_b - discriminant.clamp(min=0).sqrt_()) / length2
            yield torch.where((discriminant > 0) & (enter > NEAR_M) & (radius > 0), enter, miss)
    if rooms.cylinders.shape[1]:
        length2 = dx * dx + dy * dy
        for i in range(rooms.cylinders.shape[1]):
            cx, cy, cz, radius, hz = (rooms.cylinders[:, i, k, None, None] for k in range(5))
            rx, ry = cx - ox, cy - oy
            half_b = dx * rx + dy * ry
            discriminant = half_b * half_b - length2 * (rx * rx + ry * ry - radius * radius)
            root = discriminant.clamp(min=0).sqrt_()
            middle, reach = (cz - oz) * inverse_z, hz * abs_inverse_z
            enter = torch.maximum(middle - reach, (half_b - root) / length2)
            leave = torch.minimum(middle + reach, (half_b + root) / length2)
            hit = (discriminant > 0) & (enter < leave) & (enter > NEAR_M) & (radius > 0)
            yield torch.where(hit, enter, miss)


@dataclass(frozen=True)
class Shading:
    """Colour of ray hits. rgb (B, V, N, 3) in [0, 1].

    surface (B, V, N) int64 differs between neighbouring pixels wherever an edge runs between them:
    other primitive, face, painted panel or shadow.
    """

    rgb: Tensor
    surface: Tensor


def shade(
    rooms: PackedRooms, origin: Vec, direction: Vec, hits: Hits, pixel_angle: Tensor
) -> Shading:
    """Colour where rays end: texture, ambient and ceiling lights, hard shadows where rooms have any.

    pixel_angle (B, V, 1) is the size of a pixel at 1 m depth, for the band limit of textures.
    """
    depth, primitive = hits.depth_m, hits.primitive
    num_rooms, num_primitives = rooms.shape.shape[:2]
    room_index = torch.arange(num_rooms, device=depth.device)[:, None, None]
    row = primitive + room_index * num_primitives
    table = rooms.shape.reshape(-1, 9).t().contiguous()

    def of_primitive(column: int) -> Tensor:
        return table[column].take(row)

    world = tuple(o + depth * d for o, d in zip(origin, direction, strict=True))
    cos, sin, kind = of_primitive(_COS), of_primitive(_SIN), of_primitive(_KIND)
    rx, ry = world[0] - of_primitive(0), world[1] - of_primitive(1)
    local = (cos * rx + sin * ry, cos * ry - sin * rx, world[2] - of_primitive(2))
    half = tuple(of_primitive(k) for k in (3, 4, 5))

    # Boxes and the shell: the face is the axis along which the point lies farthest out.
    out = tuple((p / h).abs_() for p, h in zip(local, half, strict=True))
    on_z = (out[2] > out[0]) & (out[2] > out[1])
    on_x = (out[0] >= out[1]) & ~on_z
    on_y = ~(on_x | on_z)
    is_shell = primitive == 0
    facing = torch.where(is_shell, -1.0, 1.0)
    normal = tuple(
        torch.where(on, torch.sign(p) * facing, 0.0)
        for on, p in zip((on_x, on_y, on_z), local, strict=True)
    )
    curved = torch.zeros_like(is_shell)
    if rooms.spheres.shape[1]:
        is_sphere = kind == _SPHERE
        normal = tuple(
            torch.where(is_sphere, p / h, n) for p, h, n in zip(local, half, normal, strict=True)
        )
        curved = curved | is_sphere
    if rooms.cylinders.shape[1]:
        is_cylinder = kind == _CYLINDER
        on_side = is_cylinder & (torch.hypot(local[0], local[1]) / half[0] > out[2])
        side = (local[0] / half[0], local[1] / half[1], torch.zeros_like(depth))
        cap = (torch.zeros_like(depth), torch.zeros_like(depth), torch.sign(local[2]))
        normal = tuple(
            torch.where(on_side, s, torch.where(is_cylinder, c, n))
            for s, c, n in zip(side, cap, normal, strict=True)
        )
        curved = curved | on_side
        on_z = torch.where(is_cylinder, ~on_side, on_z)

    positive = torch.where(on_x, local[0], torch.where(on_y, local[1], local[2])) > 0
    face = torch.where(on_z, 4, torch.where(on_x, 0, 2)) + positive.long()
    material = torch.where(is_shell, face, rooms.material_of.reshape(-1).take(row))
    for i in range(rooms.panels.shape[1]):
        panel_face, u0, u1, v0, v1, panel_row = (
            rooms.panels[:, i, k, None, None] for k in range(6)
        )
        u = torch.where(panel_face < 2, local[1], local[0])
        painted = is_shell & (face == panel_face) & (u > u0) & (u < u1)
        painted &= (local[2] > v0) & (local[2] < v1)
        material = torch.where(painted, panel_row.long(), material)
    surface = torch.where(curved, 0, face) + 8 * primitive + 1024 * material

    material_row = material + room_index * rooms.materials.shape[1]
    material_table = rooms.materials.reshape(-1, 8).t().contiguous()
    albedo = tuple(material_table[k].take(material_row) for k in range(3))
    if rooms.textured:
        albedo = textured_albedo(
            albedo, material_table, material_row, local, half, normal, direction, (cos, sin),
            (on_x, on_y, curved), depth, pixel_angle,
        )  # fmt: skip

    normal = (cos * normal[0] - sin * normal[1], sin * normal[0] + cos * normal[1], normal[2])
    light_sum = rooms.ambient[:, None, None].expand_as(depth)
    for i in range(rooms.lights.shape[1]):
        to_light = tuple(rooms.lights[:, i, k, None, None] - world[k] for k in range(3))
        toward = sum(n * d for n, d in zip(normal, to_light, strict=True))
        distance2 = sum(d * d for d in to_light)
        lambert = (toward * distance2.clamp_(min=1e-6).rsqrt_()).clamp_(min=0)  # type: ignore[union-attr]
        if rooms.shadows:
            start = tuple(p + SHADOW_BIAS_M * n for p, n in zip(world, normal, strict=True))
            dark = _occluded(rooms, start, to_light)  # type: ignore[arg-type]
            lambert = lambert.masked_fill(dark, 0.0)
            surface = surface + (dark.long() << (20 + i))
        light_sum = light_sum + rooms.lights[:, i, 3, None, None] * lambert
    rgb = torch.stack([(a * light_sum).clamp_(0, 1) for a in albedo], dim=-1)
    return Shading(rgb, surface)


def render(
    rooms: PackedRooms,
    T_world_cam: Tensor,
    K_px: Tensor,
    image_hw: tuple[int, int],
    antialias: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures of packed rooms: rgb (B, V, 3, H, W), depth_m (B, V, H, W), primitive (B, V, H, W).

    antialias k > 1 casts k x k rays in the pixels that an edge runs through; depth and primitive
    are always those of the ray through the pixel centre.
    """
    height, width = image_hw
    device = T_world_cam.device
    y, x = torch.meshgrid(
        torch.arange(height, device=device, dtype=torch.float32),
        torch.arange(width, device=device, dtype=torch.float32),
        indexing="ij",
    )
    origin, direction = pixel_rays(K_px, T_world_cam, x.reshape(-1), y.reshape(-1))
    hits = cast_rays(rooms, origin, direction)
    pixel_angle = (1.0 / K_px[..., 0, 0])[..., None]
    shading = shade(rooms, origin, direction, hits, pixel_angle)
    rgb = shading.rgb
    if antialias > 1:
        edge = _edge_pixels(shading.surface.reshape(*shading.surface.shape[:2], height, width))
        rgb = _supersampled(rooms, T_world_cam, K_px, width, edge, rgb, antialias)
    shape = (*rgb.shape[:2], height, width)
    rgb = rgb.reshape(*shape, 3).permute(0, 1, 4, 2, 3).contiguous()
    return rgb, hits.depth_m.reshape(shape), hits.primitive.reshape(shape)


def _edge_pixels(surface: Tensor) -> Tensor:
    """Pixels with another surface beside or below them, either side of the edge, (B, V, N) bool."""
    edge = torch.zeros_like(surface, dtype=torch.bool)
    across, down = (
        surface[..., 1:] != surface[..., :-1],
        surface[..., 1:, :] != surface[..., :-1, :],
    )
    edge[..., 1:] |= across
    edge[..., :-1] |= across
    edge[..., 1:, :] |= down
    edge[..., :-1, :] |= down
    return edge.flatten(2)


def _supersampled(
    rooms: PackedRooms, T_world_cam: Tensor, K_px: Tensor, width: int, edge: Tensor, rgb: Tensor,
    antialias: int,
) -> Tensor:  # fmt: skip
    """Colours (B, V, N, 3) with their edge pixels replaced by the mean of antialias^2 rays."""
    most = int(edge.sum(-1).max())
    if most == 0:
        return rgb
    # The edge pixels of every view first; views with fewer repeat pixels that are no edges.
    pixel = edge.byte().argsort(dim=-1, descending=True, stable=True)[..., :most]
    x, y = (pixel % width).float(), (pixel // width).float()
    pixel_angle = (1.0 / K_px[..., 0, 0])[..., None] / antialias
    total = torch.zeros(*pixel.shape, 3, device=rgb.device)
    for i in range(antialias):
        for j in range(antialias):
            shift_x, shift_y = (i + 0.5) / antialias - 0.5, (j + 0.5) / antialias - 0.5
            origin, direction = pixel_rays(K_px, T_world_cam, x + shift_x, y + shift_y)
            hits = cast_rays(rooms, origin, direction)
            total += shade(rooms, origin, direction, hits, pixel_angle).rgb
    is_edge = edge.gather(-1, pixel)[..., None]
    index = pixel[..., None].expand(-1, -1, -1, 3)
    return rgb.scatter(2, index, torch.where(is_edge, total / antialias**2, rgb.gather(2, index)))


def surface_distance(rooms: PackedRooms, points: Tensor) -> Tensor:
    """Distance in metres of world points (B, N, 3) to the nearest true surface, (B, N)."""
    centre, half = rooms.shape[..., None, _CENTRE], rooms.shape[..., None, _HALF]
    cos, sin, kind = (rooms.shape[..., None, k] for k in (_COS, _SIN, _KIND))
    offset = points[:, None] - centre  # (B, P, N, 3)
    local = torch.stack(
        (
            cos * offset[..., 0] + sin * offset[..., 1],
            cos * offset[..., 1] - sin * offset[..., 0],
            offset[..., 2],
        ),
        dim=-1,
    )
    beyond = local.abs() - half
    box = beyond.clamp(min=0).norm(dim=-1) + beyond.amax(-1).clamp(max=0)
    sphere = local.norm(dim=-1) - half[..., 0]
    rim = torch.stack(
        (torch.hypot(local[..., 0], local[..., 1]) - half[..., 0], beyond[..., 2]), -1
    )
    cylinder = rim.clamp(min=0).norm(dim=-1) + rim.amax(-1).clamp(max=0)
    distance = torch.where(kind == _SPHERE, sphere, torch.where(kind == _CYLINDER, cylinder, box))
    distance = distance.abs()
    distance = torch.where(half[..., 0] > 0, distance, torch.inf)
    return distance.amin(dim=1)
