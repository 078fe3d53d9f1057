"""`gld-ros export`: the networks of a bundle as AOTInductor, ONNX or TensorRT files."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from gld_ros.cli._arguments import SIZE_FORM, size_hw

if TYPE_CHECKING:
    from gld_ros.export.run import ExportedPart

HELP = "write the networks of a bundle as AOTInductor, ONNX or TensorRT files"
DESCRIPTION = """\
Write the networks of a bundle, in float32 and at one size, to files that run without gld_ros:

  aoti      AOTInductor packages (.pt2) for torch alone, in Python or C++; needs a C++ compiler
  onnx      ONNX files; needs pip install onnx onnxscript onnxruntime
  tensorrt  ONNX files, and engines that trtexec makes of them on this machine's GPU

Every file is loaded again and compared with the original network; a table shows the differences,
and export.json lists the inputs and outputs of each file.

  gld-ros export tiny out/onnx --format onnx
  gld-ros export tiny out/aoti --format aoti --parts features geometry_head --views 1 0
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `gld-ros export`."""
    parser.add_argument("bundle", metavar="BUNDLE", help="weights: name or folder")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("--format", required=True, choices=("aoti", "onnx", "tensorrt"))
    parser.add_argument(
        "--size",
        type=size_hw,
        metavar=SIZE_FORM,
        help="image size in pixels, such as 112x84 (default: the bundle's first)",
    )
    parser.add_argument(
        "--views",
        nargs=2,
        type=int,
        default=(2, 2),
        metavar=("R", "T"),
        help="references and targets (default: 2 2)",
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        metavar="PART",
        help="some of encoder, level1 (level0, cascade: as the bundle has them), propagation, "
        "rgb_decoder, geometry_head, features (default: all that the bundle has)",
    )
    parser.add_argument(
        "--device", default="cpu", help="cpu, cuda or cuda:N, with --format aoti (default: cpu)"
    )
    parser.add_argument("--repeats", type=int, default=5, help="timed turns (default: 5)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")


def run(args: argparse.Namespace) -> int:
    """Export, compare and print; raises ValueError for what cannot be exported."""
    from gld_ros.export.parts import RunSize
    from gld_ros.export.run import REPORT_FILE, export_bundle
    from gld_ros.weights.bundle import Bundle

    bundle = Bundle.open(args.bundle)
    config = bundle.config
    height, width = args.size or config.resolutions_hw[0]
    size = RunSize((height, width), *args.views)
    print(
        f"bundle {config.name}, {width}x{height} pixels, {size.references} references + "
        f"{size.targets} targets, float32, {args.format}"
    )
    print(
        f"{'part':<14} {'MB':>7} {'max error':>10} {'relative':>9} {'export s':>9} {'load s':>7} "
        f"{'eager ms':>9} {'file ms':>9}",
        flush=True,
    )
    done = export_bundle(
        bundle,
        args.out,
        args.format,
        size=size,
        parts=args.parts,
        device=args.device,
        repeats=args.repeats,
        overwrite=args.overwrite,
        progress=_print_row,
    )
    files = [file for part in done for file in part.files]
    print(f"{args.out}: {', '.join(files)}, {REPORT_FILE}")
    if args.format == "tensorrt":
        print("note: errors and times are those of the ONNX files; the engines were not run")
    print(f"note: the files hold the bundle's weights; their licence: {config.licence}")
    if config.random_weights:
        print("WARNING: this bundle has RANDOM weights; what the networks put out means nothing")
    return 0


def _print_row(part: "ExportedPart") -> None:
    print(
        f"{part.name:<14} {part.size_bytes / 1e6:7.1f} {part.max_abs_error:10.1e} "
        f"{part.relative_error:9.1e} {part.export_s:9.1f} {part.load_s:7.3f} "
        f"{part.eager_ms:9.2f} {part.exported_ms:9.2f}",
        flush=True,
    )
