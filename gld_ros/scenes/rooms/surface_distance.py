"""How far points lie from the true surfaces of packed rooms."""

import torch
from torch import Tensor

from gld_ros.scenes.rooms.packed import COS, HX, HZ, IS_CYLINDER, IS_SPHERE, SIN, PackedRooms


def surface_distance(rooms: PackedRooms, points: Tensor) -> Tensor:
    """Distance in metres of world points (B, N, 3) to the nearest true surface, (B, N)."""
    columns = rooms.shape[..., None, :].unbind(-1)  # each (B, P, 1)
    half = torch.stack(columns[HX : HZ + 1], dim=-1)
    cos, sin = columns[COS], columns[SIN]
    x, y, z = (points[:, None, :, i] - columns[i] for i in range(3))
    local = torch.stack((cos * x + sin * y, cos * y - sin * x, z), dim=-1)  # (B, P, N, 3)
    beyond = local.abs() - half
    box = beyond.clamp(min=0).norm(dim=-1) + beyond.amax(-1).clamp(max=0)
    sphere = local.norm(dim=-1) - half[..., 0]
    side = torch.hypot(local[..., 0], local[..., 1]) - half[..., 0]
    rim = torch.stack((side, beyond[..., 2]), dim=-1)
    cylinder = rim.clamp(min=0).norm(dim=-1) + rim.amax(-1).clamp(max=0)
    distance = torch.where(columns[IS_CYLINDER] > 0, cylinder, box)
    distance = torch.where(columns[IS_SPHERE] > 0, sphere, distance).abs()
    return torch.where(half[..., 0] > 0, distance, torch.inf).amin(dim=1)
