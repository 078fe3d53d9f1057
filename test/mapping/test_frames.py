import numpy as np
import pytest

from gld_ros.mapping.frames import shrink_to_fit


def test_keyframes_cannot_be_changed_and_leave_their_source_writable(keyframe_of, camera_at):
    T_fixed_cam = camera_at(0.0, 0.0)
    keyframe = keyframe_of(T_fixed_cam)
    with pytest.raises(ValueError, match="read-only"):
        keyframe.T_fixed_cam[0, 3] = 1.0
    with pytest.raises(AttributeError):
        keyframe.stamp_ns = 5
    T_fixed_cam[0, 3] = 1.0  # the caller's own array


def test_shrinking_keeps_every_ray(pinhole_of):
    image = np.zeros((90, 160, 3), np.uint8)
    K_px = pinhole_of((90, 160))
    small, K_small = shrink_to_fit(image, K_px, (45, 200))
    assert small.shape == (45, 80, 3)
    # The ray through the middle of a 2x2 block is the ray of the pixel that replaces it.
    np.testing.assert_allclose(
        np.linalg.solve(K_px, [20.5, 40.5, 1.0]), np.linalg.solve(K_small, [10.0, 20.0, 1.0])
    )


def test_images_are_never_enlarged(pinhole_of):
    image = np.zeros((10, 20, 3), np.uint8)
    same, _ = shrink_to_fit(image, pinhole_of((10, 20)), (100, 100))
    assert same is image
