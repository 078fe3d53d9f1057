"""Recordings of any kind behind one interface: scene folders, bags and preprocessed datasets."""

from pathlib import Path

from gld_ros.scenes.bags import open_bag
from gld_ros.scenes.folders import find_scene_folders, open_scene_folder
from gld_ros.scenes.layouts import LAYOUTS, open_dataset
from gld_ros.scenes.recording import Recording

KINDS = ("folders", "bags", *LAYOUTS)


def open_recordings(kind: str, path: Path) -> list[Recording]:
    """All recordings at a path.

    kind: folders (a scene folder or a folder of them), bags (one ROS 2 bag), or a dataset layout.
    Raises ValueError for an unknown kind, RecordingError for what cannot be opened.
    """
    if kind == "folders":
        return [open_scene_folder(folder) for folder in find_scene_folders(path)]
    if kind == "bags":
        return open_bag(path)
    if kind in LAYOUTS:
        return open_dataset(kind, path)
    raise ValueError(f"unknown kind of recordings {kind!r}; use one of {', '.join(KINDS)}")
