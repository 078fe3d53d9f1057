"""A loopback hub with small files of both published families, a bag, and a quickstart of them."""

import shutil
from dataclasses import replace

import pytest

from gld_ros.backbones.da3.config import Da3Config
from gld_ros.backbones.vggt.config import VggtConfig
from gld_ros.decoders.rgb import RgbDecoderConfig
from gld_ros.diffusion.config import DenoiserConfig
from gld_ros.scenes.tour_bag import first_room_with_tour, write_tour_bag
from gld_ros.weights.unfetched import PUBLISHED, PublishedSizes

from ..weights.fake_hub import FakeHub
from ..weights.published_layout import hub_repositories, write_gld_da3, write_gld_vggt

# As small as the published head counts (16) allow.
DA3 = Da3Config(
    embed_dim=64,
    depth=12,
    num_heads=4,
    image_size=42,
    alt_start=4,
    qknorm_start=4,
    rope_start=4,
    tap_layers=(5, 7, 9, 11),
    head_features=8,
    head_out_channels=(4, 8, 8, 12),
    camera_heads=16,
    camera_depth=1,
)
VGGT = VggtConfig(
    embed_dim=64,
    depth=24,
    num_heads=4,
    image_depth=1,
    image_heads=4,
    tap_layers=(4, 11, 17, 23),
    head_features=8,
    head_out_channels=(4, 4, 8, 8),
    image_size=42,
    mlp_ratio=1.0,
    camera_head=True,
    camera_heads=16,
    camera_depth=1,
)
WIDTHS = {"channels": 128, "hidden": (128, 256), "depth": (1, 1), "heads": (16, 16)}
LEVEL1 = DenoiserConfig(**WIDTHS, time_features=8)
CASCADE = replace(
    LEVEL1, separate_embedders=False, source_conditioned=True, prope_image_hw=(504, 504)
)
VGGT_LEVEL1 = replace(LEVEL1, special_tokens=5)
VGGT_CASCADE = replace(VGGT_LEVEL1, source_conditioned=True)
DECODER = RgbDecoderConfig(in_channels=512, width=32, depth=1, heads=16, mlp=32, table_hw=(3, 3))
SMALL_SIZES = {
    "gld-da3": PublishedSizes(DA3, DECODER, {"level1": LEVEL1, "cascade": CASCADE}),
    "gld-vggt": PublishedSizes(VGGT, DECODER, {"level1": VGGT_LEVEL1, "cascade": VGGT_CASCADE}),
    "da3": PublishedSizes(DA3, None, {}),
}
DOMAIN = "narrow"
GB = 10**9


@pytest.fixture(scope="session")
def layout(tmp_path_factory):
    """A clone of upstream's repository with all its files in it; read only."""
    root = tmp_path_factory.mktemp("GLD")
    write_gld_da3(root, DA3, DECODER, LEVEL1, CASCADE, scale=0.05)
    return write_gld_vggt(root, VGGT, DECODER, VGGT_LEVEL1, VGGT_CASCADE, scale=0.05)


@pytest.fixture(scope="session")
def bag(tmp_path_factory):
    path = tmp_path_factory.mktemp("bags") / "tour"
    room = first_room_with_tour(DOMAIN)
    write_tour_bag(path, DOMAIN, room, image_hw=(42, 56), seconds=4.0, rate_hz=1.0)
    return path


@pytest.fixture
def small_sizes(monkeypatch):
    """The published sizes are those of the small files, and any disk has room for large ones."""
    for kind, sizes in SMALL_SIZES.items():
        monkeypatch.setitem(PUBLISHED, kind, sizes)
    roomy = shutil._ntuple_diskusage(100 * GB, 0, 100 * GB)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: roomy)


@pytest.fixture
def hub(layout, tmp_path, monkeypatch, small_sizes):
    monkeypatch.setenv("GLD_ROS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    with FakeHub(hub_repositories(layout)) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.endpoint)
        yield served


@pytest.fixture
def arguments(layout, bag):
    """A short run of gld-da3."""
    run = ["quickstart", "--bag", str(bag), "--statistics", str(layout), "--yes", "--no-open"]
    for setting in (
        "sampler.num_steps=1",
        "sampler.guidance_scale=1.0",
        "policy.yaw_offsets=[0.2]",
        "keyframes.min_interval=0.0",
        "keyframes.max_angular_velocity=100.0",
    ):
        run += ["--set", setting]
    return run
