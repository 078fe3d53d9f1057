"""What the keyframes of a session have measured: depth cameras first, posed neighbours next.

Owns the ring of recent images that serve as stereo partners, the queue of keyframes that wait to be
measured, its thread, and the results. Keyframes wait for the images that follow them, since
partners on both sides see more of what a keyframe shows; a job that needs results does not wait
for them. How depth is measured is in `gld_ros.measuring`; what is made of it in `postprocess`.
"""

import atexit
import logging
import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Condition, Thread

import numpy as np

from gld_ros.geometry.poses import distance_m, turn_rad
from gld_ros.mapping.depth_camera_check import BothMeasured, DepthCameraCheck
from gld_ros.mapping.frames import CameraFrame, Keyframe, TargetCamera
from gld_ros.mapping.keyframe_measurement import KeyframeMeasurement, confirmed, nearest_measured
from gld_ros.mapping.measured_frame import (
    camera_depth,
    camera_over_stereo,
    measured_surface,
    posed_image,
)
from gld_ros.mapping.parameters import DepthSource
from gld_ros.mapping.placed_frame import PlacedFrame
from gld_ros.mapping.pose_check import PoseCheck
from gld_ros.mapping.stereo_device import StereoDevice
from gld_ros.mapping.stereo_partners import (
    LATER_PARTNERS,
    stereo_partners,
    up_to_later_partners,
)
from gld_ros.measuring.agreement import Agreement, image_pose_agreement
from gld_ros.measuring.carried import carried_depth, filled_surface
from gld_ros.measuring.consistency import MeasuredImage
from gld_ros.measuring.depth_camera_agreement import (
    DepthCameraAgreement,
    depth_camera_agreement,
)
from gld_ros.measuring.depth_range import depth_range
from gld_ros.measuring.frames import MeasuredDepth, PosedImage, nothing_measured
from gld_ros.measuring.measure import MeasuringParameters
from gld_ros.measuring.surfaces import MeasuredScene, Surface

log = logging.getLogger(__name__)

RING = 24  # recent images per camera
WAITING = 4  # keyframes that could be measured; when there are more, the oldest is not
SCENE_KEYFRAMES = 24  # nearest to a target, of which the view is rendered
# Depths that are searched, as multiples of the scene's typical depth.
NEAREST, FARTHEST = 0.1, 6.0
_RING_STEP = 0.01  # of the typical depth, or this many radians, between images of the ring
_UNKNOWN_DEPTH_M = 2.0  # typical depth before any measurement: a room


@dataclass(frozen=True)
class MeasuringFacts:
    """How far measuring has come, for diagnostics."""

    measured: int  # keyframes
    behind: int  # keyframes that could be measured now, or are being measured
    skipped: int  # keyframes that were never measured, for lack of time
    coverage: float  # mean share of measured keyframes' pixels that have depth; NaN without any
    # By camera, where images turned out not to fit TF when little could be measured.
    disagreements: Mapping[str, Agreement] = field(default_factory=dict)
    # By camera, where its depth camera turned out to measure something else than stereo.
    depth_cameras: Mapping[str, DepthCameraAgreement] = field(default_factory=dict)
    failed: int = 0  # keyframes whose measuring raised something
    failure: str = ""  # what the last of these raised


class Measurements:
    """Measures keyframes, on a thread of its own or on the caller's; thread-safe.

    `note` takes every placed image, `add` those that became keyframes. With the thread running,
    results come by themselves; without, `work_off` makes them, so that a bag repeats exactly.
    `await_results` has what still waits for later images measured at once; when those have come, it
    is measured again.
    """

    def __init__(self, source: DepthSource = "auto", device: StereoDevice | None = None) -> None:
        self.source: DepthSource = source
        self.device = device or StereoDevice()
        self.skipped = 0  # keyframes that were never measured, for lack of time
        self._failed, self._failure = 0, ""  # see MeasuringFacts
        self._changed = Condition()
        self._rings: dict[str, deque[PlacedFrame]] = {}
        self._waiting: deque[Keyframe] = deque()
        self._early: dict[tuple[str, int], Keyframe] = {}  # measured before later images came
        self._in_a_hurry = 0  # jobs that wait for results
        self._busy = 0
        self._results: dict[tuple[str, int], KeyframeMeasurement] = {}
        self._typical_depth_m = math.nan
        # Of the keyframe that was asked for last: its surface, the others', and what they make.
        self._latest_filled: tuple[Surface, list[Surface], Surface] | None = None
        self._pose_check = PoseCheck()
        self._depth_camera_check = DepthCameraCheck()
        self._thread: Thread | None = None
        self._generation = 0  # counts resets; results of an older one are dropped
        self.counts: Counter[str] = Counter()  # keyframes by where their depth came from

    # -- life -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Measure on a thread of its own from now on."""
        with self._changed:
            if self._thread is None:
                self.device.start(expected=self.source in ("auto", "stereo"))
                self._thread = Thread(target=self._work, name="gld_measuring", daemon=True)
                self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End the thread; what waits or is being measured is discarded."""
        with self._changed:
            thread, self._thread = self._thread, None
            self._waiting.clear()
            self._changed.notify_all()
        self.device.stop()
        if thread is not None:
            thread.join(timeout_s)
            if thread.is_alive():
                # Python aborts when it ends while a thread is in torch. It ends with its keyframe.
                atexit.register(thread.join)

    def reset(self) -> None:
        """Discard everything: a new epoch, or the user requested it."""
        with self._changed:
            self._generation += 1
            self._rings.clear()
            self._waiting.clear()
            self._early.clear()
            self._results.clear()
            self._typical_depth_m = math.nan
            self._latest_filled = None
            self._pose_check = PoseCheck()
            self._depth_camera_check = DepthCameraCheck()

    # -- input ------------------------------------------------------------------------------------

    def note(self, placed: PlacedFrame) -> None:
        """Keep a placed image as a possible partner, if its camera moved since the last one."""
        with self._changed:
            ring = self._rings.setdefault(placed.camera, deque(maxlen=RING))
            if ring:
                last = ring[-1].T_fixed_cam
                step = _RING_STEP * self._depth_or_default()
                moved = distance_m(last, placed.T_fixed_cam) >= step
                if not moved and turn_rad(last, placed.T_fixed_cam) < _RING_STEP:
                    return
            ring.append(placed)
            self._changed.notify_all()

    def add(self, keyframe: Keyframe) -> None:
        """Let a keyframe be measured."""
        with self._changed:
            if self.source == "model":
                return
            self._waiting.append(keyframe)
            while self._thread is not None and self._ready(self._waiting) > WAITING:
                self._waiting.remove(next(filter(self._has_later_partners, self._waiting)))
                self.skipped += 1
            self._changed.notify_all()

    def keep_only(self, keyframes: Sequence[Keyframe]) -> None:
        """Forget the measurements of all other keyframes."""
        kept = {_key(k) for k in keyframes}
        with self._changed:
            for key in self._results.keys() - kept:
                del self._results[key]
            for key in self._early.keys() - kept:
                del self._early[key]
            waiting = [k for k in self._waiting if _key(k) in kept]
            self.skipped += len(self._waiting) - len(waiting)
            self._waiting = deque(waiting)

    # -- output -----------------------------------------------------------------------------------

    def scene(
        self, keyframes: Sequence[Keyframe], targets: Sequence[TargetCamera]
    ) -> MeasuredScene:
        """What was measured of a run's references and around its targets."""
        anchor = keyframes[0]
        with self._changed:
            results = list(self._results.values())
            typical = self._depth_or_default()
        mixable = [r for r in results if r.keyframe.mixes_with(anchor)]
        by_key = {_key(r.keyframe): r for r in mixable}

        def far(result: KeyframeMeasurement) -> tuple[float, int]:
            T = result.keyframe.T_fixed_cam
            apart = min(
                distance_m(T, t.T_fixed_cam) / typical + turn_rad(T, t.T_fixed_cam) for t in targets
            )
            return apart, -result.keyframe.stamp_ns

        near = sorted(mixable, key=far)[:SCENE_KEYFRAMES]
        references = [by_key.get(_key(k)) for k in keyframes]
        surfaces = [r.surface if r is not None else None for r in references]
        if references[0] is not None:  # the one whose depth is published
            surfaces[0] = self._filled(references[0], mixable)
        return MeasuredScene(tuple(surfaces), tuple(r.surface for r in near))

    def _filled(self, result: KeyframeMeasurement, known: Sequence[KeyframeMeasurement]) -> Surface:
        """A keyframe's surface with what others measured of it; kept until any of them changes."""
        if result.camera_depth is not None:
            return result.surface
        sources = [
            o.surface for o in nearest_measured(result, [r for r in known if r is not result])
        ]
        latest = self._latest_filled
        if latest is None or latest[:2] != (result.surface, sources):
            filled = filled_surface(result.surface, result.raw, sources)
            self._latest_filled = latest = (result.surface, sources, filled)
        return latest[2]

    def of_image(self, frame: Keyframe) -> MeasuredScene:
        """What has been measured of an image so far: by a depth camera, else by earlier keyframes.

        It does not wait and keeps nothing. Without a pose only a depth camera measures.
        """
        image = posed_image(frame)
        found = nothing_measured(image.image_hw, "stereo")
        if frame.is_placed and self.source in ("auto", "stereo"):
            with self._changed:
                known = [r.surface for r in self._results.values() if r.keyframe.mixes_with(frame)]
            found = carried_depth(known, image)
        if self.source in ("auto", "camera"):
            found = camera_over_stereo(camera_depth(frame, image), found)
        return MeasuredScene((measured_surface(frame, found),))

    def await_results(self, timeout_s: float) -> None:
        """Wait until every keyframe is measured with the images there are; without a thread, do it.

        The timeout counts only with a thread.
        """
        with self._changed:
            if self._thread is not None:
                self._in_a_hurry += 1
                self._changed.notify_all()
                self._changed.wait_for(
                    lambda: self._thread is None or not (self._waiting or self._busy), timeout_s
                )
                self._in_a_hurry -= 1
                return
        while self._measure_next(in_a_hurry=True):
            pass

    def coverage(self, keyframe: Keyframe) -> float:
        """Share of a keyframe's pixels that are measured; NaN before it was processed."""
        with self._changed:
            result = self._results.get(_key(keyframe))
        return math.nan if result is None else result.coverage

    def facts(self) -> MeasuringFacts:
        """How far measuring has come."""
        with self._changed:
            shares = [result.coverage for result in self._results.values()]
            ready = self._ready([*self._waiting, *self._early.values()])
            behind, skipped = ready + self._busy, self.skipped
            failed, failure = self._failed, self._failure
            disagreements = self._pose_check.disagreements()
            depth_cameras = self._depth_camera_check.disagreements()
        coverage = float(np.mean(shares)) if shares else math.nan
        return MeasuringFacts(
            len(shares), behind, skipped, coverage, disagreements, depth_cameras, failed, failure
        )

    # -- measuring --------------------------------------------------------------------------------

    def work_off(self) -> None:
        """Measure what has waited long enough, on the caller's thread."""
        while self._measure_next(in_a_hurry=False):
            pass

    def _work(self) -> None:
        me = self._thread
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._thread is not me or self._next(self._in_a_hurry > 0) is not None
                )
                if self._thread is not me:
                    return
                in_a_hurry = self._in_a_hurry > 0
            try:
                self._measure_next(in_a_hurry)
            except Exception as error:
                with self._changed:
                    if self._thread is not me:
                        return
                    self._failed += 1
                    self._failure = f"{type(error).__name__}: {error}"
                log.exception("a keyframe was not measured")

    def _next(self, in_a_hurry: bool) -> Keyframe | None:
        """The keyframe to measure now: one that is new, else one that was measured too early."""
        for keyframe in self._waiting:
            if in_a_hurry or self._has_later_partners(keyframe):
                return keyframe
        return next((k for k in self._early.values() if self._has_later_partners(k)), None)

    def _ready(self, keyframes: Iterable[Keyframe]) -> int:
        return sum(map(self._has_later_partners, keyframes))

    def _has_later_partners(self, keyframe: Keyframe) -> bool:
        if self.source == "camera":
            return True
        ring = self._rings.get(keyframe.camera, ())
        return sum(placed.stamp_ns > keyframe.stamp_ns for placed in ring) >= LATER_PARTNERS

    def _measure_next(self, in_a_hurry: bool) -> bool:
        with self._changed:
            keyframe = self._next(in_a_hurry)
            if keyframe is None:
                return False
            if keyframe in self._waiting:
                self._waiting.remove(keyframe)
            self._early.pop(_key(keyframe), None)
            if not self._has_later_partners(keyframe):
                self._early[_key(keyframe)] = keyframe
            generation, self._busy = self._generation, self._busy + 1
            ring = up_to_later_partners(self._rings.get(keyframe.camera, ()), keyframe)
            known = [
                r
                for r in self._results.values()
                if r.keyframe.mixes_with(keyframe) and _key(r.keyframe) != _key(keyframe)
            ]
        results: list[KeyframeMeasurement] = []
        compare = False
        both: list[BothMeasured] = []
        try:
            results = self._measured(keyframe, ring, known)
        finally:
            with self._changed:  # at once: a caller that waits for the end finds the results
                self._busy -= 1
                if generation == self._generation:
                    self._keep(results)
                    # Keyframes that were measured early had too few partners.
                    compare = _key(keyframe) not in self._early and self._doubts_poses(results)
                    both = self._measured_by_both(results)
                self._changed.notify_all()
        if compare:
            agreement = _agreement(keyframe, ring)
            with self._changed:
                if generation == self._generation:
                    self._pose_check.found(keyframe.camera, agreement)
        if both:
            depth_camera = depth_camera_agreement(both)
            with self._changed:
                if generation == self._generation:
                    self._depth_camera_check.found(keyframe.camera, depth_camera)
        return True

    def _measured_by_both(self, results: Sequence[KeyframeMeasurement]) -> list[BothMeasured]:
        """Keyframes on which a depth camera is due for comparison with stereo."""
        if not results or self.source != "auto" or results[0].camera_depth is None:
            return []
        return self._depth_camera_check.due(
            results[0].keyframe.camera, (results[0].camera_depth, results[0].raw.measured)
        )

    def _doubts_poses(self, results: Sequence[KeyframeMeasurement]) -> bool:
        """Whether recent stereo results give reason to compare images with TF."""
        if not results or self.source == "camera" or results[0].camera_depth is not None:
            return False
        new = results[0]
        error_px = new.raw.measured.pose_error_px
        return self._pose_check.due(new.keyframe.camera, new.coverage, error_px)

    def _keep(self, results: Sequence[KeyframeMeasurement]) -> None:
        for result in results:
            self._results[_key(result.keyframe)] = result
        if results:
            depth_m = results[0].surface.depth_m
            if np.isfinite(depth_m).sum() > 0.05 * depth_m.size:
                self._typical_depth_m = float(np.nanmedian(depth_m))

    def _measured(
        self, keyframe: Keyframe, ring: Sequence[PlacedFrame], known: Sequence[KeyframeMeasurement]
    ) -> list[KeyframeMeasurement]:
        """The result of a keyframe, and those of earlier ones that it confirms."""
        reference = posed_image(keyframe)
        from_camera = camera_depth(keyframe, reference) if self.source != "stereo" else None
        raw = nothing_measured(reference.image_hw, "stereo")
        if self.source != "camera":
            raw = self._stereo(keyframe, reference, ring, known)
        self.counts["camera" if from_camera is not None else "stereo"] += 1
        new = KeyframeMeasurement(
            keyframe, MeasuredImage(reference, raw), from_camera, measured_surface(keyframe, raw), 0
        )
        results = [confirmed(new, known)]
        # Earlier neighbours that had too few others to be compared with.
        again = [r for r in nearest_measured(new, known) if r.confirmers < 3][:2]
        results += [confirmed(r, [new, *(o for o in known if o is not r)]) for r in again]
        return results

    def _stereo(
        self,
        keyframe: Keyframe,
        reference: PosedImage,
        ring: Sequence[PlacedFrame],
        known: Sequence[KeyframeMeasurement],
    ) -> MeasuredDepth:
        near = [p for p in ring if p.stamp_ns != keyframe.stamp_ns and p.epoch == keyframe.epoch]
        stamps = {(p.camera, p.stamp_ns) for p in near}
        measured = [r.keyframe for r in known if _key(r.keyframe) not in stamps]
        typical = self._typical_depth_m
        if not math.isfinite(typical):
            frames = [f for f in (p.frame() for p in near) if f]
            others = [posed_image(frame) for frame in (*frames, *(r.keyframe for r in known))]
            found = depth_range(reference, others)
            typical = found.typical_m if found else _UNKNOWN_DEPTH_M
        partners = stereo_partners(keyframe, near, measured, typical)
        if not partners:
            return nothing_measured(reference.image_hw, "stereo")
        parameters = MeasuringParameters(depth_range_m=(NEAREST * typical, FARTHEST * typical))
        return self.device.measure(reference, partners, parameters)

    def _depth_or_default(self) -> float:
        typical = self._typical_depth_m
        return typical if math.isfinite(typical) else _UNKNOWN_DEPTH_M


def _agreement(keyframe: Keyframe, ring: Sequence[PlacedFrame]) -> Agreement:
    """Whether the images around a keyframe fit their poses."""
    frames = [f for f in (placed.frame() for placed in ring) if f and f.epoch == keyframe.epoch]
    return image_pose_agreement([posed_image(frame) for frame in frames])


def _key(frame: CameraFrame) -> tuple[str, int]:
    return frame.camera, frame.stamp_ns
