"""What a person looks at after the demonstration: a grid of pictures and a recording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.demo.withheld import PosedImage

CELL_HW = (168, 224)
LABEL_HEIGHT = 20
PROVENANCE_COLOURS = {  # RGB
    0: (90, 90, 90),
    1: (255, 255, 255),
    2: (70, 190, 90),
    3: (235, 160, 40),
    4: (215, 60, 60),
    5: (90, 150, 235),
}


@dataclass(frozen=True, eq=False)
class GridRow:
    """One withheld frame and everything about it."""

    truth: PosedImage
    references: tuple[NDArray[np.uint8], ...]
    nearest: NDArray[np.uint8]
    imagined: NDArray[np.uint8]
    depth_m: NDArray[np.float32] | None
    provenance: NDArray[np.uint8] | None
    psnr_db: float
    nearest_psnr_db: float


def write_grid(rows: Sequence[GridRow], path: Path, title: str) -> None:
    """Write one row per withheld frame: references, composite, truth, copy, depth, provenance."""
    lines = []
    for row in rows:
        cells = [_cell(image, "reference") for image in row.references[:2]]
        cells += [
            _cell(row.imagined, f"composite {row.psnr_db:.1f} dB"),
            _cell(row.truth.image, "withheld truth"),
            _cell(row.nearest, f"copy nearest {row.nearest_psnr_db:.1f} dB"),
            _cell(_depth_picture(row.depth_m), "depth"),
            _cell(_provenance_picture(row.provenance), "provenance"),
        ]
        lines.append(np.concatenate(cells, axis=1))
    grid = np.concatenate(lines, axis=0)
    legend = (
        "provenance: white measured, green corroborated, orange hallucinated, red contradicted, "
        "grey unknown. " + title
    )
    banner = np.full((LABEL_HEIGHT + 8, grid.shape[1], 3), 255, np.uint8)
    _text(banner, legend, (6, 18))
    cv2.imwrite(str(path), np.concatenate([banner, grid])[..., ::-1])


def _cell(image: NDArray[np.uint8], label: str) -> NDArray[np.uint8]:
    height, width = CELL_HW
    scale = min(height / image.shape[0], width / image.shape[1])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    cell = np.full((height + LABEL_HEIGHT, width, 3), 255, np.uint8)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    cell[LABEL_HEIGHT : LABEL_HEIGHT + size[1], : size[0]] = small
    _text(cell, label, (4, 14))
    return cell


def _text(image: NDArray[np.uint8], text: str, origin: tuple[int, int]) -> None:
    cv2.putText(image, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (20, 20, 20), 1, cv2.LINE_AA)


def _depth_picture(depth_m: NDArray[np.float32] | None) -> NDArray[np.uint8]:
    if depth_m is None or not np.isfinite(depth_m).any():
        return _note("withheld")
    known = np.isfinite(depth_m)
    low, high = np.percentile(depth_m[known], (2, 98))
    scaled = np.clip((depth_m - low) / max(high - low, 1e-6), 0, 1)
    coloured = cv2.applyColorMap(
        (255 * (1 - np.nan_to_num(scaled))).astype(np.uint8), cv2.COLORMAP_TURBO
    )[..., ::-1].copy()
    coloured[~known] = 40
    return coloured


def _provenance_picture(labels: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    if labels is None:
        return _note("no message")
    table = np.zeros((256, 3), np.uint8)
    for label, colour in PROVENANCE_COLOURS.items():
        table[label] = colour
    return table[labels]


def _note(text: str) -> NDArray[np.uint8]:
    picture = np.full((*CELL_HW, 3), 225, np.uint8)
    _text(picture, text, (70, 90))
    return picture


def write_recording(rows: Sequence[GridRow], clouds: dict[str, NDArray[Any]], path: Path) -> str:
    """Write a Rerun recording; returns a sentence when Rerun is not installed."""
    try:
        import rerun
    except ImportError:
        return "rerun-sdk is not installed (pip install 'gld_ros[demo]'): no recording"
    recording = rerun.RecordingStream("gld_ros_demo")
    recording.save(str(path))
    recording.log("world", rerun.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
    for name, points in clouds.items():
        rgb = points["rgb"]
        colours = np.stack([rgb >> 16 & 255, rgb >> 8 & 255, rgb & 255], axis=1)
        xyz = np.stack([points[axis] for axis in "xyz"], axis=1)
        recording.log(f"world/{name}", rerun.Points3D(xyz, colors=colours.astype(np.uint8)))
    for index, row in enumerate(rows):
        recording.set_time("goal", sequence=index)
        T, K = row.truth.T_fixed_cam, row.truth.K_px
        height, width = row.truth.image.shape[:2]
        recording.log("world/target", rerun.Transform3D(translation=T[:3, 3], mat3x3=T[:3, :3]))
        recording.log(
            "world/target/image",
            rerun.Pinhole(image_from_camera=K, width=width, height=height),
            rerun.Image(row.imagined),
        )
        recording.log("truth", rerun.Image(row.truth.image))
        if row.depth_m is not None:
            recording.log("depth", rerun.DepthImage(np.nan_to_num(row.depth_m), meter=1.0))
    recording.flush()
    return ""
