"""Property tests that do not depend on the machine's load, and cameras for them."""

import torch
from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


def pinhole_px(fx, fy, cx, cy):
    """K_px (3, 3) float64 of focal lengths and principal point in pixels."""
    return torch.tensor([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]], dtype=torch.float64)
