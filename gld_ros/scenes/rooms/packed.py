"""Procedural rooms as padded tensors, as rays and shading read them.

Drawing rooms belongs to layout.py, casting rays to raycast.py, colours to shading.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gld_ros.scenes.rooms.layout import MATERIAL_COLUMNS, NO_OBJECT, TEXTURES, Room

# Columns of PackedRooms.shape: what shading needs to know of the primitive that a ray hit
CX, CY, CZ, HX, HY, HZ, COS, SIN, IS_SPHERE, IS_CYLINDER, MATERIAL = range(11)


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
