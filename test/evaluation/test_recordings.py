"""A session over a recording: what is hidden stays hidden, and what is measured is shown."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from gld_ros.evaluation.recording_figures import (
    figures_table,
    recording_figures,
    write_recording_grid,
)
from gld_ros.evaluation.recordings import keyframes_as_published, run_recording
from gld_ros.mapping.model import LoadedModel
from gld_ros.mapping.model_fault import fault_of
from gld_ros.mapping.provenance import Provenance
from gld_ros.mapping.synthesizer import OracleSynthesizer
from gld_ros.ros.parameters.files import load_snapshot
from gld_ros.scenes.recording import Frame, Recording

HW = (96, 128)
K_PX = np.array([[110.0, 0, 63.5], [0, 110.0, 47.5], [0, 0, 1]])
WALL_M, PX_PER_M = 2.0, 200
START_NS = 1_700_000_000 * 10**9


def wall(T_world_cam, K_px, image_hw):
    """A random texture on the plane z = WALL_M; the cameras look along z."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 255, (160, 300, 3)).astype(np.uint8)
    texture = cv2.resize(coarse, None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC)
    v, u = np.indices(image_hw, np.float64)
    x_m = (u - K_px[0, 2]) / K_px[0, 0] * WALL_M + T_world_cam[0, 3]
    y_m = (v - K_px[1, 2]) / K_px[1, 1] * WALL_M + T_world_cam[1, 3]
    column = (x_m * PX_PER_M + 600).astype(np.float32)
    row = (y_m * PX_PER_M + 640).astype(np.float32)
    rgb = cv2.remap(texture, column, row, cv2.INTER_LINEAR)
    return rgb.astype(np.float32) / 255.0, np.full(image_hw, WALL_M, np.float32)


def grey_wall(T_world_cam, K_px, image_hw):
    """What a model imagines that knows the wall's depth and not its texture."""
    return np.full((*image_hw, 3), 0.5, np.float32), wall(T_world_cam, K_px, image_hw)[1]


@pytest.fixture(scope="module")
def recording():
    poses = np.tile(np.eye(4), (16, 1, 1))
    poses[:, 0, 3] = 0.12 * np.arange(16)
    stamps_ns = START_NS + 200_000_000 * np.arange(16)

    def load(i: int) -> Frame:
        rgb, depth_m = wall(poses[i], K_PX, HW)
        return Frame((255 * rgb).astype(np.uint8), K_PX, poses[i], depth_m, int(stamps_ns[i]))

    return Recording("wall", True, poses, stamps_ns, load)


@pytest.fixture(scope="module")
def run(recording):
    grey = OracleSynthesizer(
        lambda T, K, hw: (0.5 * np.ones((*hw, 3), np.float32), wall(T, K, hw)[1])
    )
    parameters = load_snapshot(None, ["depth.source=stereo"]).session
    return run_recording(recording, LoadedModel(grey, {}, HW, fault_of), parameters, 1)


def test_a_withheld_view_shows_what_other_frames_have_measured(run):
    figures = recording_figures(run)
    assert figures["withheld"] == figures["metric_goals"] == 1
    assert figures["measured_share"] > 0.6
    composite = figures["psnr_db"]["composite"]["all"]
    assert composite > figures["psnr_db"]["copy nearest"]["all"] + 5
    assert composite > figures["psnr_db"]["model alone"]["all"] + 5
    assert figures["target_depth"]["measured"]["median"] < 0.01
    assert figures["keyframe_depth"]["coverage"] > 0.5
    assert figures["keyframe_depth"]["median"] < 0.01


def test_what_is_near_a_withheld_frame_is_not_shown(recording, run):
    assert run.num_shown < len(recording) - 1


def test_the_recordings_own_depth_is_shown_only_as_a_depth_cameras(recording):
    oracle = OracleSynthesizer(wall)
    parameters = load_snapshot(None, ["depth.source=model"]).session
    blind = run_recording(recording, LoadedModel(oracle, {}, HW, fault_of), parameters, 1)
    assert recording_figures(blind)["measured_share"] == 0


def test_what_no_shown_frame_sees_counts_as_hidden(recording):
    poses = recording.T_world_cam.copy()
    withheld = 8
    poses[withheld, 1, 3] = -0.9  # above all others, by half of what a camera sees of the wall

    def load(i: int) -> Frame:
        rgb, depth_m = wall(poses[i], K_PX, HW)
        return Frame((255 * rgb).astype(np.uint8), K_PX, poses[i], depth_m, int(stamps_ns[i]))

    stamps_ns = recording.stamps_ns
    raised = Recording("wall", True, poses, stamps_ns, load)
    parameters = load_snapshot(None, ["depth.source=model"]).session
    run = run_recording(
        raised, LoadedModel(OracleSynthesizer(wall), {}, HW, fault_of), parameters, 1
    )
    (frame,) = run.withheld
    assert frame.stamp_ns == stamps_ns[withheld]
    assert frame.hidden.mean() == pytest.approx(0.9 / (WALL_M * HW[0] / K_PX[1, 1]), abs=0.03)
    assert frame.hidden[: HW[0] // 3].all()
    assert not (frame.hidden & frame.seen).any()
    figures = recording_figures(run)
    assert figures["psnr_db"]["composite"]["hidden"] > 30  # the model knows the wall
    assert figures["psnr_db"]["copy nearest"]["hidden"] < 20


def test_keyframes_are_published_as_measured_and_completed(recording):
    parameters = load_snapshot(None, ["depth.source=stereo"]).session
    model = LoadedModel(OracleSynthesizer(wall), {}, HW, fault_of)
    published = list(keyframes_as_published(recording, model, parameters))
    assert len(published) > 5
    labels = np.stack([labels for _, labels in published])
    depth_m = np.stack([depth.depth_m for depth, _ in published])
    measured, completed = labels == Provenance.MEASURED, labels == Provenance.COMPLETED
    assert measured.mean() > 0.6
    assert np.median(np.abs(depth_m[measured] / WALL_M - 1)) < 0.02
    assert np.isfinite(depth_m[measured | completed]).all()


def test_calibration_tells_how_often_depth_of_a_confidence_is_correct(run):
    def with_confidence(confidence, factor):
        (frame,) = run.withheld
        return replace(
            frame,
            depth_m=np.float32(factor * frame.true_depth_m),
            confidence=np.full_like(frame.depth_m, confidence),
        )

    frames = (with_confidence(0.75, 1.02), with_confidence(0.75, 1.5), with_confidence(0.97, 1.01))
    figures = recording_figures(replace(run, withheld=frames, measured=()))
    assert figures["calibration"]["keyframes"] == []
    doubtful, sure = figures["calibration"]["target"]
    assert (doubtful["from"], doubtful["to"]) == (0.7, 0.8)
    assert (sure["from"], sure["to"]) == (0.95, 1.0)
    assert doubtful["share"] == pytest.approx(2 / 3)
    assert doubtful["correct"] == pytest.approx(0.5)
    assert doubtful["over_20_percent"] == pytest.approx(0.5)
    assert sure["correct"] == 1.0
    assert sure["median"] == pytest.approx(0.01, abs=1e-4)
    assert "0.7 to 0.8" in figures_table(figures)


def test_figures_are_written_for_people_and_programs(run, tmp_path: Path):
    figures = recording_figures(run)
    json.dumps(figures)
    text = figures_table(figures)
    assert "composite" in text
    assert "observed" in text
    write_recording_grid([run], tmp_path / "grid.png")
    assert cv2.imread(str(tmp_path / "grid.png")).shape[1] > 5 * 200


def test_too_short_recordings_are_named(recording, run):
    short = Recording(
        "short", True, recording.T_world_cam[:3], recording.stamps_ns[:3], recording.load
    )
    with pytest.raises(ValueError, match="short has 3 frames; 4"):
        run_recording(short, None, None, 1)
