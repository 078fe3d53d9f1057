"""What would be published at withheld frames of a recording: a session run over the others.

The protocol of the demonstration without a graph: frames are withheld together with everything
within half a second of them, all other frames go through a session, and views at the withheld
cameras are then requested as goals. Owns the run and the images to compare; figures are in
`recording_figures`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rosbags.typesys import Stores, get_typestore

from gld_ros.bags.reader import IMAGE_TYPE
from gld_ros.evaluation.withheld import COMPARED_HW, nearest_camera, withheld_frames
from gld_ros.geometry.crop_resize import resized_intrinsics
from gld_ros.geometry.poses import quaternion_xyzw
from gld_ros.mapping.cameras import CameraState
from gld_ros.mapping.fault_log import FaultLog
from gld_ros.mapping.frames import FloatArray, TargetCamera, shrink_to_fit
from gld_ros.mapping.job_planner import JobOptions, JobRejection
from gld_ros.mapping.jobs import JobResult
from gld_ros.mapping.model import LoadedModel
from gld_ros.mapping.parameters import SessionParameters, whole_recording
from gld_ros.mapping.products import Product
from gld_ros.mapping.scale import resample_sensor_depth
from gld_ros.mapping.session import SynthesisSession
from gld_ros.measuring.joining import inpainted_view
from gld_ros.measuring.levels import level_hw
from gld_ros.measuring.rendering import render_surfaces
from gld_ros.measuring.surfaces import sure_depth
from gld_ros.messages.camera_info import camera_info_message
from gld_ros.messages.images import image_message
from gld_ros.messages.stamps import make_header
from gld_ros.messages.transforms import TransformBuffer
from gld_ros.scenes.recording import Frame, Recording
from gld_ros.scenes.visibility import DepthViews, visible_from

_CAMERA, _FIXED_FRAME, _CAMERA_FRAME = "camera", "map", "camera_optical_frame"
_TYPES = get_typestore(Stores.ROS2_KILTED).types.__getitem__
# Depth of the given frames is looked up at this size; within this share of a withheld frame's depth
# it is the same surface.
_SEEN_HW, _SAME_SURFACE = (120, 160), 0.05
_WANTED = frozenset(
    {
        Product.PREDICTED_COLOR,
        Product.PREDICTED_DEPTH,
        Product.PREDICTED_CONFIDENCE,
        Product.PREDICTED_PROVENANCE,
        Product.OBSERVED_DEPTH,
        Product.OBSERVED_CONFIDENCE,
    }
)


@dataclass(frozen=True, eq=False)
class WithheldFrame:
    """One withheld frame and what was published, or could have been, in its place.

    Images are (H, W, 3) uint8 RGB of one size; depth in metres, NaN where there is none.
    """

    stamp_ns: int
    true_image: NDArray[np.uint8]
    true_depth_m: FloatArray | None  # (H, W)
    images: dict[str, NDArray[np.uint8]]  # by method
    depth_m: NDArray[np.float32] | None  # of the composite, as published; None: withheld
    confidence: NDArray[np.float32] | None  # of that depth
    provenance: NDArray[np.uint8]  # (H, W) of the composite
    # (H, W) whether a shown frame sees the surface, where the truth is known; all False otherwise
    seen: NDArray[np.bool_]
    hidden: NDArray[np.bool_]  # (H, W) known not to be seen
    rejection: str = ""  # why there is no composite


@dataclass(frozen=True, eq=False)
class ObservedDepth:
    """Published depth of a real image with its confidence, and the sensor's."""

    depth_m: NDArray[np.float32]  # (H, W)
    confidence: NDArray[np.float32]  # (H, W)
    true_depth_m: FloatArray  # (H, W)


@dataclass(frozen=True, eq=False)
class RecordingRun:
    """A session over one recording."""

    name: str
    num_shown: int
    num_keyframes: int
    withheld: tuple[WithheldFrame, ...]
    observed: tuple[ObservedDepth, ...]  # of the goals' newest references, completed by the model
    measured: tuple[ObservedDepth, ...]  # of all keyframes: what may be published as measured


def run_recording(
    recording: Recording,
    model: LoadedModel,
    parameters: SessionParameters,
    num_goals: int,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
    largest_hw: tuple[int, int] = COMPARED_HW,
) -> RecordingRun:
    """Run a recording through a session and request views at its withheld cameras.

    Views are at most `largest_hw` pixels. The session gets the recording's depth only if
    `depth_source` is "camera" or "auto"; it is the truth in any case. Raises ValueError for fewer
    than 4 frames.
    """
    if len(recording) < 4:
        raise ValueError(f"{recording.scene_id} has {len(recording)} frames; 4 are needed")
    stamps_ns = [int(stamp) for stamp in recording.stamps_ns]
    withheld, hidden = withheld_frames(stamps_ns, num_goals)
    shown = [i for i in range(len(recording)) if i not in hidden]
    session = _session(recording, model, parameters)
    for done, i in enumerate(shown):
        _show(session, recording.load(i), parameters)
        progress("frames", done + 1, len(shown))
    session.end_of_input()
    depths = _depth_views(recording, shown)
    frames, observed = [], {}
    for done, i in enumerate(withheld):
        nearest = shown[nearest_camera(recording.T_world_cam[shown], recording.T_world_cam[i])]
        frame, result = _asked_for(
            session, recording.load(i), recording.load(nearest), depths, largest_hw
        )
        frames.append(frame)
        if result is not None:
            observed.update(_observed(result, recording, stamps_ns))
        progress("goals", done + 1, len(withheld))
    return RecordingRun(
        recording.scene_id,
        len(shown),
        len(session.store.snapshot()),
        tuple(frames),
        tuple(observed.values()),
        _measured(session, recording, stamps_ns),
    )


def keyframes_as_published(
    recording: Recording, model: LoadedModel, parameters: SessionParameters
) -> Iterator[tuple[ObservedDepth, NDArray[np.uint8]]]:
    """Show a whole recording and yield the observed depth of every keyframe, and its provenance.

    Keyframes without published or true depth are left out. As in `run_recording`, the recording's
    depth is only the truth if `depth_source` is "stereo". Raises ValueError if the session rejects
    a keyframe's own view.
    """
    session = _session(recording, model, parameters)
    for i in range(len(recording)):
        _show(session, recording.load(i), parameters)
    session.end_of_input()
    stamps_ns = [int(stamp) for stamp in recording.stamps_ns]
    wanted = _WANTED | {Product.OBSERVED_PROVENANCE}
    for keyframe in session.store.snapshot():
        options = JobOptions(
            keyframe.K_px,
            COMPARED_HW,
            anchor_time_ns=keyframe.stamp_ns,
            seed=1,
            always_wanted=wanted,
            publish=False,
        )
        planned = session.plan_goal([keyframe.T_fixed_cam], options)
        if isinstance(planned, JobRejection):
            raise ValueError(f"no view at keyframe {keyframe.stamp_ns}: {planned.reason}")
        result = session.run(planned)
        observed = result.products[-1].observed if result.products else None
        for depth in _observed(result, recording, stamps_ns).values():
            assert observed is not None
            assert observed.provenance is not None  # it was wanted
            yield depth, observed.provenance


def _session(
    recording: Recording, model: LoadedModel, parameters: SessionParameters
) -> SynthesisSession:
    """A session that keeps everything and rejects no goal for its distance."""
    transforms = TransformBuffer(cache_time_s=inf)
    for T_world_cam, stamp_ns in zip(recording.T_world_cam, recording.stamps_ns, strict=True):
        rotation_xyzw = quaternion_xyzw(T_world_cam[:3, :3])
        transforms.insert(
            _FIXED_FRAME, _CAMERA_FRAME, T_world_cam[:3, 3], rotation_xyzw, int(stamp_ns)
        )
    return SynthesisSession(
        model,
        {_CAMERA: CameraState(_CAMERA, "camera/image", compressed=False)},
        replace(whole_recording(parameters), frames=replace(parameters.frames, fixed=_FIXED_FRAME)),
        transforms,
        FaultLog(lambda level, text: None),
        now_ns=lambda: int(recording.stamps_ns[-1]),
        wanted=lambda: _WANTED,
    )


def _show(session: SynthesisSession, frame: Frame, parameters: SessionParameters) -> None:
    header = make_header(frame.stamp_ns, _CAMERA_FRAME, _TYPES)
    hw = (frame.rgb.shape[0], frame.rgb.shape[1])
    session.camera_info(_CAMERA, camera_info_message(frame.K_px, hw, header, _TYPES))
    if frame.depth_m is not None and parameters.depth_source in ("auto", "camera"):
        depth = image_message(frame.depth_m, "32FC1", header, _TYPES(IMAGE_TYPE))
        session.depth_image(_CAMERA, depth)
    session.image(_CAMERA, image_message(frame.rgb, "rgb8", header, _TYPES(IMAGE_TYPE)))
    session.place_images()


def _asked_for(
    session: SynthesisSession,
    truth: Frame,
    nearest: Frame,
    shown: DepthViews | None,
    largest_hw: tuple[int, int],
) -> tuple[WithheldFrame, JobResult | None]:
    """The view at a withheld camera by every method; no result if the goal was rejected."""
    image, K_px = shrink_to_fit(truth.rgb, truth.K_px, largest_hw)
    image_hw = (image.shape[0], image.shape[1])
    true_depth_m = None
    if truth.depth_m is not None:
        true_depth_m = resample_sensor_depth(truth.depth_m, truth.K_px, K_px, image_hw)
    seen, hidden = _seen_and_hidden(shown, true_depth_m, K_px, truth.T_world_cam, image_hw)
    copied, _ = shrink_to_fit(nearest.rgb, nearest.K_px, largest_hw)
    mean = nearest.rgb.reshape(-1, 3).mean(0).round().astype(np.uint8)
    images = {"copy nearest": np.array(copied), "mean colour": np.broadcast_to(mean, image.shape)}
    target = TargetCamera(truth.T_world_cam, K_px, image_hw)
    options = JobOptions(
        K_px, image_hw, anchor_time_ns=truth.stamp_ns, seed=1, always_wanted=_WANTED, publish=False
    )
    planned = session.plan_goal([target.T_fixed_cam], options)
    nothing = np.zeros(image_hw, np.uint8)
    result = None if isinstance(planned, JobRejection) else session.run(planned)
    if isinstance(planned, JobRejection) or result is None or not result.products:
        why = planned.reason if isinstance(planned, JobRejection) else ""
        if result is not None:
            why = result.error_msg
        return WithheldFrame(
            truth.stamp_ns, image, true_depth_m, images, None, None, nothing, seen, hidden, why
        ), None
    measured = session.measurements.scene(planned.request.keyframes, [target]).surfaces
    rendered = render_surfaces(measured, K_px, target.T_fixed_cam, image_hw)
    images["measured, inpainted"], _ = inpainted_view(rendered)
    images["model alone"] = _model_alone(session, target, options)
    view = result.products[-1].predicted[0]
    if view.color is not None:
        images["composite"] = view.color
    provenance = nothing if view.provenance is None else view.provenance
    return (
        WithheldFrame(
            truth.stamp_ns,
            image,
            true_depth_m,
            images,
            view.depth_m,
            view.confidence,
            provenance,
            seen,
            hidden,
        ),
        result,
    )


def _depth_views(recording: Recording, indices: Sequence[int]) -> DepthViews | None:
    """True depth and cameras of frames, small; None for a recording without depth."""
    depths, Ks, poses = [], [], []
    for i in indices:
        frame = recording.load(i)
        if frame.depth_m is None:
            continue
        hw = level_hw(frame.depth_m.shape, _SEEN_HW, 1)
        scales = hw[1] / frame.depth_m.shape[1], hw[0] / frame.depth_m.shape[0]
        depth_m = cv2.resize(frame.depth_m, hw[::-1], interpolation=cv2.INTER_NEAREST)
        depths.append(np.nan_to_num(depth_m))
        Ks.append(resized_intrinsics(frame.K_px, *scales))
        poses.append(frame.T_world_cam)
    return _views(depths, Ks, poses) if depths else None


def _seen_and_hidden(
    shown: DepthViews | None,
    true_depth_m: FloatArray | None,
    K_px: FloatArray,
    T_world_cam: FloatArray,
    image_hw: tuple[int, int],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which pixels (H, W) of a withheld view any given frame sees, and which none does."""
    if shown is None or true_depth_m is None:
        unknown = np.zeros(image_hw, bool)
        return unknown, unknown
    known = np.isfinite(true_depth_m) & (true_depth_m > 0)
    target = _views([np.where(known, true_depth_m, 0.0)], [K_px], [T_world_cam])
    seen = visible_from(shown, target, _SAME_SURFACE)[0, 0].numpy()
    return seen, known & ~seen


def _views(
    depths_m: Sequence[FloatArray], Ks_px: Sequence[FloatArray], T_world_cams: Sequence[FloatArray]
) -> DepthViews:
    """Views of one scene; depth 0 is unknown."""
    return DepthViews(
        *(
            torch.from_numpy(np.stack(values)[None].astype(np.float32))
            for values in (depths_m, Ks_px, T_world_cams)
        )
    )


def _model_alone(
    session: SynthesisSession, target: TargetCamera, options: JobOptions
) -> NDArray[np.uint8]:
    """The same goal without measured surfaces in the view."""
    parameters = session.parameters
    session.set_parameters(
        replace(parameters, products=replace(parameters.products, composite=False))
    )
    planned = session.plan_goal([target.T_fixed_cam], options)
    session.set_parameters(parameters)
    if isinstance(planned, JobRejection):
        raise RuntimeError(f"the same goal was accepted before: {planned.reason}")
    color = session.run(planned).products[-1].predicted[0].color
    if color is None:
        raise RuntimeError("colours were asked for and not made")
    return color


def _measured(
    session: SynthesisSession, recording: Recording, stamps_ns: Sequence[int]
) -> tuple[ObservedDepth, ...]:
    """Measured depth of all keyframes whose true depth is known."""
    found = []
    for keyframe in session.store.snapshot():
        target = TargetCamera(keyframe.T_fixed_cam, keyframe.K_px, COMPARED_HW)
        (surface,) = session.measurements.scene([keyframe], [target]).references
        frame = recording.load(stamps_ns.index(keyframe.stamp_ns))
        if surface is None or frame.depth_m is None:
            continue
        hw = surface.depth_m.shape
        scales = hw[1] / surface.image.shape[1], hw[0] / surface.image.shape[0]
        K_px = resized_intrinsics(surface.K_px, *scales)
        true_m = resample_sensor_depth(frame.depth_m, frame.K_px, K_px, hw)
        found.append(ObservedDepth(sure_depth(surface), surface.confidence, true_m))
    return tuple(found)


def _observed(
    result: JobResult, recording: Recording, stamps_ns: Sequence[int]
) -> dict[int, ObservedDepth]:
    """The published depth of a result's newest reference, by its stamp, if its truth is known."""
    observed = result.products[-1].observed if result.products else None
    if observed is None or observed.depth_m is None or observed.confidence is None:
        return {}
    stamp_ns = observed.keyframe.stamp_ns
    frame = recording.load(stamps_ns.index(stamp_ns))
    if frame.depth_m is None:
        return {}
    hw = (observed.depth_m.shape[0], observed.depth_m.shape[1])
    true_m = resample_sensor_depth(frame.depth_m, frame.K_px, observed.K_px, hw)
    return {stamp_ns: ObservedDepth(observed.depth_m, observed.confidence, true_m)}
