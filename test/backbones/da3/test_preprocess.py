import numpy as np
import pytest

from gld_ros.backbones.da3.preprocess import prepare_images, prepared_hw, resize_for_network


def photo(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


K_PX = np.array([[100.0, 0, 50], [0, 90, 30], [0, 0, 1]])


@pytest.mark.parametrize(
    ("method", "hw"),
    [
        ("upper_bound_resize", (42, 70)),
        ("upper_bound_crop", (42, 70)),
        ("lower_bound_resize", (70, 112)),
        ("lower_bound_crop", (70, 98)),
    ],
)
def test_methods_give_whole_patches(method, hw):
    image, _ = resize_for_network(photo(61, 97), None, process_res=70, method=method)
    assert image.shape == (*hw, 3)


def test_a_photo_of_the_right_size_is_untouched():
    image = photo(42, 70)
    resized, K = resize_for_network(image, K_PX, process_res=70)
    np.testing.assert_array_equal(resized, image)
    np.testing.assert_array_equal(K, K_PX)


def test_intrinsics_scale_with_the_sides():
    _, K = resize_for_network(photo(60, 100), K_PX, process_res=70)
    np.testing.assert_allclose(K, np.diag([70 / 100, 42 / 60, 1]) @ K_PX)


def test_mixed_sizes_are_cropped_about_the_centre_to_the_smallest():
    prepared = prepare_images([photo(60, 100), photo(100, 60)], [K_PX, K_PX], process_res=70)
    assert prepared.images.shape == (2, 42, 42, 3)
    uncropped, K = resize_for_network(photo(60, 100), K_PX, process_res=70)
    np.testing.assert_array_equal(prepared.images[0], uncropped[:, 14:56])
    np.testing.assert_allclose(prepared.K_px[0], K - [[0, 0, 14], [0, 0, 0], [0, 0, 0]])


def test_a_narrow_strip_keeps_one_patch():
    image, _ = resize_for_network(photo(4, 200), None, process_res=70)
    assert image.shape == (14, 70, 3)


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (photo(20, 20).astype(np.float32), {}, "uint8 RGB, got float32"),
        (photo(20, 20)[..., 0], {}, r"\(H, W, 3\), got \(20, 20\)"),
        (photo(20, 20)[:0], {}, "empty"),
        ([1, 2], {}, "got list"),
        (photo(20, 20), {"method": "stretch"}, "'stretch'.*upper_bound_resize"),
        (photo(20, 20), {"process_res": 13}, r"at least one patch \(14\), got 13"),
        (photo(4, 200), {"method": "upper_bound_crop", "process_res": 70}, "less than one"),
    ],
)
def test_what_is_no_photo_is_refused(image, options, message):
    with pytest.raises(ValueError, match=message):
        resize_for_network(image, None, **options)


def test_lists_must_match():
    with pytest.raises(ValueError, match="no image"):
        prepare_images([], None)
    with pytest.raises(ValueError, match="2 images came with 1 intrinsic"):
        prepare_images([photo(20, 20)] * 2, [K_PX])
    with pytest.raises(ValueError, match=r"K_px\[0\] must have shape \(3, 3\)"):
        prepare_images([photo(20, 20)], [np.eye(4)])
    with pytest.raises(ValueError, match="image 1: expected uint8"):
        prepare_images([photo(20, 20), photo(20, 20) / 255], None)


@pytest.mark.parametrize("process_res", [20, 112, 504])
def test_the_size_of_prepared_photos_is_known_before(process_res):
    sizes = [(240, 320), (100, 333), (77, 51), (8, 500)]
    for chosen in ([sizes[0]], sizes[:2], sizes[2:], sizes):
        photos = [np.zeros((*size, 3), np.uint8) for size in chosen]
        prepared = prepare_images(photos, None, process_res=process_res)
        assert prepared_hw(chosen, process_res=process_res) == prepared.images.shape[1:3]
