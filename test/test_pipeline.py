"""The front door: any image size in and out, determinism, invariances, memory, bad requests."""

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from gld_ros import pipeline_device
from gld_ros.backbones.da3.config import Da3Config
from gld_ros.decoders.rgb import RgbDecoderConfig
from gld_ros.diffusion.config import DenoiserConfig
from gld_ros.measuring.surfaces import Surface
from gld_ros.pipeline import NovelViewPipeline, Progress, ViewRequest
from gld_ros.pipeline_plan import RunLimits, plan_views
from gld_ros.weights.bundle import Bundle, save_bundle
from gld_ros.weights.bundle_config import BackboneSpec, BundleConfig, DenoiserSpec

CHANNELS = 32
MODEL_HW = (28, 42)


def _config(*, cascade: bool, pose_scale: str = "max") -> BundleConfig:
    denoiser = DenoiserConfig(
        channels=CHANNELS, hidden=(16, 32), depth=(1, 1), heads=(1, 1), time_features=8
    )
    denoisers = {"level1": DenoiserSpec(denoiser, 2.0)}
    if cascade:
        legacy = replace(denoiser, separate_embedders=False, source_conditioned=True)
        denoisers["cascade"] = DenoiserSpec(legacy, None)
    backbone = Da3Config(
        embed_dim=CHANNELS // 2,
        depth=5,
        num_heads=2,
        alt_start=1,
        qknorm_start=1,
        rope_start=1,
        tap_layers=(1, 2, 3, 4),
        head_features=8,
        head_out_channels=(4, 4, 8, 8),
        image_size=28,
        camera_heads=2,
        camera_depth=1,
    )
    return BundleConfig(
        name="micro",
        backbone=BackboneSpec("da3", backbone),
        rgb_decoder=RgbDecoderConfig(
            in_channels=4 * CHANNELS, width=16, depth=1, heads=2, mlp=32, table_hw=(2, 2)
        ),
        denoisers=denoisers,
        boundary_level=1,
        num_views=4,
        num_euler_points=3,
        guidance_scale=1.5,
        ray_grid="centred",
        pose_scale=pose_scale,
        resolutions_hw=(MODEL_HW, (42, 28)),
        licence="Apache-2.0",
        origin="test",
        non_commercial=False,
        random_weights=True,
    )


def _bundle(folder, config):
    """A bundle of random weights in which every parameter has a say."""
    torch.manual_seed(5)
    modules = {}
    for name in config.module_names:
        module: nn.Module = config.build_module(name)
        for parameter in module.parameters():
            if not parameter.abs().max() > 0:
                nn.init.normal_(parameter, std=0.05)
        modules[name] = module
    statistics = {
        f"level{level}.{name}": 0.5 + torch.rand(CHANNELS)
        for level in (0, 1)
        for name in ("mean", "var")
    }
    return save_bundle(folder, config, modules, statistics)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return _bundle(tmp_path_factory.mktemp("plain") / "bundle", _config(cascade=False))


@pytest.fixture(scope="module")
def cascade_bundle(tmp_path_factory):
    return _bundle(tmp_path_factory.mktemp("cascade") / "bundle", _config(cascade=True))


@pytest.fixture(scope="module")
def metric_bundle(tmp_path_factory):
    config = _config(cascade=False, pose_scale="metric")
    return _bundle(tmp_path_factory.mktemp("metric") / "bundle", config)


@pytest.fixture(scope="module")
def pipeline(bundle):
    return NovelViewPipeline(bundle, device="cpu", dtype="float32")


def _pose(x, y=0.0, z=0.0, yaw=0.0):
    T = np.eye(4)
    T[:3, :3] = [[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]]
    T[:3, 3] = x, y, z
    return T


def _K(hw):
    return np.array(
        [[0.9 * hw[1], 0, hw[1] / 2 - 0.5], [0, 0.9 * hw[1], hw[0] / 2 - 0.5], [0, 0, 1]]
    )


def _request(references=2, targets=2, hw=MODEL_HW, target_hw=MODEL_HW, **options):
    rng = np.random.default_rng(0)
    return ViewRequest(
        images=[rng.integers(0, 256, (*hw, 3), dtype=np.uint8) for _ in range(references)],
        K_px_ref=np.stack([_K(hw)] * references),
        T_world_cam_ref=np.stack([_pose(0.3 * i, yaw=0.1 * i) for i in range(references)]),
        K_px_target=np.stack([_K(target_hw)] * targets),
        T_world_cam_target=np.stack(
            [_pose(0.1 + 0.2 * i, 0.1 * i, 0.2, -0.1 * i) for i in range(targets)]
        ),
        target_hw=[target_hw] * targets,
        **({"seed": 7} | options),
    )


def _noise(views, seed=0, hw=MODEL_HW):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(views, CHANNELS, hw[0] // 14, hw[1] // 14, generator=generator)


def _assert_same_views(found, expected, atol=0.0):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.rgb, b.rgb, atol=atol, rtol=0)
        np.testing.assert_allclose(a.depth, b.depth, atol=atol, rtol=atol)
        np.testing.assert_allclose(a.confidence, b.confidence, atol=atol, rtol=0)


def _surface(request):
    """What the first reference has measured: a wall two metres away, but for its left third."""
    depth_m = np.full(MODEL_HW, 2.0, np.float32)
    depth_m[:, : MODEL_HW[1] // 3] = np.nan
    T, confidence = request.T_world_cam_ref[0], np.ones(MODEL_HW, np.float32)
    return Surface(request.images[0], request.K_px_ref[0], T, depth_m, confidence)


def test_a_model_that_reads_measurements_is_shown_the_targets_surfaces(bundle, tmp_path):
    plain = NovelViewPipeline(bundle, device="cpu")
    request = _request(samples=2)
    shown = replace(request, surfaces=[_surface(request)])
    assert not plain.reads_measurements
    _assert_same_views(plain(shown).targets, plain(request).targets)

    config = _config(cascade=True)
    level1 = config.denoisers["level1"]
    measured = replace(level1, config=replace(level1.config, measured=True))
    config = replace(config, denoisers={**config.denoisers, "level1": measured})
    reading = NovelViewPipeline(_bundle(tmp_path / "bundle", config), device="cpu")
    assert reading.reads_measurements
    without, views = reading(request), reading(shown)
    assert np.abs(views.targets[0].rgb - without.targets[0].rgb).max() > 1e-4
    # What no target sees is as nothing measured.
    behind = _surface(request)
    behind = replace(behind, T_fixed_cam=_pose(0.0, z=-9.0, yaw=np.pi))
    unseen = reading(replace(request, surfaces=[behind]))
    _assert_same_views(unseen.targets, without.targets)


def test_surfaces_that_cannot_be_are_explained(pipeline):
    request = _request()
    surface = _surface(request)
    for change, message in (
        ({"image": surface.image[..., 0]}, r"surfaces\[0\].image has shape"),
        ({"T_fixed_cam": 2 * np.eye(4)}, r"surfaces\[0\].T_fixed_cam is not a rigid"),
        ({"confidence": np.ones(3)}, r"surfaces\[0\] has depth_m of shape \(28, 42\)"),
    ):
        with pytest.raises(ValueError, match=message):
            pipeline(replace(request, surfaces=[replace(surface, **change)]))


def test_progress_covers_every_step_in_order(pipeline):
    steps = pipeline.run(_request(num_steps=3))
    seen = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as stop:
            views = stop.value
            break
    assert seen == [
        Progress("encoding", 1, 1),
        *(Progress("sampling", i, 3) for i in (1, 2, 3)),
        Progress("decoding", 1, 2),
        Progress("decoding", 2, 2),
    ]
    views.validate()
    assert views.seed == 7
    assert set(views.stage_seconds) == {"encoding", "sampling", "decoding"}
    assert all(seconds > 0 for seconds in views.stage_seconds.values())


@pytest.mark.parametrize(
    ("options", "steps"),
    [({}, 13), ({"preset": "fast"}, 5), ({"preset": "fast", "num_steps": 2}, 2)],
)
def test_a_preset_decides_the_steps_unless_they_are_given(tmp_path, options, steps):
    config = replace(_config(cascade=False), num_euler_points=14)
    pipeline = NovelViewPipeline(_bundle(tmp_path / "bundle", config), device="cpu")
    seen = []
    views = pipeline(_request(**options), progress=seen.append)
    assert [s.total_steps for s in seen if s.stage == "sampling"] == [steps] * steps
    views.validate()


def test_published_is_the_bundles_own_solver(tmp_path):
    config = replace(_config(cascade=False), num_euler_points=6)
    by_euler = _bundle(tmp_path / "bundle", config)
    own = Bundle(by_euler.folder, replace(by_euler.config, solver="abm2", num_euler_points=5))
    views = NovelViewPipeline(own, device="cpu")(_request())
    # Four steps are also what "fast" makes of Euler's five.
    _assert_same_views(
        views.targets, NovelViewPipeline(by_euler, device="cpu")(_request(preset="fast")).targets
    )
    euler = NovelViewPipeline(by_euler, device="cpu")(_request(num_steps=4))
    assert np.abs(views.targets[0].rgb - euler.targets[0].rgb).max() > 1e-4


def _with_students(config, calls=2, time_shift=1.7):
    students = {
        f"{name}_student": replace(spec, time_shift=time_shift, calls=calls)
        for name, spec in config.denoisers.items()
    }
    return replace(config, denoisers={**config.denoisers, **students})


@pytest.mark.parametrize("cascade", [False, True])
def test_fastest_runs_the_students_on_their_own_grid(tmp_path, cascade):
    config = _with_students(_config(cascade=cascade))
    taught = _bundle(tmp_path / "taught", config)
    # The same networks in the place of the denoisers, on that grid.
    modules = {name: taught.load_module(name) for name in config.module_names}
    alone = replace(
        config,
        denoisers={
            name: replace(config.denoisers[f"{name}_student"], calls=None)
            for name in config.denoiser_names
        },
    )
    statistics = load_file(taught.folder / "statistics.safetensors")
    swapped = save_bundle(
        tmp_path / "swapped",
        alone,
        {name: modules.get(f"{name}_student", modules[name]) for name in alone.module_names},
        statistics,
    )
    fastest = NovelViewPipeline(taught, device="cpu")(_request(preset="fastest"))
    plain = NovelViewPipeline(swapped, device="cpu")(_request(num_steps=2, guidance_scale=1.0))
    _assert_same_views(fastest.targets, plain.targets, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 3}, "num_steps is 3, but with preset 'fastest' the student .* takes 2"),
        ({"guidance_scale": 1.5}, "guidance is built into the student"),
    ],
)
def test_a_student_takes_its_own_steps_and_no_guidance(tmp_path, options, message):
    config = _with_students(_config(cascade=False))
    pipeline = NovelViewPipeline(_bundle(tmp_path / "bundle", config), device="cpu")
    with pytest.raises(ValueError, match=message):
        pipeline(_request(preset="fastest", **options))


def test_fastest_says_what_to_do_where_there_is_no_student(pipeline):
    with pytest.raises(ValueError, match="no student of level1; make one with `gld-ros train dis"):
        pipeline(_request(preset="fastest"))


@pytest.mark.slow
def test_compiled_blocks_give_the_same_in_one_graph_per_step(pipeline, bundle):
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    compiled = NovelViewPipeline(bundle, device="cpu", compile_blocks=True)
    found, expected = compiled(_request(num_steps=2)), pipeline(_request(num_steps=2))
    _assert_same_views(found.targets, expected.targets, atol=1e-4)
    graphs = counters["stats"]["unique_graphs"]
    compiled(_request(num_steps=7))
    assert counters["stats"]["unique_graphs"] == graphs  # whatever the time
    assert not counters["graph_break"]


def test_cascade_samples_both_levels(cascade_bundle):
    pipeline = NovelViewPipeline(cascade_bundle, device="cpu")
    seen = []
    pipeline(_request(samples=2), progress=seen.append)
    sampling = [s for s in seen if s.stage == "sampling"]
    assert sampling == [Progress("sampling", i, 8) for i in range(1, 9)]  # 2 levels, 2 samples


@pytest.mark.parametrize(("references", "targets"), [(1, 1), (4, 7), (1, 7), (3, 2)])
def test_all_allowed_numbers_of_views(pipeline, references, targets):
    views = pipeline(_request(references, targets, num_steps=1))
    assert (len(views.references), len(views.targets)) == (references, targets)
    views.validate()


def test_same_seed_same_bits_other_seed_other_view(pipeline):
    first, again, other = (pipeline(_request(seed=s)) for s in (3, 3, 4))
    _assert_same_views(first.targets, again.targets)
    assert not np.allclose(first.targets[0].rgb, other.targets[0].rgb)


def test_drawn_seed_is_reported_and_reproduces(pipeline):
    drawn = pipeline(_request(seed=None))
    _assert_same_views(pipeline(_request(seed=drawn.seed)).targets, drawn.targets)


def test_values_are_in_their_ranges(pipeline):
    view = pipeline(_request()).targets[0]
    assert view.rgb.dtype == view.depth.dtype == view.confidence.dtype == np.float32
    assert 0 <= view.rgb.min() <= view.rgb.max() <= 1
    assert (view.depth > 0).all()
    assert 0 < view.confidence.min() <= view.confidence.max() <= 1
    assert 0 < view.ray_confidence_mean <= 1
    np.testing.assert_allclose(
        view.T_model_cam[:3, :3] @ view.T_model_cam[:3, :3].T, np.eye(3), atol=1e-9
    )


def test_images_of_different_sizes_and_shapes(pipeline):
    """References and targets of their own size, portrait, off-centre and smaller than the model."""
    request = _request(2, 3)
    rng = np.random.default_rng(1)
    off_centre = np.array([[0, 0, 6], [0, 0, -4], [0, 0, 0]])
    sizes, target_sizes = [(37, 100), (90, 60)], [(60, 17), (14, 14), (200, 150)]
    request = replace(
        request,
        images=[rng.integers(0, 256, (*hw, 3), dtype=np.uint8) for hw in sizes],
        K_px_ref=np.stack([_K(hw) + off_centre for hw in sizes]),
        K_px_target=np.stack([_K(hw) for hw in target_sizes]),
        target_hw=target_sizes,
    )
    views = pipeline(request)
    views.validate()
    assert [v.depth.shape for v in views.references] == sizes
    assert [v.depth.shape for v in views.targets] == target_sizes
    for view, K in zip(views.targets, request.K_px_target, strict=True):
        np.testing.assert_array_equal(view.K_px, K)
        assert np.isfinite(view.depth).all()
        assert np.isfinite(view.rgb).all()
    for view in views.references:
        unseen = np.isnan(view.depth)
        assert 0 < unseen.mean() < 0.9
        np.testing.assert_array_equal(unseen, np.isnan(view.rgb).any(-1))
        np.testing.assert_array_equal(unseen, view.confidence == 0)


def test_doubling_a_target_doubles_its_image_and_nothing_else(pipeline):
    """The same camera at twice the size: the model saw the same grid, the result is resampled."""
    small = pipeline(_request()).targets[-1]
    large = pipeline(_request(target_hw=(56, 84))).targets[-1]
    folded = large.confidence.reshape(28, 2, 42, 2).mean((1, 3))
    difference = np.abs(folded - small.confidence)[1:-1, 1:-1]
    assert difference.max() < 0.25 * np.ptp(small.confidence)
    assert difference.mean() < 0.03 * np.ptp(small.confidence)


def test_model_size_follows_the_request(pipeline):
    portrait = _request(hw=(60, 40), target_hw=(60, 40), noise={"level1": _noise(4, hw=(42, 28))})
    pipeline(portrait)
    with pytest.raises(ValueError, match=r"shape \(4, 32, 3, 2\)|\(4, 32, 2, 3\)"):
        pipeline.run(replace(portrait, model_hw=(28, 42)))
    with pytest.raises(ValueError, match="multiples of 14"):
        pipeline.run(_request(model_hw=(30, 42)))


def test_permuted_targets_are_permuted_views(pipeline):
    """The last target is the origin of the camera inputs, so it stays where it is."""
    noise = _noise(6)
    request = _request(2, 4, noise={"level1": noise})
    order = [2, 0, 1, 3]
    permuted = replace(
        request,
        K_px_target=request.K_px_target[order],
        T_world_cam_target=request.T_world_cam_target[order],
        noise={"level1": noise[[0, 1, *(2 + i for i in order)]]},
    )
    expected, found = pipeline(request), pipeline(permuted)
    _assert_same_views(found.targets, [expected.targets[i] for i in order], atol=1e-4)
    _assert_same_views(found.references, expected.references, atol=1e-4)


def _moved(request, T=None, unit=1.0):
    T = np.eye(4) if T is None else T
    poses = {}
    for name in ("T_world_cam_ref", "T_world_cam_target"):
        moved = T @ getattr(request, name)
        moved[:, :3, 3] *= unit
        poses[name] = moved
    return replace(request, **poses)


@pytest.mark.parametrize("seed", range(3))
def test_world_frame_does_not_matter(pipeline, seed):
    rng = np.random.default_rng(seed)
    T, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    world = np.eye(4)
    world[:3, :3] = T * np.sign(np.linalg.det(T))
    world[:3, 3] = rng.uniform(-50, 50, 3)
    expected, found = pipeline(_request()), pipeline(_moved(_request(), world))
    _assert_same_views(found.targets, expected.targets, atol=1e-4)


@pytest.mark.parametrize("unit", [1e-3, 39.37, 1000.0])
def test_unit_of_the_poses_does_not_matter(pipeline, unit):
    expected, found = pipeline(_request()), pipeline(_moved(_request(), unit=unit))
    _assert_same_views(found.targets, expected.targets, atol=1e-4)


def test_unit_matters_for_a_metric_bundle_which_also_takes_a_turn_in_place(metric_bundle):
    pipeline = NovelViewPipeline(metric_bundle, device="cpu")
    metres, millimetres = pipeline(_request()), pipeline(_moved(_request(), unit=1000.0))
    assert not np.allclose(metres.targets[0].rgb, millimetres.targets[0].rgb)
    pipeline(_moved(_request(), unit=0.0)).validate()


def test_samples_share_the_encoding_and_report_their_spread(pipeline):
    one, two = pipeline(_request()), pipeline(_request(samples=2))
    _assert_same_views(two.targets, one.targets)
    assert one.targets[0].spread is None
    for view in two.targets:
        assert view.spread.shape == view.rgb_spread.shape == view.depth.shape
        assert (view.spread >= 0).all()
        assert view.spread.max() > 0
        assert view.rgb_spread.max() > 0
    assert two.references[0].spread is None


@pytest.mark.parametrize("one_by_one", [False, True])
def test_colours_of_references_may_be_left_out(bundle, pipeline, one_by_one):
    with_colours = pipeline(_request())
    lean = NovelViewPipeline(bundle, device="cpu", dtype="float32")
    lean.limit_memory(chunk_decoder=one_by_one, smallest_bucket=False)
    without = lean(_request(reference_colours=False))
    _assert_same_views(without.targets, with_colours.targets, atol=1e-4)
    for view, coloured in zip(without.references, with_colours.references, strict=True):
        assert view.rgb.shape == coloured.rgb.shape
        assert np.isnan(view.rgb).all()
        assert np.isfinite(coloured.rgb).all()
        np.testing.assert_allclose(view.depth, coloured.depth, rtol=1e-4)


def test_equal_samples_have_no_spread(pipeline):
    noise = _noise(4)
    request = _request(samples=2, noise={"level1": torch.stack([noise, noise])})
    assert pipeline(request).targets[0].spread.max() == 0


def test_sample_k_of_a_seed_is_sample_0_of_seed_plus_k(pipeline):
    limits = RunLimits(4, 4, pipeline.bundle.config.resolutions_hw, "together", None)
    plan = plan_views(
        _request(seed=7, samples=3), pipeline.bundle.config, limits, torch.device("cpu")
    )
    later = plan_views(_request(seed=9), pipeline.bundle.config, limits, torch.device("cpu"))
    torch.testing.assert_close(plan.noises["level1"][2:], later.noises["level1"], atol=0, rtol=0)


@pytest.mark.parametrize(
    ("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)], ids=["native", "none"]
)
def test_a_processor_that_multiplies_bfloat16_runs_in_it(bundle, monkeypatch, native, dtype):
    monkeypatch.setattr(pipeline_device, "cpu_multiplies_bf16", lambda: native)
    automatic = NovelViewPipeline(bundle, device="cpu")
    assert automatic.dtype == dtype
    chosen = NovelViewPipeline(bundle, device="cpu", dtype=dtype)
    _assert_same_views(automatic(_request()).targets, chosen(_request()).targets, atol=0)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_stays_close(bundle, pipeline, dtype):
    expected = pipeline(_request())
    found = NovelViewPipeline(bundle, device="cpu", dtype=dtype)(_request())
    _assert_same_views(found.targets, expected.targets, atol=0.1)
    difference = np.abs(found.targets[0].rgb - expected.targets[0].rgb).mean()
    assert 0 < difference < 0.02


def test_staged_weights_give_the_same_views_and_leave_nothing(cascade_bundle):
    kept = NovelViewPipeline(cascade_bundle, device="cpu")
    staged = NovelViewPipeline(cascade_bundle, device="cpu", keep_weights=False)
    assert kept.keep_weights
    _assert_same_views(staged(_request()).targets, kept(_request()).targets)
    assert set(kept._kept) == {"backbone", "level1", "cascade", "rgb_decoder"}
    assert not staged._kept
    kept.release()
    assert not kept._kept


def test_staged_weights_are_released_before_the_next_stage_loads(cascade_bundle, monkeypatch):
    loaded = []
    load = cascade_bundle.load_module

    def load_and_watch(name, *args):
        alive = [other for other, module in loaded if module() is not None]
        assert alive in ([], ["backbone"]), f"{alive} in memory when {name} loads"
        module = load(name, *args)
        loaded.append((name, weakref.ref(module)))
        return module

    monkeypatch.setattr(cascade_bundle, "load_module", load_and_watch)
    NovelViewPipeline(cascade_bundle, device="cpu", keep_weights=False)(_request())
    assert [name for name, _ in loaded] == ["backbone", "level1", "cascade", "rgb_decoder"]


def test_closing_the_generator_cancels(bundle):
    pipeline = NovelViewPipeline(bundle, device="cpu", keep_weights=False)
    steps = pipeline.run(_request(num_steps=50))
    next(steps)
    next(steps)
    steps.close()
    with pytest.raises(StopIteration):
        next(steps)
    pipeline(_request())  # and the next request works


def _with(request, name, index, value):
    array = np.array(getattr(request, name), dtype=np.float64)
    array[index] = value
    return replace(request, **{name: array})


def _bad_requests():
    good = _request()
    black = np.zeros((28, 42, 3), np.uint8)
    yield "no references", replace(_request(1), images=[]), "images is empty"
    yield "no targets", replace(good, target_hw=[]), "target_hw is empty"
    yield "5 references", _request(5), "5 reference images were given; at most 4"
    yield "8 targets", _request(2, 8), "8 targets were given; at most 7"
    yield "grey image", replace(good, images=[black[..., 0], black]), r"images\[0\] has shape"
    nan = black.astype(np.float32) * np.nan
    yield "NaN image", replace(good, images=[black, nan]), r"images\[1\] has type float32"
    yield (
        "missing pose",
        replace(good, T_world_cam_ref=np.eye(4)[None]),
        "T_world_cam_ref has shape",
    )
    yield "singular K", _with(good, "K_px_ref", (1, 0, 0), 0), r"K_px_ref\[1\]"
    yield "K upside down", _with(good, "K_px_ref", (0, 1, 0), 50), r"K_px_ref\[0\] has 50"
    yield "NaN K", _with(good, "K_px_target", (0, 0, 2), np.nan), r"K_px_target\[0\]"
    yield "scaled pose", _with(good, "T_world_cam_target", (1, 0, 0), 2), r"T_world_cam_target\[1\]"
    yield "NaN pose", _with(good, "T_world_cam_ref", (0, 0, 3), np.nan), r"T_world_cam_ref\[0\]"
    yield "cameras at one place", _moved(good, unit=0.0), "same place"
    yield "tiny image", _request(hw=(13, 42)), r"images\[0\] has size 13x42.*14x14"
    yield "tiny target", _request(target_hw=(28, 13)), r"target_hw\[0\] has size 28x13"
    yield "unknown preset", replace(good, preset="faster"), "use one of published, fast, fastest"
    yield "no steps", replace(good, num_steps=0), "num_steps is 0"
    yield "NaN guidance", replace(good, guidance_scale=np.nan), "guidance_scale"
    yield "noise of no level", replace(good, noise=_noise(4)), "noise must map each of level1"
    yield "noise shape", replace(good, noise={"level1": _noise(3)}), r"noise\['level1'\]"
    yield "NaN noise", replace(good, noise={"level1": _noise(4) * np.nan}), "must be finite"
    yield "no samples", replace(good, samples=0), "samples is 0"


@pytest.mark.parametrize(
    ("request_", "message"), [pytest.param(r, m, id=name) for name, r, m in _bad_requests()]
)
def test_bad_request_is_refused_before_any_work(pipeline, request_, message):
    with pytest.raises(ValueError, match=message):
        pipeline.run(request_)


def test_bad_options_are_refused(bundle):
    with pytest.raises(ValueError, match="dtype"):
        NovelViewPipeline(bundle, dtype="int8")
    with pytest.raises(ValueError, match="device"):
        NovelViewPipeline(bundle, device="gpu")


def test_bundle_without_diffusion_is_refused(tmp_path):
    config = replace(_config(cascade=False), rgb_decoder=None, denoisers={})
    backbone_alone = save_bundle(
        tmp_path / "bundle", config, {"backbone": config.build_module("backbone")}, {}
    )
    with pytest.raises(ValueError, match="only a geometry backbone"):
        NovelViewPipeline(backbone_alone)


def test_from_pretrained_opens_a_folder(bundle):
    assert NovelViewPipeline.from_pretrained(bundle.folder).bundle.config.name == "micro"
