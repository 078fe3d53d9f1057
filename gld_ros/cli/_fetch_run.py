"""Published weights fetched and made a bundle: what `weights fetch` and `quickstart` share.

Everything that can be wrong with what a person gave is found before the hub is asked.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gld_ros.weights.catalog import PublishedModel
    from gld_ros.weights.convert import Conversion, UnstoredSizes
    from gld_ros.weights.families import Family

_DTYPES = ("float32", "bfloat16", "float16")
# Size of a bundle relative to the published files, which are in float32.
BUNDLE_SHARE = {"float32": 1.0, "bfloat16": 0.5, "float16": 0.5}


def add_download_options(parser: argparse.ArgumentParser) -> None:
    """Declare what `fetch` and `gld-ros quickstart` share."""
    parser.add_argument(
        "--accept-licence",
        action="store_true",
        help="accept the licences shown; required for weights that exclude commercial use",
    )
    parser.add_argument(
        "--from-folder", type=Path, metavar="DIR", help="convert files from DIR, no network"
    )
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


def check_request(
    args: argparse.Namespace, model: "PublishedModel", folder: Path, source: Path
) -> None:
    """Raise for everything about a fetch that is wrong before the hub is asked."""
    from gld_ros.weights.convert import check_options
    from gld_ros.weights.errors import WeightsError
    from gld_ros.weights.families import FAMILIES, find_encoder, find_inputs, find_statistics
    from gld_ros.weights.published_diffusion import check_statistics_width, read_statistics
    from gld_ros.weights.unfetched import PUBLISHED

    if model.non_commercial and not args.accept_licence:
        raise WeightsError(
            f"{model.name} excludes commercial use; give --accept-licence to accept its licences"
        )
    if args.download_only:
        return
    if folder.exists() and not args.overwrite:
        raise WeightsError(f"{folder} exists already; --overwrite replaces it")
    check_options(
        model.kind,
        None,
        args.statistics or args.statistics_from,
        args.variant,
        args.special_statistics,
    )
    check_writable(folder)
    family = FAMILIES[model.kind]
    if args.from_folder is None:
        check_writable(source)
    elif args.statistics_from is None:
        find_inputs(family, source, None, args.statistics)
    else:
        find_encoder(family, source)
    if args.statistics_from is not None:
        _check_own_statistics(args, family)
        return
    try:
        paths = find_statistics(family, args.statistics or source)
    except WeightsError as error:
        raise WeightsError(f"missing {error}\n{family.where_from}") from error
    if paths:
        channels = PUBLISHED[model.kind].backbone.channels
        check_statistics_width(read_statistics(paths, family.statistics), channels, paths)


def _check_own_statistics(args: argparse.Namespace, family: "Family") -> None:
    """Raise unless samples can be drawn from the recording of --statistics-from."""
    from gld_ros.evaluation.held_out import recording_kind
    from gld_ros.training.own_statistics import statistics_source

    if args.statistics is not None:
        raise ValueError("give --statistics or --statistics-from, not both")
    if args.statistics_scenes < 1:
        raise ValueError(f"--statistics-scenes is {args.statistics_scenes}; at least 1 is needed")
    if not args.statistics_from.exists():
        raise ValueError(f"--statistics-from {args.statistics_from} does not exist")
    data = args.statistics_from
    try:
        statistics_source(family, recording_kind(data), data, args.statistics_scenes, try_one=True)
    except (ValueError, OSError) as error:
        raise ValueError(f"--statistics-from: {error}") from error


def check_writable(path: Path) -> None:
    """Raise ValueError unless `path`, which need not exist, can be made where it is to be."""
    folder = path.absolute().parent
    above = next(place for place in (folder, *folder.parents) if place.exists())
    if not above.is_dir():
        raise ValueError(f"{path} cannot be written: {above} is not a folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise ValueError(f"{path} cannot be written: this user may not write to {above}")


def statistics_bytes(args: argparse.Namespace, model: "PublishedModel") -> int:
    """What measuring statistics writes beside the bundle meanwhile: its backbone, twice."""
    from gld_ros.weights.catalog import CATALOG
    from gld_ros.weights.families import FAMILIES
    from gld_ros.weights.unfetched import UnfetchedBundle

    if args.statistics_from is None:
        return 0
    kind = FAMILIES[model.kind].backbone
    alone = next(one for one in CATALOG.values() if one.kind == kind)
    return 2 * UnfetchedBundle(alone).config.files["backbone.safetensors"].size_bytes


def require_room(downloads: Path, missing_bytes: int, bundle: Path, made_bytes: int) -> None:
    """Raise WeightsError unless the disks have room for a download and what is made from it."""
    from gld_ros.weights.fetch import on_one_disk, require_space

    if made_bytes and on_one_disk(downloads, bundle):
        needed = missing_bytes + made_bytes
        require_space(downloads, needed, "the download with the bundle made from it")
    else:
        require_space(downloads, missing_bytes, "the download")
        require_space(bundle, made_bytes, "the bundle made from it")


def fetch_files(
    args: argparse.Namespace, model: "PublishedModel", folder: Path, bundle: Path
) -> None:
    """Download what is missing of a model into `folder`, with one bar over all files.

    Room for it and for the bundle that will be written is asked for first.
    """
    from tqdm import tqdm

    from gld_ros.cli._download_progress import download_progress
    from gld_ros.partial_folder import remove_leftovers
    from gld_ros.weights.fetch import download, plan_download
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
    made_bytes = 0
    if not args.download_only:
        made_bytes = round(BUNDLE_SHARE[args.dtype] * plan.total_bytes)
        made_bytes += statistics_bytes(args, model)
    require_room(folder, plan.missing_bytes, bundle, made_bytes)
    have_bytes = plan.total_bytes - plan.missing_bytes
    with download_progress(model.name, plan.total_bytes, have_bytes) as arrived:
        download(plan, hub, report, arrived)


def convert_fetched(
    args: argparse.Namespace, model: "PublishedModel", source: Path, folder: Path
) -> "Conversion":
    """Convert downloaded files; their statistics are computed first where that was asked for."""
    if args.statistics_from is None:
        return to_bundle(args, model.kind, source, folder, model.name)
    from gld_ros.evaluation.held_out import recording_kind
    from gld_ros.training.own_statistics import statistics_from_recordings
    from gld_ros.weights.families import FAMILIES, find_encoder

    family = FAMILIES[model.kind]
    data, scenes = args.statistics_from, args.statistics_scenes
    print(f"statistics: features of up to {scenes} samples of {data}", flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".statistics-") as made:
        measured = statistics_from_recordings(
            find_encoder(family, source),
            family,
            recording_kind(data),
            data,
            Path(made),
            scenes=scenes,
        )
        return to_bundle(args, model.kind, source, folder, model.name, statistics=measured)


def remove_downloads(model: "PublishedModel", folder: Path) -> None:
    """Remove the downloaded files of a model that has been converted, and nothing else."""
    from gld_ros.weights.fetch import downloaded_files

    freed = 0
    for path in downloaded_files(model, folder):
        freed += path.stat().st_size
        path.unlink()
    for place in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
        if not any(place.iterdir()):
            place.rmdir()
    print(f"removed {freed / 1e9:.2f} GB of downloaded files in {folder}")
    if any(folder.iterdir()):
        print(f"kept in {folder}: files that were not fetched by this command")
    else:
        folder.rmdir()


def show_licences(model: "PublishedModel") -> None:
    """Print the licence of every part of a model, and whether it excludes commercial use."""
    print(f"{model.name}: {model.summary}")
    print("Licences:")
    for licence in model.licences:
        print(f"  {licence}")
    if model.non_commercial:
        print("  These weights MUST NOT be used commercially.")
    sys.stdout.flush()


def to_bundle(
    args: argparse.Namespace,
    kind: str | None,
    source: Path,
    folder: Path,
    name: str,
    encoder: Path | None = None,
    sizes: "UnstoredSizes | None" = None,
    statistics: Path | None = None,
) -> "Conversion":
    """Convert the published files at `source` with the options of a command, and a bar."""
    from tqdm import tqdm

    from gld_ros.weights.convert import PUBLISHED_SIZES, convert
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
            statistics=statistics or args.statistics,
            variant=args.variant,
            special_statistics=args.special_statistics,
            dtype=DTYPE_NAMES[args.dtype],
            sizes=sizes or PUBLISHED_SIZES,
            overwrite=args.overwrite,
            progress=show,
        )
