"""What a bundle's backbone makes of photos: depth against the truth, with and without cameras.

Run: `python benchmark/photos.py SCENE_FOLDER ... [--bundle B]`, with scene folders (or folders of
them) that have depth, such as `gld-ros scenes render` writes. Rows: every photo by itself,
all of a scene together, all with their known cameras. AbsRel is the mean of |depth - true| / true:
scaled to the true median per photo, and as it comes where the result is in the cameras' unit.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch

from gld_ros.evaluation.depth_metrics import depth_errors, median_scale, ordinal_accuracy
from gld_ros.photos.reconstruct import reconstruct
from gld_ros.photos.result import UNSCALED, PhotoReconstruction
from gld_ros.pretrained import load_backbone
from gld_ros.scenes.folders import find_scene_folders, open_scene_folder


def main() -> None:
    """Print one row per way of reconstructing, over all scenes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--bundle", default="tiny")
    parser.add_argument("--every", type=int, default=1, help="take every N-th frame")
    args = parser.parse_args()
    network = load_backbone(args.bundle)
    rows: dict[str, list[tuple[float, float, float]]] = {}
    scaled = scenes = 0
    for folder in (scene for path in args.folders for scene in find_scene_folders(path)):
        recording = open_scene_folder(folder)
        frames = [recording.load(i) for i in range(0, len(recording), args.every)]
        images = [frame.rgb for frame in frames]
        truth = [frame.depth_m for frame in frames if frame.depth_m is not None]
        if len(truth) != len(frames):
            raise SystemExit(f"{folder} has frames without depth")
        for image, depth in zip(images, truth, strict=True):
            rows.setdefault("one by one", []).extend(errors(reconstruct(image, network), [depth]))
        rows.setdefault("together", []).extend(errors(reconstruct(images, network), truth))
        K_px = np.stack([frame.K_px for frame in frames])
        T_world_cam = np.stack([frame.T_world_cam for frame in frames])
        known = reconstruct(images, network, K_px=K_px, T_world_cam=T_world_cam)
        rows.setdefault("with known cameras", []).extend(errors(known, truth))
        scenes, scaled = scenes + 1, scaled + (known.unit != UNSCALED)
    print(f"{scenes} scenes, {len(rows['together'])} photos; known cameras scale {scaled}")
    print(f"{'':20s} {'order %':>8s} {'AbsRel, median-scaled':>22s} {'AbsRel as it comes':>19s}")
    for name, figures in rows.items():
        order, median, absolute = np.array(figures).T
        as_it_comes = f"{np.nanmean(absolute):.3f}" if np.isfinite(absolute).any() else "-"
        print(f"{name:20s} {100 * order.mean():8.1f} {median.mean():22.3f} {as_it_comes:>19s}")


def errors(
    result: PhotoReconstruction, truth: list[np.ndarray]
) -> list[tuple[float, float, float]]:
    """Depth order, AbsRel scaled to the median, and AbsRel as it comes (NaN if unscaled)."""
    size = result.depth.shape[:0:-1]
    small = [cv2.resize(d, size, interpolation=cv2.INTER_NEAREST) for d in truth]
    true, depth = torch.from_numpy(np.stack(small)), torch.from_numpy(result.depth)
    scaled = depth_errors(depth * median_scale(depth, true)[:, None, None], true)["abs_rel"]
    unscaled = result.unit == UNSCALED
    absolute = (
        scaled.new_full(scaled.shape, torch.nan)
        if unscaled
        else depth_errors(depth, true)["abs_rel"]
    )
    order = ordinal_accuracy(depth, true)
    return list(zip(order.tolist(), scaled.tolist(), absolute.tolist(), strict=True))


if __name__ == "__main__":
    main()
