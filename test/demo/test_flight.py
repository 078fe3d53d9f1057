"""`gld-ros fly`: a bag flown through, its film, and what a user may get wrong."""

import json

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from gld_ros.bags.reader import BagReader
from gld_ros.cli.main import main
from gld_ros.demo.flight import FlightOptions, fly, summary, write_flight
from gld_ros.demo.tour import ROOM_DOMAIN
from gld_ros.demo.video import tinted, video_frame
from gld_ros.mapping.model import LoadedModel
from gld_ros.mapping.model_fault import fault_of
from gld_ros.mapping.provenance import Provenance
from gld_ros.mapping.synthesizer import OracleSynthesizer
from gld_ros.ros.parameters.files import load_snapshot
from gld_ros.scenes.rooms import render_room_views
from gld_ros.scenes.tour_bag import first_room_with_tour, write_tour_bag

HW = (60, 80)


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    path = tmp_path_factory.mktemp("tour") / "tour"
    room = first_room_with_tour(ROOM_DOMAIN)
    write_tour_bag(path, ROOM_DOMAIN, room, image_hw=HW, seconds=3.0, rate_hz=5.0)
    return path


def rendered(T_world_cam, K_px, image_hw):
    pose, K = (torch.from_numpy(np.array(x))[None].float() for x in (T_world_cam, K_px))
    views = render_room_views(first_room_with_tour(ROOM_DOMAIN), ROOM_DOMAIN, pose, K, image_hw)
    rgb = (views["images"][0].permute(1, 2, 0) * 255).round().byte().numpy()
    return rgb, views["depth_m"][0].numpy()


@pytest.fixture(scope="module")
def flight(tour):
    parameters = load_snapshot(None, ["fixed_frame=map", "depth.source=camera"]).session
    model = LoadedModel(OracleSynthesizer(rendered), {}, HW, fault_of)
    stages = {}
    with BagReader(tour) as reader:
        flown = fly(
            reader,
            model,
            parameters,
            FlightOptions(num_views=8, off_path=0.2),
            lambda stage, done, total: stages.update({stage: (done, total)}),
        )
    assert stages["views"] == (8, 8)
    assert stages["bag"][0] == stages["bag"][1]
    return flown


def test_every_view_is_made_of_measured_surfaces_and_the_model(flight):
    assert len(flight.views) == 8
    assert not flight.failures
    figures = summary(flight)
    assert figures["mean_shares"]["measured"] > 0.3
    assert figures["mean_shares"]["measured"] < 1.0
    assert sum(figures["mean_shares"].values()) == pytest.approx(1.0, abs=0.01)


def test_views_show_the_place(flight):
    for view in flight.views:
        truth, _ = rendered(view.T_fixed_cam, flight_K_px(), view.color.shape[:2])
        assert np.abs(view.color.astype(float) - truth).mean() < 25


def flight_K_px():
    from gld_ros.scenes.rooms.cameras import pinhole_from_fov
    from gld_ros.scenes.rooms.tour import find_tour

    tour = find_tour(ROOM_DOMAIN, first_room_with_tour(ROOM_DOMAIN))
    return pinhole_from_fov(tour.horizontal_fov, HW)


def test_the_film_has_every_view(flight, tmp_path):
    told = write_flight(flight, tmp_path / "out", 10.0, frames=True)
    with Image.open(tmp_path / "out" / "fly.gif") as gif:
        assert gif.n_frames == 8
        assert gif.size[0] == 2 * HW[1]
    assert len(list((tmp_path / "out" / "frames").glob("*.png"))) == 8
    assert len(json.loads((tmp_path / "out" / "summary.json").read_text())["by_view"]) == 8
    for name in ("fly.webm", "fly.mp4"):
        if f"no {name}" not in " ".join(told):
            film = cv2.VideoCapture(str(tmp_path / "out" / name))
            assert int(film.get(cv2.CAP_PROP_FRAME_COUNT)) == 8
            assert film.read()[0]


def test_measured_pixels_keep_their_colour_and_imagined_ones_are_tinted():
    image = np.full((40, 60, 3), 128, np.uint8)
    labels = np.full((40, 60), Provenance.MEASURED, np.uint8)
    labels[:, 30:] = Provenance.HALLUCINATED
    result = tinted(image, labels)
    assert (result[:, :30] == 128).all()
    red, _, blue = result[0, 45].astype(int)
    assert red > blue + 40
    frame = video_frame(image, labels)
    assert frame.shape[1] == 120
    assert (frame[:40, :60] == image).all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--views", "1"], "--views is 1; allowed are 2 to 1000"),
        (["--off-path", "2"], "--off-path is 2.0; allowed are 0"),
        (["--fps", "0"], "--fps is 0.0; allowed are 1 to 60"),
        (["--camera", "nose"], "--camera is 'nose'; the bag has: camera"),
        (["--set", "depth.source=magic"], "depth.source"),
    ],
)
def test_wrong_arguments_are_explained(tour, tmp_path, capsys, arguments, said):
    assert main(["fly", str(tour), "--out", str(tmp_path / "out"), *arguments]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_bag_is_named(tmp_path, capsys):
    assert main(["fly", str(tmp_path / "none")]) == 1
    assert str(tmp_path / "none") in capsys.readouterr().err
