"""`gld-ros weights list | fetch | verify | convert`: bundles here, and those that can be had."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gld_ros.weights.catalog import PublishedModel
    from gld_ros.weights.published_files import Conversion, UnstoredSizes

_DESCRIPTION = """\
A bundle is a folder with config.json and safetensors files. "tiny" is inside the package; others
are fetched or converted, and never without being asked for.
"""

_CONVERT = """\
Turns the published files into a bundle. ROOT is laid out as the GLD repository. With DA3:
  pretrained_models/da3/model.safetensors        checkpoints/da3_level1.pt, da3_cascade.pt
  checkpoints/dpt_decoder.pt, mae_decoder.pt     model_stats/normalization_stats_level{0,1}.pt
  depth-anything/DA3-Base/model.safetensors      (or --encoder)
With VGGT (not for commercial use):
  pretrained_models/vggt/mae_decoder.pt          checkpoints/vggt_level1.pt, vggt_cascade.pt
  facebook/VGGT-1B/model.safetensors             (or --encoder)
  model_stats/vggt/normalization_stats_level{0,1}.pt, special_stats_level{0,1}.pt
ROOT may also be one model.safetensors of DA3 or VGGT: the bundle then holds the backbone alone.
Every tensor must find its place and every parameter its tensor, or nothing is written.
"""

_FETCH = """\
Downloads published weights from the Hugging Face hub after showing their licences, checks size and
hash of every file, continues interrupted downloads, and converts the result into a bundle that
`NovelViewPipeline.from_pretrained(NAME)` finds.

The level statistics are not on the hub but in the code repository of GLD (folder model_stats);
give that folder with --statistics.
"""

_DTYPES = ("float32", "bfloat16", "float16")
# Keyword of a converter -> the option that sets it.
_FLAGS = {
    "encoder_file": "--encoder",
    "statistics_folder": "--statistics",
    "variant": "--variant",
    "special_statistics": "--special-statistics",
}


def add_parser(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> argparse.ArgumentParser:
    """Declare `gld-ros weights` and its actions."""
    parser = subparsers.add_parser(
        "weights",
        help="list, fetch, verify and convert weight bundles",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
        help="what ROOT holds (default: found out; needed where there are files of both)",
    )
    convert.add_argument(
        "--encoder", type=Path, help="model.safetensors of depth-anything/DA3-Base or VGGT-1B"
    )
    convert.add_argument(
        "--heads",
        metavar="PART=N",
        action="append",
        default=[],
        help="attention heads, which no tensor tells: camera=N, rgb_decoder=N, level1=N,M, "
        "cascade=N,M (encoder, head); needed for models of unpublished sizes only",
    )
    _add_conversion_options(convert)

    fetch = actions.add_parser(
        "fetch",
        help="download published weights and convert them",
        description=_FETCH,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fetch.add_argument("name", metavar="NAME", help="what to fetch; see `gld-ros weights list`")
    fetch.add_argument(
        "--accept-licence",
        action="store_true",
        help="accept the licences shown; required for weights that exclude commercial use",
    )
    fetch.add_argument(
        "--from-folder", type=Path, metavar="DIR", help="convert files from DIR, no network"
    )
    fetch.add_argument(
        "--to", type=Path, metavar="FOLDER", help="bundle to write (default: the data folder)"
    )
    fetch.add_argument(
        "--download-only", action="store_true", help="fetch and verify, do not convert"
    )
    _add_conversion_options(fetch)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the chosen action."""
    actions = {"list": _list, "verify": _verify, "convert": _convert, "fetch": _fetch}
    return actions[args.action](args)


def _add_conversion_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--statistics", type=Path, metavar="DIR", help="folder model_stats, if it is elsewhere"
    )
    parser.add_argument(
        "--variant",
        choices=("full", "reference"),
        help="gld-vggt only: run all head blocks of the cascade file (full, the default), or the "
        "first two as the released evaluation does (reference)",
    )
    parser.add_argument(
        "--special-statistics",
        choices=("own", "level1"),
        help="gld-vggt only: normalise level-0 special tokens by their own statistics or by those "
        "of level 1 (default: own for full, level1 for reference, as released)",
    )
    parser.add_argument(
        "--dtype", choices=_DTYPES, default="float32", help="stored precision (default: float32)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the bundle if there is one already"
    )


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
    from gld_ros.weights.bundle import verify_bundle

    checks = verify_bundle(args.bundle)
    for check in checks:
        verdict = f"FAILED: {check.problem}" if check.problem else "ok"
        print(f"{check.file:<26} {check.size_bytes:>13} bytes  {verdict}")
    return 1 if any(check.problem for check in checks) else 0


def _convert(args: argparse.Namespace) -> int:
    from gld_ros.weights.converters import recognise

    name = args.name or args.folder.resolve().name
    kind = args.kind or recognise(args.root)
    conversion = _to_bundle(args, kind, args.root, args.folder, name, args.encoder, args.heads)
    if conversion.bundle.config.non_commercial:
        print(f"NON-COMMERCIAL weights: {conversion.bundle.config.licence}")
    _print_conversion(conversion)
    return 0


def _fetch(args: argparse.Namespace) -> int:
    from gld_ros.weights.catalog import published_model
    from gld_ros.weights.converters import CONVERTERS
    from gld_ros.weights.errors import WeightsError
    from gld_ros.weights.hub import HuggingFaceHub, fetch_model
    from gld_ros.weights.storage import bundles_home, downloads_home

    model = published_model(args.name)
    folder = args.to or bundles_home() / model.name
    if folder.exists() and not args.overwrite and not args.download_only:
        raise WeightsError(f"{folder} exists already; --overwrite replaces it")
    _show_licences(model)
    if model.non_commercial and not args.accept_licence:
        raise WeightsError(
            f"{model.name} excludes commercial use; give --accept-licence to accept its licences"
        )
    if args.from_folder is not None:
        source = args.from_folder
    else:
        source = downloads_home() / model.name
        fetch_model(model, source, HuggingFaceHub(), lambda line: print(line, flush=True))
    if args.download_only:
        return 0
    if not CONVERTERS[model.kind].whole and source.is_dir():
        source = source / model.files[0].place
    conversion = _to_bundle(args, model.kind, source, folder, model.name, None, [])
    _print_conversion(conversion)
    if args.from_folder is None:
        print(f"The downloaded files in {downloads_home() / model.name} are no longer needed.")
    return 0


def _show_licences(model: "PublishedModel") -> None:
    print(f"{model.name}: {model.summary}")
    print("Licences:")
    for licence in model.licences:
        print(f"  {licence}")
    if model.non_commercial:
        print("  These weights MUST NOT be used commercially.")
    sys.stdout.flush()


def _to_bundle(
    args: argparse.Namespace,
    kind: str,
    source: Path,
    folder: Path,
    name: str,
    encoder: Path | None,
    heads: list[str],
) -> "Conversion":
    from tqdm import tqdm

    from gld_ros.weights.converters import CONVERTERS
    from gld_ros.weights.tensor_file import DTYPE_NAMES

    converter = CONVERTERS[kind]
    given = {
        "encoder_file": encoder,
        "statistics_folder": args.statistics,
        "variant": args.variant,
        "special_statistics": args.special_statistics,
    }
    options = {name: value for name, value in given.items() if value is not None}
    unusable = sorted(options.keys() - set(converter.options))
    if unusable:
        flags = ", ".join(_FLAGS[option] for option in unusable)
        raise ValueError(f"{flags}: not an option of {kind} files")
    with tqdm(unit="tensor", disable=None) as bar:

        def show(module: str, done: int, total: int) -> None:
            bar.total = total
            bar.set_description(module, refresh=False)
            bar.update(done - bar.n)

        return converter.convert(
            source,
            folder,
            name=name,
            dtype=DTYPE_NAMES[args.dtype],
            sizes=_sizes(heads),
            overwrite=args.overwrite,
            progress=show,
            **options,
        )


def _sizes(heads: list[str]) -> "UnstoredSizes":
    """The head counts given as PART=N, over those of the published files."""
    from gld_ros.weights.published_files import UnstoredSizes

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
