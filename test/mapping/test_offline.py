"""A bag through the node's logic without a graph: true, complete, and the same bytes every time."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from gld_ros.bags.cameras import bag_cameras
from gld_ros.bags.reader import BagReader
from gld_ros.bags.writer import BagWriter
from gld_ros.cli.main import main
from gld_ros.geometry.poses import rigid_transform
from gld_ros.mapping import fault_log
from gld_ros.mapping.model import LoadedModel
from gld_ros.mapping.model_fault import fault_of
from gld_ros.mapping.offline import NODE_NAMESPACE, OfflineRun, bags_differ, write_jobs
from gld_ros.mapping.product_messages import offered_topics
from gld_ros.mapping.provenance import Provenance
from gld_ros.mapping.scale import ScaleSource
from gld_ros.mapping.synthesizer import OracleSynthesizer
from gld_ros.messages.depth_images import depth_m_from_message
from gld_ros.messages.images import rgb_from_image
from gld_ros.ros.parameters.files import load_snapshot
from gld_ros.scenes.rooms import render_room_views
from gld_ros.scenes.tour_bag import OPTICAL_FRAME, first_room_with_tour, write_tour_bag

DOMAIN, IMAGE_HW = "narrow", (42, 56)
SETTINGS = [
    "fixed_frame=map",
    "policy.type=look_around",
    "policy.yaw_offsets=[0.2, -0.2]",
    "keyframes.min_interval=0.0",
    "keyframes.max_angular_velocity=100.0",
    "depth.min_confidence=0.0",
    # What the oracle shows is compared pixel by pixel; measured surfaces are resampled.
    "depth.source=model",
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def room():
    return first_room_with_tour(DOMAIN)


@pytest.fixture(scope="module")
def tour(room, tmp_path_factory):
    """A bag of eight images on a tour through a room."""
    path = tmp_path_factory.mktemp("tour") / "tour"
    write_tour_bag(path, DOMAIN, room, image_hw=IMAGE_HW, seconds=8.0, rate_hz=1.0)
    return path


@pytest.fixture(scope="module")
def rendered(room):
    def render(T_world_cam, K_px, image_hw):
        pose, K = (torch.from_numpy(np.asarray(x))[None].float() for x in (T_world_cam, K_px))
        views = render_room_views(room, DOMAIN, pose, K, image_hw)
        rgb = (views["images"][0].permute(1, 2, 0) * 255).round().byte().numpy()
        return rgb, views["depth_m"][0].numpy()

    return render


def run_offline(tour, rendered, output, *settings, synthesizer=None):
    with BagReader(tour) as reader:
        overrides = [*SETTINGS, *settings]
        parameters = load_snapshot(None, overrides, [c.name for c in bag_cameras(reader)]).session
        model = LoadedModel(synthesizer or OracleSynthesizer(rendered), {}, IMAGE_HW, fault_of)
        offline = OfflineRun(reader, model, parameters)
        jobs = list(write_jobs(offline.jobs(), output, parameters.frames))
    return offline, jobs


@pytest.fixture(scope="module")
def oracle_run(tour, rendered, tmp_path_factory):
    output = tmp_path_factory.mktemp("oracle") / "views"
    return *run_offline(tour, rendered, output), output


def by_topic(path):
    messages = {}
    with BagReader(path) as bag:
        for message in bag.messages():
            messages.setdefault(message.topic, []).append(message)
        return messages, set(bag.topics)


def stamp_ns(header):
    return header.stamp.sec * 10**9 + header.stamp.nanosec


def test_every_image_counts_and_every_job_is_written(oracle_run):
    offline, jobs, output = oracle_run
    assert offline.summary.images == 8
    assert offline.summary.keyframes == 8
    assert offline.summary.jobs == len(jobs) > 0
    assert offline.summary.metric_jobs > 0
    assert offline.summary.failed_jobs == 0
    assert not offline.summary.dropped
    messages, topics = by_topic(output)
    assert topics == {"/tf"} | {
        f"{NODE_NAMESPACE}/{name}"
        for name in offered_topics("views", merged=True)
        if not name.endswith("compressed")
    }
    assert len(messages["/gld/views"]) == len(messages["/tf"]) == len(jobs)
    assert len(messages["/gld/predicted/color/image"]) == offline.summary.views


def test_stamps_are_those_of_images_and_frames_those_of_views(oracle_run, tour):
    _, jobs, output = oracle_run
    with BagReader(tour) as bag:
        images = {m.stamp_ns for m in bag.raw_messages(["/camera/image_raw"])}
    messages, _ = by_topic(output)
    anchors = {job.request.anchor.stamp_ns for job in jobs}
    assert anchors <= images
    for name, frames in (
        ("predicted/color/image", {"gld_view_0_optical", "gld_view_1_optical"}),
        ("predicted/depth/image", {"gld_view_0_optical", "gld_view_1_optical"}),
        ("predicted/points", {"map"}),
        ("observed/depth/image", {OPTICAL_FRAME}),
        ("observed/points", {OPTICAL_FRAME}),
    ):
        found = messages[f"{NODE_NAMESPACE}/{name}"]
        assert {m.content.header.frame_id for m in found} <= frames, name
        assert {stamp_ns(m.content.header) for m in found} <= anchors, name
        assert all(stamp_ns(m.content.header) == m.stamp_ns for m in found), name


def test_what_the_room_shows_at_the_tf_of_a_view_is_its_image_and_depth(oracle_run, rendered):
    _, _, output = oracle_run
    messages, _ = by_topic(output)

    def keyed(name):
        found = messages[f"{NODE_NAMESPACE}/{name}"]
        return {(m.content.header.frame_id, m.stamp_ns): m.content for m in found}

    colours, infos = keyed("predicted/color/image"), keyed("predicted/color/camera_info")
    depths = keyed("predicted/depth/image")
    placed = 0
    for message in messages["/tf"]:
        for transform in message.content.transforms:
            assert transform.header.frame_id == "map"
            if transform.child_frame_id == OPTICAL_FRAME:  # of the anchor, not of a view
                continue
            key = transform.child_frame_id, message.stamp_ns
            K_px = infos[key].k.reshape(3, 3)
            hw = infos[key].height, infos[key].width
            rgb, depth_m = rendered(pose_of(transform.transform), K_px, hw)
            shown = rgb_from_image(colours[key]).rgb.astype(int)
            assert np.abs(shown - rgb).mean() < 1.0
            if key in depths:
                found_m = depth_m_from_message(depths[key])
                seen = np.isfinite(found_m)
                assert seen.mean() > 0.5
                assert np.median(np.abs(found_m - depth_m)[seen]) < 0.01
                placed += 1
    assert placed > 0


def pose_of(transform):
    from scipy.spatial.transform import Rotation

    q, t = transform.rotation, transform.translation
    R = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
    return rigid_transform(R, np.array([t.x, t.y, t.z]))


def files_of(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_the_same_bag_gives_the_same_bytes(oracle_run, tour, rendered, tmp_path):
    _, _, first = oracle_run
    run_offline(tour, rendered, tmp_path / "again" / first.name)
    again = files_of(tmp_path / "again" / first.name)
    assert again.keys() == files_of(first).keys()
    assert [name for name, data in files_of(first).items() if again[name] != data] == []


def test_targets_that_every_job_leaves_out_are_told_once(
    tour, rendered, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(fault_log, "THROTTLE_S", 0.0)
    _, jobs = run_offline(tour, rendered, tmp_path / "out", "sampler.max_targets=1")
    assert len(jobs) > 1
    assert caplog.text.count("1 targets beyond sampler.max_targets (1) are left out") == 1


def copy_with_late_infos(tour, path, *, infos):
    """Copy a bag so that every CameraInfo comes after its image, and only the first `infos`."""
    with BagReader(tour) as reader, BagWriter(path) as writer:
        for topic in reader.topics.values():
            writer.add_topic(topic.name, topic.type, latched=topic.latched)
        for message in reader.raw_messages():
            stamp_ns = message.stamp_ns
            if message.topic.endswith("/camera_info"):
                stamp_ns += 1_000_000
                if "depth" not in message.topic:
                    infos -= 1
                    if infos < 0:
                        continue
            writer.write_cdr(message.topic, stamp_ns, message.cdr)


@pytest.mark.parametrize(("infos", "dropped"), [(8, {}), (6, {"no_info": 2})])
def test_an_image_before_its_own_info_is_used_or_counted(tour, rendered, tmp_path, infos, dropped):
    copy_with_late_infos(tour, tmp_path / "late", infos=infos)
    offline, jobs = run_offline(
        tmp_path / "late", rendered, tmp_path / "views", "camera_info.pairing=exact"
    )
    assert offline.summary.images == 8
    assert offline.summary.keyframes == infos
    assert offline.summary.dropped == dropped
    assert jobs


def test_depth_images_of_a_bag_are_measurements(tour, rendered, tmp_path):
    _, jobs = run_offline(tour, rendered, tmp_path / "views", "depth.source=camera")
    products = [made for job in jobs for made in job.products]
    assert products
    assert all(made.scale.source is ScaleSource.MEASURED for made in products)
    labels = np.concatenate([v.provenance.ravel() for made in products for v in made.predicted])
    assert (labels == Provenance.MEASURED).mean() > 0.3


@pytest.mark.parametrize("composite", [True, False])
def test_a_model_that_reads_measurements_is_shown_them_unless_its_view_alone_is_wanted(
    tour, rendered, tmp_path, composite
):
    shown = []

    class Reading(OracleSynthesizer):
        reads_measurements = True

        def run(self, request):
            shown.append(request.surfaces)
            return super().run(request)

    settings = ("depth.source=camera", f"color.composite={str(composite).lower()}")
    run_offline(tour, rendered, tmp_path / "views", *settings, synthesizer=Reading(rendered))
    assert shown
    assert all(bool(surfaces) is composite for surfaces in shown)
    for surfaces in shown:
        assert all(np.isfinite(surface.depth_m).mean() > 0.5 for surface in surfaces)


def test_two_bags_that_differ_are_told_apart(oracle_run, tour):
    _, _, output = oracle_run
    assert not bags_differ(output, output)
    assert "only in" in bags_differ(output, tour)["/gld/views"]


def test_a_vggt_bundle_imagines_a_bag_and_repeats_itself(tour, tmp_path, save_vggt_bundle, capsys):
    bundle = save_vggt_bundle(tmp_path / "bundle")
    common = ["--bundle", str(bundle.folder), "--every", "2"]
    for setting in ("scale.mode=fixed", "device=cpu", *SETTINGS[2:]):
        common += ["--set", setting]
    first, again = tmp_path / "one" / "views", tmp_path / "two" / "views"
    assert main(["bag", str(tour), str(first), *common]) == 0
    assert "RANDOM weights" in capsys.readouterr().err
    assert main(["bag", str(tour), str(again), *common, "--compare", str(first)]) == 0
    assert files_of(first) == files_of(again)
    messages, _ = by_topic(first)
    depths = messages["/gld/predicted/depth/image"]
    assert len(depths) == len(messages["/gld/predicted/color/image"]) > 0
    assert all(np.isfinite(depth_m_from_message(m.content)).any() for m in depths)
    assert all(m.content.scale.metric for m in messages["/gld/views"])


def test_a_stated_backend_refuses_a_bundle_of_another(tour, tmp_path, save_vggt_bundle, capsys):
    bundle = save_vggt_bundle(tmp_path / "bundle")
    output = tmp_path / "views"
    arguments = ["bag", str(tour), str(output), "--bundle", str(bundle.folder)]
    assert main([*arguments, "--set", "model.backend=da3"]) == 1
    error = capsys.readouterr().err
    assert "has backend 'vggt', but model.backend is 'da3'" in error
    assert "use 'auto' or 'vggt'" in error
    assert not output.exists()


def copy_with_topics(tour, path, **topics):
    """Copy a bag and record one message more per topic, ahead of all: name=(type, make)."""
    with BagReader(tour) as reader, BagWriter(path) as writer:
        for topic in reader.topics.values():
            writer.add_topic(topic.name, topic.type, latched=topic.latched)
        types = writer.types.__getitem__
        for name, (kind, make) in topics.items():
            writer.add_topic(f"/{name}", kind)
            writer.write(f"/{name}", reader.start_ns, make(types))
        for message in reader.raw_messages():
            writer.write_cdr(message.topic, message.stamp_ns, message.cdr)


def pose_message(types, x, y, z=0.0):
    return types("geometry_msgs/msg/Pose")(
        position=types("geometry_msgs/msg/Point")(x=x, y=y, z=z),
        orientation=types("geometry_msgs/msg/Quaternion")(x=0.0, y=0.0, z=0.0, w=1.0),
    )


def in_map(types):
    # Stamp 0: where the frame is when the message is used.
    stamp = types("builtin_interfaces/msg/Time")(sec=0, nanosec=0)
    return types("std_msgs/msg/Header")(stamp=stamp, frame_id="map")


def path_message(points):
    def make(types):
        poses = [
            types("geometry_msgs/msg/PoseStamped")(
                header=in_map(types), pose=pose_message(types, float(x), float(y))
            )
            for x, y in points
        ]
        return types("nav_msgs/msg/Path")(header=in_map(types), poses=poses)

    return "nav_msgs/msg/Path", make


def targets_message(points):
    def make(types):
        poses = [pose_message(types, float(x), float(y), 1.0) for x, y in points]
        return types("geometry_msgs/msg/PoseArray")(header=in_map(types), poses=poses)

    return "geometry_msgs/msg/PoseArray", make


def map_message(cells, resolution_m, x, y):
    def make(types):
        info = types("nav_msgs/msg/MapMetaData")(
            map_load_time=types("builtin_interfaces/msg/Time")(sec=0, nanosec=0),
            resolution=resolution_m,
            width=cells.shape[1],
            height=cells.shape[0],
            origin=pose_message(types, x, y),
        )
        return types("nav_msgs/msg/OccupancyGrid")(
            header=in_map(types), info=info, data=cells.astype(np.int8).ravel()
        )

    return "nav_msgs/msg/OccupancyGrid", make


@pytest.fixture(scope="module")
def driven(tour):
    """Where the base was, seen from above, at every image: (8, 2)."""
    with BagReader(tour) as bag:
        stamps = [m.stamp_ns for m in bag.raw_messages(["/camera/image_raw"])]
        buffer = bag.transforms()[0]
        return np.array([buffer.lookup("map", "base_link", s)[:2, 3] for s in stamps])


ALL_ALLOWED = ("guard.max_translation=10.0", "guard.max_rotation=3.1", "guard.min_overlap=0.0")


def target_centres(jobs):
    return [np.array([t.T_fixed_cam[:2, 3] for t in job.request.targets]) for job in jobs]


def test_path_ahead_follows_the_path_that_was_recorded(tour, driven, rendered, tmp_path):
    copy_with_topics(tour, tmp_path / "bag", plan=path_message(driven))
    settings = ("policy.type=path_ahead", "policy.path_spacing=0.3", *ALL_ALLOWED)
    _, jobs = run_offline(tmp_path / "bag", rendered, tmp_path / "views", *settings)
    assert len(jobs) > 3
    fine = np.concatenate(
        [a + (b - a) * np.linspace(0, 1, 100)[:, None] for a, b in pairwise(driven)]
    )
    for job, centres in zip(jobs, target_centres(jobs), strict=True):
        assert job.request.policy == "path_ahead"
        gaps_m = np.linalg.norm(fine[None] - centres[:, None], axis=2).min(axis=1)
        assert gaps_m.max() < 0.02
    # The base is where it was at the keyframe, not at the end of the bag.
    starts = np.array([centres[0] for centres in target_centres(jobs)])
    assert np.linalg.norm(np.diff(starts, axis=0), axis=1).min() > 0.1


def test_topic_takes_recorded_targets(tour, driven, rendered, tmp_path):
    wanted = driven[:2] + 0.1
    copy_with_topics(tour, tmp_path / "bag", targets=targets_message(wanted))
    settings = ("policy.type=topic", *ALL_ALLOWED)
    _, jobs = run_offline(tmp_path / "bag", rendered, tmp_path / "views", *settings)
    assert jobs
    for centres in target_centres(jobs):
        np.testing.assert_allclose(centres, wanted, atol=1e-9)


def test_frontier_takes_a_recorded_map(tour, driven, rendered, tmp_path):
    cells = np.zeros((40, 40), np.int8)
    cells[:, 20:] = -1
    x, y = driven[0] - 2.0
    copy_with_topics(tour, tmp_path / "bag", map=map_message(cells, 0.1, float(x), float(y)))
    settings = ("policy.type=frontier", *ALL_ALLOWED)
    _, jobs = run_offline(tmp_path / "bag", rendered, tmp_path / "views", *settings)
    assert jobs
    for centres in target_centres(jobs):
        np.testing.assert_allclose(centres[:, 0], x + 19.5 * 0.1, atol=1e-6)


def test_a_policy_without_its_topic_names_those_that_work(tour, rendered, tmp_path):
    expected = (
        r"path_ahead follows a nav_msgs/msg/Path, and bag .* has none; policies that it can "
        r"serve: look_around, stereo_baseline$"
    )
    with pytest.raises(ValueError, match=expected):
        run_offline(tour, rendered, tmp_path / "views", "policy.type=path_ahead")
    assert not (tmp_path / "views").exists()


def test_of_two_paths_one_has_to_be_named(tour, driven, rendered, tmp_path):
    paths = {name: path_message(driven) for name in ("local_plan", "global_plan")}
    copy_with_topics(tour, tmp_path / "bag", **paths)
    with pytest.raises(ValueError, match="/global_plan, /local_plan; name one"):
        run_offline(tmp_path / "bag", rendered, tmp_path / "views", "policy.type=path_ahead")


def test_policy_rate_is_no_limit_offline(tour, rendered, tmp_path):
    offline, jobs = run_offline(tour, rendered, tmp_path / "views", "policy.rate=0.01")
    assert len(jobs) == offline.summary.keyframes - 1  # the first has no partner
