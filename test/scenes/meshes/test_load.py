"""Mesh files: every common kind reads alike, and what will not do is explained."""

import numpy as np
import pytest

from gld_ros.scenes.meshes import load
from gld_ros.scenes.meshes.load import MeshAddress, MeshError, load_surfaces

trimesh = pytest.importorskip("trimesh")


def read(path, options="", **arguments):
    return load_surfaces(MeshAddress.parse(f"{path}{options}"), **arguments)


def grey_room():
    room = trimesh.creation.box((6, 5, 2.6))
    room.visual = trimesh.visual.ColorVisuals(room)
    return room


@pytest.mark.parametrize("suffix", ["gltf", "obj", "ply"])
def test_every_kind_of_file_gives_the_same_room(room_glb, tmp_path, suffix):
    scene = trimesh.load_scene(room_glb)
    expected = read(room_glb)
    if suffix == "ply":  # no textures in this format: colours of vertices
        whole = scene.to_mesh()
        whole.visual = whole.visual.to_color()
        whole.export(tmp_path / "room.ply")
    elif suffix == "gltf":
        for name, data in scene.export(file_type="gltf").items():
            (tmp_path / name.replace("model", "room")).write_bytes(data)
    else:
        text, files = trimesh.exchange.obj.export_obj(
            scene, return_texture=True, mtl_name="room.mtl"
        )
        for name, data in {"room.obj": text.encode(), **files}.items():
            (tmp_path / name).write_bytes(data)
    surfaces = read(tmp_path / f"room.{suffix}")
    assert len(surfaces) == len(expected) == 48
    np.testing.assert_allclose(surfaces.bounds, expected.bounds, atol=1e-5)
    if suffix == "ply":
        assert len(np.unique(surfaces.colours.reshape(-1, 3), axis=0)) > 3
    else:
        assert len(surfaces.images) == 4


COLLADA = """<?xml version="1.0"?>
<COLLADA xmlns="http://www.collada.org/2005/11/COLLADASchema" version="1.4.1">
<asset><created>2026-01-01T00:00:00</created><modified>2026-01-01T00:00:00</modified>
<unit name="meter" meter="1"/><up_axis>Z_UP</up_axis></asset>
<library_images><image id="im"><init_from>wall.png</init_from></image></library_images>
<library_effects><effect id="fx"><profile_COMMON>
<newparam sid="su"><surface type="2D"><init_from>im</init_from></surface></newparam>
<newparam sid="sa"><sampler2D><source>su</source></sampler2D></newparam>
<technique sid="c"><lambert><diffuse><texture texture="sa" texcoord="UV"/></diffuse></lambert>
</technique></profile_COMMON></effect></library_effects>
<library_materials><material id="ma"><instance_effect url="#fx"/></material></library_materials>
<library_geometries><geometry id="ge"><mesh>
<source id="p"><float_array id="pa" count="{np}">{points}</float_array><technique_common>
<accessor source="#pa" count="{n}" stride="3"><param name="X" type="float"/>
<param name="Y" type="float"/><param name="Z" type="float"/></accessor></technique_common></source>
<source id="t"><float_array id="ta" count="{nt}">{uv}</float_array><technique_common>
<accessor source="#ta" count="{n}" stride="2"><param name="S" type="float"/>
<param name="T" type="float"/></accessor></technique_common></source>
<vertices id="v"><input semantic="POSITION" source="#p"/></vertices>
<triangles material="m" count="{nf}"><input semantic="VERTEX" source="#v" offset="0"/>
<input semantic="TEXCOORD" source="#t" offset="1" set="0"/><p>{faces}</p></triangles>
</mesh></geometry></library_geometries>
<library_visual_scenes><visual_scene id="sc"><node id="no"><instance_geometry url="#ge">
<bind_material><technique_common><instance_material symbol="m" target="#ma"/></technique_common>
</bind_material></instance_geometry></node></visual_scene></library_visual_scenes>
<scene><instance_visual_scene url="#sc"/></scene></COLLADA>
"""


def test_collada_files_keep_their_texture(room_glb, tmp_path):
    pytest.importorskip("collada")
    mesh = max(trimesh.load_scene(room_glb).geometry.values(), key=lambda g: g.extents.max())
    mesh.visual.material.baseColorTexture.save(tmp_path / "wall.png")
    points, uv = mesh.vertices, mesh.visual.uv
    text = COLLADA.format(
        np=points.size,
        n=len(points),
        nt=uv.size,
        nf=len(mesh.faces),
        points=" ".join(map(str, points.ravel())),
        uv=" ".join(map(str, uv.ravel())),
        faces=" ".join(map(str, np.repeat(mesh.faces.ravel(), 2))),
    )
    (tmp_path / "room.dae").write_text(text)
    surfaces = read(tmp_path / "room.dae")
    np.testing.assert_allclose(surfaces.bounds[1] - surfaces.bounds[0], (6, 5, 2.6), atol=1e-5)
    assert len(surfaces.images) == 1


def test_a_mesh_without_colours_is_refused(tmp_path):
    grey_room().export(tmp_path / "grey.ply")
    with pytest.raises(MeshError, match="neither textures nor vertex colours"):
        read(tmp_path / "grey.ply")


def test_a_mesh_in_millimetres_is_told_so_and_read_with_a_scale(room_glb, tmp_path):
    scene = trimesh.load_scene(room_glb)
    scene.apply_scale(1000.0)
    scene.export(tmp_path / "mm.glb")
    with pytest.raises(MeshError, match=r"millimetres, write mm.glb\?scale=0.001"):
        read(tmp_path / "mm.glb")
    surfaces = read(tmp_path / "mm.glb", "?scale=0.001")
    np.testing.assert_allclose(surfaces.bounds[1] - surfaces.bounds[0], (6, 5, 2.6), rtol=1e-5)


def test_a_mesh_with_y_up_is_turned(room_glb):
    surfaces = read(room_glb, "?up=y&scale=2")
    np.testing.assert_allclose(surfaces.bounds[1] - surfaces.bounds[0], (12, 5.2, 10), rtol=1e-5)


def test_points_and_too_many_triangles_are_refused(room_glb, tmp_path, monkeypatch):
    trimesh.PointCloud(np.random.default_rng(0).random((50, 3))).export(tmp_path / "points.ply")
    with pytest.raises(MeshError, match="no triangles"):
        read(tmp_path / "points.ply")
    monkeypatch.setattr(load, "MAX_TRIANGLES", 40)
    with pytest.raises(MeshError, match="more than 40 triangles; reduce it"):
        read(room_glb)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.glb", None, "does not exist"),
        ("room.stl", b"", "unknown kind of mesh"),
        ("broken.glb", b"glTF rubbish", "cannot be read"),
    ],
)
def test_files_that_are_no_mesh_are_explained(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(MeshError, match=message):
        read(tmp_path / name)


@pytest.mark.parametrize("options", ["?up=x", "?scale=-1", "?scale=big", "?size=2"])
def test_wrong_options_are_explained(room_glb, options):
    with pytest.raises(MeshError, match=r"use|scale is not a number"):
        read(room_glb, options)
