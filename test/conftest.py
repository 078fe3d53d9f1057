"""Owns what tests share: a micro-bundle, messages, bags, ROS isolation, when ROS tests skip.

Tests marked ``ros`` need rclpy and the built interfaces. Without them they are skipped, unless
``GLD_REQUIRE_ROS=1`` says that the bootstrap succeeded: then their absence fails the whole run. So
does ``GLD_REQUIRE_DISTRIBUTION=1`` for the libraries that only a distribution has.
"""

import contextlib
import functools
import gc
import importlib
import importlib.util
import itertools
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

# A busy machine must not fail a property: no time limit per example.
hypothesis.settings.register_profile("gld_ros", deadline=None)
hypothesis.settings.load_profile("gld_ros")

OF_A_DISTRIBUTION = (
    "cv_bridge",
    "launch_pytest",
    "sensor_msgs_py",
    "tf2_ros",
    "tf_transformations",
)

_ros_domain = contextlib.ExitStack()
# Processes of one run start far from each other.
_domains = itertools.islice(itertools.cycle(range(1, 101)), 37 * os.getpid() % 100, None)

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is loaded, and for child processes: each worker has one core to itself.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def _why_no_ros() -> str | None:
    for module in ("rclpy", "gld_ros.msg", "gld_ros.srv", "gld_ros.action", "tf2_msgs.msg"):
        try:
            importlib.import_module(module)
        except ImportError as error:
            return f"cannot import {module} ({error}); run 'make build', then '. ./env.sh'"
    return None


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("GLD_REQUIRE_ROS") == "1" and (reason := _why_no_ros()):
        raise pytest.UsageError(f"GLD_REQUIRE_ROS=1, but {reason}")
    if os.environ.get("GLD_REQUIRE_DISTRIBUTION") == "1":
        missing = [name for name in OF_A_DISTRIBUTION if importlib.util.find_spec(name) is None]
        if missing:
            raise pytest.UsageError(
                f"GLD_REQUIRE_DISTRIBUTION=1, but {', '.join(missing)} cannot be found"
            )
    if importlib.util.find_spec("domain_coordinator"):
        # A domain that no other test process holds; children inherit it.
        from domain_coordinator import domain_id

        os.environ["ROS_DOMAIN_ID"] = str(_ros_domain.enter_context(domain_id()))
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"


def pytest_unconfigure(config: pytest.Config) -> None:
    _ros_domain.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ros_items = [item for item in items if item.get_closest_marker("ros")]
    if ros_items and (reason := _why_no_ros()):
        for item in ros_items:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many cases the fuzz tests tried, in whichever process they ran."""
    reports = [r for found in terminalreporter.stats.values() for r in found]
    tried = {
        name: cases
        for report in reports
        if getattr(report, "when", "") == "teardown"
        for name, cases in report.user_properties
        if name.startswith("fuzz ")
    }
    if tried:
        terminalreporter.section("fuzzing")
        for name, cases in sorted(tried.items()):
            terminalreporter.write_line(f"{cases:7d}  {name.removeprefix('fuzz ')}")
        terminalreporter.write_line(f"{sum(tried.values()):7d}  cases")


@pytest.fixture(scope="session")
def save_vggt_bundle() -> Callable[..., Any]:
    """Write a whole micro-bundle of VGGT with random weights, and return it opened."""

    def save(
        folder: Path,
        *,
        cascade: bool = False,
        special_statistics: bool = True,
        camera_head: bool = False,
    ):
        import torch

        from gld_ros.weights.bundle import save_bundle

        config = _micro_vggt(cascade, camera_head)
        torch.manual_seed(5)
        modules = {name: config.build_module(name) for name in config.module_names}
        for module in modules.values():
            for parameter in module.parameters():
                if not parameter.abs().max() > 0:
                    torch.nn.init.normal_(parameter, std=0.05)
        if camera_head:  # view angles of about 1.6 rad after four rounds, whatever the tokens
            last = modules["backbone"].camera_head.pose_branch.fc2
            torch.nn.init.constant_(last.bias, 0.4)
            torch.nn.init.normal_(last.weight, std=0.02)
        generator = torch.Generator().manual_seed(3)
        channels = config.denoisers["level1"].config.channels
        statistics = {
            f"{group}{level}.{name}": 0.5 + torch.rand(channels, generator=generator)
            for group in (("level", "special") if special_statistics else ("level",))
            for level in (0, 1)
            for name in ("mean", "var")
        }
        return save_bundle(folder, config, modules, statistics)

    return save


@pytest.fixture(scope="session")
def micro_da3() -> Any:
    """The configuration of a micro-bundle of Depth Anything 3: its backbone and nothing else."""
    from gld_ros.backbones.da3.config import Da3Config
    from gld_ros.weights.bundle_config import BackboneSpec, BundleConfig

    backbone = Da3Config(
        embed_dim=16,
        depth=5,
        num_heads=2,
        image_size=42,
        alt_start=1,
        qknorm_start=1,
        rope_start=1,
        tap_layers=(1, 2, 3, 4),
        head_features=8,
        head_out_channels=(4, 8, 8, 12),
        camera_heads=2,
        camera_depth=1,
    )
    return BundleConfig(
        name="micro",
        backbone=BackboneSpec("da3", backbone),
        rgb_decoder=None,
        denoisers={},
        boundary_level=1,
        num_views=4,
        num_euler_points=3,
        guidance_scale=1.0,
        ray_grid="official",
        pose_scale="max",
        resolutions_hw=((42, 56),),
        licence="Apache-2.0",
        origin="made by a test",
        non_commercial=False,
        random_weights=True,
    )


@pytest.fixture(scope="session")
def backbone_alone(tmp_path_factory: pytest.TempPathFactory, micro_da3: Any) -> Any:
    """A micro-bundle that holds a geometry backbone and nothing else, with random weights."""
    import torch

    from gld_ros.weights.bundle import save_bundle

    config = replace(
        _micro_vggt(cascade=False, camera_head=False),
        name="micro-backbone",
        backbone=micro_da3.backbone,
        rgb_decoder=None,
        denoisers={},
        resolutions_hw=((42, 56),),
    )
    torch.manual_seed(7)
    module = config.build_module("backbone")
    for parameter in module.parameters():
        if not parameter.abs().max() > 0:
            torch.nn.init.normal_(parameter, std=0.05)
    return save_bundle(
        tmp_path_factory.mktemp("backbone") / "bundle", config, {"backbone": module}, {}
    )


def _micro_vggt(cascade: bool, camera_head: bool) -> Any:
    from gld_ros.backbones.vggt.config import VggtConfig
    from gld_ros.decoders.rgb import RgbDecoderConfig
    from gld_ros.diffusion.config import DenoiserConfig
    from gld_ros.weights.bundle_config import BackboneSpec, BundleConfig, DenoiserSpec

    backbone = VggtConfig(
        embed_dim=16,
        depth=4,
        num_heads=2,
        image_depth=1,
        image_heads=2,
        tap_layers=(0, 1, 2, 3),
        head_features=8,
        head_out_channels=(4, 4, 8, 8),
        image_size=28,
        camera_head=camera_head,
        camera_heads=2,
        camera_depth=1,
    )
    denoiser = DenoiserConfig(
        channels=backbone.channels,
        hidden=(16, 32),
        depth=(1, 1),
        heads=(1, 1),
        special_tokens=backbone.num_special_tokens,
        time_features=8,
    )
    denoisers = {"level1": DenoiserSpec(denoiser, None)}
    if cascade:
        denoisers["cascade"] = DenoiserSpec(replace(denoiser, source_conditioned=True), None)
    return BundleConfig(
        name="micro-vggt",
        backbone=BackboneSpec("vggt", backbone),
        rgb_decoder=RgbDecoderConfig(
            in_channels=4 * backbone.channels, width=16, depth=1, heads=2, mlp=32, table_hw=(2, 2)
        ),
        denoisers=denoisers,
        boundary_level=1,
        num_views=4,
        num_euler_points=3,
        guidance_scale=1.5,
        ray_grid="official",
        pose_scale="max",
        resolutions_hw=((28, 42),),
        licence="test",
        origin="test",
        non_commercial=True,
        random_weights=True,
    )


class RosGraph:
    """Nodes of one test, spun in the background; waits for facts instead of sleeping."""

    def __init__(self) -> None:
        import rclpy
        from rclpy.executors import MultiThreadedExecutor

        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.executor = MultiThreadedExecutor(num_threads=4, context=self.context)
        self._nodes = []
        self._closing = threading.Event()
        self._spinner = threading.Thread(target=self._spin, daemon=True)
        self._spinner.start()

    def _spin(self) -> None:
        from rclpy._rclpy_pybind11 import InvalidHandle, RCLError
        from rclpy.executors import ExternalShutdownException

        while not self._closing.is_set():
            # rclpy raises these where another thread destroys what it is waiting for.
            try:
                self.executor.spin_once(timeout_sec=0.1)
            except (InvalidHandle, RCLError, ExternalShutdownException):
                pass
            except Exception:  # noqa: BLE001 - of a callback or rclpy: the others go on
                traceback.print_exc()

    def node(self, name: str, **options):
        """Return a new rclpy node that is already spinning."""
        from rclpy.node import Node

        return self.add(Node(name, context=self.context, **options))

    def add(self, node):
        """Spin a node that was made with this graph's context."""
        self._nodes.append(node)
        self.executor.add_node(node)
        return node

    def wait_for(self, fact: Callable[[], bool], what: str = "", timeout_s: float = 60.0) -> None:
        """Return as soon as ``fact()`` holds; the limit is long, for busy machines."""
        deadline = time.monotonic() + timeout_s
        while not fact():
            if time.monotonic() > deadline:
                pytest.fail(f"waited {timeout_s} s in vain for {what or fact}")
            time.sleep(0.005)

    def close(self) -> None:
        self._closing.set()
        self.executor.wake()
        # Long limits: nodes that are still in use would stay on the graph of the tests that follow.
        self._spinner.join(timeout=60.0)
        self.executor.shutdown(timeout_sec=60.0)
        for node in self._nodes:
            node.destroy_node()
        self._nodes.clear()
        self.context.try_shutdown()
        self.context.destroy()


@pytest.fixture(scope="session")
def measuring_processes() -> Callable[[int], list[int]]:
    """List the measuring processes that a process has started and that still run."""

    def of(owner: int) -> list[int]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
                command = (folder / "cmdline").read_text()
            except OSError:  # it has ended
                continue
            if int(parent) == owner and state != "Z" and "gld_ros.measuring.process" in command:
                found.append(int(folder.name))
        return found

    return of


@pytest.fixture(scope="session")
def cheap_collection() -> None:
    """Leave the libraries, which stay, out of garbage collection."""
    import rclpy.executors  # noqa: F401

    gc.collect()
    gc.freeze()


def _is_empty(domain: int) -> bool:
    """Whether no participant of any process listens on this domain's UDP ports (DDS-RTPS 9.6.2)."""
    ports = range(7400 + 250 * domain, 7400 + 250 * (domain + 1))
    sockets = Path("/proc/net/udp").read_text().splitlines()[1:]
    return not any(int(line.split()[1].rpartition(":")[2], 16) in ports for line in sockets)


@pytest.fixture
def own_domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A domain that other tests left long ago; children inherit it.

    A node stays on the graph until the last reference to it is gone, and would answer for the node
    of the same name in the next test.
    """
    if importlib.util.find_spec("domain_coordinator") is None:
        yield
        return
    from domain_coordinator import domain_id

    with domain_id(lambda: next(filter(_is_empty, _domains))) as number:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(number))
        yield


@pytest.fixture
def ros_graph(own_domain, cheap_collection) -> Iterator[RosGraph]:
    graph = RosGraph()
    yield graph
    graph.close()
    del graph
    gc.collect()  # participants that nobody holds any more cost every later discovery


@functools.cache
def bag_types():
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS2_KILTED).types


class MessageFamily:
    """Builds headers and looks up classes by full name."""

    def __init__(self, name, lookup):
        self.name = name
        self.type = lookup

    def header(self, frame_id="camera", stamp_ns=1_500_000_000):
        stamp = self.type("builtin_interfaces/msg/Time")(
            sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9
        )
        return self.type("std_msgs/msg/Header")(stamp=stamp, frame_id=frame_id)

    def tf_message(self, *edges):
        """Make a TFMessage; edges: (parent, child, x, stamp_ns, qw)."""
        vector = self.type("geometry_msgs/msg/Vector3")
        quaternion = self.type("geometry_msgs/msg/Quaternion")
        transform = self.type("geometry_msgs/msg/Transform")
        stamped = self.type("geometry_msgs/msg/TransformStamped")
        return self.type("tf2_msgs/msg/TFMessage")(
            transforms=[
                stamped(
                    header=self.header(parent, stamp_ns),
                    child_frame_id=child,
                    transform=transform(
                        translation=vector(x=float(x), y=0.0, z=0.0),
                        rotation=quaternion(x=0.0, y=0.0, z=0.0, w=float(qw)),
                    ),
                )
                for parent, child, x, stamp_ns, qw in edges
            ]
        )


@pytest.fixture
def rclpy_family():
    from gld_ros.messages.types import rclpy_type

    return MessageFamily("rclpy", rclpy_type)


@pytest.fixture(params=["rosbags", pytest.param("rclpy", marks=pytest.mark.ros)])
def family(request):
    if request.param == "rosbags":
        return MessageFamily("rosbags", bag_types().__getitem__)
    return request.getfixturevalue("rclpy_family")


@pytest.fixture
def small_bag(tmp_path):
    """Two seconds of one camera: tiny raw images, CameraInfo, moving and static TF."""
    from gld_ros.bags.writer import BagWriter

    path = tmp_path / "small"
    with BagWriter(path) as bag:
        write_small_bag(bag)
    return path


def write_small_bag(bag, start_ns=1_700_000_000 * 10**9, num_frames=20):
    from gld_ros.messages.images import image_message

    types = bag.types
    vector, quaternion = types["geometry_msgs/msg/Vector3"], types["geometry_msgs/msg/Quaternion"]

    def header(frame_id, stamp_ns):
        time_type = types["builtin_interfaces/msg/Time"]
        stamp = time_type(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        return types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)

    def transforms(parent, child, x, stamp_ns):
        pose = types["geometry_msgs/msg/Transform"](
            translation=vector(x=float(x), y=0.0, z=0.0),
            rotation=quaternion(x=0.0, y=0.0, z=0.0, w=1.0),
        )
        stamped = types["geometry_msgs/msg/TransformStamped"](
            header=header(parent, stamp_ns), child_frame_id=child, transform=pose
        )
        return types["tf2_msgs/msg/TFMessage"](transforms=[stamped])

    bag.add_topic("/tf_static", "tf2_msgs/msg/TFMessage", latched=True)
    bag.add_topic("/tf", "tf2_msgs/msg/TFMessage")
    bag.add_topic("/camera/camera_info", "sensor_msgs/msg/CameraInfo", reliable=False)
    bag.add_topic("/camera/image", "sensor_msgs/msg/Image")
    bag.write("/tf_static", start_ns, transforms("base_link", "camera", 0.5, start_ns))
    for frame in range(num_frames):
        stamp_ns = start_ns + frame * 10**8
        bag.write("/tf", stamp_ns, transforms("odom", "base_link", frame, stamp_ns))
        info = types["sensor_msgs/msg/CameraInfo"](
            header=header("camera", stamp_ns),
            height=3,
            width=4,
            distortion_model="plumb_bob",
            d=np.zeros(5),
            k=np.array([4.0, 0, 2, 0, 4, 1.5, 0, 0, 1]),
            r=np.eye(3).reshape(-1),
            p=np.array([4.0, 0, 2, 0, 0, 4, 1.5, 0, 0, 0, 1, 0]),
            binning_x=0,
            binning_y=0,
            roi=types["sensor_msgs/msg/RegionOfInterest"](
                x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
            ),
        )
        bag.write("/camera/camera_info", stamp_ns, info)
        pixels = np.full((3, 4, 3), frame, np.uint8)
        image_type = types["sensor_msgs/msg/Image"]
        image = image_message(pixels, "rgb8", header("camera", stamp_ns), image_type)
        bag.write("/camera/image", stamp_ns, image)
