"""cv_bridge is used where it gives the very pixels that we do, and can do no harm elsewhere."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from gld_ros.messages.images import COLOUR_ENCODINGS, rgb_from_image
from gld_ros.ros.distribution import image_bridge

H, W = 6, 8
EIGHT_BIT = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}


@pytest.fixture(autouse=True)
def ask_again():
    image_bridge.trusted_encodings.cache_clear()
    yield
    image_bridge.trusted_encodings.cache_clear()


def image(encoding, bytes_per_pixel, padding=0, seed=0):
    step = W * bytes_per_pixel + padding
    data = np.random.default_rng(seed).integers(0, 256, H * step, np.uint8)
    return SimpleNamespace(
        height=H, width=W, step=step, encoding=encoding, is_bigendian=0, data=data
    )


def put_in_path(monkeypatch, tmp_path, source):
    """Let this process and its children find a cv_bridge of these contents."""
    package = tmp_path / "cv_bridge"
    package.mkdir()
    (package / "__init__.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")


@pytest.mark.parametrize(
    "source",
    [
        "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",  # made for another numpy
        "raise RuntimeError('module compiled against another API version')",
        "class CvBridge:\n    def imgmsg_to_cv2(self, *_): raise KeyError",
    ],
)
def test_a_cv_bridge_that_crashes_is_not_used(monkeypatch, tmp_path, source):
    put_in_path(monkeypatch, tmp_path, source)
    assert image_bridge.trusted_encodings() == frozenset()
    message = image("bgr8", 3)
    assert image_bridge.cv_bridge_rgb(message) is None


def test_without_cv_bridge_no_process_is_started(monkeypatch):
    monkeypatch.setattr(image_bridge.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process"))
    assert image_bridge.trusted_encodings() == frozenset()


def test_only_encodings_read_alike_are_trusted(monkeypatch, tmp_path):
    swaps = (
        "import numpy as np\nclass CvBridge:\n    def imgmsg_to_cv2(self, message, encoding):\n"
        "        pixels = np.asarray(message.data).reshape(message.height, message.width, -1)\n"
        "        return pixels[..., :3][..., ::-1] if pixels.shape[-1] == 3 else pixels[..., :3]\n"
    )
    put_in_path(monkeypatch, tmp_path, swaps)
    trusted = image_bridge.trusted_encodings()
    assert {"bgr8", "rgba8"} <= trusted
    assert not {"rgb8", "bgra8", "mono8"} & trusted


@pytest.mark.ros
def test_the_distribution_reads_common_encodings_as_we_do():
    pytest.importorskip("cv_bridge", reason="only a ROS distribution has cv_bridge")
    trusted = image_bridge.trusted_encodings()
    assert set(EIGHT_BIT) <= trusted, "cv_bridge does not fit this numpy"
    for encoding, bytes_per_pixel in EIGHT_BIT.items():
        for padding in (0, 5):
            for seed in range(20):
                message = image(encoding, bytes_per_pixel, padding, seed)
                ours = rgb_from_image(message).rgb
                used = rgb_from_image(message, image_bridge.cv_bridge_rgb).rgb
                np.testing.assert_array_equal(used, ours)
    assert trusted <= set(COLOUR_ENCODINGS)


def test_padded_rows_never_reach_it(monkeypatch):
    seen = []
    rgb_from_image(image("bgr8", 3, padding=4), lambda message: seen.append(message))
    assert not seen
    rgb_from_image(image("bgr8", 3), lambda message: seen.append(message))
    assert len(seen) == 1


def test_the_probe_prints_what_it_found():
    if image_bridge.importlib.util.find_spec("cv_bridge") is None:
        pytest.skip("only a ROS distribution has cv_bridge")
    done = subprocess.run(
        [sys.executable, "-m", "gld_ros.ros.distribution.image_bridge"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "bgr8" in done.stdout
