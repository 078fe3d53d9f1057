"""A reconstruction of photos in Rerun: its viewer, or a recording for it."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from gld_ros.photos.result import PhotoReconstruction


def show(result: PhotoReconstruction) -> None:
    """Open the viewer; ImportError says what to install, RuntimeError that there is no screen."""
    rerun = _rerun()
    screens = ("DISPLAY", "WAYLAND_DISPLAY")
    if sys.platform.startswith("linux") and not any(name in os.environ for name in screens):
        raise RuntimeError(
            "there is no screen here (neither DISPLAY nor WAYLAND_DISPLAY is set); save the result "
            "and open it elsewhere: .save('scene.glb') or .save('scene.rrd')"
        )
    recording = rerun.RecordingStream("gld_ros_photos")
    recording.spawn()
    recording.send_blueprint(_layout(result))
    _log(rerun, recording, result)
    recording.flush()


def write_recording(result: PhotoReconstruction, path: Path) -> None:
    """Write what `show` shows as a recording; ImportError says what to install."""
    rerun = _rerun()
    recording = rerun.RecordingStream("gld_ros_photos")
    recording.save(str(path), default_blueprint=_layout(result))
    _log(rerun, recording, result)
    recording.flush()
    recording.disconnect()


def _rerun() -> Any:
    try:
        import rerun
    except ImportError as error:
        raise ImportError(
            "the viewer needs Rerun: pip install rerun-sdk; or .save('scene.glb') and open "
            "that with any viewer of glTF files"
        ) from error
    return rerun


def _layout(result: PhotoReconstruction) -> Any:
    """Points and cameras beside one image of depth per photograph."""
    import rerun.blueprint as views

    depth = [
        views.Spatial2DView(origin=_depth_path(index, name), name=f"depth of {name}")
        for index, name in enumerate(result.names)
    ]
    return views.Blueprint(
        views.Horizontal(
            views.Spatial3DView(origin="world", name="points and cameras"),
            views.Tabs(*depth, name="depth"),
            column_shares=[2, 1],
        ),
        collapse_panels=True,
    )


def _depth_path(index: int, name: str) -> str:
    return f"depth/{index}_{name}"


def _log(rerun: Any, recording: Any, result: PhotoReconstruction) -> None:
    # The world is the first camera's, unless cameras were given; either way its axes are a guess
    # as to what is up, and Rerun only uses this to place the viewer.
    recording.log("world", rerun.ViewCoordinates.RDF, static=True)
    points = rerun.Points3D(result.points, colors=result.colours)
    recording.log("world/points", points, static=True)
    height, width = result.depth.shape[1:]
    for index, name in enumerate(result.names):
        camera = f"world/camera_{index}"
        T = result.T_world_cam[index]
        pose = rerun.Transform3D(translation=T[:3, 3], mat3x3=T[:3, :3])
        recording.log(camera, pose, static=True)
        pinhole = rerun.Pinhole(image_from_camera=result.K_px[index], width=width, height=height)
        recording.log(camera, pinhole, static=True)
        recording.log(f"{camera}/image", rerun.Image(result.images[index]), static=True)
        depth = rerun.DepthImage(np.nan_to_num(result.depth[index]), meter=1.0)
        recording.log(_depth_path(index, name), depth, static=True)
