"""Parameter values as the code uses them: immutable typed groups, replaced on every change."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gld_ros.mapping.guard import GuardParameters
from gld_ros.mapping.keyframes import GateParameters
from gld_ros.mapping.parameters import (
    CameraParameters,
    FrameParameters,
    GoalParameters,
    KeyframeParameters,
    ModelParameters,
    PolicyParameters,
    SamplerParameters,
    SessionParameters,
    TfParameters,
    TimeParameters,
)
from gld_ros.mapping.products import ProductParameters
from gld_ros.mapping.provenance import Provenance
from gld_ros.mapping.scale import ScaleParameters
from gld_ros.ros.parameters.spec import Value


@dataclass(frozen=True)
class NodeSettings:
    """What only the node needs: its topics, timers and end."""

    camera_names: tuple[str, ...]
    compressed: bool  # subscribe to compressed images
    merged_cloud: bool  # offer `~/merged/points`
    autostart: bool  # configure and activate at start
    release_on_deactivate: bool
    shutdown_timeout_s: float
    diagnostics_period_s: float


@dataclass(frozen=True)
class Snapshot:
    """All parameters at one moment; `values` holds them by name."""

    values: Mapping[str, Value]
    session: SessionParameters
    node: NodeSettings


def make_snapshot(values: Mapping[str, Any]) -> Snapshot:
    """Return the snapshot of validated values; `values` holds every parameter of the table.

    Raises ValueError for values that do not fit together.
    """
    v = values
    override = "frame_id_override."
    session = SessionParameters(
        mode=v["mode"],
        cameras=CameraParameters(
            exact_pairing=v["camera_info.pairing"] == "exact",
            rectification=v["cameras.rectification"],
            frame_ids={k.removeprefix(override): v[k] for k in v if k.startswith(override)},
            max_pixels=v["cameras.max_pixels"],
            max_side_px=v["keyframes.max_image_side"],
        ),
        frames=FrameParameters(
            fixed=v["fixed_frame"],
            base=v["base_frame"],
            view_prefix=v["view_frame_prefix"],
            publish_views=v["view_tf.publish"],
        ),
        tf=TfParameters(
            timeout_s=v["tf.timeout"],
            pending_max=v["tf.pending_max"],
            cache_time_s=v["tf.cache_time"],
        ),
        time=TimeParameters(
            backward_tolerance_s=v["time.backward_tolerance"],
            forward_gap_s=v["time.forward_gap"],
            max_product_age_s=v["product.max_age"],
        ),
        gate=GateParameters(
            min_translation_m=v["keyframes.min_translation"],
            min_rotation_rad=v["keyframes.min_rotation"],
            max_interval_s=v["keyframes.max_interval"],
            min_interval_s=v["keyframes.min_interval"],
            min_sharpness=v["keyframes.min_sharpness"],
            max_angular_velocity_rad_s=v["keyframes.max_angular_velocity"],
        ),
        keyframes=KeyframeParameters(
            capacity=v["keyframes.capacity"], max_age_s=v["keyframes.max_age"]
        ),
        model=ModelParameters(
            bundle=v["model.bundle"],
            backend=v["model.backend"],
            precision=v["model.precision"],
            device=v["device"],
            self_test=v["model.self_test"],
            compile_blocks=v["model.compile"],
            memory_budget_gib=v["gpu.memory_budget"],
        ),
        sampler=SamplerParameters(
            preset=v["sampler.preset"],
            num_steps=v["sampler.num_steps"] or None,
            guidance_scale=v["sampler.guidance_scale"] or None,
            seed=v["sampler.seed"] if v["sampler.seed"] >= 0 else None,
            samples=v["sampler.samples"],
            reference_views=v["sampler.reference_views"],
            max_targets=v["sampler.max_targets"],
            source_size=v["image.output_size"] == "source",
        ),
        goals=GoalParameters(
            max_wait_s=v["goals.max_wait"],
            max_open=v["goals.max_open"],
        ),
        policy=PolicyParameters(
            type=v["policy.type"],
            rate_hz=v["policy.rate"],
            yaw_offsets_rad=tuple(v["policy.yaw_offsets"]),
            baselines_m=tuple(v["policy.baselines"]),
            path_spacing_m=v["policy.path_spacing"],
            frontier_radius_m=v["policy.frontier_radius"],
            pose_convention=v["policy.pose_convention"],
        ),
        guard=GuardParameters(
            max_translation_m=v["guard.max_translation"],
            max_rotation_rad=v["guard.max_rotation"],
            min_overlap=v["guard.min_overlap"],
        ),
        scale=ScaleParameters(
            mode=v["scale.mode"],
            fixed_value=v["scale.fixed_value"],
            min_baseline_m=v["scale.min_baseline"],
            max_dispersion=v["scale.max_dispersion"],
            hold_time_s=v["scale.hold_time"],
        ),
        products=ProductParameters(
            depth_min_m=v["depth.min"],
            depth_max_m=v["depth.max"],
            min_confidence=v["depth.min_confidence"],
            rel_tolerance=v["provenance.rel_tolerance"],
            composite=v["color.composite"],
            voxel_size_m=v["cloud.voxel_size"],
            stride=v["cloud.stride"],
            organized_observed=v["cloud.organized_observed"],
            predicted_provenance=frozenset(
                Provenance[name.upper()] for name in v["cloud.predicted_provenance"]
            ),
            observed_provenance=frozenset(
                Provenance[name.upper()] for name in v["observed.provenance"]
            ),
            withhold_if_unresolved=v["scale.withhold_if_unresolved"],
        ),
        depth_source=v["depth.source"],
        depth_rate_hz=v["depth.rate"],
    )
    return Snapshot(
        values=dict(values),
        session=session,
        node=NodeSettings(
            camera_names=tuple(v["camera_names"]),
            compressed=v["image_transport"] == "compressed",
            merged_cloud=v["cloud.publish_merged"],
            autostart=v["autostart"],
            release_on_deactivate=v["release_on_deactivate"],
            shutdown_timeout_s=v["shutdown_timeout"],
            diagnostics_period_s=v["diagnostics.period"],
        ),
    )
