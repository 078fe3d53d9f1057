import numpy as np

from gld_ros.depth_colours import UNKNOWN_RGB, depth_colours, depth_limits, depth_with_scale


def ramp():
    return np.tile(np.linspace(1.0, 5.0, 64, dtype=np.float32), (48, 1))


def test_near_is_red_far_is_blue_and_unknown_is_grey():
    depth = ramp()
    depth[0], depth[1], depth[2] = np.nan, 0.0, np.inf
    coloured = depth_colours(depth).astype(int)
    assert (coloured[:3] == UNKNOWN_RGB).all()
    near, far = coloured[10, 3], coloured[10, -4]
    assert near[0] > far[0] + 50
    assert far[2] > near[2] + 20


def test_one_far_outlier_leaves_the_colours_of_the_others_apart():
    depth = ramp()
    depth[0, 0] = 1e6
    assert depth_limits(depth)[1] < 6.0
    assert len(np.unique(depth_colours(depth).reshape(-1, 3), axis=0)) > 50


def test_an_image_of_small_depth_is_enlarged_and_carries_a_scale():
    image = depth_with_scale(ramp(), "m")
    assert image.shape[1] > 448
    scale = image[:, 448 + 40 :].reshape(-1, 3)
    assert (scale.sum(axis=1) < 200).sum() > 100  # ink of the labels
    assert not np.array_equal(image, depth_with_scale(ramp(), "ft"))


def test_depth_that_is_all_one_value_or_unknown_can_be_drawn():
    for depth in (np.full((9, 12), 2.0), np.full((9, 12), np.nan), np.zeros((9, 12))):
        assert depth_with_scale(depth, "m").ndim == 3
