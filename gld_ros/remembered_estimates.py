"""Cache of memory estimates on this machine, since tracing a bundle takes seconds at start.

A file per estimate under `weights.storage.cache_home`, the newest few. Its name sums up all that
decides it, the code included, so what is found there is never out of date; what cannot be read or
written is computed again.
"""

import hashlib
import json
import logging
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from gld_ros.memory_estimate import MemoryEstimate, RunShape, StageMemory, estimate_memory
from gld_ros.weights.bundle_config import BundleConfig
from gld_ros.weights.config_json import config_to_json
from gld_ros.weights.storage import cache_home

logger = logging.getLogger(__name__)

KEPT = 64
TRACED = ("*.py", "backbones/**/*.py", "decoders/**/*.py", "diffusion/**/*.py")


def remembered_estimate(
    config: BundleConfig, shape: RunShape, *, dtype: torch.dtype, keep_weights: bool
) -> MemoryEstimate:
    """The estimate of `estimate_memory`, from an earlier run if there was one; raises alike."""
    try:
        folder = cache_home() / "estimates"
    except RuntimeError:  # a user without a home
        return estimate_memory(config, shape, dtype=dtype, keep_weights=keep_weights)
    path = folder / f"{_key(config, shape, dtype, keep_weights)}.json"
    known = _read(path)
    if known is None:
        known = estimate_memory(config, shape, dtype=dtype, keep_weights=keep_weights)
        _write(path, known)
    return known


def _key(config: BundleConfig, shape: RunShape, dtype: torch.dtype, keep_weights: bool) -> str:
    root = Path(__file__).parent
    code = hashlib.sha256()
    for source in sorted(path for pattern in TRACED for path in root.glob(pattern)):
        code.update(source.read_bytes())
    decisive = (
        config_to_json(replace(config, files={})),
        asdict(shape),
        str(dtype),
        keep_weights,
        torch.__version__,
        code.hexdigest(),
    )
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> MemoryEstimate | None:
    try:
        stored: Any = json.loads(path.read_text(encoding="utf-8"))
        return MemoryEstimate(
            {str(name): int(size) for name, size in stored["weights"].items()},
            {
                str(name): StageMemory(int(stage["weights"]), int(stage["activations"]))
                for name, stage in stored["stages"].items()
            },
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        logger.warning("%s is not used: %s", path, error)
        return None


def _write(path: Path, estimate: MemoryEstimate) -> None:
    partial = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(asdict(estimate)), encoding="utf-8")
        partial.replace(path)
        by_age = sorted(path.parent.glob("*.json"), key=lambda file: file.stat().st_mtime)
        for old in by_age[:-KEPT]:
            old.unlink(missing_ok=True)
    except OSError as error:
        logger.info("the memory estimate is not kept: %s", error)
