"""The result of `gld_ros.reconstruct`: depth, cameras, confidence and points, to save or show."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNSCALED = "unscaled"


@dataclass(frozen=True, eq=False)
class PhotoReconstruction:
    """V photos at the size the network saw, with depth and cameras, and P points of them all.

    Lengths are in `unit`: "unscaled" is one unknown unit for all of depth, poses and points.
    Every depth is the network's guess; none of it is measured. `points` leaves out the least
    confident pixels by the published rule of Depth Anything 3: 40 % of all, and up to 90 % where
    the network's raw confidence is below 1.05 (0.048 here).
    """

    names: tuple[str, ...]  # V, of the photos
    images: NDArray[np.uint8]  # (V, H, W, 3) RGB
    depth: NDArray[np.float32]  # (V, H, W) z-depth
    confidence: NDArray[np.float32]  # (V, H, W) in [0, 1); an order, no probability
    K_px: NDArray[np.float64]  # (V, 3, 3) in pixels of `images`
    T_world_cam: NDArray[np.float64]  # (V, 4, 4) camera-to-world, x right, y down, z forward
    unit: str  # "unscaled", or that of the known cameras
    notes: tuple[str, ...]  # what a reader should know, as sentences
    points: NDArray[np.float32]  # (P, 3) in the world
    colours: NDArray[np.uint8]  # (P, 3) RGB
    point_confidence: NDArray[np.float32]  # (P,)
    point_view: NDArray[np.int64]  # (P,) index of the photo
    T_gltf_world: NDArray[np.float64]  # (4, 4) to y up, z backwards, median of points at zero

    def save(self, path: str | Path) -> Path:
        """Write the points by the ending of `path`: .ply, .glb or .rrd (Rerun); returns the path.

        A PLY is in the world's axes and carries confidence and view of every point; a GLB is in
        glTF axes (y up) with the cameras as pyramids; an RRD holds images and depth, too. Raises
        ValueError for another ending, and ImportError that says what to install.
        """
        from gld_ros.photos.files import write_glb, write_points
        from gld_ros.photos.rerun_viewer import write_recording

        path = Path(path)
        writers: dict[str, Any] = {
            ".ply": write_points,
            ".glb": write_glb,
            ".rrd": write_recording,
        }
        if path.suffix.lower() not in writers:
            raise ValueError(f"{path} ends in {path.suffix!r}; use {', '.join(writers)}")
        path.parent.mkdir(parents=True, exist_ok=True)
        writers[path.suffix.lower()](self, path)
        return path

    def show(self) -> None:
        """Open the Rerun viewer with points, cameras, images and depth.

        Raises ImportError that says what to install, and RuntimeError where there is no screen.
        """
        from gld_ros.photos.rerun_viewer import show

        show(self)
