"""`gld_ros.reconstruct`: photos in, depth, cameras and points out."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import gld_ros
from gld_ros.geometry.intrinsics import unproject
from gld_ros.photos.sources import open_photos


@pytest.fixture(scope="module")
def network(da3_bundle):
    return gld_ros.DepthAnything3.from_pretrained(da3_bundle, device="cpu")


@pytest.fixture(scope="module")
def tiny():
    return gld_ros.DepthAnything3.from_pretrained("tiny", device="cpu")


def relative_error(depth, true_m):
    """Mean of |depth - true| / true, true depth on the grid of `depth`."""
    small = cv2.resize(true_m, depth.shape[::-1], interpolation=cv2.INTER_NEAREST)
    return float((np.abs(depth - small) / small)[small > 0].mean())


def test_importing_the_package_does_not_import_torch():
    code = "import sys, gld_ros; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'reconstruckt'"):
        _ = gld_ros.reconstruckt


def test_depth_and_cameras_are_what_the_network_says(network, room):
    result = gld_ros.reconstruct(room.images, network)
    pixels = torch.from_numpy(result.images).permute(0, 3, 1, 2)[None] / 255
    with torch.inference_mode():
        prediction = network(pixels)
    assert np.array_equal(result.depth, prediction.depth[0].numpy())
    assert np.array_equal(result.K_px, prediction.K_px[0].double().numpy())
    np.testing.assert_allclose(
        result.confidence, 1 - 1 / prediction.depth_confidence[0].numpy(), atol=1e-6
    )
    T_cam_world = prediction.T_cam_world[0].double().numpy()
    relative = T_cam_world[0] @ np.linalg.inv(T_cam_world)
    np.testing.assert_allclose(result.T_world_cam, relative, atol=1e-6)
    assert result.unit == "unscaled"


def test_points_are_the_more_confident_pixels_unprojected(network, room):
    result = gld_ros.reconstruct(room.images[:2], network)
    kept = result.confidence >= np.percentile(result.confidence, 40)
    assert len(result.points) == pytest.approx(kept.sum(), abs=2)
    one = result.point_view == 1
    T, K = result.T_world_cam[1], result.K_px[1]
    points = unproject(torch.from_numpy(result.depth[1]), torch.from_numpy(K)).numpy()
    expected = points @ T[:3, :3].T + T[:3, 3]
    distances = np.abs(expected.reshape(-1, 1, 3) - result.points[one][:5]).max(-1).min(0)
    assert distances.max() < 1e-4
    assert {tuple(c) for c in result.colours[one][:5]} <= {
        tuple(c) for c in result.images[1].reshape(-1, 3)
    }


def test_files_folders_arrays_and_pil_images_give_the_same(network, room, tmp_path):
    for index, rgb in enumerate(room.images[:2]):
        Image.fromarray(rgb).save(tmp_path / f"{index}.png")
    (tmp_path / "notes.txt").write_text("not an image")
    files = sorted(tmp_path.glob("*.png"))
    first = gld_ros.reconstruct(room.images[:2], network)
    for images in (
        tmp_path,
        str(tmp_path),
        files,
        np.stack(room.images[:2]),
        [Image.open(file) for file in files],
        [files[0], room.images[1]],
    ):
        assert np.array_equal(gld_ros.reconstruct(images, network).depth, first.depth)
    assert gld_ros.reconstruct(files[0], network).depth.shape[0] == 1
    assert gld_ros.reconstruct(files, network).names == ("0.png", "1.png")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_upright_unless_their_cameras_are_known(tmp_path, orientation):
    image = Image.fromarray(np.zeros((20, 30, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "turned.jpg", exif=exif)
    upright = open_photos(tmp_path / "turned.jpg")
    sideways = orientation >= 5  # how the camera was held
    assert upright.sizes_hw == [(30, 20) if sideways else (20, 30)]
    assert upright[0].shape[:2] == upright.sizes_hw[0]
    stored = open_photos(tmp_path / "turned.jpg", upright=False)
    assert stored.sizes_hw == [(20, 30)]
    assert stored[0].shape[:2] == (20, 30)


def test_a_photo_cut_short_is_named(network, tmp_path, room):
    for number, rgb in enumerate(room.images[:2]):
        Image.fromarray(rgb).save(tmp_path / f"{number}.jpg")
    cut = tmp_path / "1.jpg"
    cut.write_bytes(cut.read_bytes()[:-1500])
    with pytest.raises(ValueError, match=r"1\.jpg is not a readable image"):
        gld_ros.reconstruct(tmp_path, network)


def test_images_of_several_sizes_are_brought_to_one(network, room):
    result = gld_ros.reconstruct([room.images[0], room.images[1][:, :200]], network)
    assert result.depth.shape == result.images.shape[:3]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "no image given"),
        (np.zeros((4, 5), np.uint8), r"array \(4, 5\) uint8"),
        (np.zeros((40, 50, 3)), "float64"),
        ([None], "NoneType"),
        ("nowhere.jpg", "nowhere.jpg does not exist"),
    ],
)
def test_what_is_no_photo_is_named(network, images, message):
    with pytest.raises(ValueError, match=message):
        gld_ros.reconstruct(images, network)


def test_a_folder_without_images_says_what_it_looked_for(network, tmp_path):
    with pytest.raises(ValueError, match=r"holds no image files .*\.jpg"):
        gld_ros.reconstruct(tmp_path, network)


def test_cameras_that_do_not_fit_are_refused(network, room):
    with pytest.raises(ValueError, match="give both or neither"):
        gld_ros.reconstruct(room.images, network, K_px=room.K_px)
    with pytest.raises(ValueError, match="4 images need"):
        gld_ros.reconstruct(room.images, network, K_px=room.K_px[:3], T_world_cam=room.T_world_cam)
    with pytest.raises(ValueError, match="T_world_cam"):
        gld_ros.reconstruct(room.images, network, K_px=room.K_px, T_world_cam=2 * room.T_world_cam)


def test_the_embedded_bundle_knows_the_depth_of_a_room_it_has_not_seen(tiny, room):
    result = gld_ros.reconstruct(room.images, tiny)
    for depth, true_m in zip(result.depth, room.depth_m, strict=True):
        scale = np.median(true_m) / np.median(depth)
        assert relative_error(scale * depth, true_m) < 0.1


def test_known_cameras_bring_depth_to_their_unit(tiny, room):
    metric = gld_ros.reconstruct(room.images, tiny, K_px=room.K_px, T_world_cam=room.T_world_cam)
    assert metric.unit == "m"
    assert "measured between the images" in metric.notes[0]
    assert np.array_equal(metric.T_world_cam, room.T_world_cam)
    for depth, true_m in zip(metric.depth, room.depth_m, strict=True):
        assert relative_error(depth, true_m) < 0.15


def test_known_cameras_may_have_images_of_different_sizes(tiny, room):
    images, K_px = list(room.images), room.K_px.copy()
    images[1] = images[1][: images[1].shape[0] - 9]
    result = gld_ros.reconstruct(images, tiny, K_px=K_px, T_world_cam=room.T_world_cam)
    assert "measured between the images" in result.notes[0]
    assert relative_error(result.depth[0], room.depth_m[0]) < 0.15


def test_the_unit_of_known_cameras_does_not_matter(tiny, room):
    T_feet = room.T_world_cam[:2].copy()
    T_feet[:, :3, 3] /= 0.3048
    feet = gld_ros.reconstruct(
        room.images[:2], tiny, K_px=room.K_px[:2], T_world_cam=T_feet, unit="ft"
    )
    assert feet.unit == "ft"
    assert relative_error(0.3048 * feet.depth[1], room.depth_m[1]) < 0.15


def test_one_image_with_a_known_camera_stays_unscaled_and_says_so(network, room):
    result = gld_ros.reconstruct(
        room.images[:1], network, K_px=room.K_px[0], T_world_cam=room.T_world_cam[:1]
    )
    assert result.unit == "unscaled"
    assert "no parallax" in result.notes[0]


def test_cameras_at_one_place_are_remarked(tiny, room):
    result = gld_ros.reconstruct([room.images[0]] * 2, tiny)
    assert any("almost one place" in note for note in result.notes)


def test_vggt_goes_the_same_way(vggt_bundle, room):
    result = gld_ros.reconstruct(room.images[:2], vggt_bundle)
    assert result.depth.shape == (2, 28, 28)
    np.testing.assert_allclose(result.T_world_cam[0], np.eye(4), atol=1e-6)
    network = gld_ros.Vggt.from_pretrained(vggt_bundle)
    assert np.array_equal(gld_ros.reconstruct(room.images[:2], network).depth, result.depth)


def test_a_vggt_without_camera_head_is_refused_with_one_that_has_it(
    save_vggt_bundle, tmp_path, room
):
    bundle = save_vggt_bundle(tmp_path / "headless").folder
    with pytest.raises(ValueError, match=r"no camera head.*vggt-1b"):
        gld_ros.reconstruct(room.images[:2], bundle)


def test_a_bundle_of_another_backbone_is_refused(vggt_bundle, da3_bundle):
    with pytest.raises(ValueError, match=r"vggt backbone.*gld_ros\.Vggt"):
        gld_ros.DepthAnything3.from_pretrained(vggt_bundle)
    with pytest.raises(ValueError, match=r"da3 backbone.*gld_ros\.DepthAnything3"):
        gld_ros.Vggt.from_pretrained(da3_bundle)
