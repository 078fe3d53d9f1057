"""What can be set in a session, in groups: immutable records, replaced on every change.

Names, defaults and ranges of the ROS parameters are the table's (`gld_ros.ros.parameters`); a job
carries the groups it was planned with, so a change never affects a running job. Groups used by
one module only are in that module: `GateParameters`, `GuardParameters`, `ScaleParameters`,
`ProductParameters`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from gld_ros.diffusion.presets import PresetName
from gld_ros.geometry.poses import PoseConvention
from gld_ros.mapping.guard import GuardParameters
from gld_ros.mapping.keyframes import GateParameters
from gld_ros.mapping.products import ProductParameters
from gld_ros.mapping.scale import ScaleParameters
from gld_ros.mapping.targets import Policy
from gld_ros.messages.camera_info import Rectification

Mode = Literal["views", "depth"]
MODES: tuple[str, ...] = ("auto", *get_args(Mode))
DepthSource = Literal["auto", "camera", "stereo", "model"]
DEPTH_SOURCES: tuple[DepthSource, ...] = get_args(DepthSource)


@dataclass(frozen=True)
class CameraParameters:
    """What is common to all cameras, and the frames of those that state a wrong one."""

    exact_pairing: bool  # an image takes the CameraInfo of its own stamp, not the latest
    rectification: Rectification
    frame_ids: Mapping[str, str]  # by camera; instead of its images'
    max_pixels: int  # larger images are dropped before they are decoded
    max_side_px: int  # images are kept at most at this size


@dataclass(frozen=True)
class FrameParameters:
    """Names of coordinate frames."""

    fixed: str  # "auto" until the session has found it
    base: str
    view_prefix: str
    publish_views: bool  # on /tf

    def view(self, slot: int) -> str:
        """Return the optical frame of the target view in `slot`."""
        return f"{self.view_prefix}_{slot}_optical"


@dataclass(frozen=True)
class TfParameters:
    """How long and how many images wait for their pose, and how long poses are remembered."""

    timeout_s: float
    pending_max: int  # per camera
    cache_time_s: float


@dataclass(frozen=True)
class KeyframeParameters:
    """How many keyframes are kept, and how long they serve automatic jobs."""

    capacity: int
    max_age_s: float


@dataclass(frozen=True)
class ModelParameters:
    """Which model runs, where, and within which memory."""

    bundle: str
    backend: Literal["auto", "da3", "vggt"]
    precision: Literal["auto", "bf16", "fp16", "fp32"]
    device: str
    self_test: bool
    compile_blocks: bool
    memory_budget_gib: float  # 0: a share of what is free


@dataclass(frozen=True)
class SamplerParameters:
    """Size and effort of a job; None is the choice of preset and bundle."""

    preset: PresetName
    num_steps: int | None
    guidance_scale: float | None
    seed: int | None  # None: derived from the number of the job
    samples: int
    reference_views: int
    max_targets: int
    source_size: bool  # target views have the size of the camera, not of the model


@dataclass(frozen=True)
class GoalParameters:
    """What goals may ask for."""

    max_wait_s: float
    max_open: int


@dataclass(frozen=True)
class PolicyParameters:
    """Where automatic jobs put their target views."""

    type: Policy
    rate_hz: float
    yaw_offsets_rad: tuple[float, ...]
    baselines_m: tuple[float, ...]
    path_spacing_m: float
    frontier_radius_m: float
    pose_convention: PoseConvention


@dataclass(frozen=True)
class TimeParameters:
    """What counts as a time jump, and which products are too old to be published."""

    backward_tolerance_s: float
    forward_gap_s: float
    max_product_age_s: float  # 0: never too old


@dataclass(frozen=True)
class SessionParameters:
    """All groups at one moment."""

    # "auto": views, or depth with a bundle that has only a geometry backbone.
    mode: Literal["auto", "views", "depth"]

    cameras: CameraParameters
    frames: FrameParameters
    tf: TfParameters
    time: TimeParameters
    gate: GateParameters
    keyframes: KeyframeParameters
    model: ModelParameters
    sampler: SamplerParameters
    goals: GoalParameters
    policy: PolicyParameters
    guard: GuardParameters
    scale: ScaleParameters
    products: ProductParameters
    depth_source: DepthSource = "auto"
    depth_rate_hz: float = 0.0  # images per second and camera in mode depth, at most; 0: all


def whole_recording(parameters: SessionParameters) -> SessionParameters:
    """Parameters for goals on a whole recording: everything is kept, no target is too far away.

    There are no automatic jobs; a recording's camera may turn faster than a robot's.
    """
    return replace(
        parameters,
        tf=replace(parameters.tf, timeout_s=0.0),
        time=replace(parameters.time, forward_gap_s=1e9, max_product_age_s=0.0),
        gate=replace(parameters.gate, max_angular_velocity_rad_s=6.0),
        keyframes=replace(parameters.keyframes, capacity=256, max_age_s=1e9),
        policy=replace(parameters.policy, type="none"),
        guard=replace(
            parameters.guard, max_translation_m=100.0, max_rotation_rad=3.15, min_overlap=0.0
        ),
        scale=replace(parameters.scale, hold_time_s=1e9),
    )
