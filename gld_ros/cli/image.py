"""`gld-ros image`: depth, cameras and points of photos, written to a folder."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gld_ros.photos.result import PhotoReconstruction

HELP = "reconstruct depth, cameras and points from photos, without poses and ROS"
DESCRIPTION = """\
Reconstruct one photo, or several photos of one place, with a geometry backbone only: no poses, no
ROS. Write depth (.npy, and colour images with a scale), confidence, cameras (JSON), and points
(PLY and GLB) into --out, and print a summary.

  gld-ros image kitchen.jpg
  gld-ros image photos/ --bundle da3-base --out out/kitchen
  gld-ros image SCENE --cameras        a scene folder (cameras.json next to images/) with cameras

Without known cameras depth has no unit: only ratios of depths are meaningful. The embedded bundle
`tiny` was trained on procedural rooms only; for photos of real places fetch published weights:
gld-ros weights fetch da3-base
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `gld-ros image`."""
    parser.add_argument(
        "photos", type=Path, nargs="+", metavar="PHOTO", help="image files, or folders of them"
    )
    parser.add_argument("--bundle", default="tiny", help="weights: name or folder (default: tiny)")
    parser.add_argument(
        "--cameras",
        action="store_true",
        help="PHOTO is a scene folder whose cameras are known (cameras.json next to images/)",
    )
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="take every N-th photo (default: 1, all)"
    )
    parser.add_argument(
        "--size",
        type=int,
        metavar="PX",
        help="longest side as the network sees it (default: its own)",
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)"
    )
    parser.add_argument("--show", action="store_true", help="open the Rerun viewer afterwards")
    parser.add_argument(
        "--out", type=Path, default=Path("out/image"), help="folder to write (default: out/image)"
    )


def run(args: argparse.Namespace) -> int:
    """Reconstruct, write, and print a table; 0 when everything is written."""
    if args.every < 1:
        raise ValueError(f"--every is {args.every}; at least 1 is needed")
    import time

    from gld_ros.photos.files import files_of_earlier_result, write_folder
    from gld_ros.photos.reconstruct import reconstruct
    from gld_ros.pretrained import load_backbone
    from gld_ros.weights.bundle import EMBEDDED_BUNDLES, Bundle

    files_of_earlier_result(args.out)  # refused before anything takes long
    images: list[Any]
    images, known = _scene(args) if args.cameras else (_files(args), {})
    bundle = Bundle.open(args.bundle)
    network = load_backbone(bundle, device=args.device)
    print(
        f"bundle {bundle.config.name} ({bundle.config.backbone.kind}), {_photos(len(images))} ...",
        flush=True,
    )
    started = time.perf_counter()
    result = reconstruct(images, network, longest_side_px=args.size, **known)
    seconds = time.perf_counter() - started
    missing = write_folder(result, args.out)
    device = next(network.parameters()).device
    height, width = result.depth.shape[1:]
    print(f"{_photos(len(images))} at {width}x{height} px in {seconds:.1f} s on {device}")
    print(_table(result))
    if bundle.config.random_weights:
        print("WARNING: this bundle has RANDOM weights; its depth means nothing")
    if bundle.folder in EMBEDDED_BUNDLES.values():
        print(
            "note: this bundle was trained on procedural rooms only; for photos of real places its "
            "depth is a rough guess (gld-ros weights fetch da3-base)"
        )
    for note in [*result.notes, *missing]:
        print(f"note: {note}")
    glb = "" if missing else ", scene.glb"
    print(f"{args.out}: images/, depth/, confidence/, cameras.json, points.ply{glb}")
    if args.show:
        result.show()
    return 0


def _photos(count: int) -> str:
    return f"{count} photo" if count == 1 else f"{count} photos"


def _files(args: argparse.Namespace) -> list[Path]:
    from gld_ros.photos.sources import image_files
    from gld_ros.scenes.folders import is_scene_folder

    files: list[Path] = []
    for path in args.photos:
        folder = path / "images" if is_scene_folder(path) else path
        files += image_files(folder) if folder.is_dir() else [path]
    return files[:: args.every]


def _scene(args: argparse.Namespace) -> tuple[list[Any], dict[str, Any]]:
    """Images of a scene folder, and its cameras as arguments of `reconstruct`."""
    import numpy as np

    from gld_ros.scenes.folders import open_scene_folder

    if len(args.photos) != 1:
        raise ValueError(f"--cameras takes one scene folder; {len(args.photos)} PHOTOs are given")
    recording = open_scene_folder(args.photos[0])
    frames = [recording.load(i) for i in range(0, len(recording), args.every)]
    return [frame.rgb for frame in frames], {
        "K_px": np.stack([frame.K_px for frame in frames]),
        "T_world_cam": np.stack([frame.T_world_cam for frame in frames]),
        "unit": "m" if recording.metric else "units of the cameras",
    }


def _table(result: "PhotoReconstruction") -> str:
    """One line per photo: how deep it is, how wide it looks, where its camera stands."""
    import numpy as np

    width = result.depth.shape[2]
    names = max(5, *(len(name) for name in result.names))
    lines = [
        f"{'photo':<{names}}  {'near':>7}  {'median':>7}  {'far':>7}  {'view':>5}  "
        f"{'confidence':>10}  camera at x, y, z   (lengths: {result.unit})"
    ]
    for index, name in enumerate(result.names):
        near, median, far = np.percentile(result.depth[index], (2, 50, 98))
        view_deg = np.degrees(2 * np.arctan(width / 2 / result.K_px[index, 0, 0]))
        x, y, z = result.T_world_cam[index, :3, 3]
        lines.append(
            f"{name:<{names}}  {near:7.3f}  {median:7.3f}  {far:7.3f}  {view_deg:4.0f}°  "
            f"{np.median(result.confidence[index]):10.2f}  {x:.3f}, {y:.3f}, {z:.3f}"
        )
    return "\n".join(lines)
