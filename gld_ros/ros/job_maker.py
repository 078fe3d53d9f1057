"""From keyframes and wishes to a job: automatic policies, goals, and the reasons why there is none.

Needs no rclpy: what comes over topics is passed in as arrays, poses of other frames through a
lookup. The node and the offline runner share it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gld_ros.geometry.crop_resize import resized_intrinsics
from gld_ros.mapping.frames import Keyframe, TargetCamera
from gld_ros.mapping.guard import GuardVerdict
from gld_ros.mapping.jobs import ErrorCode, JobKind, JobParameters, JobRequest
from gld_ros.mapping.keyframes import KeyframeGate, KeyframeStore, usable_keyframes
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
from gld_ros.ros.parameters.snapshot import Snapshot

FloatArray = NDArray[np.floating[Any]]

MIN_KEYFRAMES = 2  # one picture alone says nothing about scale


@dataclass(frozen=True, eq=False)
class MadeJob:
    """A job that may run, and the guard's verdict on each of its targets."""

    request: JobRequest
    verdicts: tuple[GuardVerdict, ...]
    refused: tuple[str, ...] = ()  # why other targets were left out
    surplus: int = 0  # targets beyond `sampler.max_targets`, which an automatic job leaves out


@dataclass(frozen=True)
class NoJob:
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
    """What policies need beyond keyframes; None where it has not come or cannot be placed."""

    T_fixed_base: FloatArray | None = None
    topic_targets: Sequence[FloatArray] | None = None  # T_fixed_target, optical axes
    path_fixed_m: FloatArray | None = None  # (N, 3)
    grid: OccupancyGrid | None = None
    missing: str = ""  # why something is None, in words


@dataclass(eq=False)
class JobMaker:
    """Numbers jobs and makes them; the same keyframes and wishes always give the same job."""

    gate: KeyframeGate
    store: KeyframeStore
    model_hw: tuple[int, int] | None  # size of imagined views in `image.output_size: model`
    median_depth_m: Callable[[], float]  # of the scene, to judge overlap with
    steady_s: Callable[[], float] = time.monotonic
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def automatic(
        self, parameters: Snapshot, epoch: int, now_ns: int, given: PolicyInput
    ) -> MadeJob | NoJob:
        """Return the job that the present policy wants, or why it wants none."""
        keyframes = self._usable(parameters, epoch, now_ns)
        if len(keyframes) < MIN_KEYFRAMES:
            return NoJob(self._too_few(keyframes, parameters))
        anchor = keyframes[-1]
        poses = self._policy_poses(parameters, anchor, given)
        if isinstance(poses, NoJob):
            return poses
        surplus = len(poses) - parameters["sampler.max_targets"]
        poses = nearest_targets(poses, anchor.T_fixed_cam, parameters["sampler.max_targets"])
        K_px, image_hw = self._target_camera(anchor, parameters)
        wanted = [TargetCamera(T, K_px, image_hw) for T in poses]
        made = self._planned(
            parameters, epoch, keyframes, wanted, JobKind.AUTOMATIC, parameters["policy.type"]
        )
        return replace(made, surplus=surplus) if isinstance(made, MadeJob) and surplus > 0 else made

    def goal(
        self,
        parameters: Snapshot,
        epoch: int,
        now_ns: int,
        poses: Sequence[FloatArray],
        *,
        K_px: FloatArray | None = None,
        image_hw: tuple[int, int] | None = None,
        cameras: Sequence[str] = (),
        anchor_time_ns: int = 0,
        seed: int | None = None,
        num_steps: int = 0,
        guidance_scale: float = 0.0,
        start_before_steady_s: float = float("inf"),
        always_wanted: frozenset[Product] = frozenset(),
    ) -> MadeJob | NoJob:
        """Return the job of an action goal; every target must pass the guard."""
        keyframes = [k for k in self.store.snapshot() if k.epoch == epoch]
        if len(keyframes) < MIN_KEYFRAMES:
            return NoJob(self._too_few(keyframes, parameters))
        candidates = [k for k in keyframes if not cameras or k.camera in cameras]
        if not candidates:
            return NoJob(f"no keyframes of the cameras {list(cameras)}")
        anchor = candidates[-1]
        if K_px is None or image_hw is None:
            K_px, image_hw = self._target_camera(anchor, parameters)
        wanted = [TargetCamera(T, K_px, image_hw) for T in poses]
        made = self._planned(
            parameters,
            epoch,
            keyframes,
            wanted,
            JobKind.GOAL,
            "action",
            cameras=cameras,
            anchor_time_ns=anchor_time_ns,
            seed=seed,
            num_steps=num_steps,
            guidance_scale=guidance_scale,
            start_before_steady_s=start_before_steady_s,
            always_wanted=always_wanted,
        )
        if isinstance(made, MadeJob) and made.refused:
            return NoJob("; ".join(made.refused), ErrorCode.INSUFFICIENT_OVERLAP)
        return made

    def _planned(
        self,
        parameters: Snapshot,
        epoch: int,
        keyframes: Sequence[Keyframe],
        wanted: Sequence[TargetCamera],
        kind: JobKind,
        policy: str,
        *,
        cameras: Sequence[str] = (),
        anchor_time_ns: int = 0,
        seed: int | None = None,
        num_steps: int = 0,
        guidance_scale: float = 0.0,
        start_before_steady_s: float = float("inf"),
        always_wanted: frozenset[Product] = frozenset(),
    ) -> MadeJob | NoJob:
        plan = plan_views(
            keyframes,
            wanted,
            parameters["sampler.conditioning_views"],
            self.median_depth_m(),
            parameters["keyframes.max_age"],
            parameters.guard,
            cameras=cameras,
            anchor_time_ns=anchor_time_ns,
        )
        refused = tuple(f"target {r.index}: {r.verdict.reason}" for r in plan.refused)
        if not plan.runnable or plan.selection is None:
            return NoJob(
                "; ".join(refused) or "no keyframe qualifies", ErrorCode.INSUFFICIENT_OVERLAP
            )
        fixed_seed = parameters["sampler.seed"]
        request = JobRequest(
            job_id=next(self._numbers),
            kind=kind,
            policy=policy,
            epoch=epoch,
            keyframes=plan.selection.keyframes,
            targets=plan.targets,
            parameters=JobParameters(parameters.products, parameters.scale),
            always_wanted=always_wanted,
            num_steps=num_steps or parameters["sampler.num_steps"] or None,
            guidance_scale=guidance_scale or parameters["sampler.guidance_scale"] or None,
            seed=seed if seed is not None else (fixed_seed if fixed_seed >= 0 else None),
            samples=parameters["sampler.samples"],
            created_steady_s=self.steady_s(),
            start_before_steady_s=start_before_steady_s,
        )
        return MadeJob(request, plan.verdicts, refused)

    def _usable(self, parameters: Snapshot, epoch: int, now_ns: int) -> list[Keyframe]:
        usable = usable_keyframes(
            self.store.snapshot(), self.gate, now_ns, parameters["keyframes.max_age"]
        )
        return [k for k in usable if k.epoch == epoch]

    def _too_few(self, keyframes: Sequence[Keyframe], parameters: Snapshot) -> str:
        return (
            f"{len(keyframes)} keyframes, {MIN_KEYFRAMES} are needed: the camera has to move by "
            f"{parameters['keyframes.min_translation']:g} m or turn by "
            f"{parameters['keyframes.min_rotation']:g} rad"
        )

    def _policy_poses(
        self, parameters: Snapshot, anchor: Keyframe, given: PolicyInput
    ) -> list[FloatArray] | NoJob:
        policy = parameters["policy.type"]
        if policy == "look_around":
            return look_around(anchor.T_fixed_cam, parameters["policy.yaw_offsets"])
        if policy == "stereo_baseline":
            return stereo_baseline(anchor.T_fixed_cam, parameters["policy.baselines"])
        if policy == "topic":
            if given.topic_targets is None:
                return NoJob(given.missing or "no message on target_poses yet")
            return list(given.topic_targets)
        if policy == "path_ahead":
            if given.path_fixed_m is None or given.T_fixed_base is None:
                return NoJob(given.missing or "no message on path yet")
            try:
                poses = path_ahead(
                    given.path_fixed_m,
                    given.T_fixed_base,
                    anchor.T_fixed_cam,
                    parameters["policy.path_spacing"],
                    parameters["sampler.max_targets"],
                )
            except InvalidTarget as error:
                return NoJob(str(error), ErrorCode.INVALID_GOAL)
            return poses or NoJob("the path ends before the first target")
        if policy == "frontier":
            if given.grid is None:
                return NoJob(given.missing or "no message on map yet")
            poses = frontier(
                given.grid.cells,
                given.grid.resolution_m,
                given.grid.T_fixed_grid,
                anchor.T_fixed_cam,
                parameters["policy.frontier_radius"],
                parameters["sampler.max_targets"],
            )
            radius_m = parameters["policy.frontier_radius"]
            return poses or NoJob(f"no frontier of the map within {radius_m:g} m")
        return NoJob("policy.type is none: only action goals are answered")

    def _target_camera(
        self, anchor: Keyframe, parameters: Snapshot
    ) -> tuple[FloatArray, tuple[int, int]]:
        """Return intrinsics and size of imagined views: the anchor's, or its model-size centre."""
        if parameters["image.output_size"] == "source" or self.model_hw is None:
            return anchor.K_px, anchor.image_hw
        height, width = self.model_hw
        scale = max(height / anchor.image_hw[0], width / anchor.image_hw[1])
        K_px = resized_intrinsics(anchor.K_px, scale, scale)
        K_px[0, 2] -= (anchor.image_hw[1] * scale - width) / 2
        K_px[1, 2] -= (anchor.image_hw[0] * scale - height) / 2
        return K_px, self.model_hw
