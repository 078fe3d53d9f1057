"""A bundle of the second backbone through the node: same front door, depth from a fixed scale."""

import numpy as np
import pytest

from gld_ros.mapping.model import load_model

pytestmark = [pytest.mark.ros, pytest.mark.slow]
SUCCEEDED = 4


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, save_vggt_bundle):
    return save_vggt_bundle(tmp_path_factory.mktemp("vggt") / "bundle")


@pytest.fixture
def vggt_rig(make_rig, bundle):
    def make(**parameters):
        values = {"model.bundle": str(bundle.folder), "device": "cpu"}
        rig = make_rig(None, values | parameters, model_factory=load_model)
        rig.activate()
        rig.drive()
        return rig

    return make


def test_goal_is_answered_with_images_and_depth_at_a_fixed_scale(vggt_rig):
    depths_m = {}
    for scale, backend in ((1.0, "auto"), (2.0, "vggt")):
        rig = vggt_rig(
            **{"model.backend": backend, "scale.mode": "fixed", "scale.fixed_value": scale}
        )
        status, result = rig.finished_goal(
            [rig.T_fixed_cam(0.3)], return_images=True, seed=7, timeout_s=60.0
        )
        assert (status, result.error_code, result.error_msg) == (SUCCEEDED, 0, "")
        assert result.views.scale.metric
        assert result.views.scale.scale == scale
        (image,), (depth,) = result.images, result.depths
        assert (image.height, image.width, image.encoding) == (depth.height, depth.width, "rgb8")
        assert image.header == depth.header
        pixels = np.frombuffer(image.data, np.uint8)
        assert pixels.min() < pixels.max()
        depths_m[scale] = np.frombuffer(depth.data, np.float32)
        rig.close()
    # What the images contradict has no depth, and which pixels these are depends on the scale.
    seen = np.isfinite(depths_m[1.0]) & np.isfinite(depths_m[2.0])
    assert seen.mean() > 0.3
    np.testing.assert_allclose(depths_m[2.0][seen], 2 * depths_m[1.0][seen], rtol=1e-4)


def test_baselines_cannot_give_a_scale_so_depth_is_withheld(vggt_rig):
    rig = vggt_rig(**{"scale.mode": "tf_baseline"})
    status, result = rig.finished_goal([rig.T_fixed_cam(0.3)], return_images=True, timeout_s=60.0)
    assert status == SUCCEEDED
    assert result.error_code == result.SCALE_UNRESOLVED
    assert "recovered 0 of" in result.error_msg
    assert (len(result.images), len(result.depths)) == (1, 0)
