"""`gld-ros quickstart`: from a bag to views or depth with published weights, in one command."""

import argparse
import json
import os
import shutil
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gld_ros.cli import _fetch_run
from gld_ros.cli._arguments import add_set_argument
from gld_ros.cli._bag_run import BagOptions
from gld_ros.cli._fetch_run import add_conversion_options, add_download_options

if TYPE_CHECKING:
    import torch

    from gld_ros.weights.bundle import Bundle
    from gld_ros.weights.catalog import PublishedModel

HELP = "fetch published weights, run a bag with them, and look at the result"
DESCRIPTION = """\
Check the bag, settings, memory and disk, say what will happen and how long it will take, and ask;
then fetch published weights, convert them to bfloat16, check the bundle on this machine, run the
bag and open an image of the result. The same command resumes after a stop: finished steps are
skipped. The steps are also separate commands: weights fetch, weights verify, bench, bag.

The level statistics of gld-da3 and gld-vggt are not on the hub: give a clone of
https://github.com/cvlab-kaist/GLD with --statistics, or compute them from your own images with
--statistics-from (`gld-ros weights fetch --help`).
"""

EXAMPLES = """\
examples:
  gld-ros quickstart --bag drive.mcap --statistics GLD
  gld-ros quickstart --bag drive.mcap --weights da3-base
  gld-ros quickstart --bag drive.mcap --statistics GLD --set sampler.preset=fast --every 5
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
    parser.add_argument(
        "--yes", action="store_true", help="do not ask before fetching; needed without a terminal"
    )
    parser.add_argument("--no-open", action="store_true", help="do not open the result")
    parser.add_argument(
        "--every",
        type=int,
        default=1,
        metavar="N",
        help="a job at every N-th keyframe (default: 1)",
    )
    add_set_argument(parser, "override a parameter of the run, as for `gld-ros bag`")
    add_download_options(parser)
    add_conversion_options(parser)
    parser.set_defaults(dtype="bfloat16", download_only=False)


def run(args: argparse.Namespace) -> int:
    """Go through the steps that are not done yet; 0 when the result is there."""
    from gld_ros.weights.bundle import Bundle
    from gld_ros.weights.catalog import published_model
    from gld_ros.weights.storage import bundles_home, downloads_home
    from gld_ros.weights.unfetched import UnfetchedBundle

    if args.every < 1:
        raise ValueError(f"--every is {args.every}; at least 1 is needed")
    model = published_model(args.weights)
    out = args.out or Path(f"{args.bag.stem}-{model.name}")
    # Absolute, so that no folder of the same name in the current one is taken for it.
    folder = (bundles_home() / model.name).absolute()
    downloads = args.from_folder or downloads_home() / model.name
    wanted = folder.is_dir() and not args.overwrite
    bundle = (
        Bundle.open(folder)
        if wanted
        else UnfetchedBundle(model, variant=args.variant, dtype=args.dtype)
    )
    options = BagOptions(bundle=str(folder), overrides=tuple(args.overrides), every=args.every)
    settings = {"bag": str(args.bag.absolute()), "set": args.overrides, "every": args.every}
    options.snapshot()  # before anything else: a misspelt parameter
    finished = _finished(out, settings, anew=args.overwrite)
    if not wanted:
        _fetch_run.show_licences(model)
        _fetch_run.check_request(args, model, folder, downloads)
    if not finished:
        _fetch_run.check_writable(out)
        device = _check_run(args.bag, bundle, model, options)
    if wanted:
        print(f"1-3 weights: {folder} is here already")
        _note_unused(args, downloads)
    else:
        _fetch_and_convert(args, model, folder, downloads, steps_left=not finished)
    if finished:
        print(f"5 run: {out} is here already, made with these settings")
    else:
        _self_test(folder, device)
        print(f"5 run: {args.bag}", flush=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        _settings_file(out).write_text(json.dumps(settings, indent=1) + "\n", "utf-8")
        status = _run_bag(args, folder, out)
        if status:
            return status
    _show(out, args.no_open)
    return 0


def _finished(out: Path, settings: dict[str, Any], *, anew: bool) -> bool:
    """Whether the output bag is there. Raises ValueError if it was made with other settings.

    `anew`: the bundle is made again, so that any bag there is of another one.
    """
    if not out.exists():
        return False
    record = _settings_file(out)
    again = f"To run again, remove it (rm -r {out}) or choose another place with --out."
    try:
        made_with = json.loads(record.read_text("utf-8"))
    except (OSError, ValueError):
        raise ValueError(f"{out} exists, and was not made by this command. {again}") from None
    if anew:
        raise ValueError(f"{out} was made with the bundle that --overwrite replaces. {again}")
    if made_with == settings:
        return True
    then, now = (
        " ".join(f"--{name} {values.get(name)}" for name in settings)
        for values in (made_with, settings)
    )
    raise ValueError(f"{out} was made with other settings: {then}; now: {now}. {again}")


def _settings_file(out: Path) -> Path:
    """What the bag was made with, beside it."""
    return out.with_name(f"{out.name}.settings.json")


def _check_run(
    bag: Path, bundle: "Bundle", model: "PublishedModel", options: BagOptions
) -> "torch.device":
    """Say what the run needs and takes here; ValueError if it cannot be. Returns its device."""
    from gld_ros.cli._quickstart_bag import duration_lines, look_at_bag
    from gld_ros.cli._quickstart_machine import Machine, require_memory
    from gld_ros.mapping.model import ModelUnavailable, mode_of

    parameters = options.snapshot().session
    machine = Machine.of(parameters)
    try:
        mode = mode_of(parameters, bundle.config.imagines)
    except ModelUnavailable as error:
        raise ValueError(str(error)) from error
    work = look_at_bag(bag, parameters, mode, options.every)
    print(f"bag: {bag}, cameras {', '.join(work.cameras)}", flush=True)
    _, pipeline, memory = require_memory(
        bundle, model, machine, lambda further: options.snapshot(further).session
    )
    print(
        f"machine: {machine.name}, {machine.free_bytes / 1e9:.1f} GB of memory free\n"
        f"run: mode {mode}, memory: {memory}",
        *duration_lines(work, pipeline, parameters),
        sep="\n",
        flush=True,
    )
    return pipeline.device


def _note_unused(args: argparse.Namespace, downloads: Path) -> None:
    """Say which options have no effect because the bundle is there, and what is left over."""
    given = {
        "--statistics": args.statistics,
        "--statistics-from": args.statistics_from,
        "--from-folder": args.from_folder,
        "--variant": args.variant,
        "--special-statistics": args.special_statistics,
        "--dtype": args.dtype != "bfloat16",
    }
    unused = [option for option, value in given.items() if value]
    if unused:
        print(f"NOTE: not used for it: {', '.join(unused)}; --overwrite makes the bundle anew")
    if args.from_folder is None and downloads.is_dir():
        print(f"NOTE: the downloaded files are no longer needed: rm -r {downloads}")


def _fetch_and_convert(
    args: argparse.Namespace,
    model: "PublishedModel",
    bundle: Path,
    downloads: Path,
    *,
    steps_left: bool,
) -> None:
    from gld_ros.cli._quickstart_bag import in_words
    from gld_ros.partial_folder import remove_leftovers
    from gld_ros.weights.fetch import downloaded_files, free_bytes
    from gld_ros.weights.unfetched import UnfetchedBundle

    here = sum(path.stat().st_size for path in downloaded_files(model, downloads))
    download = round(model.download_gb * 1e9)
    missing = 0 if args.from_folder else max(0, download - here)
    records = UnfetchedBundle(model, variant=args.variant, dtype=args.dtype).config.files.values()
    made = sum(record.size_bytes for record in records)
    statistics = _fetch_run.statistics_bytes(args, model)
    remove_leftovers(bundle)  # a conversion that was killed has left gigabytes
    _fetch_run.require_room(downloads, missing, bundle, made + statistics)
    lines = [f"disk: {free_bytes(bundle) / 1e9:.0f} GB free"]
    if args.from_folder:
        lines.append(f"1 take the files in {downloads}")
    else:
        lines.append(
            f"1 fetch {missing / 1e9:.1f} of {download / 1e9:.1f} GB into {downloads} "
            f"({in_words(missing / _NETWORK_BYTES_PER_S)} at 100 Mbit/s)"
        )
    if statistics:
        lines.append(
            f"  measure level statistics on {args.statistics_from} ({statistics / 1e9:.1f} GB of "
            "disk meanwhile)"
        )
    lines.append(
        f"2 convert to a bundle of {made / 1e9:.1f} GB, {bundle} "
        f"({in_words(download / _CONVERT_BYTES_PER_S)} on two cores)"
    )
    if not args.from_folder:
        lines.append(f"3 {'keep' if args.keep_downloads else 'remove'} the downloaded files")
    if steps_left:
        lines += [
            "4 self-test of the bundle on this machine",
            f"5 run the bag {args.bag} (time: above)",
        ]
    print(*lines, "6 show the result", sep="\n", flush=True)
    _confirm(args)
    if not args.from_folder:
        _fetch_run.fetch_files(args, model, downloads, bundle)
    print(f"2 convert: into {bundle}", flush=True)
    conversion = _fetch_run.convert_fetched(args, model, downloads, bundle)
    for note in conversion.notes:
        print(f"note: {note}")
    if not (args.keep_downloads or args.from_folder):
        _fetch_run.remove_downloads(model, downloads)


def _confirm(args: argparse.Namespace) -> None:
    """Ask whether to go on; raises ValueError unless the answer is yes."""
    if args.yes:
        return
    if not sys.stdin.isatty():
        raise ValueError(
            "nothing was fetched: there is no terminal to ask on; add --yes to go on as described"
        )
    try:
        answer = input("Go on? [y/N] ")
    except EOFError:  # Ctrl-D
        answer = ""
        print()
    if answer.strip().lower() not in ("y", "yes"):
        raise ValueError("stopped before the first byte; nothing was changed")


def _self_test(folder: Path, device: "torch.device") -> None:
    """Check every byte of the bundle, then that one forward pass here gives finite values."""
    import torch

    from gld_ros.weights.bundle import Bundle
    from gld_ros.weights.verify import verify_bundle

    print("4 self-test:", end=" ", flush=True)
    bundle = Bundle.open(folder)
    for check in verify_bundle(bundle.folder):
        if check.problem:
            raise ValueError(
                f"{bundle.folder / check.file}: {check.problem}. Remove {bundle.folder} and run "
                "the same command again."
            )
    backbone = bundle.load_module("backbone", device)
    side = 4 * backbone.patch_size
    images = torch.rand(1, 2, 3, side, side, device=device)
    with torch.no_grad():
        levels = backbone.encode_levels(images, range(4))
        inputs = [backbone.decoder_input(levels[i]) for i in range(4)]
        depth = backbone.decode_geometry(inputs, (side, side)).depth
    if not bool(torch.isfinite(depth).all()):
        raise ValueError(f"the depth of a random image is not finite on {device}")
    print(f"every byte as recorded, depth is finite on {device}")


def _run_bag(args: argparse.Namespace, bundle: Path, out: Path) -> int:
    from gld_ros.cli.main import main

    overrides = [word for entry in args.overrides for word in ("--set", entry)]
    words = [str(args.bag), str(out), "--bundle", str(bundle), "--every", str(args.every)]
    status = main(["bag", *words, *overrides])
    if status:  # nothing useful was made; the same command tries again
        shutil.rmtree(out, ignore_errors=True)
        print(
            "5 run: stopped by what is said above; the weights stay. `gld-ros check "
            f"{args.bag}` names what to fix in the bag, `gld-ros params` lists what --set changes; "
            "the same command tries again.",
            file=sys.stderr,
        )
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
