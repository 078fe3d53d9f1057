"""Depth from a backbone alone: any bundle, any image size, every pixel, refusals with reasons."""

import numpy as np
import pytest
import torch

from gld_ros.depth_pipeline import DepthPipeline
from gld_ros.view_request import DepthRequest
from gld_ros.weights.bundle import Bundle


def photo(hw=(60, 90), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*hw, 3), dtype=np.uint8)


def request(hw=(60, 90), count=1, **changes):
    height, width = hw
    K_px = np.array([[width, 0, width / 2.2], [0, width, height / 1.8], [0, 0, 1.0]])
    options = {
        "images": [photo(hw, i) for i in range(count)],
        "K_px": np.stack([K_px] * count),
    }
    return DepthRequest(**(options | changes))


@pytest.fixture(scope="module")
def pipeline(backbone_alone):
    return DepthPipeline(backbone_alone, device="cpu", dtype="float32")


@pytest.mark.parametrize("hw", [(60, 90), (42, 56), (480, 640), (90, 31)])
def test_every_pixel_of_an_image_of_any_size_has_depth(pipeline, hw):
    result = pipeline(request(hw))
    result.validate()
    (view,) = result.references
    assert result.targets == ()
    assert view.depth.shape == view.confidence.shape == hw
    assert np.isfinite(view.depth).all()
    assert (view.depth > 0).all()
    assert ((view.confidence > 0) & (view.confidence <= 1)).all()
    np.testing.assert_array_equal(np.round(view.rgb * 255).astype(np.uint8), photo(hw))


def test_an_image_is_looked_at_whole_at_the_size_of_training(pipeline):
    assert pipeline.model_hw((480, 640)) == (42, 56)
    assert pipeline.model_hw((640, 480)) == (56, 42)
    assert pipeline.model_hw((10, 1000)) == (14, 56)


def test_the_depth_is_the_backbones_own(pipeline, backbone_alone):
    hw = (42, 56)  # the model's size, so nothing is resampled
    asked = request(hw)
    backbone = backbone_alone.load_module("backbone")
    pixels = torch.from_numpy(asked.images[0]).permute(2, 0, 1)[None, None] / 255
    with torch.no_grad():
        expected = backbone(pixels).depth[0, 0].numpy()
    np.testing.assert_allclose(pipeline(asked).references[0].depth, expected, rtol=1e-4)


def test_images_that_are_seen_together_differ_from_images_alone(pipeline):
    alone = pipeline(request(count=1)).references[0].depth
    together = pipeline(request(count=2)).references
    assert len(together) == 2
    assert not np.allclose(together[0].depth, alone)


def test_a_request_repeats_bit_for_bit_also_after_its_weights_were_dropped(pipeline):
    first = pipeline(request()).references[0].depth
    pipeline.release()
    np.testing.assert_array_equal(pipeline(request()).references[0].depth, first)


def test_a_bundle_that_imagines_gives_depth_as_well():
    view = DepthPipeline(Bundle.open("tiny"), device="cpu")(request((84, 112))).references[0]
    assert np.isfinite(view.depth).all()


def test_memory_is_estimated_for_the_backbone_alone(pipeline):
    small, large = pipeline.estimate(1, (42, 56)), pipeline.estimate(2, (42, 56))
    assert list(small.weights) == ["backbone"]
    assert small.weights["backbone"] < small.peak_bytes < large.peak_bytes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": []}, "images is empty"),
        ({"images": [photo((10, 40))]}, "one patch, 14x14"),
        ({"images": [photo().astype(np.float32)]}, "uint8 is needed"),
        ({"K_px": np.eye(3)}, "one per image"),
        ({"K_px": np.zeros((1, 3, 3))}, "focal lengths"),
        ({"model_hw": (42, 50)}, "multiples of 14"),
        (
            {"images": [photo(), photo((60, 80))], "K_px": np.stack([np.eye(3)] * 2)},
            "one",
        ),
    ],
)
def test_what_is_wrong_with_a_request_is_told(pipeline, changes, words):
    with pytest.raises(ValueError, match=words):
        pipeline(request(**changes))
