"""`gld-ros scenes`: preview rooms and mesh worlds, render them to folders, stores and bags."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gld_ros.cli._arguments import SIZE_FORM, size_hw

if TYPE_CHECKING:
    from gld_ros.scenes.rendered import RenderedScenes
    from gld_ros.scenes.store_sources import StoreSource

HELP = "preview and render rooms and mesh worlds; prepare recordings for training"
DESCRIPTION = """\
Ray-trace posed RGB-D views of procedural rooms, of rooms with real furniture, or of a textured mesh
of your own site. A scene id always gives the same scene.

  gld-ros scenes preview --domain narrow --out sheet.png           see what a domain looks like
  gld-ros scenes store runs/rooms --domain narrow --count 16000    scenes for `gld-ros train`
  gld-ros scenes store runs/site --recordings bags site.mcap --count 4000
  gld-ros scenes render rooms/ --domain wide --count 10            folders of images and cameras
  gld-ros scenes render site.glb views/ --count 20                 the same for a mesh world
  gld-ros scenes bag tour/                                         a drive through one room

Domains: narrow (few plain objects, short paths), medium, wide (clutter, textures, shadows),
look_around and look_around_wide (a quarter or more of every target is hidden from all references),
furnished:FOLDER (rooms with the pieces of a folder with a furniture.csv) and meshes:WORLD.glb (any
textured .glb, .gltf, .obj, .dae or .ply; pip install trimesh embreex numba pycollada). The last two
take ?paths=look_around, meshes also ?up=y and ?scale=METRES_PER_UNIT, joined by &.
The splits train, validation, test and demo have no ids in common.
"""

_DOMAIN_HELP = (
    "what is rendered: narrow, medium, wide, look_around, look_around_wide, furnished:FOLDER or "
    "meshes:WORLD.glb; `gld-ros scenes --help` describes them (default: %(default)s)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `gld-ros scenes` and its actions."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    preview = actions.add_parser("preview", help="write a contact sheet of a domain")
    _add_scene_arguments(preview, split="test", count=8, views=4, size="168x126")
    preview.add_argument(
        "--out", type=Path, default=Path("sheet.png"), help="image to write (default: %(default)s)"
    )
    preview.add_argument(
        "--scale", type=int, default=1, help="enlarge by this whole factor (default: %(default)s)"
    )
    preview.add_argument(
        "--columns", type=int, default=2, help="scenes side by side (default: %(default)s)"
    )

    store = actions.add_parser("store", help="write a store of scenes for training")
    store.add_argument("out", type=Path, help="folder of the store; an unfinished one is completed")
    _add_scene_arguments(store, split="train", count=1000, views=4, size="112x84")
    store.add_argument(
        "--processes",
        type=int,
        help="processes that render rooms in parallel (default: one per core; 1 on cuda)",
    )
    store.add_argument(
        "--recordings",
        nargs="+",
        metavar=("KIND", "PATH"),
        help="draw samples from recordings instead of rooms: folders, bags, re10k, dl3dv, "
        "hypersim or tartanair, then their paths",
    )

    render = actions.add_parser("render", help="write scene folders: images, depth, cameras")
    render.add_argument("world", nargs="?", help="a mesh, as --domain meshes:WORLD")
    render.add_argument("out", type=Path, help="folder to write the scene folders into")
    _add_scene_arguments(render, split="test", count=4, views=8, size="320x240")

    bag = actions.add_parser("bag", help="write a ROS 2 bag of a tour of one room")
    bag.add_argument("out", type=Path, help="bag folder to write; must not exist")
    bag.add_argument("--domain", default="narrow", help=_DOMAIN_HELP)
    bag.add_argument("--id", type=int, help="scene id (default: a held-out demo room)")
    bag.add_argument("--seconds", type=float, default=20.0, help="default: %(default)s")
    bag.add_argument(
        "--rate", type=float, default=10.0, help="images per second (default: %(default)s)"
    )
    bag.add_argument(
        "--size",
        type=size_hw,
        default=size_hw("320x240"),
        metavar=SIZE_FORM,
        help="size of the images (default: 320x240)",
    )
    bag.add_argument("--no-depth", action="store_true", help="leave the depth topics out")


def _add_scene_arguments(
    parser: argparse.ArgumentParser, *, split: str, count: int, views: int, size: str
) -> None:
    parser.add_argument("--domain", default="narrow", help=_DOMAIN_HELP)
    parser.add_argument(
        "--split", default=split, help="train, validation, test or demo (default: %(default)s)"
    )
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first scene of the split"
    )
    parser.add_argument("--count", type=int, default=count, help="scenes (default: %(default)s)")
    parser.add_argument(
        "--ids", type=_ids, help="these scene ids instead: 2000000003,2000000007 or 0-99"
    )
    parser.add_argument(
        "--views", type=int, default=views, help="views per scene (default: %(default)s)"
    )
    parser.add_argument("--references", type=int, help="how many of the views are references")
    parser.add_argument(
        "--size",
        type=size_hw,
        default=size_hw(size),
        metavar=SIZE_FORM,
        help=f"size of the images (default: {size})",
    )
    parser.add_argument(
        "--antialias",
        type=int,
        default=2,
        help="rays per pixel side at edges (default: %(default)s)",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")


def _ids(text: str) -> list[int]:
    ids: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        try:
            ids += range(int(first), int(last) + 1) if dash else [int(first)]
        except ValueError as error:
            raise argparse.ArgumentTypeError(
                f"{part!r} is not an id or a range; write e.g. 5,7 or 0-99"
            ) from error
    return ids


def run(args: argparse.Namespace) -> int:
    """Carry out the chosen action."""
    if args.action in ("store", "render"):
        from gld_ros.training.environment import restart_with_tuned_allocator

        restart_with_tuned_allocator(["-m", "gld_ros.cli.main", *sys.argv[1:]])
    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "preview": _preview,
        "store": _store,
        "render": _render,
        "bag": _bag,
    }
    return actions[args.action](args)


def _chosen_ids(args: argparse.Namespace) -> Sequence[int]:
    from gld_ros.scenes.rooms import split_ids

    return args.ids or split_ids(args.split, args.count, args.first)


def _source(args: argparse.Namespace) -> "RenderedScenes":
    from gld_ros.scenes.rendered import is_rendered, open_rendered

    if getattr(args, "world", None):
        return open_rendered(f"meshes:{args.world}")
    return open_rendered(args.domain if is_rendered(args.domain) else f"rooms:{args.domain}")


def _scenes(args: argparse.Namespace, ids: Sequence[int]) -> dict[str, Any]:
    height, width = args.size
    return _source(args).render(
        ids,
        args.views,
        (height, width),
        num_references=args.references,
        antialias=args.antialias,
        device=args.device,
    )


def _preview(args: argparse.Namespace) -> int:
    from PIL import Image

    from gld_ros.scenes.contact_sheet import contact_sheet

    samples = _scenes(args, _chosen_ids(args))
    sheet = contact_sheet(samples, scale=args.scale, scenes_per_row=args.columns)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(args.out)
    print(f"{args.out}: {len(samples['scene_id'])} scenes of domain {args.domain}")
    return 0


def _store(args: argparse.Namespace) -> int:
    from gld_ros.scenes.store import write_store

    height, width = args.size
    if args.processes is not None and args.processes < 1:
        raise ValueError(f"--processes is {args.processes}; at least 1 is needed")
    source, count = _store_source(args)
    write_store(
        args.out,
        source.name,
        count,
        args.views,
        (height, width),
        source.draw,
        processes=(args.processes or os.cpu_count() or 1) if source.side_by_side else 1,
    )
    print(f"{args.out}: {count} scenes x {args.views} views, {width}x{height}, from {source.name}")
    return 0


def _store_source(args: argparse.Namespace) -> "tuple[StoreSource, int]":
    """What fills a store, and with how many scenes."""
    from gld_ros.scenes.datasets import open_recordings
    from gld_ros.scenes.store_sources import recorded_source, rendered_source

    height, width = args.size
    if not args.recordings:
        ids = _chosen_ids(args)
        source = rendered_source(
            _source(args),
            ids,
            args.views,
            (height, width),
            num_references=args.references,
            antialias=args.antialias,
            device=args.device,
        )
        return source, len(ids)
    kind, *paths = args.recordings
    if not paths:
        raise ValueError("--recordings needs a kind and at least one path")
    recordings = [r for path in paths for r in open_recordings(kind, Path(path))]
    for recording in recordings:
        for reason, number in recording.dropped.items():
            print(f"{recording.scene_id}: {number} frames left out: {reason}", file=sys.stderr)
    source = recorded_source(
        kind,
        [Path(p) for p in paths],
        recordings,
        args.views,
        (height, width),
        first_seed=args.first,
    )
    return source, args.count


def _render(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from gld_ros.scenes.folders import write_scene_folder

    ids, name = _chosen_ids(args), _source(args).short_name
    for scene_id in tqdm(ids, desc=f"render {name}", unit="scene", disable=None):
        sample = _scenes(args, [scene_id])
        images = (sample["images"][0].permute(0, 2, 3, 1) * 255).round().byte().cpu().numpy()
        write_scene_folder(
            args.out / f"{name}_{scene_id}",
            list(images),
            sample["K_px"][0, 0].cpu().numpy(),
            sample["T_world_cam"][0].cpu().numpy(),
            list(sample["depth_m"][0].cpu().numpy()),
            metric=True,
        )
    print(f"{args.out}: {len(ids)} scene folders")
    return 0


def _bag(args: argparse.Namespace) -> int:
    from gld_ros.scenes.tour_bag import first_room_with_tour, write_tour_bag

    scene_id = args.id if args.id is not None else first_room_with_tour(args.domain)
    height, width = args.size
    frames = write_tour_bag(
        args.out,
        args.domain,
        scene_id,
        image_hw=(height, width),
        seconds=args.seconds,
        rate_hz=args.rate,
        with_depth=not args.no_depth,
    )
    print(f"{args.out}: {frames} images of {args.domain}/{scene_id}, {width}x{height}")
    return 0
