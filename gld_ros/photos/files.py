"""A reconstruction from photos as files: points (PLY, GLB), or a folder with everything.

images/NNN_NAME.png   what the network saw
depth/NNN_NAME.npy    float32 z-depth, in the unit that cameras.json names
depth/NNN_NAME.png    the same in colours, with a scale
confidence/NNN_NAME.npy
cameras.json          K_px and T_world_cam of every image
points.ply, scene.glb
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gld_ros.depth_colours import depth_with_scale
from gld_ros.mapping.ply import write_ply
from gld_ros.photos.result import UNSCALED, PhotoReconstruction

_POINT = np.dtype(
    [
        ("x", "<f4"),
        ("y", "<f4"),
        ("z", "<f4"),
        ("rgb", "<u4"),
        ("confidence", "<f4"),
        ("view", "u1"),
    ]
)
_PYRAMID = 0.04  # depth of a camera's pyramid, in sizes of the scene
_CONVENTION = {
    "T_world_cam": "4x4 row-major camera-to-world: x_world = T_world_cam @ x_cam",
    "camera_axes": "OpenCV / ROS optical: x right, y down, z forward",
    "K_px": "pinhole, pixels of the images in this folder, pixel centres at integers",
    "depth": "z-depth, float32 .npy of the image's size",
}


def write_points(result: PhotoReconstruction, path: Path) -> None:
    """Write the points as a binary PLY with colour, confidence and view (255: 255th or later)."""
    points = np.zeros(len(result.points), _POINT)
    for column, axis in enumerate("xyz"):
        points[axis] = result.points[:, column]
    red, green, blue = result.colours.astype(np.uint32).T
    points["rgb"] = red << 16 | green << 8 | blue
    points["confidence"] = result.point_confidence
    points["view"] = np.minimum(result.point_view, 255)
    write_ply(points, path)


def write_glb(result: PhotoReconstruction, path: Path) -> None:
    """Write points and camera pyramids as a GLB, y up; ImportError that says what to install."""
    try:
        import trimesh
    except ImportError as error:
        raise ImportError(
            "writing a GLB needs trimesh: pip install trimesh (a PLY needs nothing more)"
        ) from error
    R, t = result.T_gltf_world[:3, :3], result.T_gltf_world[:3, 3]
    scene = trimesh.Scene()
    scene.add_geometry(
        trimesh.PointCloud(result.points @ R.T + t, colors=result.colours), node_name="points"
    )
    low, high = np.percentile(result.points, (5, 95), axis=0)
    size = _PYRAMID * float(np.linalg.norm(high - low))
    for index, name in enumerate(result.names):
        edges = trimesh.load_path(_pyramid(result, index, size) @ R.T + t)
        scene.add_geometry(edges, node_name=f"camera {index} {name}")
    path.write_bytes(scene.export(file_type="glb"))


def files_of_earlier_result(folder: Path) -> list[Path]:
    """What `write_folder` left in `folder` before, and will replace; empty for a new folder.

    Raises ValueError for a folder with other contents, so that no photos are overwritten.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return []
    try:
        views = json.loads((folder / "cameras.json").read_text(encoding="utf-8"))["views"]
        names = [view[key] for view in views for key in ("image", "depth", "confidence")]
        files = [folder / name for name in names]
        inside = all(f.resolve().is_relative_to(folder.resolve()) for f in files)
    except (OSError, ValueError, LookupError, TypeError):
        inside = False
    if not inside:
        raise ValueError(
            f"{folder} contains something other than an earlier result; give a new or empty folder"
        )
    colours = [f.with_suffix(".png") for f in files if f.suffix == ".npy"]
    return [*files, *colours, folder / "points.ply", folder / "scene.glb"]


def write_folder(result: PhotoReconstruction, folder: Path) -> list[str]:
    """Write everything into `folder`, in place of an earlier result there.

    Returns what could not be written, as sentences. Raises as `files_of_earlier_result`.
    """
    for file in files_of_earlier_result(folder):
        file.unlink(missing_ok=True)
    for name in ("images", "depth", "confidence"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    stems = [f"{index:03d}_{Path(name).stem}" for index, name in enumerate(result.names)]
    label = "" if result.unit == UNSCALED else result.unit
    for index, stem in enumerate(stems):
        Image.fromarray(result.images[index]).save(folder / "images" / f"{stem}.png")
        np.save(folder / "depth" / f"{stem}.npy", result.depth[index])
        image = Image.fromarray(depth_with_scale(result.depth[index], label))
        image.save(folder / "depth" / f"{stem}.png")
        np.save(folder / "confidence" / f"{stem}.npy", result.confidence[index])
    document = json.dumps(_cameras(result, stems), indent=1) + "\n"
    (folder / "cameras.json").write_text(document, encoding="utf-8")
    result.save(folder / "points.ply")
    try:
        result.save(folder / "scene.glb")
    except ImportError as error:
        return [f"no scene.glb: {error}"]
    return []


def _cameras(result: PhotoReconstruction, stems: list[str]) -> dict[str, Any]:
    height, width = result.depth.shape[1:]
    return {
        "unit": result.unit,
        "convention": _CONVENTION,
        "notes": list(result.notes),
        "width": width,
        "height": height,
        "views": [
            {
                "photo": name,
                "image": f"images/{stem}.png",
                "depth": f"depth/{stem}.npy",
                "confidence": f"confidence/{stem}.npy",
                "K_px": K.tolist(),
                "T_world_cam": T.tolist(),
            }
            for name, stem, K, T in zip(
                result.names, stems, result.K_px, result.T_world_cam, strict=True
            )
        ],
    }


def _pyramid(result: PhotoReconstruction, index: int, size: float) -> NDArray[np.float64]:
    """The eight edges (8, 2, 3) of a camera's pyramid in the world, `size` deep."""
    height, width = result.depth.shape[1:]
    corners_px = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], float)
    corners_px[:, :2] -= 0.5
    T = result.T_world_cam[index]
    rays = corners_px @ np.linalg.inv(result.K_px[index]).T
    corners = size * rays @ T[:3, :3].T + T[:3, 3]
    centre = np.broadcast_to(T[:3, 3], corners.shape)
    sides = np.stack([centre, corners], axis=1)
    rim = np.stack([corners, np.roll(corners, -1, axis=0)], axis=1)
    return np.concatenate([sides, rim])
