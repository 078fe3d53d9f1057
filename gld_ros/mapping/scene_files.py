"""`~/save_scene`: keyframes to a scene folder, all of it or nothing."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from gld_ros.mapping.frames import Keyframe


class SceneNotSaved(RuntimeError):
    """The folder could not be written; nothing of it is left."""


def save_scene(path: str, keyframes: Sequence[Keyframe], *, include_images: bool) -> Path:
    """Write `cameras.json` and, if wanted, `images/`; raises SceneNotSaved.

    The folder must not exist; it appears under its name once it is complete.
    """
    try:
        folder = Path(path).expanduser()
    except RuntimeError as error:  # "~somebody" whom this machine does not know
        raise SceneNotSaved(f"path is {path!r}: {error}") from error
    if not path or not folder.is_absolute():
        raise SceneNotSaved(f"path is {path!r}; an absolute path is needed")
    try:
        if folder.exists():
            raise SceneNotSaved(f"{folder} exists already; choose another path")
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
    except (OSError, ValueError) as error:  # a NUL in the path is a ValueError
        raise SceneNotSaved(f"cannot write next to {folder}: {error}") from error
    try:
        _write(partial, keyframes, include_images)
        partial.chmod(0o755)
        partial.rename(folder)
    except OSError as error:
        raise SceneNotSaved(f"cannot write {folder}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _write(folder: Path, keyframes: Sequence[Keyframe], include_images: bool) -> None:
    if include_images:
        (folder / "images").mkdir()
    frames = []
    for index, keyframe in enumerate(keyframes):
        entry = {
            "index": index,
            "camera": keyframe.camera,
            "frame_id": keyframe.frame_id,
            "timestamp_ns": keyframe.stamp_ns,
            "K_px": np.asarray(keyframe.K_px).tolist(),
            "width": keyframe.image_hw[1],
            "height": keyframe.image_hw[0],
            "T_world_camera": np.asarray(keyframe.T_fixed_cam).tolist(),
        }
        if include_images:
            entry["image"] = f"images/{index:06d}.png"
            encoded = cv2.imencode(".png", keyframe.image[..., ::-1])[1]
            (folder / entry["image"]).write_bytes(encoded.tobytes())
        frames.append(entry)
    document = {
        "format_version": 1,
        "num_frames": len(frames),
        "metric_scale": True,
        "convention": {"T_world_camera": "camera-to-world", "camera_axes": "OpenCV"},
        "frames": frames,
    }
    (folder / "cameras.json").write_text(json.dumps(document, indent=1))
