"""Measured depth on the device: one keyframe against NumPy on the CPU and against the truth."""

import statistics

import cv2
import numpy as np
import torch
from launches import launches

from gld_ros.measuring.confidence import SURE
from gld_ros.measuring.frames import FloatArray, PosedImage
from gld_ros.measuring.measure import MeasuringParameters, find_surface, measure_depth
from gld_ros.measuring.torch_aggregation import semi_global
from gpu_parts.compilation import step_variants
from gpu_parts.machine import Figures, Machine

WALL_M, RANGE_M = 2.0, (0.5, 8.0)
SHIFTS_PX = (0, -20, -10, 10, 20, 30)  # of the reference and of five neighbours, in 320 columns
FINEST_HYPOTHESES = 5


def measuring(machine: Machine) -> list[Figures]:
    """A keyframe's search with five neighbours, and the scan of its finest level by itself."""
    hw = (240, 320) if machine.size_name == "full" else (60, 80)
    reference, *neighbours = textured_wall(hw)
    parameters = MeasuringParameters(RANGE_M)
    published, rows = [], []
    for name, device in (("NumPy, CPU", None), (f"torch, {machine.device}", machine.device)):

        def search(device: torch.device | None = device) -> object:
            return find_surface(reference, neighbours, parameters, device)

        measured = measure_depth(reference, neighbours, parameters, device)
        published.append(np.where(measured.confidence >= SURE, measured.depth_m, np.nan))
        peak = machine.peak_mib(search)
        rows.append(
            {
                "search": f"{name}, {hw[1]}x{hw[0]}",
                "ms": statistics.median(machine.milliseconds(search)),
                "coverage": float(np.isfinite(published[-1]).mean()),
                "median_error": float(np.nanmedian(np.abs(published[-1] / WALL_M - 1))),
                "added_mib": None if peak is None else peak[1],
            }
        )
        print(f"  {rows[-1]['search']}: {rows[-1]['ms']:.1f} ms", flush=True)
    rows[-1]["operations"] = launches(
        lambda: find_surface(reference, neighbours, parameters, machine.device)
    )
    rows[-1]["within_1_percent_of_numpy"] = share_within(published[1], published[0], 0.01)
    cost = torch.rand(FINEST_HYPOTHESES, *hw, device=machine.device)
    grey = 255 * torch.rand(hw, device=machine.device)
    scans = step_variants(machine, "scan of the finest level", lambda: semi_global(cost, grey))
    return rows + [{"search": scan.pop("variant"), **scan} for scan in scans]


def textured_wall(hw: tuple[int, int]) -> list[PosedImage]:
    """Images (h, w) of a wall at WALL_M from cameras side by side, the reference first."""
    height, width = hw
    shifts = [round(shift * width / 320) for shift in SHIFTS_PX]
    margin = max(abs(shift) for shift in shifts)
    noise = np.random.default_rng(0).normal(0, 1, (height, width + 2 * margin))
    noise = cv2.GaussianBlur(noise, (0, 0), 1.5)
    wall = np.clip(128 + 45 * noise / noise.std(), 0, 255).astype(np.uint8)
    K_px = np.array([[width, 0, (width - 1) / 2], [0, width, (height - 1) / 2], [0, 0, 1]], float)
    images = []
    for number, shift in enumerate(shifts):
        T_fixed_cam = np.eye(4)
        T_fixed_cam[0, 3] = shift * WALL_M / width
        part = wall[:, margin + shift :][:, :width, None].repeat(3, axis=2)
        images.append(PosedImage(part, K_px, T_fixed_cam, number, "camera"))
    return images


def share_within(depth_m: FloatArray, expected_m: FloatArray, tolerance: float) -> float:
    """Share of the pixels that have both depths whose depths differ by less."""
    both = np.isfinite(depth_m) & np.isfinite(expected_m)
    return float((np.abs(depth_m[both] / expected_m[both] - 1) < tolerance).mean())
