"""A fly-through: a bag through the session, then views along a smooth path, as a video.

The views are goals like any other: measured surfaces where there are any, the model elsewhere.
"""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.bags.reader import BagReader
from gld_ros.demo.flight_path import flight_path
from gld_ros.demo.video import shares, video_frame, write_gif, write_video
from gld_ros.geometry.poses import distance_m
from gld_ros.mapping.frames import FloatArray, Keyframe, TargetCamera, shrink_to_fit
from gld_ros.mapping.job_planner import JobOptions, JobRejection
from gld_ros.mapping.model import LoadedModel
from gld_ros.mapping.offline import OfflineRun
from gld_ros.mapping.parameters import SessionParameters, whole_recording
from gld_ros.mapping.products import PredictedView, Product
from gld_ros.mapping.session import SynthesisSession

MAX_HW = (480, 640)  # of a view
_WANTED = frozenset({Product.PREDICTED_COLOR, Product.PREDICTED_PROVENANCE})

Progress = Callable[[str, int, int], None]  # stage, done, total


@dataclass(frozen=True)
class FlightOptions:
    """How to fly."""

    num_views: int = 60
    off_path: float = 0.15  # how far the recorded path is left, as a share of the scene's depth
    rate_hz: float = 12.0
    camera: str = ""  # whose path is followed; empty: the one with the most keyframes


@dataclass(frozen=True, eq=False)
class FlownView:
    """One view of the flight."""

    T_fixed_cam: FloatArray  # (4, 4)
    color: NDArray[np.uint8]  # (H, W, 3) RGB
    provenance: NDArray[np.uint8]  # (H, W)


@dataclass(frozen=True, eq=False)
class Flight:
    """The views of a flight, and what they were made from."""

    views: tuple[FlownView, ...]
    keyframes: int
    depth_m: float  # median of what was measured; NaN: nothing was, and the path is not left
    failures: tuple[str, ...]  # why views are missing
    seconds: dict[str, float]  # by stage


def fly(
    reader: BagReader,
    model: LoadedModel,
    parameters: SessionParameters,
    options: FlightOptions,
    progress: Progress = lambda stage, done, total: None,
) -> Flight:
    """Show a bag to a session and ask for views along a path through its keyframes.

    Raises ValueError when the bag has no such camera, or gives fewer than 2 keyframes.
    """
    seconds: dict[str, float] = {}
    start_s = time.monotonic()
    offline = OfflineRun(reader, model, whole_recording(parameters), wanted=_WANTED)
    done, total = 0, offline.num_messages

    def count() -> None:
        nonlocal done
        done += 1
        progress("bag", done, total)

    for _ in offline.jobs(count):
        pass  # there are no automatic jobs
    session = offline.session
    session.measurements.await_results(0.0)
    progress("bag", total, total)
    keyframes = _longest_stretch(session, options.camera)
    seconds["measuring"], start_s = time.monotonic() - start_s, time.monotonic()
    depth_m = _median_depth_m(session, keyframes)
    poses = [k.T_fixed_cam for k in keyframes]
    known = bool(np.isfinite(depth_m))
    # Where nothing was measured the length of the path stands for the scene's size.
    size_m = depth_m if known else max(distance_m(poses[0], T) for T in poses) or 1.0
    path = flight_path(poses, options.num_views, size_m, options.off_path if known else 0.0)
    views: list[FlownView] = []
    failures: list[str] = []
    at_once = parameters.sampler.max_targets
    for first in range(0, len(path), at_once):
        made = _views(offline, keyframes, path[first : first + at_once])
        if isinstance(made, str):
            failures.append(f"views {first} to {min(first + at_once, len(path)) - 1}: {made}")
        else:
            views += made
        progress("views", min(first + at_once, len(path)), len(path))
    seconds["views"] = time.monotonic() - start_s
    return Flight(tuple(views), len(keyframes), depth_m, tuple(failures), seconds)


def _longest_stretch(session: SynthesisSession, camera: str) -> list[Keyframe]:
    """The keyframes of one camera over the longest stretch of continuous poses, oldest first."""
    keyframes = session.store.snapshot()
    stretches: dict[tuple[str, int], list[Keyframe]] = defaultdict(list)
    for keyframe in keyframes:
        if camera in ("", keyframe.camera):
            stretches[keyframe.camera, keyframe.segment].append(keyframe)
    if not stretches and keyframes:
        there = ", ".join(sorted({k.camera for k in keyframes}))
        raise ValueError(f"no keyframes of camera {camera!r}; the bag gave some of: {there}")
    longest = max(stretches.values(), key=len, default=[])
    if len(longest) < 2:
        raise ValueError(
            f"the bag gave {len(longest)} keyframes and a path needs 2: the camera has to move, "
            "and TF has to place its images (gld-ros check BAG tells what is missing)"
        )
    return longest


def _median_depth_m(session: SynthesisSession, keyframes: Sequence[Keyframe]) -> float:
    """Median of everything that keyframes measured; NaN if that is nothing."""
    anywhere = [TargetCamera(keyframes[0].T_fixed_cam, keyframes[0].K_px, keyframes[0].image_hw)]
    surfaces = [s for s in session.measurements.scene(keyframes, anywhere).references if s]
    depths_m = [s.depth_m[np.isfinite(s.depth_m)] for s in surfaces]
    known = np.concatenate(depths_m) if depths_m else np.zeros(0)
    return float(np.median(known)) if known.size else float("nan")


def _views(
    offline: OfflineRun, keyframes: Sequence[Keyframe], poses: Sequence[FloatArray]
) -> list[FlownView] | str:
    """Views at neighbouring poses, asked for in one goal; or why there are none."""
    nearest = [min(keyframes, key=lambda k: distance_m(k.T_fixed_cam, T)) for T in poses]
    image, K_px = shrink_to_fit(nearest[0].image, nearest[0].K_px, MAX_HW)
    options = JobOptions(
        K_px,
        (image.shape[0], image.shape[1]),
        # References are no newer than the anchor.
        anchor_time_ns=max(k.stamp_ns for k in nearest),
        seed=1,  # the same for all: what is imagined changes less from view to view
        always_wanted=_WANTED,
        publish=False,
    )
    planned = offline.session.plan_goal(poses, options)
    if isinstance(planned, JobRejection):
        return planned.reason
    result = offline.run(planned)
    predicted = sorted((v for p in result.products for v in p.predicted), key=lambda v: v.slot)
    return [_flown(view) for view in predicted] or result.error_msg


def _flown(view: PredictedView) -> FlownView:
    if view.color is None or view.provenance is None:
        raise RuntimeError("colours and provenance were asked for and not made")
    return FlownView(view.target.T_fixed_cam, view.color, view.provenance)


def write_flight(flight: Flight, folder: Path, rate_hz: float, *, frames: bool) -> list[str]:
    """Write fly.gif, .webm and .mp4, summary.json and, if wanted, frames; returns what to tell."""
    folder.mkdir(parents=True, exist_ok=True)
    images = [video_frame(view.color, view.provenance) for view in flight.views]
    write_gif(images, folder / "fly.gif", rate_hz)
    films = [folder / "fly.webm", folder / "fly.mp4"]
    notes = [write_video(images, film, rate_hz) for film in films]
    if frames:
        (folder / "frames").mkdir(exist_ok=True)
        for i, image in enumerate(images):
            cv2.imwrite(str(folder / "frames" / f"{i:03d}.png"), image[..., ::-1])
    (folder / "summary.json").write_text(json.dumps(summary(flight), indent=1) + "\n")
    videos = [folder / "fly.gif", *(f for f, note in zip(films, notes, strict=True) if not note)]
    return [f"look at {', '.join(map(str, videos))}", *filter(None, notes)]


def summary(flight: Flight) -> dict[str, Any]:
    """Every figure of a flight, for programs."""
    by_view = [shares(view.provenance) for view in flight.views]
    names = by_view[0] if by_view else ()
    return {
        "views": len(flight.views),
        "keyframes": flight.keyframes,
        "median_depth_m": flight.depth_m if np.isfinite(flight.depth_m) else None,
        "seconds": {stage: round(s, 1) for stage, s in flight.seconds.items()},
        "mean_shares": {n: round(float(np.mean([v[n] for v in by_view])), 3) for n in names},
        "failures": list(flight.failures),
        "by_view": [
            {
                "T_fixed_cam": np.round(view.T_fixed_cam, 4).tolist(),
                "shares": {name: round(share, 3) for name, share in of.items()},
            }
            for view, of in zip(flight.views, by_view, strict=True)
        ],
    }
