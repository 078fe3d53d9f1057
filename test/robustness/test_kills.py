"""kill -9 in the middle of writing: what was complete stays, what was not never looks complete.

A child process writes and is killed at a random moment after it said that it began. Afterwards the
name either does not exist, or holds a whole old or new version.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

PREAMBLE = """
import sys, time
from pathlib import Path
target = Path(sys.argv[1])
def begin():
    print("begin", flush=True)
"""

CHECKPOINT = (
    PREAMBLE
    + """
import torch
from gld_ros.training.checkpoint import save_checkpoint
state = {"config": {}, "w": torch.zeros(3_000_000)}
begin()
for step in range(10**6):
    save_checkpoint(target, {**state, "step": step})
"""
)

BUNDLE = (
    PREAMBLE
    + """
from gld_ros.weights.bundle import save_bundle
from gld_ros.weights.bundle_config import BackboneSpec, BundleConfig
from gld_ros.backbones.da3.config import Da3Config
import torch
config = BundleConfig(
    name="micro", backbone=BackboneSpec("da3", Da3Config(
        embed_dim=16, depth=5, num_heads=2, image_size=42, alt_start=1, qknorm_start=1,
        rope_start=1, tap_layers=(1, 2, 3, 4), head_features=8, head_out_channels=(4, 8, 8, 12),
        camera_heads=2, camera_depth=1)),
    rgb_decoder=None, denoisers={}, boundary_level=1, num_views=4, num_euler_points=3,
    guidance_scale=1.0, ray_grid="official", pose_scale="max", resolutions_hw=((42, 56),),
    licence="", origin="", non_commercial=False, random_weights=True)
modules = {"backbone": config.build_module("backbone")}
statistics = {"level1.mean": torch.ones(32), "level1.var": torch.ones(32)}
begin()
for _ in range(10**6):
    save_bundle(target, config, modules, statistics, overwrite=True)
"""
)

BAG = (
    PREAMBLE
    + """
import shutil
from gld_ros.bags.writer import BagWriter
begin()
for _ in range(10**6):
    with BagWriter(target) as bag:
        bag.add_topic("/words", "std_msgs/msg/String")
        for index in range(300):
            bag.write("/words", index, bag.types["std_msgs/msg/String"](data="x" * 1000))
    target.rename(target.with_name("taken-away"))
    shutil.rmtree(target.with_name("taken-away"))
"""
)

SCENE = (
    PREAMBLE
    + """
import shutil
import numpy as np
from gld_ros.mapping.frames import Keyframe
from gld_ros.mapping.scene_files import save_scene
noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
frames = [Keyframe(camera="c", stamp_ns=i, frame_id="c", image=noise, K_px=np.eye(3),
                   T_fixed_cam=np.eye(4), epoch=0, wait_tf_s=0.0) for i in range(8)]
begin()
for _ in range(10**6):
    save_scene(str(target), frames, include_images=True)
    target.rename(target.with_name("taken-away"))
    shutil.rmtree(target.with_name("taken-away"))
"""
)

FETCH = (
    PREAMBLE
    + """
import hashlib
from gld_ros.weights.fetch import DownloadPlan, PlannedFile, download
from gld_ros.weights.hub import RemoteFile, Repository
content = bytes(range(256)) * 4000
remote = RemoteFile("w.safetensors", len(content), hashlib.sha256(content).hexdigest(), None)
class SlowHub:
    def stream(self, repository, remote, start):
        for at in range(start, len(content), 4096):
            yield content[at : at + 4096]
            time.sleep(0.002)
begin()
plan = DownloadPlan(target.parent, (PlannedFile(Repository("r", "c", {}), remote, target, 0),))
while True:
    download(plan, SlowHub(), lambda line: None)
    target.unlink()
"""
)


def check_checkpoint(path):
    from gld_ros.training.checkpoint import load_checkpoint

    state = load_checkpoint(path, config={})
    assert state["w"].shape == (3_000_000,)


def check_bundle(path):
    from gld_ros.weights.bundle import Bundle
    from gld_ros.weights.verify import verify_bundle

    Bundle.open(path).load_module("backbone")
    assert [check.problem for check in verify_bundle(path)] == ["", ""]


def check_bag(path):
    from gld_ros.bags.reader import BagReader

    with BagReader(path) as bag:
        assert sum(1 for _ in bag.messages()) == 300


def check_scene(path):
    import cv2

    document = json.loads((path / "cameras.json").read_text())
    assert len(document["frames"]) == 8
    for frame in document["frames"]:
        assert cv2.imread(str(path / frame["image"])) is not None


def check_fetched(path):
    assert path.read_bytes() == bytes(range(256)) * 4000


CASES = {
    "checkpoint": (CHECKPOINT, "state.pt", check_checkpoint),
    "bundle": (BUNDLE, "bundle", check_bundle),
    "bag": (BAG, "bag", check_bag),
    "scene": (SCENE, "scene", check_scene),
    "weights fetch": (FETCH, "w.safetensors", check_fetched),
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", CASES)
def test_killed_writer_leaves_a_whole_thing_or_none(kind, tmp_path):
    script, name, check = CASES[kind]
    target, rng = tmp_path / name, random.Random(kind)
    whole = 0
    for _ in range(int(os.environ.get("GLD_KILLS", "10"))):
        child = subprocess.Popen(
            [sys.executable, "-c", script, str(target)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert child.stdout.readline() == "begin\n"
            time.sleep(rng.uniform(0.0, 1.5))
            assert child.poll() is None, "the writer ended by itself"
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
            child.stdout.close()
        # Opening is what a user does next; a bundle being replaced comes back then.
        if kind == "bundle":
            from gld_ros.weights.atomic_folder import restore_folder

            restore_folder(target)
        if target.exists():
            check(target)
            whole += 1
            if kind in ("bag", "scene"):
                target.rename(tmp_path / f"kept-{whole}")  # the writer refuses to overwrite
    if kind in ("checkpoint", "bundle"):
        assert target.exists(), "a complete version was there and is lost"
