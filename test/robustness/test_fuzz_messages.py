"""Camera and TF messages with anything in their fields: counted or refused, never a crash."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from gld_ros.mapping.epochs import EpochMonitor
from gld_ros.mapping.fault_log import FaultLog
from gld_ros.mapping.intake import CameraState, Intake
from gld_ros.mapping.keyframes import KeyframeGate, KeyframeStore
from gld_ros.mapping.pending import PendingImages
from gld_ros.messages.camera_info import CameraInfoError, camera_info_values, pinhole_camera
from gld_ros.messages.depth_images import depth_m_from_message
from gld_ros.messages.frame_tree import FutureTransform, TransformUnavailable
from gld_ros.messages.images import ImageError, rgb_from_compressed
from gld_ros.messages.transforms import TransformBuffer, insert_message
from gld_ros.ros.parameters.files import load_snapshot

START_NS = 1_700_000_000 * 10**9
ENCODINGS = (
    "rgb8",
    "bgr8",
    "rgba8",
    "bgra8",
    "mono8",
    "mono16",
    "rgb16",
    "bgr16",
    "bayer_rggb8",
    "bayer_gbrg16",
    "uyvy",
    "yuyv",
    "yuv422",
    "nv12",
    "nv21",
    "32FC1",
    "16UC1",
    "8UC3",
    "jpeg",
    "",
    "\0",
    "ÿ",
    "rgb8; evil",
)
NUMBERS = (0.0, -0.0, 1.0, -1.0, 1e-300, 1e300, float("inf"), float("-inf"), float("nan"), 0.5, 80)
SIZES = (0, 1, 2, 3, 4, 7, 8, 64, 65535, 2**31 - 1, 2**32 - 1)


def header(stamp_ns, frame_id="camera"):
    sec, nanosec = divmod(stamp_ns, 10**9)
    return SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec), frame_id=frame_id)


def camera_info(stamp_ns, width=8, height=6, **changes):
    fields = {
        "header": header(stamp_ns),
        "width": width,
        "height": height,
        "distortion_model": "plumb_bob",
        "d": [0.0] * 5,
        "k": [8.0, 0, 3.5, 0, 8.0, 2.5, 0, 0, 1],
        "r": [1.0, 0, 0, 0, 1, 0, 0, 0, 1],
        "p": [8.0, 0, 3.5, 0, 0, 8.0, 2.5, 0, 0, 0, 1, 0],
        "binning_x": 0,
        "binning_y": 0,
        "roi": SimpleNamespace(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False),
    }
    return SimpleNamespace(**{**fields, **changes})


def image(stamp_ns, value=100, **changes):
    data = np.full(8 * 6 * 3, value, np.uint8)
    fields = {
        "header": header(stamp_ns),
        "height": 6,
        "width": 8,
        "encoding": "rgb8",
        "is_bigendian": 0,
        "step": 24,
        "data": data,
    }
    return SimpleNamespace(**{**fields, **changes})


class Input:
    """An Intake with one camera, and a pose for every time but the future (it is its own TF)."""

    def __init__(self, *, compressed=False, **parameters):
        overrides = ["keyframes.min_translation=0.0", "keyframes.min_interval=0.0"]
        self.parameters = load_snapshot(
            overrides=overrides + [f"{k}={v}" for k, v in parameters.items()]
        ).session
        self.state = CameraState("camera", "/camera/image", compressed)
        self.lines = []
        self.store = KeyframeStore(4)
        self.intake = Intake(
            {"camera": self.state},
            KeyframeGate(),
            self.store,
            PendingImages(),
            EpochMonitor(0.1, 10.0),
            FaultLog(lambda *line: self.lines.append(line)),
            self,
        )
        self.x_m, self.now_ns = 0.0, START_NS

    def info(self, message):
        self.intake.camera_info("camera", message, self.parameters, self.now_ns, self.now_ns)

    def send(self, message):
        self.now_ns += 10**8
        self.intake.image("camera", message, self.parameters, self.now_ns, self.now_ns)
        return self.intake.place(self.parameters, self.now_ns, self.now_ns)

    def lookup(self, target_frame, source_frame, stamp_ns=None):
        if stamp_ns > self.now_ns + 10**9:
            raise FutureTransform
        self.x_m += 0.2
        T = np.eye(4)
        T[0, 3] = self.x_m
        return T

    def frames(self):
        return ["camera_optical", "odom"]

    def clear(self):
        pass

    def takes_good_input_again(self):
        self.now_ns += 10**9
        self.info(camera_info(self.now_ns))
        return any(self.send(image(self.now_ns + 10**8 + i)) for i in range(3))


def stamp(rng, now_ns):
    return rng.choice((now_ns, now_ns, now_ns, 0, now_ns - 10**7, now_ns + 10**12, 2**31 * 10**9))


def test_raw_images(fuzz):
    camera = Input()
    camera.info(camera_info(START_NS))
    for number, rng in fuzz.cases(50, 3000):
        sizes = SIZES if rng.random() < 0.3 else (6, 8)
        data = rng.choice((b"", bytes(144), rng.randbytes(rng.randrange(400)), bytes(8 * 6 * 6)))
        message = image(
            camera.now_ns,
            encoding=rng.choice(ENCODINGS),
            height=rng.choice(sizes),
            width=rng.choice(sizes),
            step=rng.choice((24, 8, 16, 48, *SIZES)),
            is_bigendian=rng.choice((0, 1, 255)),
            data=np.frombuffer(data, np.uint8),
        )
        message.header = header(stamp(rng, camera.now_ns + 10**8), rng.choice(("camera", "", "\0")))
        with fuzz.allowing(number):
            camera.send(message)
    assert camera.state.total_dropped > 0
    assert camera.takes_good_input_again()


def test_compressed_images(fuzz):
    camera = Input(compressed=True)
    camera.info(camera_info(START_NS))
    pixels = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(6, 8, 3)
    originals = [cv2.imencode(suffix, pixels)[1].tobytes() for suffix in (".png", ".jpg")]
    for number, rng in fuzz.cases(30, 1500):
        data = fuzz.mutated(rng.choice(originals), rng)
        message = SimpleNamespace(
            header=header(camera.now_ns + 10**8),
            format=rng.choice(("jpeg", "png", "rgb8; jpeg compressed bgr8", "", "tiff", "\0")),
            data=np.frombuffer(data, np.uint8),
        )
        with fuzz.allowing(number):
            camera.send(message)
        with fuzz.allowing(number, ImageError):
            rgb_from_compressed(message)


def test_depth_images(fuzz):
    camera = Input()
    camera.info(camera_info(START_NS))
    for number, rng in fuzz.cases(20, 1000):
        message = image(
            START_NS,
            encoding=rng.choice(("32FC1", "16UC1", "mono16", "", "rgb8")),
            width=rng.choice(SIZES),
            height=rng.choice(SIZES),
            step=rng.choice(SIZES),
            data=np.frombuffer(rng.randbytes(rng.randrange(300)), np.uint8),
        )
        with fuzz.allowing(number):
            camera.intake.depth_image("camera", message)
        with fuzz.allowing(number, ImageError):
            depth_m_from_message(message)


def test_camera_infos(fuzz):
    for number, rng in fuzz.cases(40, 2500):

        def numbers(good, rng=rng):
            values = list(good)
            for _ in range(rng.choice((0, 1, 3))):
                values[rng.randrange(len(values))] = rng.choice(NUMBERS)
            return values

        roi = SimpleNamespace(
            x_offset=rng.choice((0, 0, *SIZES)),
            y_offset=rng.choice((0, 0, *SIZES)),
            height=rng.choice((0, 0, *SIZES)),
            width=rng.choice((0, 0, *SIZES)),
            do_rectify=False,
        )
        good = camera_info(START_NS)
        model = rng.choice(("plumb_bob", "rational_polynomial", "equidistant", "", "fisheye"))
        message = camera_info(
            START_NS,
            width=rng.choice((8, 8, *SIZES)),
            height=rng.choice((6, 6, *SIZES)),
            k=numbers(good.k),
            r=numbers(good.r),
            p=numbers(good.p),
            distortion_model=model,
            d=numbers([0.01] * rng.choice((1, 4, 5, 8, 12, 14, 20))),
            binning_x=rng.choice((0, 1, 2, 2**32 - 1)),
            binning_y=rng.choice((0, 1, 2)),
            roi=roi,
        )
        rectification = rng.choice(("auto", "rectify", "input_is_rectified"))
        with fuzz.allowing(number, CameraInfoError):
            found = pinhole_camera(camera_info_values(message), (6, 8), rectification)
            assert np.isfinite(found.K_px).all()
            assert found.rectify(np.zeros((6, 8, 3), np.uint8)).shape == (6, 8, 3)
        if number % 10 == 0:
            camera = Input()
            with fuzz.allowing(number):
                camera.info(message)
                camera.send(image(camera.now_ns + 10**8))
            assert camera.takes_good_input_again(), f"case {number}"


def test_transforms(fuzz):
    buffer = TransformBuffer(cache_time_s=10.0)
    frames = ("odom", "base", "camera", "", "/odom", "ÿ", "\0")
    for number, rng in fuzz.cases(40, 2500):
        transforms = [
            SimpleNamespace(
                header=header(stamp(rng, START_NS), rng.choice(frames)),
                child_frame_id=rng.choice(frames),
                transform=SimpleNamespace(
                    translation=SimpleNamespace(**{a: rng.choice(NUMBERS) for a in "xyz"}),
                    rotation=SimpleNamespace(
                        **dict(
                            zip(
                                "xyzw",
                                rng.choice(
                                    (
                                        (0, 0, 0, 1),
                                        (0, 0, 0, 0),
                                        tuple(rng.choice(NUMBERS) for _ in range(4)),
                                    )
                                ),
                                strict=True,
                            )
                        )
                    ),
                ),
            )
            for _ in range(rng.randrange(4))
        ]
        with fuzz.allowing(number):
            insert_message(
                buffer, SimpleNamespace(transforms=transforms), static=rng.random() < 0.1
            )
        with fuzz.allowing(number, TransformUnavailable):
            T = buffer.lookup(rng.choice(frames), rng.choice(frames), stamp(rng, START_NS))
            assert np.isfinite(T).all()


@pytest.mark.parametrize("pairing", ["latest", "exact"])
def test_infos_and_images_in_any_order(fuzz, pairing):
    camera = Input(**{"camera_info.pairing": pairing})
    for number, rng in fuzz.cases(20, 500):
        at = stamp(rng, camera.now_ns + 10**8)
        with fuzz.allowing(number):
            if rng.random() < 0.3:
                camera.info(camera_info(at, width=rng.choice((8, 16, 4, 9))))
            if rng.random() < 0.05:
                camera.intake.forget()
            camera.send(image(at))
    if pairing == "latest":
        assert camera.takes_good_input_again()
