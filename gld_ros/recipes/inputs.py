"""What a chain is made from, as it remembers it: files by name and size, and read-back reports."""

import hashlib
import json
from pathlib import Path
from typing import Any


def content_of(path: Path) -> str:
    """A file, or all files of a folder, in a line: number, bytes, a digest of names and sizes.

    Enough to notice that another one was put in its place.
    """
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    sizes = {str(p.relative_to(path)): p.stat().st_size for p in files}
    digest = hashlib.sha256(json.dumps(sizes).encode()).hexdigest()[:12]
    return f"{len(sizes)} file(s), {sum(sizes.values())} bytes, {digest}"


def read_report(path: Path) -> dict[str, Any]:
    """Read the JSON report that an evaluation wrote."""
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report
