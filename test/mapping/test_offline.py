"""A bag through the node's logic without a graph: true, complete, and the same bytes every time."""

import numpy as np
import pytest
import torch

from gld_ros.bags.cameras import bag_cameras
from gld_ros.bags.reader import BagReader
from gld_ros.bags.writer import BagWriter
from gld_ros.cli.main import main
from gld_ros.geometry.poses import rigid_transform
from gld_ros.mapping.model import LoadedModel
from gld_ros.mapping.offline import NODE_NAMESPACE, OfflineRun, bags_differ, write_jobs
from gld_ros.mapping.product_messages import offered_topics
from gld_ros.mapping.provenance import Provenance
from gld_ros.mapping.scale import ScaleSource
from gld_ros.mapping.synthesizer import OracleSynthesizer
from gld_ros.mapping.worker import fault_of
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


def run_offline(tour, rendered, output, *settings):
    with BagReader(tour) as reader:
        overrides = [*SETTINGS, *settings]
        parameters = load_snapshot(None, overrides, [c.name for c in bag_cameras(reader)]).session
        model = LoadedModel(OracleSynthesizer(rendered), {}, IMAGE_HW, fault_of)
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


def test_two_bags_that_differ_are_told_apart(oracle_run, tour):
    _, _, output = oracle_run
    assert not bags_differ(output, output)
    assert "only in" in bags_differ(output, tour)["/gld/views"]


def test_a_vggt_bundle_imagines_a_bag_and_repeats_itself(tour, tmp_path, save_vggt_bundle, capsys):
    bundle = save_vggt_bundle(tmp_path / "bundle")
    common = ["--bundle", str(bundle.folder)]
    for setting in ("scale.mode=fixed", "device=cpu", *SETTINGS[2:], "policy.rate=0.4"):
        common += ["--set", setting]
    first, again = tmp_path / "one" / "views", tmp_path / "two" / "views"
    assert main(["bag", str(tour), str(first), *common]) == 0
    assert "RANDOM weights" in capsys.readouterr().out
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
