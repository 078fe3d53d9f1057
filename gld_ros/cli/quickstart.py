"""`gld-ros quickstart`: from a bag to views or depth with published weights, in one command."""

import argparse
import os
import shutil
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

from gld_ros.cli._arguments import add_set_argument
from gld_ros.cli.weights import add_conversion_options, add_download_options

if TYPE_CHECKING:
    from gld_ros.cli._quickstart_machine import Machine
    from gld_ros.weights.catalog import PublishedModel

HELP = "fetch published weights, run a bag with them, and look at the result"
DESCRIPTION = """\
Check disk, memory and GPU and say what will happen; then fetch published weights, convert them to
bfloat16, check the bundle on this machine, run the bag and open an image of the result. The same
command resumes after a stop: finished steps are skipped. The steps are also separate
commands: weights fetch, weights verify, bench, bag.

The level statistics of gld-da3 and gld-vggt are not on the hub: give a clone of
https://github.com/cvlab-kaist/GLD with --statistics, or compute them from your own images with
--statistics-from (`gld-ros weights fetch --help`).
"""

EXAMPLES = """\
examples:
  gld-ros quickstart --bag drive.mcap --statistics GLD
  gld-ros quickstart --bag drive.mcap --weights da3-base
"""

_NETWORK_BYTES_PER_S = 100e6 / 8  # assumed for the minutes shown: 100 Mbit/s
_CONVERT_BYTES_PER_S = 75e6  # docs/performance.md: 7.86 GB in 101 s on two busy cores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `gld-ros quickstart`."""
    parser.add_argument("--bag", type=Path, required=True, help="folder, .mcap or .db3")
    parser.add_argument(
        "--weights",
        choices=("gld-da3", "gld-vggt", "da3-base"),
        default="gld-da3",
        help="what to run (default: gld-da3)",
    )
    parser.add_argument(
        "--out", type=Path, help="bag to write (default: BAG-WEIGHTS in the current folder)"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask before fetching")
    parser.add_argument("--no-open", action="store_true", help="do not open the result")
    parser.add_argument(
        "--accept-licence",
        action="store_true",
        help="accept the licences shown; required for weights that exclude commercial use",
    )
    add_set_argument(parser, "override a parameter of the run, as for `gld-ros bag`")
    add_download_options(parser)
    add_conversion_options(parser)
    parser.set_defaults(dtype="bfloat16", download_only=False, from_folder=None)


def run(args: argparse.Namespace) -> int:
    """Go through the steps that are not done yet; 0 when the result is there."""
    from gld_ros.cli._bag_run import BagOptions
    from gld_ros.cli._quickstart_machine import Machine, require_memory
    from gld_ros.weights.bundle import Bundle
    from gld_ros.weights.catalog import published_model
    from gld_ros.weights.fetch import free_bytes
    from gld_ros.weights.storage import bundles_home, downloads_home
    from gld_ros.weights.unfetched import UnfetchedBundle

    model = published_model(args.weights)
    options = BagOptions(bundle=model.name, overrides=tuple(args.overrides))
    machine = Machine.of(options.snapshot().session)
    out = args.out or Path(f"{args.bag.stem}-{model.name}")
    bundle, downloads = bundles_home() / model.name, downloads_home() / model.name
    _check_bag(args.bag)
    planned = (
        Bundle.open(bundle)
        if bundle.is_dir()
        else UnfetchedBundle(model, variant=args.variant, dtype=args.dtype)
    )
    memory = require_memory(
        planned, model, machine, lambda further: options.snapshot(further).session
    )
    print(
        f"machine: {machine.name}, {machine.free_bytes / 1e9:.1f} GB of memory and "
        f"{free_bytes(downloads) / 1e9:.0f} GB of disk free\n"
        f"run: {memory}",
        flush=True,
    )
    if not bundle.is_dir():
        _fetch_and_convert(args, model, bundle, downloads)
    else:
        print(f"1-3 weights: {bundle} is here already")
        if downloads.is_dir():  # asked for, or stopped before they were removed
            print(f"NOTE: the downloaded files are no longer needed: rm -r {downloads}")
    _self_test(model.name, machine)
    if out.exists():
        print(f"5 run: {out} is here already")
    else:
        status = _run_bag(args, model.name, out)
        if status:
            return status
    _show(out, args.no_open)
    return 0


def _check_bag(bag: Path) -> None:
    from gld_ros.bags.cameras import bag_cameras
    from gld_ros.bags.reader import BagReader

    with BagReader(bag) as reader:
        cameras = ", ".join(camera.name for camera in bag_cameras(reader))
    print(f"bag: {bag}, cameras {cameras}")


def _fetch_and_convert(
    args: argparse.Namespace,
    model: "PublishedModel",
    bundle: Path,
    downloads: Path,
) -> None:
    from gld_ros.cli import weights

    weights.show_licences(model)
    weights.check_request(args, model, bundle, downloads)
    download_bytes = model.download_gb * 1e9
    minutes = (
        download_bytes / _NETWORK_BYTES_PER_S / 60,
        download_bytes / _CONVERT_BYTES_PER_S / 60,
    )
    print(
        f"1 fetch {model.download_gb:.1f} GB into {downloads} "
        f"({minutes[0]:.0f} min at 100 Mbit/s; what is there already is not fetched again)\n"
        f"2 convert to a bundle of {model.download_gb / 2:.1f} GB, {bundle} "
        f"({minutes[1]:.0f} min on two cores)\n"
        f"3 {'keep' if args.keep_downloads else 'remove'} the downloaded files\n"
        "4 self-test of the bundle on this machine\n"
        f"5 run the bag {args.bag}\n"
        "6 show the result"
    )
    if not args.yes and sys.stdin.isatty() and input("Go on? [y/N] ").strip().lower() != "y":
        raise ValueError("stopped before the first byte; nothing was changed")
    weights.fetch_files(model, downloads, bundle, weights.BUNDLE_SHARE[args.dtype])
    print(f"2 convert: into {bundle}", flush=True)
    conversion = weights.convert_fetched(args, model, downloads, bundle)
    for note in conversion.notes:
        print(f"note: {note}")
    if not args.keep_downloads:
        weights.remove_downloads(downloads)


def _self_test(name: str, machine: "Machine") -> None:
    """Check every byte of the bundle, then that one forward pass here gives finite values."""
    import torch

    from gld_ros.weights.bundle import Bundle
    from gld_ros.weights.verify import verify_bundle

    print("4 self-test:", end=" ", flush=True)
    bundle = Bundle.open(name)
    for check in verify_bundle(bundle.folder):
        if check.problem:
            raise ValueError(
                f"{bundle.folder / check.file}: {check.problem}. Remove {bundle.folder} and run "
                "the same command again."
            )
    backbone = bundle.load_module("backbone", machine.device)
    side = 4 * backbone.patch_size
    images = torch.rand(1, 2, 3, side, side, device=machine.device)
    with torch.no_grad():
        levels = backbone.encode_levels(images, range(4))
        inputs = [backbone.decoder_input(levels[i]) for i in range(4)]
        depth = backbone.decode_geometry(inputs, (side, side)).depth
    if not bool(torch.isfinite(depth).all()):
        raise ValueError(f"the depth of a random image is not finite on {machine.name}")
    print(f"every byte as recorded, depth is finite on {machine.device}")


def _run_bag(args: argparse.Namespace, name: str, out: Path) -> int:
    from gld_ros.cli.main import main

    overrides = [word for entry in args.overrides for word in ("--set", entry)]
    status = main(["bag", str(args.bag), str(out), "--bundle", name, *overrides])
    if status:  # nothing useful was made; the same command tries again
        shutil.rmtree(out, ignore_errors=True)
    return status


def _show(out: Path, no_open: bool) -> None:
    """Draw images of the output bag into one PNG; open it where there is a screen."""
    from PIL import Image

    from gld_ros.mapping.bag_contact_sheet import contact_sheet

    path = out.with_name(f"{out.name}.png")
    Image.fromarray(contact_sheet(out)).save(path)
    print(f"6 result: {out}, images of it in {path}")
    has_screen = any(name in os.environ for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    if has_screen and not no_open:
        webbrowser.open(path.absolute().as_uri())
