"""Arrays that are published, and the geometry of clouds through the whole chain with an oracle."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gld_ros.geometry.crop_resize import gld_crop_resize
from gld_ros.geometry.poses import transform_points
from gld_ros.mapping.clouds import cloud_from_depth, voxel_filtered
from gld_ros.mapping.composition import color_image
from gld_ros.mapping.frames import shrink_to_fit
from gld_ros.mapping.make_products import (
    broken_fraction,
    make_products,
    rep117_depth,
)
from gld_ros.mapping.prepared_surfaces import PreparedSurfaces
from gld_ros.mapping.products import ALL_PRODUCTS, Product, ProductParameters, UnusableOutput
from gld_ros.mapping.provenance import Provenance
from gld_ros.mapping.scale import MetricScale, ScaleParameters, measure_from_views
from gld_ros.mapping.synthesizer import OracleSynthesizer
from gld_ros.measuring.surfaces import MeasuredScene, Surface
from gld_ros.messages.clouds import CLOUD_DTYPE
from gld_ros.view_request import NovelViews, View, ViewRequest

HW = (48, 64)
EVERYTHING = ALL_PRODUCTS | {Product.MERGED_POINTS}


def xyz(cloud):
    return np.stack([cloud[axis] for axis in "xyz"], -1)


def finished(steps):
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def synthesize(room, keyframes, targets, metres_per_unit=3.3, **options):
    request = ViewRequest(
        images=[k.image for k in keyframes],
        K_px_ref=np.stack([k.K_px for k in keyframes]),
        T_world_cam_ref=np.stack([k.T_fixed_cam for k in keyframes]),
        K_px_target=np.stack([t.K_px for t in targets]),
        T_world_cam_target=np.stack([t.T_fixed_cam for t in targets]),
        target_hw=[t.image_hw for t in targets],
        **options,
    )
    oracle = OracleSynthesizer(room, metres_per_unit=metres_per_unit, frame_seed=7)
    return finished(oracle.run(request))


def measured(views, keyframes):
    scale = MetricScale(ScaleParameters())
    return scale.update(measure_from_views(views.references, keyframes, ScaleParameters()), 10**9)


@pytest.fixture(scope="module")
def scene(room, keyframe_of, camera_at, target_of):
    """Two keyframes, two targets, what an oracle makes of them, and the measured scale."""
    keyframes = (
        keyframe_of(camera_at(-1.0, 0.3, yaw=0.1), 2.0, hw=HW),
        keyframe_of(camera_at(-1.2, -0.4, yaw=-0.1), 1.0, hw=HW),
    )
    targets = (
        target_of(camera_at(-1.0, 0.8, yaw=-0.2), HW),
        target_of(camera_at(-0.8, 0.0, yaw=0.5), (36, 60)),
    )
    views = synthesize(room, keyframes, targets)
    return views, keyframes, targets, measured(views, keyframes)


def products_of(scene, wanted=ALL_PRODUCTS, **parameters):
    views, keyframes, targets, scale = scene
    return make_products(
        views, keyframes, targets, (0, 1), scale, ProductParameters(**parameters), wanted
    )


def test_scale_is_recovered_from_the_poses_alone(scene):
    assert scene[3].metric
    assert scene[3].scale == pytest.approx(3.3, rel=1e-6)


def test_predicted_points_lie_on_true_surfaces_in_the_fixed_frame(room, scene):
    products = products_of(scene)
    for slot, view in enumerate(products.predicted):
        assert len(view.points) > 1000
        assert room.surface_distance(xyz(view.points)).max() < 0.01
        assert (view.points["view"] == slot).all()
        truth = room.colour(xyz(view.points))
        bits = view.points["rgb"]
        colours = np.stack([bits >> 16, bits >> 8 & 255, bits & 255], -1) / 255
        assert np.abs(colours - truth).max() < 0.01


def test_observed_points_lie_on_true_surfaces_in_the_camera_frame(room, scene):
    products = products_of(scene)
    observed = products.observed
    assert observed.keyframe is scene[1][0]  # the newest
    assert observed.points.shape == HW
    in_fixed = transform_points(observed.keyframe.T_fixed_cam, xyz(observed.points))
    assert room.surface_distance(in_fixed).max() < 0.01
    assert (observed.points["provenance"] == Provenance.COMPLETED).all()
    assert (observed.points["z"] == observed.depth_m).all()


@pytest.mark.parametrize("route", ["resized", "cropped", "official"])
def test_crops_and_resizes_leave_points_where_they_are(
    room, keyframe_of, camera_at, target_of, route
):
    """Images that are cut and resized between camera and model still give true points."""
    full = [keyframe_of(camera_at(-1.0, y), 2.0 - y, hw=(100, 150)) for y in (0.0, 0.5)]
    keyframes = []
    for k in full:
        image, K_px = k.image, k.K_px
        if route == "resized":
            image, K_px = shrink_to_fit(image, K_px, (41, 77))
        elif route == "cropped":
            image, K_px = image[13:80, 20:], K_px - [[0, 0, 20], [0, 0, 13], [0, 0, 0]]
        else:
            image, K_px = gld_crop_resize(image, K_px, (42, 70))
        keyframes.append(
            keyframe_of(k.T_fixed_cam, k.stamp_ns / 1e9, hw=image.shape[:2], K_px=K_px)
        )
        # What the renderer sees there is what the resampled image shows.
        difference = np.abs(keyframes[-1].image.astype(int) - image.astype(int))
        assert np.median(difference) <= 2
    targets = [target_of(camera_at(-1.0, 0.2), (30, 50))]
    views = synthesize(room, keyframes, targets)
    products = make_products(
        views, keyframes, targets, (0,), measured(views, keyframes), ProductParameters(), EVERYTHING
    )
    assert room.surface_distance(xyz(products.predicted[0].points)).max() < 0.01
    assert room.surface_distance(xyz(products.merged_points)).max() < 0.01
    observed = products.observed
    in_fixed = transform_points(observed.keyframe.T_fixed_cam, xyz(observed.points).reshape(-1, 3))
    assert room.surface_distance(in_fixed).max() < 0.01


def test_wrong_scale_would_be_seen(room, scene):
    views, keyframes, targets, _ = scene
    wrong = MetricScale(ScaleParameters(mode="fixed", fixed_value=3.2)).state(0)
    products = make_products(views, keyframes, targets, (0, 1), wrong, ProductParameters())
    assert np.median(room.surface_distance(xyz(products.predicted[0].points))) > 0.02


def test_contradicted_depth_does_not_leave_by_default(room, keyframe_of, camera_at, target_of):
    keyframes = [keyframe_of(camera_at(-1.0, y), 2.0 - y, hw=HW) for y in (0.0, 0.5)]
    targets = [target_of(camera_at(-1.0, 0.2), HW)]
    views = synthesize(room, keyframes, targets)
    ghost = views.targets[0].depth.copy()
    ghost[10:30, 10:40] *= 0.5  # something that no real view saw in front of what they see
    haunted = NovelViews(views.references, (changed(views.targets[0], depth=ghost),), 0, {})
    scale = measured(views, keyframes)
    clean = make_products(haunted, keyframes, targets, (3,), scale, ProductParameters())
    view = clean.predicted[0]
    assert view.quality.contradicted == pytest.approx(600 / (48 * 64), abs=0.02)
    assert room.surface_distance(xyz(view.points)).max() < 0.01
    assert (view.provenance[12:28, 12:38] == Provenance.CONTRADICTED).all()
    contradicted = view.provenance == Provenance.CONTRADICTED
    assert np.isnan(view.depth_m[contradicted]).all()
    assert np.isnan(view.confidence[contradicted]).all()
    assert np.isfinite(view.depth_m[view.provenance == Provenance.CORROBORATED]).all()
    asked = ProductParameters(predicted_provenance=frozenset({Provenance.CONTRADICTED}))
    ghosts = make_products(haunted, keyframes, targets, (3,), scale, asked).predicted[0].points
    assert (ghosts["provenance"] == Provenance.CONTRADICTED).all()
    assert (ghosts["view"] == 3).all()
    assert len(ghosts) == (view.provenance == Provenance.CONTRADICTED).sum()


def changed(view, **arrays):
    fields = {name: getattr(view, name) for name in View.__dataclass_fields__}
    return View(**(fields | arrays))


def test_without_scale_only_colour_leaves(scene):
    views, keyframes, targets, _ = scene
    unknown = MetricScale(ScaleParameters(mode="none")).state(0)
    products = make_products(
        views, keyframes, targets, (0, 1), unknown, ProductParameters(), EVERYTHING
    )
    for view in products.predicted:
        assert view.color.dtype == np.uint8
        assert (view.provenance == Provenance.UNKNOWN).all()
        assert view.depth_m is view.confidence is view.points is None
    assert products.observed is products.merged_points is None
    assert Product.PREDICTED_DEPTH in products.withheld
    assert Product.PREDICTED_COLOR not in products.withheld


def test_a_guess_leaves_only_if_the_user_wants_it(scene):
    views, keyframes, targets, _ = scene
    guess = MetricScale(ScaleParameters()).update(
        measure_from_views(views.references, keyframes, ScaleParameters(max_dispersion=0.0)), 0
    )
    brave = ProductParameters(withhold_if_unresolved=False)
    assert make_products(views, keyframes, targets, (0, 1), guess, brave).predicted[0].points.size
    nothing = MetricScale(ScaleParameters()).state(0)  # not even a guess
    products = make_products(views, keyframes, targets, (0, 1), nothing, brave)
    assert products.predicted[0].depth_m is None


def test_only_what_is_wanted_is_made(scene):
    for product, holder, name in [
        (Product.PREDICTED_COLOR, "predicted", "color"),
        (Product.PREDICTED_DEPTH, "predicted", "depth_m"),
        (Product.PREDICTED_CONFIDENCE, "predicted", "confidence"),
        (Product.PREDICTED_PROVENANCE, "predicted", "provenance"),
        (Product.PREDICTED_POINTS, "predicted", "points"),
        (Product.OBSERVED_DEPTH, "observed", "depth_m"),
        (Product.OBSERVED_CONFIDENCE, "observed", "confidence"),
        (Product.OBSERVED_POINTS, "observed", "points"),
    ]:
        products = products_of(scene, frozenset({product}))
        made = set()
        for kind, owner in (("predicted", products.predicted[0]), ("observed", products.observed)):
            for field in ("color", "depth_m", "confidence", "provenance", "points"):
                if owner is not None and getattr(owner, field, None) is not None:
                    made.add((kind, field))
        assert made == {(holder, name)}
    nothing = products_of(scene, frozenset())
    assert nothing.predicted[0].quality.corroborated == 0.0


def test_what_may_clear_a_map_can_be_had_alone(room, scene):
    """Depth that the model completes is not in the image, not in the cloud, not in its labels."""
    views, keyframes, targets, scale = scene
    surfaces = []
    for keyframe in keyframes:
        _, depth_m = room(keyframe.T_fixed_cam, keyframe.K_px, HW)
        depth_m = depth_m.copy()
        depth_m[:, 20:] = np.nan  # what the sensor missed
        sure = np.ones(HW, np.float32)
        surfaces.append(Surface(keyframe.image, keyframe.K_px, keyframe.T_fixed_cam, depth_m, sure))
    around = MeasuredScene(tuple(surfaces), tuple(surfaces))

    def observed(*labels):
        parameters = ProductParameters(observed_provenance=frozenset(labels))
        return make_products(
            *(views, keyframes, targets, (0, 1), scale, parameters), EVERYTHING, around
        )

    both = observed(Provenance.MEASURED, Provenance.COMPLETED).observed
    alone = observed(Provenance.MEASURED)
    measured_px = both.provenance == Provenance.MEASURED
    assert 0.1 < measured_px.mean() < 0.9
    assert (both.provenance[~measured_px] == Provenance.COMPLETED).any()
    found = alone.observed
    np.testing.assert_array_equal(found.depth_m[measured_px], both.depth_m[measured_px])
    assert np.isnan(found.depth_m[~measured_px]).all()
    assert np.isnan(found.confidence[~measured_px]).all()
    assert (found.provenance[~measured_px] == Provenance.UNKNOWN).all()
    assert np.isfinite(found.points["z"]).any()
    assert np.isnan(found.points["z"][~measured_px]).all()
    merged = alone.merged_points["provenance"]
    assert Provenance.MEASURED in merged
    assert Provenance.COMPLETED not in merged


def test_what_an_earlier_job_prepared_changes_nothing(room, scene):
    views, keyframes, targets, scale = scene
    surfaces = []
    for keyframe in keyframes:
        _, depth_m = room(keyframe.T_fixed_cam, keyframe.K_px, HW)
        sure = np.ones(HW, np.float32)
        surfaces.append(Surface(keyframe.image, keyframe.K_px, keyframe.T_fixed_cam, depth_m, sure))
    around = MeasuredScene(tuple(surfaces), tuple(surfaces))
    prepared = PreparedSurfaces()

    def made(prepared):
        return make_products(
            *(views, keyframes, targets, (0, 1), scale, ProductParameters()),
            measured=around,
            prepared=prepared,
        )

    first, again, anew = made(prepared), made(prepared), made(None)
    assert first.predicted[0].quality.measured > 0.5
    for one, other in ((again, first), (anew, first)):
        for a, b in zip(one.predicted, other.predicted, strict=True):
            for name in ("color", "depth_m", "confidence", "provenance", "points"):
                assert getattr(a, name).tobytes() == getattr(b, name).tobytes(), name
    assert prepared.sources(surfaces) == prepared.sources(surfaces)  # kept, not made again
    assert prepared.seers(surfaces, 0.05) == prepared.seers(surfaces, 0.05)


def test_quality_shares_add_up(scene):
    for view in products_of(scene).predicted:
        quality = view.quality
        total = quality.corroborated + quality.hallucinated + quality.contradicted
        assert total == pytest.approx(1.0)
        assert quality.mean_confidence == pytest.approx(1.0)


def test_depth_says_what_rep_117_says():
    depth_m = np.array([[0.05, 1.0, 40.0, np.nan, 1.0, -1.0, 40.0]], np.float32)
    confidence = np.array([[0.9, 0.9, 0.9, 0.9, 0.1, 0.9, np.nan]], np.float32)
    published = rep117_depth(depth_m, confidence, ProductParameters())
    nan, inf = np.nan, np.inf
    np.testing.assert_array_equal(published, [[-inf, 1.0, inf, nan, nan, nan, nan]])


def test_confidence_is_nan_where_depth_is(scene):
    views, keyframes, targets, scale = scene
    confidence = np.full(HW, 0.5, np.float32)
    confidence[:10] = 0.2
    depth = views.targets[0].depth.copy()
    depth[20] = 100.0
    target = changed(views.targets[0], confidence=confidence, depth=depth)
    unsure = NovelViews(views.references, (target,), 0, {})
    view = make_products(
        unsure, keyframes, targets[:1], (0,), scale, ProductParameters()
    ).predicted[0]
    assert np.isnan(view.depth_m[:10]).all()
    assert (view.depth_m[20] == np.inf).all()
    np.testing.assert_array_equal(np.isnan(view.confidence), np.isnan(view.depth_m))
    assert np.isfinite(xyz(view.points)).all()  # dense: neither NaN nor sky
    assert len(view.points) <= HW[1] * (HW[0] - 11)


def test_a_view_with_many_broken_pixels_is_refused(scene):
    views, keyframes, targets, scale = scene
    for bad in (np.nan, np.inf, -1.0):
        depth = views.targets[1].depth.copy()
        depth.ravel()[: depth.size // 25] = bad  # 4 %: blanked
        sound = NovelViews(
            views.references, (views.targets[0], changed(views.targets[1], depth=depth)), 0, {}
        )
        products = make_products(sound, keyframes, targets, (0, 1), scale, ProductParameters())
        assert products.predicted[1].quality.broken == pytest.approx(0.04, abs=0.001)
        depth.ravel()[: depth.size // 15] = bad  # 6.7 %
        with pytest.raises(UnusableOutput, match="view 3"):
            make_products(sound, keyframes, targets, (0, 1), scale, ProductParameters())


def test_references_without_colours_are_not_broken(scene):
    views, keyframes, targets, scale = scene
    blank = tuple(changed(view, rgb=np.full_like(view.rgb, np.nan)) for view in views.references)
    lean = NovelViews(blank, views.targets, 0, {})
    products = make_products(lean, keyframes, targets, (0, 1), scale, ProductParameters())
    expected = products_of(scene)
    assert products.observed.points.tobytes() == expected.observed.points.tobytes()
    assert products.predicted[0].color.tobytes() == expected.predicted[0].color.tobytes()


def test_pixels_outside_the_models_view_are_not_broken(scene):
    view = scene[0].targets[0]
    depth, confidence, rgb = view.depth.copy(), view.confidence.copy(), view.rgb.copy()
    depth[:20], confidence[:20], rgb[:20] = np.nan, 0.0, np.nan
    assert broken_fraction(changed(view, depth=depth, confidence=confidence, rgb=rgb)) == 0.0
    blind = changed(view, confidence=np.zeros(HW, np.float32))
    assert broken_fraction(blind) == 1.0
    assert (color_image(rgb)[:20] == 0).all()


def test_samples_that_disagree_hide_what_is_only_imagined(scene):
    views, keyframes, targets, scale = scene
    spread = np.full(HW, 1.0, np.float32)
    wide = NovelViews(views.references, (changed(views.targets[0], spread=spread),), 0, {})
    calm = products_of(scene).predicted[0]
    view = make_products(wide, keyframes, targets[:1], (0,), scale, ProductParameters()).predicted[
        0
    ]
    imagined = calm.provenance == Provenance.HALLUCINATED
    assert imagined.any()
    assert np.isnan(view.depth_m[imagined]).all()
    assert (view.provenance[imagined] == Provenance.UNKNOWN).all()
    np.testing.assert_array_equal(view.depth_m[~imagined], calm.depth_m[~imagined])


def test_cloud_layout_is_what_readers_expect():
    offsets = {name: CLOUD_DTYPE.fields[name][1] for name in CLOUD_DTYPE.names}
    assert offsets == {
        "x": 0,
        "y": 4,
        "z": 8,
        "rgb": 12,
        "confidence": 16,
        "provenance": 20,
        "view": 21,
    }
    assert CLOUD_DTYPE.itemsize == 24
    rgb = np.array([[[255, 128, 1]]], np.uint8)
    cloud = cloud_from_depth(
        np.array([[2.0]]), np.eye(3), np.eye(4), rgb, np.array([[0.5]]), Provenance.MEASURED, 9
    )
    assert cloud.tobytes() == (
        np.array([0, 0, 2], "<f4").tobytes()
        + bytes([1, 128, 255, 0])
        + np.array([0.5], "<f4").tobytes()
        + bytes([1, 9, 0, 0])
    )


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5), st.integers(0, 2**31))
def test_clouds_hold_exactly_the_chosen_points(height, width, stride, seed):
    rng = np.random.default_rng(seed)
    depth_m = rng.uniform(1, 5, (height, width)).astype(np.float32)
    depth_m[rng.random((height, width)) < 0.3] = rng.choice([np.nan, np.inf, -np.inf])
    keep = rng.random((height, width)) < 0.7
    rgb = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    confidence = rng.random((height, width)).astype(np.float32)
    labels = rng.integers(0, 5, (height, width)).astype(np.uint8)
    K_px = np.array([[30.0, 0.5, 19.0], [0, 31.0, 20.0], [0, 0, 1]])
    T = np.eye(4)
    T[:3, 3] = [1, 2, 3]
    cloud = cloud_from_depth(depth_m, K_px, T, rgb, confidence, labels, 2, stride=stride, keep=keep)
    expected = []
    for v in range(0, height, stride):
        for u in range(0, width, stride):
            if keep[v, u] and np.isfinite(depth_m[v, u]):
                point = np.linalg.solve(K_px, [u, v, 1.0]) * depth_m[v, u] + [1, 2, 3]
                r, g, b = (int(c) for c in rgb[v, u])
                colour = r << 16 | g << 8 | b
                expected.append((*point, colour, confidence[v, u], labels[v, u], 2))
    expected = np.array(expected, CLOUD_DTYPE)
    assert len(cloud) == len(expected)
    np.testing.assert_allclose(xyz(cloud), xyz(expected), rtol=1e-5, atol=1e-4)
    for name in ("rgb", "confidence", "provenance", "view"):
        np.testing.assert_array_equal(cloud[name], expected[name])
    organized = cloud_from_depth(
        depth_m, K_px, T, rgb, confidence, labels, 2, stride=stride, keep=keep, organized=True
    )
    assert organized.shape == depth_m[::stride, ::stride].shape
    points = np.frombuffer(organized.tobytes(), "V24")
    assert points[np.isfinite(organized["z"]).ravel()].tobytes() == cloud.tobytes()
    assert np.isnan(xyz(organized[~np.isfinite(organized["z"])])).all()


def test_a_voxel_keeps_its_most_confident_point():
    cloud = np.zeros(5, CLOUD_DTYPE)
    cloud["x"] = [0.01, 0.09, 0.11, -0.01, 0.05]
    cloud["confidence"] = [0.5, 0.9, 0.1, 0.2, 0.9]
    filtered = voxel_filtered(cloud, 0.1)
    assert filtered.tobytes() == np.frombuffer(cloud.tobytes(), "V24")[[1, 2, 3]].tobytes()
    assert voxel_filtered(cloud, 0.0) is cloud
    assert voxel_filtered(cloud[:0], 0.1).size == 0


def test_strides_and_voxels_thin_clouds_but_not_images(scene):
    coarse = products_of(scene, stride=4, voxel_size_m=0.2, organized_observed=False)
    fine = products_of(scene)
    assert 0 < len(coarse.predicted[0].points) < len(fine.predicted[0].points) / 10
    assert coarse.observed.points.ndim == 1
    assert np.isfinite(xyz(coarse.observed.points)).all()
    assert coarse.predicted[0].depth_m.shape == HW
    assert products_of(scene, stride=4).observed.points.shape == (12, 16)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"depth_min_m": 5.0, "depth_max_m": 2.0}, "depth.min 5.0"),
        ({"stride": 0}, "cloud.stride is 0"),
        ({"voxel_size_m": -1.0}, "cloud.voxel_size"),
    ],
)
def test_contradictory_parameters_are_refused(limits, message):
    with pytest.raises(ValueError, match=message):
        ProductParameters(**limits)


@pytest.mark.slow
def test_a_million_points_are_packed_quickly():
    hw = (1000, 1000)
    depth_m, rgb = np.ones(hw, np.float32), np.zeros((*hw, 3), np.uint8)
    confidence, labels = np.ones(hw, np.float32), np.full(hw, 2, np.uint8)
    seconds = []
    for _ in range(5):
        started = time.process_time()
        cloud_from_depth(depth_m, np.eye(3), np.eye(4), rgb, confidence, labels, 0)
        seconds.append(time.process_time() - started)
    assert min(seconds) < 0.06  # alone on a core: half of it
