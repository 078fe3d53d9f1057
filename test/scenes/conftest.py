"""Small textured meshes for the tests of mesh worlds and furnished rooms."""

import numpy as np
import pytest
from PIL import Image

ROOM_M = (6.0, 5.0, 2.6)


def noise_image(seed, side=64):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 255, (8, 8, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def textured_box(low, high, image):
    """A box of trimesh whose six faces show the whole image each."""
    trimesh = pytest.importorskip("trimesh")
    x0, y0, z0 = low
    x1, y1, z1 = high
    quads = [
        [(x0, y0, z0), (x1, y0, z0), (x1, y0, z1), (x0, y0, z1)],
        [(x1, y1, z0), (x0, y1, z0), (x0, y1, z1), (x1, y1, z1)],
        [(x0, y1, z0), (x0, y0, z0), (x0, y0, z1), (x0, y1, z1)],
        [(x1, y0, z0), (x1, y1, z0), (x1, y1, z1), (x1, y0, z1)],
        [(x0, y1, z0), (x1, y1, z0), (x1, y0, z0), (x0, y0, z0)],
        [(x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1)],
    ]
    vertices = np.array(quads, float).reshape(-1, 3)
    faces = np.concatenate(
        [[[4 * i, 4 * i + 1, 4 * i + 2], [4 * i, 4 * i + 2, 4 * i + 3]] for i in range(6)]
    )
    uv = np.tile([[0, 0], [1, 0], [1, 1], [0, 1]], (6, 1)).astype(float)
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=image)
    visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    return trimesh.Trimesh(vertices, faces, visual=visual, process=False)


def room_scene():
    """A room of ROOM_M centred on x = y = 0 with three boxes along its walls."""
    trimesh = pytest.importorskip("trimesh")
    x, y, z = ROOM_M
    boxes = [
        ((-x / 2, -y / 2, 0), (x / 2, y / 2, z)),
        ((-2.9, -2.4, 0), (-2.2, -1.4, 1.8)),
        ((2.0, -2.4, 0), (2.9, -1.6, 0.9)),
        ((-0.8, 1.7, 0), (0.8, 2.4, 0.8)),
    ]
    return trimesh.Scene([textured_box(a, b, noise_image(i)) for i, (a, b) in enumerate(boxes)])


@pytest.fixture(scope="session")
def room_glb(tmp_path_factory):
    pytest.importorskip("embreex")
    path = tmp_path_factory.mktemp("mesh") / "room.glb"
    room_scene().export(path)
    return path


@pytest.fixture(scope="session")
def furniture_folder(tmp_path_factory):
    """Chairs with backs, shelves with a flat back, tables, pictures: two or more of each."""
    trimesh = pytest.importorskip("trimesh")
    folder = tmp_path_factory.mktemp("furniture")
    rows = ["name,file,category,place"]

    def add(name, category, place, boxes):
        meshes = [textured_box(a, b, noise_image(len(rows) + i)) for i, (a, b) in enumerate(boxes)]
        trimesh.Scene(meshes).export(folder / f"{name}.glb")
        rows.append(f"{name},{name}.glb,{category},{place}")

    for i in range(3):
        wide = 0.4 + 0.05 * i
        seat = ((-wide / 2, -0.22, 0), (wide / 2, 0.22, 0.45))
        back = ((-wide / 2, 0.18, 0.45), (wide / 2, 0.22, 0.9))  # behind: the front is -y
        add(f"chair{i}", "chair", "floor", [seat, back])
        add(
            f"table{i}",
            "table",
            "floor",
            [((-0.7, -0.4, 0.7), (0.7, 0.4, 0.75)), ((-0.1, -0.1, 0), (0.1, 0.1, 0.7))],
        )
        panel = ((-0.15, -0.5, 0), (-0.14, 0.5, 1.6))  # at low x: the front is +x
        boards = [((-0.14, -0.5, z), (0.15, 0.5, z + 0.03)) for z in (0.1, 0.8, 1.5)]
        add(f"shelf{i}", "shelf", "floor", [panel, *boards])
        add(f"picture{i}", "picture", "wall", [((-0.3, -0.01, 0), (0.3, 0.01, 0.5))])
        add(f"vase{i}", "object", "top", [((-0.05, -0.05, 0), (0.05, 0.05, 0.3))])
        add(f"bin{i}", "bin", "floor", [((-0.15, -0.15, 0), (0.15, 0.15, 0.4))])
    (folder / "furniture.csv").write_text("\n".join(rows) + "\n")
    return folder
