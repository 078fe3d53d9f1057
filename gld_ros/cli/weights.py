"""`gld-ros weights list | fetch | verify | convert`: bundles here and bundles to fetch."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from gld_ros.cli._fetch_run import (
    add_conversion_options,
    add_download_options,
    check_request,
    convert_fetched,
    fetch_files,
    remove_downloads,
    show_licences,
    to_bundle,
)

if TYPE_CHECKING:
    from gld_ros.weights.convert import Conversion, UnstoredSizes

HELP = "list, fetch, verify and convert weight bundles"
DESCRIPTION = """\
A bundle is a folder with config.json and safetensors files. "tiny" is inside the package; others
are fetched or converted, and only on request.
"""

_CONVERT = """\
Turn the published files into a bundle. ROOT is laid out as the GLD repository. With DA3:
  pretrained_models/da3/model.safetensors, dpt_decoder.pt     pretrained_models/mae_decoder.pt
  checkpoints/da3_level1.pt, da3_cascade.pt
  depth-anything/DA3-BASE/model.safetensors                   (or --encoder)
  model_stats/da3/normalization_stats_level{0,1}.pt           (or --statistics)
With VGGT (not for commercial use):
  pretrained_models/vggt/mae_decoder.pt                       checkpoints/vggt_level1.pt,
  facebook/VGGT-1B/model.safetensors                          (or --encoder)   vggt_cascade.pt
  model_stats/vggt/normalization_stats_level{0,1}.pt, special_stats_level{0,1}.pt
ROOT may also be one model.safetensors of DA3 or VGGT; the bundle then has only the backbone.
Nothing is written unless every tensor is used and every parameter has a tensor.
"""

_FETCH = """\
Download published weights from the Hugging Face hub after showing their licences, check size and
hash of every file, continue interrupted downloads, and convert the result into a bundle that
`NovelViewPipeline.from_pretrained(NAME)` finds. Then the downloaded files are removed, unless
--keep-downloads is given.

The level statistics of gld-da3 and gld-vggt (2 files of 21 kB, 4 of 27 kB) are not on the hub.
Give
  --statistics PATH        a clone of https://github.com/cvlab-kaist/GLD, or its folder model_stats
  --statistics-from DATA   a bag or scene folder of your own: they are computed from its images, as
                           `gld-ros train statistics` does. The published denoisers were trained
                           with the published statistics, so views will be worse with others.
Everything that can be checked is checked before anything is downloaded.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `gld-ros weights` and its actions."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    actions.add_parser("list", help="bundles on this machine, and what can be fetched")

    verify = actions.add_parser("verify", help="check every file of a bundle against its hashes")
    verify.add_argument(
        "bundle", nargs="?", default="tiny", help="folder or name of a bundle (default: tiny)"
    )

    convert = actions.add_parser(
        "convert",
        help="turn published files into a bundle",
        description=_CONVERT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    convert.add_argument("root", metavar="ROOT", type=Path, help="folder of published files")
    convert.add_argument("folder", metavar="FOLDER", type=Path, help="bundle to write")
    convert.add_argument("--name", help="name of the bundle (default: that of FOLDER)")
    convert.add_argument(
        "--kind",
        choices=("gld-da3", "gld-vggt", "da3", "vggt"),
        help="what ROOT contains (default: detected; needed if there are files of both)",
    )
    convert.add_argument(
        "--encoder", type=Path, help="model.safetensors of depth-anything/DA3-BASE or VGGT-1B"
    )
    convert.add_argument(
        "--heads",
        metavar="PART=N",
        action="append",
        default=[],
        help="attention heads, which tensors do not show: camera=N, rgb_decoder=N, level1=N,M, "
        "cascade=N,M (encoder, head); needed for models of unpublished sizes only",
    )
    add_conversion_options(convert)

    fetch = actions.add_parser(
        "fetch",
        help="download published weights and convert them",
        description=_FETCH,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fetch.add_argument("name", metavar="NAME", help="what to fetch; see `gld-ros weights list`")
    fetch.add_argument(
        "--to", type=Path, metavar="FOLDER", help="bundle to write (default: the data folder)"
    )
    fetch.add_argument(
        "--download-only", action="store_true", help="fetch and verify, do not convert"
    )
    add_download_options(fetch)
    add_conversion_options(fetch)


def run(args: argparse.Namespace) -> int:
    """Run the chosen action."""
    actions = {"list": _list, "verify": _verify, "convert": _convert, "fetch": _fetch}
    return actions[args.action](args)


def _list(args: argparse.Namespace) -> int:
    from gld_ros.weights.bundle import EMBEDDED_BUNDLES, Bundle
    from gld_ros.weights.catalog import CATALOG
    from gld_ros.weights.errors import WeightsError
    from gld_ros.weights.storage import bundles_home

    folders = sorted(bundles_home().iterdir()) if bundles_home().is_dir() else []
    fetched = [path for path in folders if path.is_dir() and not path.name.startswith(".")]
    print("On this machine:")
    for name in (*EMBEDDED_BUNDLES, *(path.name for path in fetched)):
        try:
            bundle = Bundle.open(name)
        except WeightsError as error:
            print(f"  {name:<12} unusable: {error}")
            continue
        config = bundle.config
        size_mb = sum(bundle.size_bytes().values()) / 1e6
        notes = [config.licence]
        notes += ["RANDOM WEIGHTS"] if config.random_weights else []
        notes += ["NON-COMMERCIAL"] if config.non_commercial else []
        print(f"  {name:<12} {size_mb:9.1f} MB  {'; '.join(notes)}")
        print(f"  {'':<12} {bundle.folder}")
    print("\nTo be fetched (gld-ros weights fetch NAME):")
    for model in CATALOG.values():
        restricted = "  NON-COMMERCIAL" if model.non_commercial else ""
        print(f"  {model.name:<12} about {model.download_gb:.1f} GB  {model.summary}{restricted}")
        for licence in model.licences:
            print(f"  {'':<12} {licence}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from gld_ros.weights.verify import verify_bundle

    checks = verify_bundle(args.bundle)
    for check in checks:
        verdict = f"FAILED: {check.problem}" if check.problem else "ok"
        print(f"{check.file:<26} {check.size_bytes:>13} bytes  {verdict}")
    return 1 if any(check.problem for check in checks) else 0


def _convert(args: argparse.Namespace) -> int:
    name = args.name or args.folder.resolve().name
    sizes = _sizes(args.heads)
    conversion = to_bundle(args, args.kind, args.root, args.folder, name, args.encoder, sizes)
    if conversion.bundle.config.non_commercial:
        print(f"NON-COMMERCIAL weights: {conversion.bundle.config.licence}")
    _print_conversion(conversion)
    return 0


def _fetch(args: argparse.Namespace) -> int:
    from gld_ros.weights.catalog import published_model
    from gld_ros.weights.storage import bundles_home, downloads_home

    model = published_model(args.name)
    folder = args.to or bundles_home() / model.name
    source = args.from_folder or downloads_home() / model.name
    show_licences(model)
    check_request(args, model, folder, source)
    if args.from_folder is None:
        fetch_files(args, model, source, folder)
    if args.download_only:
        return 0
    conversion = convert_fetched(args, model, source, folder)
    _print_conversion(conversion)
    if args.from_folder is None and not args.keep_downloads:
        remove_downloads(model, source)
    return 0


def _sizes(heads: list[str]) -> "UnstoredSizes":
    """The head counts given as PART=N, over those of the published files."""
    from gld_ros.weights.convert import UnstoredSizes

    given: dict[str, list[int]] = {}
    for entry in heads:
        part, _, numbers = entry.partition("=")
        wanted = {"camera": 1, "rgb_decoder": 1, "level1": 2, "cascade": 2}.get(part)
        counts = [int(number) for number in numbers.split(",") if number.isdecimal()]
        if len(counts) != wanted or min(counts) < 1:
            raise ValueError(
                f"--heads {entry}: expected camera=N, rgb_decoder=N, level1=N,M or cascade=N,M"
            )
        given[part] = counts
    level1, cascade = given.get("level1", [16, 16]), given.get("cascade", [16, 16])
    return UnstoredSizes(
        camera_heads=given.get("camera", [16])[0],
        rgb_decoder_heads=given.get("rgb_decoder", [16])[0],
        level1_heads=(level1[0], level1[1]),
        cascade_heads=(cascade[0], cascade[1]),
    )


def _print_conversion(conversion: "Conversion") -> None:
    bundle = conversion.bundle
    for note in conversion.notes:
        print(f"note: {note}")
    parameters = bundle.parameter_count()
    for name, size in bundle.size_bytes().items():
        count = parameters.get(name.removesuffix(".safetensors"))
        millions = "" if count is None else f"  {count / 1e6:.2f} M parameters"
        print(f"  {name:<26} {size / 1e6:10.2f} MB{millions}")
    print(f"bundle {bundle.config.name!r} written to {bundle.folder}")
