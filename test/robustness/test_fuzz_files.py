"""Bags, bundles, run configurations and parameter files with damaged bytes or absurd values.

Whatever is in a file, its reader returns or raises the error it declares.
"""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from gld_ros.bags.reader import BagError, BagReader
from gld_ros.bags.writer import BagWriter
from gld_ros.ros.parameters.files import ParameterError, load_snapshot

ROOT = Path(__file__).resolve().parents[2]
ODDITIES = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    10**30,
    0.5,
    -0.5,
    1e308,
    float("inf"),
    float("nan"),
    "",
    "\0",
    "ÿ",
    "../../etc/passwd",
    "x" * 300,
    [],
    [[]],
    [0],
    [-1, 0],
    {},
    {"": None},
)


def with_oddity(document, rng):
    """Return a copy in which one value, anywhere, was replaced, removed, or added."""
    document = json.loads(json.dumps(document))
    place = document
    while isinstance(place, dict | list) and place:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = rng.choice(list(keys))
        if not isinstance(place[key], dict | list) or not place[key] or rng.random() < 0.25:
            break
        place = place[key]
    action = rng.randrange(6)
    if action == 0:
        del place[key]
    elif action == 1 and isinstance(place, dict):
        place[rng.choice(("unknown", "", "__class__", str(key) + " "))] = rng.choice(ODDITIES)
    else:
        place[key] = rng.choice(ODDITIES)
    return document


@pytest.fixture
def bag_file(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        string = bag.types["std_msgs/msg/String"]
        header = bag.types["std_msgs/msg/Header"]
        bag.add_topic("/words", "std_msgs/msg/String")
        bag.add_topic("/stamps", "std_msgs/msg/Header")
        time = bag.types["builtin_interfaces/msg/Time"]
        for index in range(20):
            bag.write("/words", index * 10**8, string(data=f"word {index}"))
            stamped = header(stamp=time(sec=index, nanosec=0), frame_id="camera")
            bag.write("/stamps", index * 10**8, stamped)
    return next((tmp_path / "bag").glob("*.mcap"))


def read_whole(path):
    with BagReader(path) as bag:
        assert bag.end_ns >= 0
        count = sum(1 for _ in bag.messages())
        bag.transforms()
        bag.image_topics()
        return count


def test_mcap_bytes(fuzz, bag_file, tmp_path):
    original = bag_file.read_bytes()
    assert read_whole(bag_file) == 40
    damaged = tmp_path / "damaged.mcap"
    for number, rng in fuzz.cases(15, 1000):
        damaged.write_bytes(fuzz.mutated(original, rng))
        with fuzz.allowing(number, BagError):
            read_whole(damaged)


def test_bag_metadata(fuzz, bag_file):
    folder = bag_file.parent
    metadata = folder / "metadata.yaml"
    original = metadata.read_bytes()
    for number, rng in fuzz.cases(10, 500):
        metadata.write_bytes(fuzz.mutated(original, rng))
        with fuzz.allowing(number, BagError):
            read_whole(folder)


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory, micro_da3):
    import torch

    from gld_ros.weights.bundle import save_bundle

    modules = {"backbone": micro_da3.build_module("backbone")}
    statistics = {f"level1.{quantity}": torch.ones(32) for quantity in ("mean", "var")}
    folder = tmp_path_factory.mktemp("bundle") / "micro"
    return save_bundle(folder, micro_da3, modules, statistics).folder


@pytest.fixture
def bundle(bundle_folder, tmp_path):
    return shutil.copytree(bundle_folder, tmp_path / "micro")


def test_bundle_config_bytes(fuzz, bundle):
    from gld_ros.weights.bundle import Bundle
    from gld_ros.weights.errors import WeightsError

    config = bundle / "config.json"
    original = config.read_bytes()
    for number, rng in fuzz.cases(20, 1000):
        config.write_bytes(fuzz.mutated(original, rng))
        with fuzz.allowing(number, WeightsError):
            Bundle.open(bundle)


def test_bundle_config_values(fuzz, bundle):
    from gld_ros.weights.bundle import Bundle
    from gld_ros.weights.errors import WeightsError
    from gld_ros.weights.verify import verify_bundle

    config = bundle / "config.json"
    document = json.loads(config.read_text())
    for number, rng in fuzz.cases(20, 1000):
        config.write_text(json.dumps(with_oddity(document, rng)))
        with fuzz.allowing(number, WeightsError):
            opened = Bundle.open(bundle)
            if number % 5 == 0:
                opened.load_module("backbone")
        if number % 5 == 0:
            with fuzz.allowing(number, WeightsError):
                verify_bundle(bundle)


def test_safetensors_bytes(fuzz, bundle):
    from gld_ros.weights.bundle import Bundle
    from gld_ros.weights.errors import WeightsError
    from gld_ros.weights.tensor_file import read_layout
    from gld_ros.weights.verify import verify_bundle

    path = bundle / "statistics.safetensors"
    original = path.read_bytes()
    for number, rng in fuzz.cases(20, 1000):
        path.write_bytes(fuzz.mutated(original, rng))
        with fuzz.allowing(number, WeightsError):
            read_layout(path)
        with fuzz.allowing(number, WeightsError):
            verify_bundle(bundle)
        with fuzz.allowing(number, WeightsError):
            Bundle.open(bundle).statistics(1)


def test_checkpoint_bytes(fuzz, tmp_path):
    import torch

    from gld_ros.training.checkpoint import CheckpointError, load_checkpoint
    from gld_ros.weights.checkpoint_file import read_checkpoint
    from gld_ros.weights.errors import WeightsError

    path = tmp_path / "state.pt"
    torch.save({"format": 1, "config": {}, "step": 3, "model": {"w": torch.ones(4)}}, path)
    original = path.read_bytes()
    for number, rng in fuzz.cases(10, 500):
        path.write_bytes(fuzz.mutated(original, rng))
        with fuzz.allowing(number, CheckpointError):
            load_checkpoint(path, config={})
        with fuzz.allowing(number, WeightsError):
            read_checkpoint(path)


def test_run_configurations(fuzz, tmp_path):
    from gld_ros.training.config import ConfigError, load_run_config

    originals = [p.read_bytes() for p in sorted((ROOT / "config" / "train").glob("*/*.yaml"))]
    path = tmp_path / "run.yaml"
    for number, rng in fuzz.cases(20, 1500):
        original = rng.choice(originals)
        if rng.random() < 0.5:
            path.write_bytes(fuzz.mutated(original, rng))
        else:
            odd = with_oddity(yaml.safe_load(original), rng)
            path.write_text(yaml.safe_dump(odd, allow_unicode=True))
        override = rng.choice(((), ("steps=1",), ("data.views={",), ("a.b.c=1",), ("steps.x=1",)))
        with fuzz.allowing(number, ConfigError):
            load_run_config(path, override)


def test_parameter_files(fuzz, tmp_path):
    original = (ROOT / "config" / "gld.yaml").read_bytes()
    path = tmp_path / "gld.yaml"
    for number, rng in fuzz.cases(10, 500):
        if rng.random() < 0.5:
            path.write_bytes(fuzz.mutated(original, rng))
        else:
            odd = with_oddity(yaml.safe_load(original), rng)
            path.write_text(yaml.safe_dump(odd, allow_unicode=True))
        override = rng.choice(((), ("tf.timeout=1.0",), ("x={",), ("camera_names=3",), ("y=[",)))
        with fuzz.allowing(number, ParameterError):
            load_snapshot(path, override)


def test_deeply_nested_documents_are_refused(tmp_path):
    from gld_ros.training.config import ConfigError, load_run_config

    path = tmp_path / "deep.yaml"
    path.write_text("[" * 5000)
    with pytest.raises(ConfigError):
        load_run_config(path)
    with pytest.raises(ParameterError):
        load_snapshot(path)
