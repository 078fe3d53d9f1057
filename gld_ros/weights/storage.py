"""Where fetched bundles, downloads and caches are on this machine."""

import os
from pathlib import Path


def data_home() -> Path:
    """Root of what gld_ros stores: $GLD_ROS_DATA, else $XDG_DATA_HOME/gld_ros (~/.local/share)."""
    explicit = os.environ.get("GLD_ROS_DATA")
    if explicit:
        return Path(explicit).expanduser()
    xdg = os.environ.get("XDG_DATA_HOME")
    return (Path(xdg) if xdg else Path.home() / ".local" / "share") / "gld_ros"


def bundles_home() -> Path:
    """Folder that holds the fetched bundles, one folder each, by name."""
    return data_home() / "bundles"


def downloads_home() -> Path:
    """Folder that holds files in their published form before they are converted."""
    return data_home() / "downloads"


def cache_home() -> Path:
    """Root of the caches: $GLD_ROS_DATA/cache, $XDG_CACHE_HOME/gld_ros or ~/.cache."""
    explicit = os.environ.get("GLD_ROS_DATA")
    if explicit:
        return Path(explicit).expanduser() / "cache"
    xdg = os.environ.get("XDG_CACHE_HOME")
    return (Path(xdg) if xdg else Path.home() / ".cache") / "gld_ros"
