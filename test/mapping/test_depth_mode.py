"""Mode depth over recordings: one set per image, metres by measurements, relative without them."""

import numpy as np
import pytest

from gld_ros.bags.reader import BagReader
from gld_ros.bags.writer import BagWriter
from gld_ros.cli.main import main
from gld_ros.mapping.model import ModelUnavailable, load_model
from gld_ros.mapping.provenance import Provenance
from gld_ros.messages.clouds import CLOUD_DTYPE
from gld_ros.ros.parameters.files import load_snapshot
from gld_ros.scenes.tour_bag import OPTICAL_FRAME, first_room_with_tour, write_tour_bag

IMAGES, HW = 8, (42, 56)
OBSERVED = "/gld/observed/"


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    """Eight images of a tour through a room, with depth of a depth camera and TF."""
    path = tmp_path_factory.mktemp("tour") / "tour"
    room = first_room_with_tour("narrow")
    write_tour_bag(path, "narrow", room, image_hw=HW, seconds=float(IMAGES), rate_hz=1.0)
    return path


def without(tour, path, dropped):
    """A copy of a bag without the topics that `dropped` says."""
    with BagReader(tour) as reader, BagWriter(path) as writer:
        kept = [topic for topic in reader.topics.values() if not dropped(topic.name)]
        for topic in kept:
            writer.add_topic(topic.name, topic.type, latched=topic.latched)
        for message in reader.raw_messages([topic.name for topic in kept]):
            writer.write_cdr(message.topic, message.stamp_ns, message.cdr)
    return path


def run(bag, output, bundle, *more):
    settings = ["device=cpu", "depth.min_confidence=0.0"]
    words = [word for setting in settings for word in ("--set", setting)]
    return main(["bag", str(bag), str(output), "--bundle", str(bundle), *words, *more])


def made(output):
    """Messages by topic below `observed`, and by stamp."""
    found = {}
    with BagReader(output) as bag:
        products = bag.topics.keys() - {"/tf"}
        assert all(topic.startswith(OBSERVED) for topic in products)
        for message in bag.messages(products):
            of_topic = found.setdefault(message.topic.removeprefix(OBSERVED), {})
            of_topic[message.stamp_ns] = message.content
    return found


def pixels(message, dtype=np.float32):
    return np.frombuffer(message.data, dtype).reshape(message.height, message.width)


@pytest.fixture(scope="module")
def with_depth_camera(tour, backbone_alone, tmp_path_factory):
    output = tmp_path_factory.mktemp("depth") / "out"
    assert run(tour, output, backbone_alone.folder) == 0
    return output


def test_every_image_gets_one_set_of_its_own_stamp_and_frame(with_depth_camera, tour):
    found = made(with_depth_camera)
    with BagReader(tour) as bag:
        stamps = {m.stamp_ns for m in bag.raw_messages(["/camera/image_raw"])}
    assert len(stamps) == IMAGES
    assert found.keys() == {
        *("depth/image", "depth/camera_info", "confidence/image", "provenance/image", "points"),
        *("relative_depth/image", "relative_depth/camera_info"),
    }
    for topic, messages in found.items():
        assert messages.keys() == stamps, topic
        assert {m.header.frame_id for m in messages.values()} == {OPTICAL_FRAME}, topic


def test_pixels_of_a_depth_camera_are_measured_and_labelled_as_such(with_depth_camera, tour):
    found = made(with_depth_camera)
    with BagReader(tour) as bag:
        truth = {m.stamp_ns: pixels(m.content) for m in bag.messages(["/camera/depth/image_raw"])}
    for stamp_ns, message in found["depth/image"].items():
        depth_m, labels = pixels(message), pixels(found["provenance/image"][stamp_ns], np.uint8)
        measured = labels == Provenance.MEASURED
        assert measured.mean() > 0.8
        error = np.abs(depth_m[measured] / truth[stamp_ns][measured] - 1)
        assert np.median(error) < 0.02
        assert set(np.unique(labels)) <= {
            Provenance.UNKNOWN,
            Provenance.MEASURED,
            Provenance.COMPLETED,
        }
        assert ((labels == Provenance.UNKNOWN) == np.isnan(depth_m)).all()
        cloud = np.frombuffer(found["points"][stamp_ns].data, CLOUD_DTYPE)
        np.testing.assert_array_equal(cloud["provenance"].reshape(HW), labels)


def test_the_same_bag_gives_the_same_bytes(with_depth_camera, tour, backbone_alone, tmp_path):
    again = tmp_path / "out"
    assert run(tour, again, backbone_alone.folder, "--compare", str(with_depth_camera)) == 0


def test_a_camera_alone_gets_relative_depth_and_no_metres(tour, backbone_alone, tmp_path, capsys):
    alone = without(tour, tmp_path / "alone", lambda topic: "tf" in topic or "depth" in topic)
    assert run(alone, tmp_path / "out", backbone_alone.folder) == 0
    printed = capsys.readouterr().out
    assert f"depth of {IMAGES} (0 in metres, the others relative)" in printed
    assert f"{IMAGES} images without a pose: unknown" in printed
    found = made(tmp_path / "out")
    assert found.keys() == {
        *("relative_depth/image", "relative_depth/camera_info", "confidence/image"),
    }
    for stamp_ns, message in found["relative_depth/image"].items():
        assert np.median(pixels(message)) == pytest.approx(1.0, abs=1e-3)
        confidence = pixels(found["confidence/image"][stamp_ns])
        assert ((confidence > 0) & (confidence <= 1)).all()


def test_a_depth_camera_gives_metres_without_tf(tour, backbone_alone, tmp_path, capsys):
    rgbd = without(tour, tmp_path / "rgbd", lambda topic: "tf" in topic)
    assert run(rgbd, tmp_path / "out", backbone_alone.folder) == 0
    assert f"depth of {IMAGES} ({IMAGES} in metres" in capsys.readouterr().out
    assert len(made(tmp_path / "out")["points"]) == IMAGES


def test_a_fixed_scale_multiplies_the_models_depth(tour, backbone_alone, tmp_path):
    common = ("--set", "depth.source=model", "--set", "scale.mode=fixed", "--set", "depth.max=1e4")
    depths_m = []
    for scale in (1.0, 2.0):
        output = tmp_path / f"by{scale:g}"
        assert (
            run(
                tour,
                output,
                backbone_alone.folder,
                *common,
                "--set",
                f"scale.fixed_value={scale}",
                "--set",
                "depth.min=0.0",
            )
            == 0
        )
        depths_m.append(np.stack([pixels(m) for m in made(output)["depth/image"].values()]))
    np.testing.assert_allclose(depths_m[1], 2 * depths_m[0], rtol=1e-5)


def test_a_rate_below_the_cameras_leaves_images_out_and_counts_them(
    tour, backbone_alone, tmp_path, capsys
):
    assert run(tour, tmp_path / "out", backbone_alone.folder, "--set", "depth.rate=0.5") == 0
    assert f"{IMAGES // 2} images skipped: depth.rate" in capsys.readouterr().out
    assert len(made(tmp_path / "out")["depth/image"]) == IMAGES // 2


def test_the_embedded_bundle_runs_in_mode_depth(tour, tmp_path):
    assert run(tour, tmp_path / "out", "tiny", "--mode", "depth") == 0
    assert len(made(tmp_path / "out")["depth/image"]) == IMAGES


def test_views_of_a_backbone_alone_are_refused_with_what_to_do(
    tour, backbone_alone, tmp_path, capsys
):
    assert run(tour, tmp_path / "out", backbone_alone.folder, "--mode", "views") == 1
    error = capsys.readouterr().err
    assert "has only a geometry backbone and imagines no views" in error
    assert "use mode depth or auto" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("setting", "words"),
    [("mode=views", "use mode depth or auto"), ("scale.mode=tf_baseline", "one image at a time")],
)
def test_a_model_that_cannot_do_what_is_asked_is_unavailable(backbone_alone, setting, words):
    settings = [f"model.bundle={backbone_alone.folder}", "device=cpu", setting]
    with pytest.raises(ModelUnavailable, match=words):
        load_model(load_snapshot(None, settings).session)
