"""Finds gld_ros's .msg files: in a checkout, an ament install space, or a pip install.

Parsing is left to those who need types without rosidl, such as bags.
"""

from pathlib import Path

import gld_ros


def message_definitions() -> dict[str, str]:
    """Return the text of every message by its full name, such as "gld_ros/msg/GldStatus"."""
    for folder in _candidates():
        files = sorted(folder.glob("*.msg"))
        if files:
            return {f"gld_ros/msg/{file.stem}": file.read_text(encoding="utf-8") for file in files}
    searched = ", ".join(str(folder) for folder in _candidates())
    raise FileNotFoundError(f"the message definitions of gld_ros are in none of: {searched}")


def _candidates() -> list[Path]:
    package = Path(gld_ros.__file__).resolve().parent
    folders = [package.parent / "msg", package / "interface_files"]  # checkout, pip
    prefixes = [parent for parent in package.parents if (parent / "share" / "gld_ros").is_dir()]
    return folders + [prefix / "share" / "gld_ros" / "msg" for prefix in prefixes]  # ament
