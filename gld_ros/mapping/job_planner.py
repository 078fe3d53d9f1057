"""From keyframes and requests to a job: automatic policies, goals, and reasons for having none.

Data from topics is passed in as arrays, in the fixed frame.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gld_ros.geometry.crop_resize import resized_intrinsics
from gld_ros.mapping.frames import FloatArray, Keyframe, TargetCamera
from gld_ros.mapping.jobs import ErrorCode, JobKind, JobParameters, JobRequest
from gld_ros.mapping.keyframes import KeyframeGate, KeyframeStore, usable_keyframes
from gld_ros.mapping.parameters import SessionParameters
from gld_ros.mapping.planning import plan_views
from gld_ros.mapping.products import Product
from gld_ros.mapping.targets import (
    InvalidTarget,
    frontier,
    look_around,
    nearest_targets,
    path_ahead,
    stereo_baseline,
)

MIN_KEYFRAMES = 2  # one image alone does not determine scale


@dataclass(frozen=True, eq=False)
class PlannedJob:
    """A job that may run."""

    request: JobRequest
    rejected: tuple[str, ...] = ()  # why other targets were left out
    surplus: int = 0  # targets beyond `sampler.max_targets`, which an automatic job leaves out


@dataclass(frozen=True)
class JobRejection:
    """Why there is no job now: a sentence, and the error code a goal would get."""

    reason: str
    error_code: ErrorCode = ErrorCode.NO_KEYFRAMES


@dataclass(frozen=True, eq=False)
class OccupancyGrid:
    """A map of free and unknown cells, placed in the fixed frame."""

    cells: NDArray[np.int8]  # (rows, columns), as nav_msgs/OccupancyGrid
    resolution_m: float
    T_fixed_grid: FloatArray


@dataclass(frozen=True, eq=False)
class PolicyInput:
    """What policies need beyond keyframes; None if it has not arrived or cannot be placed."""

    T_fixed_base: FloatArray | None = None
    topic_targets: Sequence[FloatArray] | None = None  # T_fixed_target, optical axes
    path_fixed_m: FloatArray | None = None  # (N, 3)
    grid: OccupancyGrid | None = None
    missing: str = ""  # why something is None, as a sentence


@dataclass(frozen=True, eq=False)
class JobOptions:
    """What one goal asks for beyond its targets; the defaults are those of automatic jobs."""

    K_px: FloatArray | None = None  # (3, 3) of the target views, with `image_hw`
    image_hw: tuple[int, int] | None = None
    cameras: Sequence[str] = ()  # whose keyframes may serve; empty: all
    anchor_time_ns: int = 0  # 0: now
    seed: int | None = None
    num_steps: int = 0  # 0: the parameters'
    guidance_scale: float = 0.0  # 0: the parameters'
    start_before_steady_s: float = float("inf")
    always_wanted: frozenset[Product] = frozenset()
    publish: bool = True


@dataclass(eq=False)
class JobPlanner:
    """Numbers jobs and plans them; the same keyframes and requests always give the same job."""

    gate: KeyframeGate
    store: KeyframeStore
    model_hw: tuple[int, int] | None  # size of target views unless `sampler.source_size`
    median_depth_m: Callable[[], float]  # of the scene, to judge overlap with
    steady_s: Callable[[], float] = time.monotonic
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def automatic(
        self, parameters: SessionParameters, epoch: int, now_ns: int, given: PolicyInput
    ) -> PlannedJob | JobRejection:
        """Return the job of the current policy, or why there is none."""
        usable = usable_keyframes(
            self.store.snapshot(), self.gate, now_ns, parameters.keyframes.max_age_s
        )
        keyframes = [k for k in usable if k.epoch == epoch]
        if len(keyframes) < MIN_KEYFRAMES:
            return _too_few(keyframes, parameters)
        anchor = keyframes[-1]
        poses = _policy_poses(parameters, anchor, given)
        if isinstance(poses, JobRejection):
            return poses
        max_targets = parameters.sampler.max_targets
        surplus = len(poses) - max_targets
        planned = self._planned(
            parameters,
            keyframes,
            anchor,
            nearest_targets(poses, anchor.T_fixed_cam, max_targets),
            JobKind.AUTOMATIC,
            parameters.policy.type,
            JobOptions(),
        )
        if isinstance(planned, PlannedJob) and surplus > 0:
            return replace(planned, surplus=surplus)
        return planned

    def depth(self, parameters: SessionParameters, frame: Keyframe) -> PlannedJob:
        """Return the job that gives one image its depth."""
        request = JobRequest(
            job_id=next(self._numbers),
            kind=JobKind.AUTOMATIC,
            policy="depth",
            epoch=frame.epoch,
            keyframes=(frame,),
            targets=(),
            parameters=JobParameters(parameters.products, parameters.scale),
            created_steady_s=self.steady_s(),
        )
        return PlannedJob(request)

    def goal(
        self,
        parameters: SessionParameters,
        epoch: int,
        poses: Sequence[FloatArray],
        options: JobOptions,
    ) -> PlannedJob | JobRejection:
        """Return the job of an action goal; every target must pass the guard."""
        keyframes = [k for k in self.store.snapshot() if k.epoch == epoch]
        if len(keyframes) < MIN_KEYFRAMES:
            return _too_few(keyframes, parameters)
        candidates = [k for k in keyframes if not options.cameras or k.camera in options.cameras]
        if not candidates:
            return JobRejection(f"no keyframes of the cameras {list(options.cameras)}")
        planned = self._planned(
            parameters, keyframes, candidates[-1], poses, JobKind.GOAL, "action", options
        )
        if isinstance(planned, PlannedJob) and planned.rejected:
            return JobRejection("; ".join(planned.rejected), ErrorCode.INSUFFICIENT_OVERLAP)
        return planned

    def _planned(
        self,
        parameters: SessionParameters,
        keyframes: Sequence[Keyframe],
        anchor: Keyframe,
        poses: Sequence[FloatArray],
        kind: JobKind,
        policy: str,
        options: JobOptions,
    ) -> PlannedJob | JobRejection:
        K_px, image_hw = options.K_px, options.image_hw
        if K_px is None or image_hw is None:
            K_px, image_hw = self._target_camera(anchor, parameters)
        sampler = parameters.sampler
        plan = plan_views(
            keyframes,
            [TargetCamera(T, K_px, image_hw) for T in poses],
            sampler.reference_views,
            self.median_depth_m(),
            parameters.keyframes.max_age_s,
            parameters.guard,
            cameras=options.cameras,
            anchor_time_ns=options.anchor_time_ns,
        )
        rejected = tuple(f"target {r.index}: {r.verdict.reason}" for r in plan.rejected)
        if not plan.runnable:
            return JobRejection(
                "; ".join(rejected) or "no keyframe qualifies", ErrorCode.INSUFFICIENT_OVERLAP
            )
        request = JobRequest(
            job_id=next(self._numbers),
            kind=kind,
            policy=policy,
            epoch=anchor.epoch,
            keyframes=plan.references,
            targets=plan.targets,
            verdicts=plan.verdicts,
            parameters=JobParameters(parameters.products, parameters.scale),
            always_wanted=options.always_wanted,
            publish=options.publish,
            preset=sampler.preset,
            num_steps=options.num_steps or sampler.num_steps,
            guidance_scale=options.guidance_scale or sampler.guidance_scale,
            seed=options.seed if options.seed is not None else sampler.seed,
            samples=sampler.samples,
            created_steady_s=self.steady_s(),
            start_before_steady_s=options.start_before_steady_s,
        )
        return PlannedJob(request, rejected)

    def _target_camera(
        self, anchor: Keyframe, parameters: SessionParameters
    ) -> tuple[FloatArray, tuple[int, int]]:
        """Return intrinsics and size of target views: the camera's, or its model-size centre."""
        K_px, source_hw = anchor.source_camera()
        if parameters.sampler.source_size or self.model_hw is None:
            return K_px, source_hw
        height, width = self.model_hw
        scale = max(height / source_hw[0], width / source_hw[1])
        K_px = resized_intrinsics(K_px, scale, scale)
        K_px[0, 2] -= (source_hw[1] * scale - width) / 2
        K_px[1, 2] -= (source_hw[0] * scale - height) / 2
        return K_px, self.model_hw


def _too_few(keyframes: Sequence[Any], parameters: SessionParameters) -> JobRejection:
    return JobRejection(
        f"{len(keyframes)} keyframes, {MIN_KEYFRAMES} are needed: the camera has to move by "
        f"{parameters.gate.min_translation_m:g} m or turn by "
        f"{parameters.gate.min_rotation_rad:g} rad, turning by at most "
        f"{parameters.gate.max_angular_velocity_rad_s:g} rad/s"
    )


def _policy_poses(
    parameters: SessionParameters, anchor: Keyframe, given: PolicyInput
) -> list[FloatArray] | JobRejection:
    policy, max_targets = parameters.policy, parameters.sampler.max_targets
    if policy.type == "look_around":
        return look_around(anchor.T_fixed_cam, policy.yaw_offsets_rad)
    if policy.type == "stereo_baseline":
        return stereo_baseline(anchor.T_fixed_cam, policy.baselines_m)
    if policy.type == "topic":
        if given.topic_targets is None:
            return JobRejection(given.missing or "no message on target_poses yet")
        return list(given.topic_targets)
    if policy.type == "path_ahead":
        if given.path_fixed_m is None or given.T_fixed_base is None:
            return JobRejection(given.missing or "no message on path yet")
        try:
            poses = path_ahead(
                given.path_fixed_m,
                given.T_fixed_base,
                anchor.T_fixed_cam,
                policy.path_spacing_m,
                max_targets,
            )
        except InvalidTarget as error:
            return JobRejection(str(error), ErrorCode.INVALID_GOAL)
        return poses or JobRejection("the path ends before the first target")
    if policy.type == "frontier":
        if given.grid is None:
            return JobRejection(given.missing or "no message on map yet")
        poses = frontier(
            given.grid.cells,
            given.grid.resolution_m,
            given.grid.T_fixed_grid,
            anchor.T_fixed_cam,
            policy.frontier_radius_m,
            max_targets,
        )
        return poses or JobRejection(
            f"no frontier of the map within {policy.frontier_radius_m:g} m"
        )
    return JobRejection("policy.type is none: only action goals are answered")
