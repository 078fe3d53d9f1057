"""Write a trained bundle again in float16, half the size, as the embedded one ships.

python tools/convert_bundle_fp16.py runs/level1/export gld_ros/weights/embedded/gld-tiny --overwrite
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file

from gld_ros.weights.bundle import Bundle, save_bundle


def main() -> None:
    """Read the arguments and write the bundle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="folder of the trained bundle")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace a bundle that is there")
    args = parser.parse_args()
    bundle = Bundle.open(args.bundle)
    names = bundle.config.module_names
    modules = {name: load_file(bundle.folder / f"{name}.safetensors") for name in names}
    statistics = load_file(bundle.folder / "statistics.safetensors")
    converted = save_bundle(
        args.out,
        bundle.config,
        modules,
        statistics,
        dtype=torch.float16,
        overwrite=args.overwrite,
    )
    print(f"{args.out}: {sum(converted.size_bytes().values()) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
