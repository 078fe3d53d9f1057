"""Depth of images by a backbone of the published size: `gld-ros bench` on random weights.

    python benchmark/depth_alone.py [--size WxH] [--repeats N] [--device cpu]

Writes a bundle as `da3-base` is (Depth Anything 3 Base, float32, random weights) to a temporary
folder and runs `gld-ros bench` on it. The depth means nothing: speed and memory do.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from gld_ros.backbones.da3.config import DA3_BASE
from gld_ros.cli._arguments import SIZE_FORM, size_hw
from gld_ros.cli.main import main as gld_ros
from gld_ros.weights.bundle import save_bundle
from gld_ros.weights.bundle_config import BackboneSpec, BundleConfig
from gld_ros.weights.families import FAMILIES


def main() -> int:
    """Write the bundle and time it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=size_hw, default=(480, 640), metavar=SIZE_FORM)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    config = BundleConfig(
        name="da3-base-random",
        backbone=BackboneSpec("da3", DA3_BASE),
        rgb_decoder=None,
        denoisers={},
        boundary_level=1,
        num_views=8,
        num_euler_points=2,
        guidance_scale=1.0,
        ray_grid="official",
        pose_scale="max",
        resolutions_hw=FAMILIES["da3"].resolutions_hw,
        licence="none",
        origin="random numbers",
        non_commercial=False,
        random_weights=True,
    )
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        save_bundle(bundle, config, {"backbone": config.build_module("backbone")}, {})
        height, width = args.size
        return gld_ros(
            [
                *("bench", "--bundle", str(bundle), "--size", f"{width}x{height}"),
                *("--repeats", str(args.repeats), "--device", args.device),
            ]
        )


if __name__ == "__main__":
    raise SystemExit(main())
