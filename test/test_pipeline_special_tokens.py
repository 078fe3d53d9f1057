"""The front door with a backbone whose special tokens are diffused and that predicts no rays."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gld_ros.backbones.interface import LevelTokens
from gld_ros.backbones.pose_encoding import encode_transform
from gld_ros.mapping.scale import ScaleParameters, measure_from_views
from gld_ros.novel_view_stages import latent_shape, latent_to_tokens, tokens_to_latent
from gld_ros.pipeline import NovelViewPipeline, ViewRequest
from gld_ros.weights.errors import BundleError
from gld_ros.weights.statistics import LevelStatistics

CHANNELS, SPECIAL = 32, 5
MODEL_HW, GRID = (28, 42), (2, 3)


@pytest.fixture(scope="module", params=[False, True], ids=["level 1", "cascade"])
def bundle(request, tmp_path_factory, save_vggt_bundle):
    folder = tmp_path_factory.mktemp("special") / "bundle"
    return save_vggt_bundle(folder, cascade=request.param)


def request(**options):
    rng = np.random.default_rng(0)
    K = np.array([[40.0, 0, 20.5], [0, 40, 13.5], [0, 0, 1]])
    poses = np.tile(np.eye(4), (4, 1, 1))
    poses[:, 0, 3] = [0, 0.5, 0.2, 0.8]
    return ViewRequest(
        images=[rng.integers(0, 256, (*MODEL_HW, 3), dtype=np.uint8) for _ in range(2)],
        K_px_ref=np.stack([K] * 2),
        T_world_cam_ref=poses[:2],
        K_px_target=np.stack([K] * 2),
        T_world_cam_target=poses[2:],
        target_hw=[(50, 70), MODEL_HW],
        **({"seed": 7} | options),
    )


def test_gives_colour_and_depth_without_recovered_cameras(bundle):
    views = NovelViewPipeline(bundle, device="cpu")(request())
    assert [view.rgb.shape for view in views.targets] == [(50, 70, 3), (28, 42, 3)]
    for view in (*views.references, *views.targets):
        assert np.isfinite(view.rgb).all()
        assert view.T_model_cam is None
        assert view.recovered_K_px is None
        assert view.ray_confidence_mean is None
    # The first target is larger than what the model sees; there its maps say so.
    assert np.nanmin(views.targets[1].depth[8:-8, 8:-8]) > 0


def test_a_camera_head_reads_cameras_from_the_generated_tokens(tmp_path, save_vggt_bundle):
    bundle = save_vggt_bundle(tmp_path / "bundle", camera_head=True)
    pipeline = NovelViewPipeline(bundle, device="cpu")
    torch.manual_seed(0)
    noise = torch.randn(4, CHANNELS, SPECIAL + GRID[0] * GRID[1])
    plain = pipeline(request(noise={"level1": noise}))
    for view in (*plain.references, *plain.targets):
        view.validate()
        assert view.T_model_cam.shape == (4, 4)
        assert np.isfinite(view.recovered_K_px).all()
        assert view.ray_confidence_mean is None
    noise[:, :, 0] += torch.linspace(-1, 1, CHANNELS)  # the camera token's
    changed = pipeline(request(noise={"level1": noise}))
    for before, after in zip(plain.references, changed.references, strict=True):
        assert not np.allclose(before.T_model_cam, after.T_model_cam, atol=1e-4)


@pytest.mark.parametrize("readable", [True, False])
def test_scale_is_measured_by_the_cameras_that_the_head_reads(
    tmp_path, save_vggt_bundle, monkeypatch, readable
):
    metres_per_unit = 2.5
    asked = request()
    T_world_cam = np.concatenate([asked.T_world_cam_ref, asked.T_world_cam_target])
    T_model_cam = torch.from_numpy(T_world_cam.copy())
    T_model_cam[:, :3, 3] /= metres_per_unit
    K_px = torch.from_numpy(asked.K_px_ref[0])
    reading = torch.stack(
        [encode_transform(torch.linalg.inv(T), K_px, MODEL_HW) for T in T_model_cam]
    )
    if not readable:
        reading[1] = torch.nan
    monkeypatch.setattr(
        "gld_ros.backbones.vggt.camera_head.CameraHead.forward",
        lambda self, camera_tokens: reading[None, None],
    )
    bundle = save_vggt_bundle(tmp_path / "bundle", camera_head=True)
    views = NovelViewPipeline(bundle, device="cpu")(asked)
    keyframes = [SimpleNamespace(T_fixed_cam=T) for T in asked.T_world_cam_ref]
    measured = measure_from_views(views.references, keyframes, ScaleParameters())
    if readable:
        assert measured.fault == ""
        assert measured.scale == pytest.approx(metres_per_unit)
    else:
        assert "recovered 0 of 2 cameras" in measured.fault


def test_result_is_a_function_of_the_seed(bundle):
    pipeline = NovelViewPipeline(bundle, device="cpu")
    first, again = pipeline(request()), pipeline(request())
    other = pipeline(request(seed=8))
    np.testing.assert_array_equal(first.targets[1].rgb, again.targets[1].rgb)
    assert not np.array_equal(first.targets[1].rgb, other.targets[1].rgb)


def test_noise_covers_the_special_tokens(bundle):
    shape = (4, CHANNELS, SPECIAL + GRID[0] * GRID[1])
    names = bundle.config.denoisers
    assert latent_shape(bundle.config.denoisers["level1"].config, 4, GRID) == shape
    pipeline = NovelViewPipeline(bundle, device="cpu")
    noise = {name: torch.randn(shape) for name in names}
    plain = pipeline(request(noise=noise))
    changed = {name: values.clone() for name, values in noise.items()}
    changed["level1"][:, :, :SPECIAL] += 1
    assert not np.array_equal(pipeline(request(noise=changed)).targets[1].rgb, plain.targets[1].rgb)
    short = {name: values[..., SPECIAL:] for name, values in noise.items()}
    with pytest.raises(ValueError, match=r"noise\['level1'\]"):
        pipeline(request(noise=short))


def test_a_bundle_without_special_statistics_says_so(tmp_path, save_vggt_bundle):
    bundle = save_vggt_bundle(tmp_path / "bundle", special_statistics=False)
    with pytest.raises(BundleError, match="no statistics 'special1'; it has level0, level1"):
        NovelViewPipeline(bundle, device="cpu")


def test_bundle_round_trip_keeps_sizes_and_terms(bundle):
    again = type(bundle).open(bundle.folder)
    assert again.config == bundle.config
    assert again.config.non_commercial
    assert again.load_module("backbone").config == bundle.config.backbone.config


def test_tokens_to_latent_and_back():
    torch.manual_seed(0)
    special = LevelStatistics(torch.randn(4), torch.rand(4))
    statistics = LevelStatistics(torch.randn(4), torch.rand(4), special)
    tokens = LevelTokens(torch.randn(2, 3, 6, 4), torch.randn(2, 3, SPECIAL, 4))
    latent = tokens_to_latent(tokens, statistics, GRID[0])
    assert latent.shape == (2, 3, 4, SPECIAL + 6)
    back = latent_to_tokens(latent, statistics, GRID)
    torch.testing.assert_close(back.patches, tokens.patches)
    torch.testing.assert_close(back.special, tokens.special)


def test_a_packed_latent_needs_statistics_of_special_tokens():
    statistics = LevelStatistics(torch.zeros(4), torch.ones(4))
    with pytest.raises(ValueError, match="5 tokens beyond its 2x3 patches"):
        latent_to_tokens(torch.zeros(1, 2, 4, 11), statistics, GRID)
    with pytest.raises(ValueError, match="needs those of a reference"):
        latent_to_tokens(torch.zeros(1, 2, 4, *GRID), statistics, GRID)
