"""What a chain is made from, as it remembers it: files by name and size, and read-back reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def content_of(path: Path) -> dict[str, int]:
    """Names and bytes of a file or of all files of a folder: enough to notice another one."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return {str(p.relative_to(path.parent)): p.stat().st_size for p in files}


def read_report(path: Path) -> dict[str, Any]:
    """Read the JSON report that an evaluation wrote."""
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report
