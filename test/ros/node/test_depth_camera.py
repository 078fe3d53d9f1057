"""A depth camera measures the same live and in a bag, whatever its size, transport and lens."""

import struct

import cv2
import numpy as np
import pytest

from gld_ros.bags.reader import BagReader
from gld_ros.bags.writer import BagWriter
from gld_ros.mapping.model import LoadedModel
from gld_ros.mapping.model_fault import fault_of
from gld_ros.mapping.offline import OfflineRun, write_jobs
from gld_ros.mapping.provenance import Provenance
from gld_ros.messages.camera_info import camera_info_message
from gld_ros.messages.images import image_message
from gld_ros.messages.stamps import make_header, stamp_to_ns
from gld_ros.messages.transforms import transform_message
from gld_ros.ros.parameters.files import load_snapshot
from gld_ros.view_request import NovelViews, Progress, View

pytestmark = pytest.mark.ros

HW = (84, 112)
K_PX = np.array([[80.0, 0.0, 55.5], [0.0, 80.0, 41.5], [0.0, 0.0, 1.0]])
D = (-0.2, 0.04, 0.0, 0.0, 0.0)
IMAGE, INFO, DEPTH = "/camera/image", "/camera/camera_info", "/camera/depth/image_raw"
OBSERVED = {
    "/gld/observed/depth/image": "sensor_msgs/msg/Image",
    "/gld/observed/depth/camera_info": "sensor_msgs/msg/CameraInfo",
    "/gld/observed/provenance/image": "sensor_msgs/msg/Image",
}
PARAMETERS = {"depth.source": "camera", "depth.min_confidence": 0.0, "mode": "depth"}
IMAGES = 2


class Wall:
    """A depth model that sees a wall 7 m ahead, where the sensor sees another."""

    def run(self, request):
        (image,) = request.images
        depth = np.full(image.shape[:2], 7.0, np.float32)
        yield Progress("decoding", 1, 1)
        rgb = image.astype(np.float32) / 255
        view = View(rgb, depth, np.ones_like(depth), request.K_px[0], np.eye(4), None, None, None)
        return NovelViews((view,), (), 0, {})


def true_depth_m(x):
    """z-depth along the rays (x, y, 1): a wall that slants, with a step to the right of x = 0.2."""
    return 2.0 + 0.5 * x + 1.0 * (x > 0.2)


def sensor_depth_m(hw, distortion):
    """What a sensor registered to the raw images gives at the size `hw`."""
    v, u = np.mgrid[0 : hw[0], 0 : hw[1]].astype(np.float64)
    at = (np.stack([u, v], -1) + 0.5) * (HW[1] / hw[1]) - 0.5
    rays = cv2.undistortPoints(at.reshape(-1, 1, 2), K_PX, np.array(distortion))
    return true_depth_m(rays[:, 0, 0].reshape(hw))


def depth_message(types, header, depth_m, form):
    if not form.endswith("compressedDepth"):
        pixels = depth_m.astype(np.float32)
        if form == "16UC1":
            message = image_message(pixels, "32FC1", header, types("sensor_msgs/msg/Image"))
            message.encoding, message.step = "16UC1", 2 * pixels.shape[1]
            message.data = np.round(1000 * depth_m).astype("<u2").view(np.uint8).reshape(-1)
            return message
        return image_message(pixels, "32FC1", header, types("sensor_msgs/msg/Image"))
    a, b = (0.0, 0.0) if form.startswith("16UC1") else (10100.0, -1009.0)
    stored = np.round(1000 * depth_m) if form.startswith("16UC1") else np.round(a / depth_m + b)
    png = cv2.imencode(".png", stored.astype(np.uint16))[1].tobytes()
    data = np.frombuffer(struct.pack("<iff", 0, a, b) + png, np.uint8)
    return types("sensor_msgs/msg/CompressedImage")(header=header, format=form, data=data)


def record(path, form="16UC1", size_hw=HW, distortion=(0.0,) * 5, frame_id="optical", spoil=None):
    """A bag with a camera that stands still, its TF and depth; `spoil` damages a depth message."""
    compressed = form.endswith("compressedDepth")
    depth_topic = DEPTH + ("/compressedDepth" if compressed else "")
    with BagWriter(path) as bag:
        types = bag.types.__getitem__
        bag.add_topic("/tf", "tf2_msgs/msg/TFMessage")
        bag.add_topic(INFO, "sensor_msgs/msg/CameraInfo")
        kind = "CompressedImage" if compressed else "Image"
        bag.add_topic(depth_topic, f"sensor_msgs/msg/{kind}")
        bag.add_topic(IMAGE, "sensor_msgs/msg/Image")
        for i in range(IMAGES):
            stamp_ns = 1_000 * 10**9 + i * 10**8
            header = make_header(stamp_ns, "optical", types)
            transform = transform_message(np.eye(4), "odom", "optical", stamp_ns, types)
            bag.write("/tf", stamp_ns, types("tf2_msgs/msg/TFMessage")(transforms=[transform]))
            info = camera_info_message(K_PX, HW, header, types)
            info.d = np.array(distortion)
            bag.write(INFO, stamp_ns, info)
            depth_header = make_header(stamp_ns, frame_id, types)
            depth_m = sensor_depth_m(size_hw, distortion)
            message = depth_message(types, depth_header, depth_m, form)
            if spoil is not None:
                spoil(message)
            bag.write(depth_topic, stamp_ns, message)
            grey = np.full((*HW, 3), 100, np.uint8)
            image = image_message(grey, "rgb8", header, types("sensor_msgs/msg/Image"))
            bag.write(IMAGE, stamp_ns, image)
    return path


def offline_products(bag, output):
    """Observed products {(topic, stamp_ns): message} of an offline run, and what it dropped."""
    parameters = load_snapshot(None, [f"{k}={v}" for k, v in PARAMETERS.items()]).session
    model = LoadedModel(Wall(), {"mode": "depth"}, None, fault_of, mode="depth")
    with BagReader(bag) as reader:
        run = OfflineRun(reader, model, parameters)
        assert len(list(write_jobs(run.jobs(), output, parameters.frames, mode="depth"))) == IMAGES
    with BagReader(output) as reader:
        topics = [topic for topic in OBSERVED if topic in reader.topics]
        products = {
            (m.topic, stamp_to_ns(m.content.header.stamp)): m.content
            for m in reader.messages(topics)
        }
    return products, run.summary.dropped


def live_products(rig, bag, depth_after_image=False):
    """The same of a node to which the bag's messages are sent one after the other."""
    camera = rig.node.session.cameras["camera"]
    with BagReader(bag) as reader:
        messages = list(reader.raw_messages())
    for message in messages:
        rig.publisher(message.topic, message.type, 100)
    (depth_topic,) = {m.topic for m in messages if m.topic.startswith(DEPTH)}
    rig.graph.wait_for(lambda: camera.depth_topic == depth_topic, "the depth topic")
    publisher = rig.publisher(depth_topic, "")
    rig.graph.wait_for(lambda: publisher.get_subscription_count() > 0, "depth matched")

    def arrived(topic):
        if topic == IMAGE:
            return camera.received
        if topic == INFO:
            return camera.infos_received
        return len(camera.depths) + len(camera.unjudged_depths) + camera.total_dropped

    if depth_after_image:  # but for the first, before which no depth is expected
        last = [m for m in messages if m.topic in (depth_topic, IMAGE)][-2:]
        messages[-2:] = last[::-1]
    for message in messages:
        if rig.now_ns() != message.stamp_ns:
            rig.set_clock(message.stamp_ns)
        before = arrived(message.topic)
        rig.publisher(message.topic, message.type, 100).publish(message.cdr)
        if message.topic != "/tf":
            rig.graph.wait_for(
                lambda m=message, n=before: arrived(m.topic) > n, f"{message.topic} arrived"
            )
        if message is messages[-1] or (message.topic == IMAGE and not depth_after_image):
            for topic in OBSERVED:
                rig.graph.wait_for(
                    lambda t=topic, s=message.stamp_ns: any(
                        stamp_to_ns(m.header.stamp) == s for m in rig.received[t]
                    ),
                    f"{topic} of the image",
                )
    return {
        (topic, stamp_to_ns(m.header.stamp)): m for topic in OBSERVED for m in rig.received[topic]
    }


@pytest.fixture
def depth_rig(make_rig):
    def make(**options):
        model = LoadedModel(Wall(), {"mode": "depth"}, None, fault_of, mode="depth")
        rig = make_rig(
            None,
            {**PARAMETERS, "use_sim_time": True, "tf.timeout": 10.0, "product.max_age": 0.0},
            model_factory=lambda given: model,
            **options,
        )
        for topic, kind in OBSERVED.items():
            rig.listen(topic, kind)
        rig.watch()
        rig.activate()
        return rig

    return make


def assert_same(live, offline):
    assert live.keys() == offline.keys()
    for key, message in offline.items():
        if hasattr(message, "data"):
            assert np.array_equal(np.asarray(live[key].data), np.asarray(message.data)), key
        else:
            assert np.array_equal(live[key].k, message.k), key


def assert_measured(products, tolerance_m, unsure_px):
    """MEASURED everywhere but near the step, with the depth that the sensor saw along each ray."""
    stamps = {stamp_ns for _, stamp_ns in products}
    assert len(stamps) == IMAGES
    for stamp_ns in stamps:
        of = {topic: message for (topic, stamp), message in products.items() if stamp == stamp_ns}
        depth = of["/gld/observed/depth/image"]
        hw = depth.height, depth.width
        depth_m = np.frombuffer(bytes(depth.data), np.float32).reshape(hw)
        labels = np.frombuffer(bytes(of["/gld/observed/provenance/image"].data), np.uint8)
        K_px = np.reshape(of["/gld/observed/depth/camera_info"].k, (3, 3))
        x = (np.arange(hw[1]) - K_px[0, 2]) / K_px[0, 0] * np.ones((hw[0], 1))
        clear = np.abs(x - 0.2) * K_px[0, 0] > unsure_px
        measured = labels.reshape(hw) == Provenance.MEASURED
        assert measured.mean() > 0.97
        wrong_m = np.abs(depth_m - true_depth_m(x))[measured & clear]
        assert wrong_m.max() <= tolerance_m


@pytest.mark.parametrize(
    ("options", "tolerance_m", "unsure_px"),
    [
        ({"form": "16UC1"}, 0.001, 0.01),
        ({"form": "32FC1"}, 1e-5, 0.01),
        ({"form": "16UC1; compressedDepth"}, 0.001, 0.01),
        ({"form": "32FC1; compressedDepth png"}, 0.002, 0.01),
        ({"size_hw": (42, 56)}, 0.01, 2.0),
        ({"distortion": D}, 0.006, 1.5),
        ({"distortion": D, "size_hw": (42, 56)}, 0.014, 2.5),
    ],
    ids=["16UC1", "32FC1", "compressed16", "compressed32", "half", "distorted", "half-distorted"],
)
def test_depth_is_measured_with_the_sensors_values_live_and_offline(
    depth_rig, tmp_path, options, tolerance_m, unsure_px
):
    bag = record(tmp_path / "bag", **options)
    offline, dropped = offline_products(bag, tmp_path / "out")
    assert not dropped
    assert_measured(offline, tolerance_m, unsure_px)
    live = live_products(depth_rig(), bag)
    assert_same(live, offline)


def test_depth_that_comes_after_its_image_measures_it(depth_rig, tmp_path):
    bag = record(tmp_path / "bag")
    offline, _ = offline_products(bag, tmp_path / "out")
    rig = depth_rig()
    live = live_products(rig, bag, depth_after_image=True)
    newest = max(stamp_ns for _, stamp_ns in offline)
    of_newest = {key: message for key, message in offline.items() if key[1] == newest}
    assert_same({key: message for key, message in live.items() if key[1] == newest}, of_newest)


def cut(message):
    message.data = message.data[:-30]


def call_rvl(message):
    message.format = "16UC1; compressedDepth rvl"


@pytest.mark.parametrize(
    ("options", "cause", "told"),
    [
        ({"frame_id": "depth_optical"}, "depth_frame", "aligned_depth_to_color"),
        ({"size_hw": (84, 84)}, "depth_aspect", "aspect ratio"),
        ({"form": "16UC1; compressedDepth", "spoil": cut}, "depth", "no complete PNG"),
        ({"form": "16UC1; compressedDepth", "spoil": call_rvl}, "depth", "rvl"),
    ],
    ids=["frame", "aspect", "cut", "rvl"],
)
def test_depth_that_cannot_measure_is_counted_and_diagnosed_live_and_offline(
    depth_rig, tmp_path, options, cause, told
):
    bag = record(tmp_path / "bag", **options)
    offline, dropped = offline_products(bag, tmp_path / "out")
    assert dropped == {cause: IMAGES}
    assert "/gld/observed/depth/image" not in {topic for topic, _ in offline}
    rig = depth_rig()
    camera = rig.node.session.cameras["camera"]
    with BagReader(bag) as reader:
        messages = list(reader.raw_messages())
    for message in messages:
        rig.publisher(message.topic, message.type, 100)
    publisher = next(rig.publisher(m.topic, "") for m in messages if m.topic.startswith(DEPTH))
    rig.graph.wait_for(lambda: publisher.get_subscription_count() > 0, "depth matched")
    for message in messages:
        if rig.now_ns() != message.stamp_ns:
            rig.set_clock(message.stamp_ns)
        rig.publisher(message.topic, message.type, 100).publish(message.cdr)
    rig.graph.wait_for(lambda: camera.dropped[cause] == IMAGES, "depth is counted")
    values = {f"dropped_{cause}": str(IMAGES)}
    status = rig.wait_level("gld: input camera", 1, says=told, values=values)
    assert status.message.startswith("depth images are dropped: ")


def test_a_depth_topic_that_is_given_is_the_only_one(depth_rig, make_rig, tmp_path):
    bag = record(tmp_path / "bag", form="16UC1; compressedDepth")
    options = {"cli_args": ["--ros-args", "-r", f"camera/depth:={DEPTH}/compressedDepth"]}
    rig = depth_rig(node_options=options)
    camera = rig.node.session.cameras["camera"]
    assert camera.depth_topic == f"{DEPTH}/compressedDepth"
    other = rig.publisher(DEPTH, "sensor_msgs/msg/Image")
    live = live_products(rig, bag)
    assert_measured(live, 0.001, 0.01)
    assert other.get_subscription_count() == 0


def test_a_camera_without_a_wish_for_depth_subscribes_to_none(make_rig, plain_oracle):
    rig = make_rig(plain_oracle, {"depth.source": "stereo"})
    depth = rig.publisher(DEPTH, "sensor_msgs/msg/Image")
    rig.activate()
    names = [s.topic_name for s in rig.node.subscriptions if "depth" in s.topic_name]
    assert not names
    rig.drive()
    assert depth.get_subscription_count() == 0
