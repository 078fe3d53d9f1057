"""Scene folders: `cameras.json` beside `images/` and optional `depth/` (uint16 PNG, millimetres).

One pinhole camera without distortion per folder; poses are camera-to-world in OpenCV axes. The
format of the recorded scenes and of what `gld-ros scenes render` writes.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from gld_ros.geometry.intrinsics import require_intrinsics
from gld_ros.geometry.rigid import require_rigid
from gld_ros.scenes.recording import (
    FloatArray,
    Frame,
    Recording,
    RecordingError,
    read_depth_mm,
    read_rgb,
)

CAMERAS_FILE = "cameras.json"
FORMAT_VERSION = 1
DEPTH_SCALE_M = 0.001
WRITTEN_RATE_HZ = 10.0  # of folders that are written here
_CONVENTION = {
    "T_world_camera": "4x4 row-major camera-to-world: X_world = T_world_camera @ X_camera",
    "camera_axes": "OpenCV / ROS optical: x right, y down, z forward",
    "intrinsics": "pinhole, no distortion, pixels of the stored images, pixel centres at integers",
}


def is_scene_folder(path: Path) -> bool:
    """Whether a path looks like a scene folder."""
    return (path / CAMERAS_FILE).is_file()


def find_scene_folders(path: Path) -> list[Path]:
    """The folder itself or the scene folders directly in it, sorted; raises RecordingError if none."""  # noqa: E501
    if is_scene_folder(path):
        return [path]
    found = sorted(p for p in path.iterdir() if is_scene_folder(p)) if path.is_dir() else []
    if not found:
        raise RecordingError(f"{path} holds no scene folder (a folder with {CAMERAS_FILE})")
    return found


def open_scene_folder(path: Path) -> Recording:
    """Open a scene folder; images are read when frames are loaded.

    Raises RecordingError for a missing or damaged cameras.json, unusable intrinsics, a frame
    without a rigid pose, or a folder without frames.
    """
    cameras_path = path / CAMERAS_FILE
    try:
        cameras = json.loads(cameras_path.read_text(encoding="utf-8"))
        version = cameras["format_version"]
        size_hw = (int(cameras["height"]), int(cameras["width"]))
        K_px = np.array(
            [
                [cameras["fx"], 0.0, cameras["cx"]],
                [0.0, cameras["fy"], cameras["cy"]],
                [0.0, 0.0, 1.0],
            ],
            dtype=np.float64,
        )
        frames: list[dict[str, Any]] = list(cameras["frames"])
        metric = bool(cameras["metric_scale"])
        depth_scale = float((cameras.get("depth") or {}).get("scale_m_per_unit", DEPTH_SCALE_M))
        poses = np.array([frame["T_world_camera"] for frame in frames], dtype=np.float64)
        stamps = np.array([frame.get("timestamp_ns", i) for i, frame in enumerate(frames)])
    except FileNotFoundError as error:
        raise RecordingError(f"{path} is not a scene folder: it has no {CAMERAS_FILE}") from error
    except KeyError as error:
        raise RecordingError(f"{cameras_path} has no {error} (in the file or a frame)") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise RecordingError(f"{cameras_path} is damaged: {error}") from error
    if version != FORMAT_VERSION:
        raise RecordingError(f"{cameras_path}: format_version {version}; read is {FORMAT_VERSION}")
    if not frames:
        raise RecordingError(f"{cameras_path} lists no frames")
    try:
        require_intrinsics(torch.from_numpy(K_px), "intrinsics")
        require_rigid(torch.from_numpy(poses), "T_world_camera")
    except ValueError as error:
        raise RecordingError(f"{cameras_path}: {error}") from error

    def load(i: int) -> Frame:
        rgb = read_rgb(path / frames[i]["image"])
        if rgb.shape[:2] != size_hw:
            raise RecordingError(
                f"{path / frames[i]['image']} is {rgb.shape[1]}x{rgb.shape[0]}; {CAMERAS_FILE} "
                f"says {size_hw[1]}x{size_hw[0]}"
            )
        depth = None
        if frames[i].get("depth"):
            depth = read_depth_mm(path / frames[i]["depth"], depth_scale)
            if depth.shape != size_hw:
                raise RecordingError(f"{path / frames[i]['depth']} is not the image's size")
        return Frame(rgb, K_px, poses[i], depth, int(stamps[i]))

    return Recording(path.name, metric, poses, stamps.astype(np.int64), load)


def write_scene_folder(
    path: Path,
    images: Sequence[np.ndarray],
    K_px: FloatArray,
    T_world_cam: FloatArray,
    depth_m: Sequence[np.ndarray] | None,
    *,
    metric: bool,
) -> None:
    """Write a scene folder; it appears under its name only when it is complete.

    images: (H, W, 3) uint8 each; K_px (3, 3) of all; T_world_cam (n, 4, 4); depth_m (H, W) each.
    Raises FileExistsError when the path is taken.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists already; choose another folder or remove it")
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "images").mkdir(parents=True)
    frames = []
    height, width = images[0].shape[:2]
    for i, image in enumerate(images):
        frame: dict[str, Any] = {
            "index": i,
            "image": f"images/{i:06d}.png",
            "timestamp_ns": 1_700_000_000_000_000_000 + round(i * 1e9 / WRITTEN_RATE_HZ),
            "T_world_camera": np.asarray(T_world_cam[i], dtype=np.float64).tolist(),
        }
        Image.fromarray(image).save(partial / frame["image"])
        if depth_m is not None:
            frame["depth"] = f"depth/{i:06d}.png"
            (partial / "depth").mkdir(exist_ok=True)
            stored = np.clip(np.round(depth_m[i] / DEPTH_SCALE_M), 0, 65535).astype(np.uint16)
            Image.fromarray(stored).save(partial / frame["depth"])
        frames.append(frame)
    cameras = {
        "format_version": FORMAT_VERSION,
        "name": path.name,
        "num_frames": len(frames),
        "convention": _CONVENTION,
        "metric_scale": metric,
        "width": width,
        "height": height,
        "fx": float(K_px[0, 0]),
        "fy": float(K_px[1, 1]),
        "cx": float(K_px[0, 2]),
        "cy": float(K_px[1, 2]),
        "rate_hz": WRITTEN_RATE_HZ,
        "depth": None
        if depth_m is None
        else {"encoding": "16-bit PNG", "scale_m_per_unit": DEPTH_SCALE_M, "invalid": 0},
        "frames": frames,
    }
    (partial / CAMERAS_FILE).write_text(json.dumps(cameras, indent=1), encoding="utf-8")
    partial.rename(path)
