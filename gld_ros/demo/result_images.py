"""Results of the demonstration to look at: a grid of images and a Rerun recording."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gld_ros.evaluation.withheld import PosedImage
from gld_ros.evaluation.withheld_grid import cell, depth_or_note, provenance_or_note, write_cells
from gld_ros.mapping.provenance_colours import provenance_colours


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
    lines = [
        [
            *(cell(image, "reference") for image in row.references[:2]),
            cell(row.imagined, f"composite {row.psnr_db:.1f} dB"),
            cell(row.truth.image, "withheld truth"),
            cell(row.nearest, f"copy nearest {row.nearest_psnr_db:.1f} dB"),
            cell(depth_or_note(row.depth_m), "depth"),
            cell(provenance_or_note(row.provenance), "provenance"),
        ]
        for row in rows
    ]
    write_cells(lines, path, title)


def write_recording(rows: Sequence[GridRow], clouds: dict[str, NDArray[Any]], path: Path) -> str:
    """Write a Rerun recording; returns a sentence when Rerun is not installed."""
    try:
        import rerun
        import rerun.blueprint as views
    except ImportError:
        return "rerun-sdk is not installed (pip install rerun-sdk): no recording"
    recording = rerun.RecordingStream("gld_ros_demo")
    recording.save(
        str(path),
        default_blueprint=views.Blueprint(
            views.Horizontal(
                views.Spatial3DView(origin="world", name="points and target views"),
                views.Vertical(
                    views.Spatial2DView(origin="world/target/image", name="composite"),
                    views.Spatial2DView(origin="truth", name="withheld truth"),
                    views.Spatial2DView(origin="depth", name="depth"),
                    views.Spatial2DView(origin="provenance", name="provenance"),
                ),
                column_shares=[2, 1],
            ),
            collapse_panels=True,
        ),
    )
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
        if row.provenance is not None:
            recording.log("provenance", rerun.Image(provenance_colours(row.provenance)))
    recording.flush()
    return ""
