"""`gld-ros weights list | fetch | verify | convert`: bundles here and bundles to fetch."""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gld_ros.weights.catalog import PublishedModel
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

_DTYPES = ("float32", "bfloat16", "float16")
# Size of a bundle relative to the published files, which are in float32.
BUNDLE_SHARE = {"float32": 1.0, "bfloat16": 0.5, "float16": 0.5}


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
    add_download_options(fetch)
    add_conversion_options(fetch)


def add_download_options(parser: argparse.ArgumentParser) -> None:
    """Declare what `fetch` and `gld-ros quickstart` share."""
    parser.add_argument(
        "--keep-downloads",
        action="store_true",
        help="keep the downloaded files after the conversion",
    )
    parser.add_argument(
        "--statistics-from",
        type=Path,
        metavar="DATA",
        help="compute the level statistics from the images of this bag or scene folder",
    )
    parser.add_argument(
        "--statistics-scenes",
        type=int,
        default=100,
        metavar="N",
        help="samples of 4 views that they are computed from (default: 100)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the chosen action."""
    actions = {"list": _list, "verify": _verify, "convert": _convert, "fetch": _fetch}
    return actions[args.action](args)


def add_conversion_options(parser: argparse.ArgumentParser) -> None:
    """Declare what every conversion takes."""
    parser.add_argument(
        "--statistics",
        type=Path,
        metavar="PATH",
        help="level statistics, if they are not among the published files: a clone of the GLD code "
        "repository, its folder model_stats, or a bundle that has them (as `gld-ros train "
        "statistics` writes)",
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
        "--dtype",
        choices=_DTYPES,
        default="float32",
        help="stored precision (default: %(default)s)",
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
    from gld_ros.weights.verify import verify_bundle

    checks = verify_bundle(args.bundle)
    for check in checks:
        verdict = f"FAILED: {check.problem}" if check.problem else "ok"
        print(f"{check.file:<26} {check.size_bytes:>13} bytes  {verdict}")
    return 1 if any(check.problem for check in checks) else 0


def _convert(args: argparse.Namespace) -> int:
    name = args.name or args.folder.resolve().name
    conversion = _to_bundle(args, args.kind, args.root, args.folder, name, args.encoder, args.heads)
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
        share = BUNDLE_SHARE[args.dtype] * (not args.download_only)
        fetch_files(model, source, folder, share)
    if args.download_only:
        return 0
    conversion = convert_fetched(args, model, source, folder)
    _print_conversion(conversion)
    if args.from_folder is None and not args.keep_downloads:
        remove_downloads(source)
    return 0


def check_request(
    args: argparse.Namespace, model: "PublishedModel", folder: Path, source: Path
) -> None:
    """Raise for everything about a fetch that is wrong before the hub is asked."""
    from gld_ros.weights.convert import check_options
    from gld_ros.weights.errors import WeightsError
    from gld_ros.weights.families import FAMILIES, find_statistics

    if model.non_commercial and not args.accept_licence:
        raise WeightsError(
            f"{model.name} excludes commercial use; give --accept-licence to accept its licences"
        )
    if args.download_only:
        return
    if folder.exists() and not args.overwrite:
        raise WeightsError(f"{folder} exists already; --overwrite replaces it")
    family = FAMILIES[model.kind]
    check_options(
        model.kind,
        None,
        args.statistics or args.statistics_from,
        args.variant,
        args.special_statistics,
    )
    if args.statistics is not None and args.statistics_from is not None:
        raise ValueError("give --statistics or --statistics-from, not both")
    if args.statistics_from is not None:
        if not args.statistics_from.exists():
            raise ValueError(f"--statistics-from {args.statistics_from} does not exist")
        return
    try:
        find_statistics(family, args.statistics or source)
    except WeightsError as error:
        raise WeightsError(f"missing {error}\n{family.where_from}") from error


def fetch_files(model: "PublishedModel", folder: Path, bundle: Path, bundle_share: float) -> None:
    """Download what is missing of a model into `folder`, with one bar over all files.

    `bundle_share`: size of the bundle that will be written, relative to the files; room for both
    is asked for first.
    """
    from tqdm import tqdm

    from gld_ros.cli._download_progress import download_progress
    from gld_ros.partial_folder import remove_leftovers
    from gld_ros.weights.fetch import download, on_one_disk, plan_download, require_space
    from gld_ros.weights.hub import HuggingFaceHub

    hub = HuggingFaceHub()

    def report(line: str) -> None:
        tqdm.write(line)
        sys.stdout.flush()

    plan = plan_download(model, folder, hub, report)
    report(
        f"{len(plan.files)} files, {plan.total_bytes / 1e9:.2f} GB, "
        f"{plan.missing_bytes / 1e9:.2f} GB of them to be fetched into {folder}"
    )
    remove_leftovers(bundle)  # a conversion that was killed has left gigabytes
    bundle_bytes = round(bundle_share * plan.total_bytes)
    if bundle_bytes and on_one_disk(folder, bundle):
        needed = plan.missing_bytes + bundle_bytes
        require_space(folder, needed, "the download with the bundle made from it")
    else:
        require_space(folder, plan.missing_bytes, "the download")
        require_space(bundle, bundle_bytes, "the bundle made from it")
    have_bytes = plan.total_bytes - plan.missing_bytes
    with download_progress(model.name, plan.total_bytes, have_bytes) as arrived:
        download(plan, hub, report, arrived)


def convert_fetched(
    args: argparse.Namespace, model: "PublishedModel", source: Path, folder: Path
) -> "Conversion":
    """Convert downloaded files; their statistics are computed first where that was asked for."""
    if args.statistics_from is None:
        return _to_bundle(args, model.kind, source, folder, model.name, None, [])
    from gld_ros.evaluation.held_out import recording_kind
    from gld_ros.training.own_statistics import statistics_from_recordings
    from gld_ros.weights.families import FAMILIES, find_encoder

    family = FAMILIES[model.kind]
    with tempfile.TemporaryDirectory(dir=source, prefix="statistics-") as made:
        data = args.statistics_from
        args.statistics = statistics_from_recordings(
            find_encoder(family, source),
            family,
            recording_kind(data),
            data,
            Path(made),
            scenes=args.statistics_scenes,
        )
        return _to_bundle(args, model.kind, source, folder, model.name, None, [])


def remove_downloads(folder: Path) -> None:
    """Remove the downloaded files of a model that has been converted."""
    freed = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    shutil.rmtree(folder)
    print(f"removed {freed / 1e9:.2f} GB of downloaded files in {folder}")


def show_licences(model: "PublishedModel") -> None:
    """Print the licence of every part of a model, and whether it excludes commercial use."""
    print(f"{model.name}: {model.summary}")
    print("Licences:")
    for licence in model.licences:
        print(f"  {licence}")
    if model.non_commercial:
        print("  These weights MUST NOT be used commercially.")
    sys.stdout.flush()


def _to_bundle(
    args: argparse.Namespace,
    kind: str | None,
    source: Path,
    folder: Path,
    name: str,
    encoder: Path | None,
    heads: list[str],
) -> "Conversion":
    from tqdm import tqdm

    from gld_ros.weights.convert import convert
    from gld_ros.weights.tensor_file import DTYPE_NAMES

    with tqdm(unit="tensor", disable=None) as bar:

        def show(module: str, done: int, total: int) -> None:
            bar.total = total
            bar.set_description(module, refresh=False)
            bar.update(done - bar.n)

        return convert(
            source,
            folder,
            kind=kind,
            name=name,
            encoder_file=encoder,
            statistics=args.statistics,
            variant=args.variant,
            special_statistics=args.special_statistics,
            dtype=DTYPE_NAMES[args.dtype],
            sizes=_sizes(heads),
            overwrite=args.overwrite,
            progress=show,
        )


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
