"""The preprocessed layouts of RE10K, DL3DV-10K, Hypersim and TartanAir as recordings.

All keep one `.npz` of camera-to-world pose (OpenCV axes) and pixel intrinsics beside each image;
they differ in folders, names and keys. Depth is not part of these layouts.
"""

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gld_ros.geometry.intrinsics import require_intrinsics
from gld_ros.geometry.rigid import is_rigid
from gld_ros.scenes.recording import FloatArray, Frame, Recording, RecordingError, read_rgb


@dataclass(frozen=True)
class DatasetLayout:
    """Where a dataset keeps images and cameras, and how far apart views of a sample may be."""

    name: str
    image_ending: str  # how image names end, e.g. "_rgb.png"
    camera_ending: str  # what takes its place in the name of the camera file
    intrinsics_key: str
    pose_key: str
    gap_range: tuple[int, int]
    scene_folders: Callable[[Path], Iterator[Path]]


def _dl3dv_folders(root: Path) -> Iterator[Path]:
    """Folders level/scene/images_4; transforms.json beside them, in nerfstudio/ for evaluation."""
    for folder in root.rglob("images_4"):
        if folder.is_dir() and (folder.parent / "transforms.json").is_file():
            yield folder


def _folders_with(ending: str) -> Callable[[Path], Iterator[Path]]:
    def folders(root: Path) -> Iterator[Path]:
        yield from {image.parent for image in root.rglob(f"*{ending}")}

    return folders


LAYOUTS: dict[str, DatasetLayout] = {
    layout.name: layout
    for layout in (
        DatasetLayout("dl3dv", ".png", ".npz", "intrinsic", "pose", (1, 20), _dl3dv_folders),
        DatasetLayout(
            "re10k", ".png", "_cam.npz", "intrinsics", "pose", (1, 128), _folders_with(".png")
        ),
        DatasetLayout(
            "hypersim",
            "rgb.png",
            "cam.npz",
            "intrinsics",
            "pose",
            (1, 4),
            _folders_with("rgb.png"),
        ),
        DatasetLayout(
            "tartanair",
            "_rgb.png",
            "_cam.npz",
            "camera_intrinsics",
            "camera_pose",
            (1, 20),
            _folders_with("_rgb.png"),
        ),
    )
}


def open_dataset(name: str, root: Path) -> list[Recording]:
    """All recordings of a dataset below root, sorted by name.

    Frames without a usable camera file are left out and counted in `Recording.dropped`. Raises
    ValueError for an unknown name, RecordingError when root holds no scene of that layout.
    """
    if name not in LAYOUTS:
        raise ValueError(f"unknown dataset layout {name!r}; use one of {', '.join(LAYOUTS)}")
    layout = LAYOUTS[name]
    recordings = [
        _open_folder(layout, folder, root) for folder in sorted(layout.scene_folders(root))
    ]
    recordings = [recording for recording in recordings if len(recording)]
    if not recordings:
        raise RecordingError(
            f"{root} holds no {name} scene: looked for images *{layout.image_ending} with "
            f"cameras *{layout.camera_ending} beside them"
        )
    return recordings


def _open_folder(layout: DatasetLayout, folder: Path, root: Path) -> Recording:
    dropped: dict[str, int] = {}
    images: list[Path] = []
    cameras: list[tuple[FloatArray, FloatArray]] = []
    for image in sorted(folder.glob(f"*{layout.image_ending}"), key=_natural_order):
        stem = image.name.removesuffix(layout.image_ending)
        try:
            camera = _read_camera(layout, folder / f"{stem}{layout.camera_ending}")
        except RecordingError as error:
            reason = error.args[1]
            dropped[reason] = dropped.get(reason, 0) + 1
            continue
        images.append(image)
        cameras.append(camera)

    def load(i: int) -> Frame:
        return Frame(read_rgb(images[i]), cameras[i][0], cameras[i][1], None, i)

    poses = np.array([pose for _, pose in cameras]).reshape(-1, 4, 4)
    stamps = np.arange(len(images), dtype=np.int64)
    scene_id = f"{layout.name}/{folder.relative_to(root)}"
    return Recording(scene_id, False, poses, stamps, load, layout.gap_range, dropped)


def _natural_order(path: Path) -> tuple[int, str]:
    """Time stamps of different lengths sort as numbers, everything else by name."""
    return (len(path.name), path.name) if path.stem.isdigit() else (0, path.name)


def _read_camera(layout: DatasetLayout, path: Path) -> tuple[FloatArray, FloatArray]:
    """K_px and T_world_cam of one file; RecordingError(message, reason) when unusable."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            K_px = np.asarray(stored[layout.intrinsics_key], dtype=np.float64)
            T_world_cam = np.asarray(stored[layout.pose_key], dtype=np.float64)
    except FileNotFoundError as error:
        raise RecordingError(f"{path} does not exist", "no camera file") from error
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise RecordingError(f"{path} cannot be read: {error}", "damaged camera file") from error
    try:
        require_intrinsics(torch.from_numpy(K_px), "intrinsics")
    except ValueError as error:
        raise RecordingError(f"{path}: {error}", "unusable intrinsics") from error
    if T_world_cam.shape == (3, 4):
        T_world_cam = np.concatenate((T_world_cam, [[0.0, 0.0, 0.0, 1.0]]))
    if T_world_cam.shape != (4, 4) or not bool(is_rigid(torch.from_numpy(T_world_cam))):
        raise RecordingError(f"{path}: pose is not a rigid motion", "unusable pose")
    return K_px, T_world_cam
