"""Files made to run code or to reach outside their folder are refused, and nothing runs.

Each attack would create a file; that it is not there afterwards is the proof.
"""

import json
import pickle
import zipfile

import numpy as np
import pytest

from gld_ros.plain_yaml import YamlError, parse_yaml
from gld_ros.ros.parameters.files import ParameterError, load_snapshot


class Attack:
    """An object whose unpickling creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.fixture
def trophy(tmp_path):
    path = tmp_path / "code-ran"
    yield path
    assert not path.exists(), "code in a file was executed"


def test_the_attack_itself_works(tmp_path):
    path = tmp_path / "proof"
    pickle.loads(pickle.dumps(Attack(path))).close()
    assert path.exists()


@pytest.fixture(params=["plain", "zip"])
def hostile_pickle(request, trophy, tmp_path):
    path = tmp_path / "hostile.pt"
    data = pickle.dumps({"model": Attack(trophy), "format": 1}, protocol=2)
    if request.param == "plain":
        path.write_bytes(data)
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("hostile/data.pkl", data)
            archive.writestr("hostile/byteorder", "little")
            archive.writestr("hostile/version", "3\n")
    return path


def test_published_checkpoint_with_code(hostile_pickle):
    from gld_ros.weights.checkpoint_file import read_checkpoint
    from gld_ros.weights.errors import WeightsError

    with pytest.raises(WeightsError):
        read_checkpoint(hostile_pickle)


def test_training_checkpoint_with_code(hostile_pickle):
    from gld_ros.training.checkpoint import CheckpointError, append_checksum, load_checkpoint

    append_checksum(hostile_pickle)
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_checkpoint(hostile_pickle, config={})


def test_pickle_named_safetensors(hostile_pickle, tmp_path):
    from gld_ros.weights.errors import WeightsError
    from gld_ros.weights.tensor_file import open_tensor_file

    path = hostile_pickle.rename(tmp_path / "backbone.safetensors")
    with pytest.raises(WeightsError):
        open_tensor_file(path)


def test_numpy_file_with_objects(trophy, tmp_path):
    np.save(tmp_path / "scene.npy", np.array([Attack(trophy)], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        np.load(tmp_path / "scene.npy", mmap_mode=None)


YAML_ATTACKS = (
    "!!python/object/apply:os.system ['touch {trophy}']",
    "!!python/object/new:os.system ['touch {trophy}']",
    "a: !!python/name:os.system ''",
    "a: !!python/object:pathlib.Path {{}}",
    "!custom x",
)


@pytest.mark.parametrize("text", YAML_ATTACKS)
def test_yaml_tags(trophy, tmp_path, text):
    from gld_ros.training.config import ConfigError, load_run_config

    path = tmp_path / "hostile.yaml"
    path.write_text(text.format(trophy=trophy))
    with pytest.raises(YamlError):
        parse_yaml(path.read_text())
    with pytest.raises(ConfigError):
        load_run_config(path)
    with pytest.raises(ParameterError):
        load_snapshot(path)
    with pytest.raises(ParameterError):
        load_snapshot(None, [f"tf.timeout={path.read_text()}"])


@pytest.mark.parametrize("text", ["&a {b: *a}", "a: &a [x]\nb: [*a, *a]", "{a: &x 1, <<: *x}"])
def test_yaml_aliases(text):
    with pytest.raises(YamlError, match="alias"):
        parse_yaml(text)


def test_a_file_that_nobody_wrote_by_hand_is_not_parsed(tmp_path):
    path = tmp_path / "big.yaml"
    path.write_bytes(b"a: " + b"x" * 5_000_000)
    with pytest.raises(ParameterError, match="larger"):
        load_snapshot(path)


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/etc/passwd", "sub/x.safetensors", "..", "a.pt"]
)
def test_bundle_cannot_name_files_outside_its_folder(tmp_path, name):
    from gld_ros.weights.bundle import Bundle
    from gld_ros.weights.errors import BundleError
    from gld_ros.weights.verify import verify_bundle

    folder = tmp_path / "bundle"
    folder.mkdir()
    (tmp_path / "outside.safetensors").write_bytes(b"secret")
    record = {
        "sha256": "0" * 64,
        "size_bytes": 6,
        "num_tensors": 1,
        "num_values": 1,
        "dtype": "float32",
    }
    document = {
        "format_version": 1,
        "name": "x",
        "backbone": {"kind": "da3", "config": {}},
        "rgb_decoder": None,
        "denoisers": {},
        "boundary_level": 1,
        "num_views": 4,
        "num_euler_points": 3,
        "guidance_scale": 1.0,
        "ray_grid": "official",
        "pose_scale": "max",
        "resolutions_hw": [[42, 42]],
        "licence": "",
        "origin": "",
        "non_commercial": False,
        "random_weights": True,
        "files": {name: record},
    }
    (folder / "config.json").write_text(json.dumps(document))
    for opened in (Bundle.open, verify_bundle):
        with pytest.raises(BundleError, match=r"plain \.safetensors name"):
            opened(folder)


@pytest.mark.parametrize("path", ["relative", "", "~nobody-such/x"])
def test_scenes_are_saved_at_absolute_paths_only(tmp_path, monkeypatch, path):
    from gld_ros.mapping.scene_files import SceneNotSaved, save_scene

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SceneNotSaved):
        save_scene(path, [], include_images=False)
    assert not list(tmp_path.iterdir())
