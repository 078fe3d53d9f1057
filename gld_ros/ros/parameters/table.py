"""The one parameter table: declaration, checks, `config/gld.yaml` and the docs come from it.

`frame_id_override.<camera>` and `cameras.<camera>.*` style names do not exist beyond the one
family in `per_camera_parameters`.
"""

from collections.abc import Sequence

from gld_ros.diffusion.presets import PRESET_NAMES
from gld_ros.mapping.parameters import DEPTH_SOURCES, MODES
from gld_ros.mapping.scale import SCALE_MODES
from gld_ros.mapping.targets import POLICIES
from gld_ros.ros.parameters.spec import Parameter, When

INACTIVE, START = When.INACTIVE, When.START

MAX_NUM_STEPS, MAX_GUIDANCE_SCALE = 200, 10.0  # of goals, too
PROVENANCE_NAMES = ("measured", "corroborated", "hallucinated", "contradicted", "unknown")
OBSERVED_NAMES = ("measured", "completed")

# fmt: off
TABLE: tuple[Parameter, ...] = (
    # Input
    Parameter("camera_names", "string[]", ["camera"],
              "Cameras to subscribe to; topics are <name>/image and <name>/camera_info.", START,
              min_entries=1, max_entries=8),
    Parameter("image_transport", "string", "raw",
              "Subscribe to <name>/image (raw) or <name>/image/compressed.", INACTIVE,
              choices=("raw", "compressed")),
    Parameter("camera_info.pairing", "string", "latest",
              "Intrinsics of an image: the newest valid ones, or those with the same stamp.",
              INACTIVE, choices=("latest", "exact")),
    Parameter("cameras.rectification", "string", "auto",
              "Whether images are rectified already; auto decides by the topic name (image_rect*).",
              INACTIVE, choices=("auto", "rectify", "input_is_rectified")),
    Parameter("cameras.max_pixels", "int", 25_000_000,
              "Images with more pixels are dropped before they are decoded.", INACTIVE, unit="px",
              low=10_000, high=100_000_000),
    # Frames
    Parameter("fixed_frame", "string", "auto",
              "Frame all poses are taken in; should be continuous (REP-105). auto: `odom` where it "
              "is above the cameras in TF, else their root; once found it is kept until a reset.",
              INACTIVE),
    Parameter("base_frame", "string", "base_link", "Robot frame that policies start from.",
              INACTIVE),
    Parameter("view_frame_prefix", "string", "gld_view",
              "Frames of target views are <prefix>_<slot>_optical.", INACTIVE),
    Parameter("view_tf.publish", "bool", True, "Broadcast the pose of target views on /tf."),
    Parameter("tf.timeout", "double", 0.5, "How long an image waits for its pose.", unit="s",
              low=0.0, high=10.0),
    Parameter("tf.cache_time", "double", 30.0, "Length of the pose history.", INACTIVE, unit="s",
              low=5.0, high=300.0),
    Parameter("tf.pending_max", "int", 30, "Images of one camera that may wait for their pose.",
              low=1, high=1000),
    # Keyframes
    Parameter("keyframes.min_translation", "double", 0.15, "A keyframe is taken after this motion.",
              unit="m", low=0.0, high=100.0),
    Parameter("keyframes.min_rotation", "double", 0.17, "A keyframe is taken after this turn.",
              unit="rad", low=0.0, high=3.15),
    Parameter("keyframes.max_interval", "double", 5.0,
              "A moving robot takes a keyframe at least this often.", unit="s", low=0.1,
              high=3600.0),
    Parameter("keyframes.min_interval", "double", 0.2,
              "No two keyframes of a camera are closer than this.", unit="s", low=0.0, high=3600.0),
    Parameter("keyframes.min_sharpness", "double", 0.0,
              "Laplacian variance at quarter size below which an image is too blurred; 0 is off.",
              low=0.0, high=100000.0),
    Parameter("keyframes.max_angular_velocity", "double", 1.0,
              "Images taken while turning faster are blurred and not used as keyframes.",
              unit="rad/s", low=0.01, high=100.0),
    Parameter("keyframes.capacity", "int", 64, "Keyframes kept.", low=2, high=10000),
    Parameter("keyframes.max_image_side", "int", 1280,
              "Keyframes keep the camera's image, shrunk to this width and height at most.",
              INACTIVE, unit="px", low=64, high=8192),
    Parameter("keyframes.max_age", "double", 20.0,
              "Older keyframes are not used for automatic jobs.", unit="s", low=0.1, high=86400.0),
    # Model
    Parameter("mode", "string", "auto",
              "What is made: views (with depth), or only the depth of every image; auto: views, "
              "unless the bundle has only a geometry backbone.", INACTIVE, choices=MODES),
    Parameter("model.backend", "string", "auto",
              "Geometric foundation model: `auto` is the bundle's, a name rejects bundles with "
              "another.", INACTIVE, choices=("auto", "da3", "vggt")),
    Parameter("model.bundle", "string", "tiny",
              "Weights: the embedded bundle `tiny`, the name of a fetched bundle, or a folder.",
              INACTIVE),
    Parameter("model.precision", "string", "auto",
              "Arithmetic of the network; `auto` is bf16 where the processor or GPU has products "
              "of it, else fp32 on a CPU and fp16 on a GPU.", INACTIVE,
              choices=("auto", "bf16", "fp16", "fp32")),
    Parameter("model.self_test", "bool", True,
              "Check the numerics of the loaded model at configure.", INACTIVE),
    Parameter("model.compile", "bool", False,
              "Compile the denoisers with torch: configure takes minutes, steps on a GPU less "
              "time.", INACTIVE),
    Parameter("device", "string", "auto", "auto, cpu, cuda or cuda:N.", INACTIVE),
    Parameter("gpu.memory_budget", "double", 0.0,
              "Memory the model may use; 0 takes 90 % of what is free (60 % where it is shared "
              "with the CPU). Configure rejects what is estimated to need more.", INACTIVE,
              unit="GiB", low=0.0, high=512.0),
    # Sampling
    Parameter("sampler.preset", "string", "published",
              "How views are sampled: as the weights were published; fast, nearer to the exact "
              "result in fewer evaluations; or fastest, by the bundle's student, if it has one "
              "(the embedded one has none).",
              choices=PRESET_NAMES),
    Parameter("sampler.num_steps", "int", 0,
              "Steps of the sampler; 0 takes those of preset and bundle, or the student's calls.",
              low=0, high=MAX_NUM_STEPS),
    Parameter("sampler.guidance_scale", "double", 0.0,
              "Strength of camera guidance; 1 is off, 0 takes the bundle's.",
              low=0.0, high=MAX_GUIDANCE_SCALE),
    Parameter("sampler.seed", "int", -1, "Seed of all jobs; -1 derives one from the job number.",
              low=-1, high=2147483647),
    Parameter("sampler.samples", "int", 1,
              "Samples of every view; their spread lowers the confidence of imagined pixels.",
              low=1, high=8),
    Parameter("sampler.reference_views", "int", 4,
              "Largest number of keyframes that a job uses as reference views.", low=1, high=4),
    Parameter("sampler.max_targets", "int", 4, "Largest number of target views of a job.", low=1,
              high=7),
    Parameter("goals.max_wait", "double", 600.0, "The longest `max_wait` that a goal may ask for.",
              unit="s", low=0.0, high=86400.0),
    Parameter("goals.max_open", "int", 32,
              "Goals that may wait or run at the same time; further ones are rejected.", low=1,
              high=1000),
    Parameter("image.output_size", "string", "model",
              "Size of target views: that of the model or that of the camera's image.",
              choices=("model", "source")),
    # Targets
    Parameter("policy.type", "string", "none", "Where automatic jobs put their target views.",
              choices=POLICIES),
    Parameter("policy.rate", "double", 0.5,
              "Highest rate of automatic jobs; live only (offline: --every).", unit="Hz", low=0.01,
              high=10.0),
    Parameter("policy.yaw_offsets", "double[]", [-0.6, -0.3, 0.3, 0.6], "Turns of look_around.",
              unit="rad", low=-3.15, high=3.15, min_entries=1, max_entries=4),
    Parameter("policy.baselines", "double[]", [-0.12, 0.12], "Lateral shifts of stereo_baseline.",
              unit="m", low=-5.0, high=5.0, min_entries=1, max_entries=4),
    Parameter("policy.path_spacing", "double", 0.75, "Distance of path_ahead's views.", unit="m",
              low=0.1, high=5.0),
    Parameter("policy.frontier_radius", "double", 5.0, "How far frontier looks for unknown space.",
              unit="m", low=0.5, high=50.0),
    Parameter("policy.pose_convention", "string", "body", "Axes of poses on target_poses.",
              choices=("body", "optical")),
    Parameter("guard.max_translation", "double", 1.5,
              "Targets farther from every reference view are rejected.", unit="m", low=0.0,
              high=10.0),
    Parameter("guard.max_rotation", "double", 1.05,
              "Targets turned further from every reference view are rejected.", unit="rad", low=0.0,
              high=3.15),
    Parameter("guard.min_overlap", "double", 0.25,
              "Share of a target's pixels that reference views must cover.", low=0.0, high=1.0),
    # Scale
    Parameter("scale.mode", "string", "auto",
              "Source of metric scale; auto: measured depth, or tf_baseline if there is none.",
              INACTIVE, choices=SCALE_MODES),
    Parameter("scale.fixed_value", "double", 1.0, "Metres per model unit in mode fixed.", low=1e-6,
              high=1e6),
    Parameter("scale.min_baseline", "double", 0.10, "Camera pairs closer than this do not count.",
              unit="m", low=0.01, high=10.0),
    Parameter("scale.max_dispersion", "double", 0.10,
              "Relative spread of the ratios above which the scale is not trusted.", low=0.01,
              high=1.0),
    Parameter("scale.hold_time", "double", 10.0,
              "How long the last scale is used if none can be measured.", unit="s", low=0.0,
              high=600.0),
    Parameter("scale.withhold_if_unresolved", "bool", True,
              "Publish no depth and no clouds while the metric scale is unknown."),
    # Products
    Parameter("depth.source", "string", "auto",
              "What measures depth; auto: a depth camera, and stereo where that gives none.",
              INACTIVE, choices=DEPTH_SOURCES),
    Parameter("depth.rate", "double", 0.0,
              "Highest rate of images per camera in mode depth; 0: as many as there is time for.",
              unit="Hz", low=0.0, high=1000.0),
    Parameter("depth.min", "double", 0.1, "Closer depths become -Inf (REP-117).", unit="m", low=0.0,
              high=1000.0),
    Parameter("depth.max", "double", 30.0, "Farther depths become +Inf (REP-117).", unit="m",
              low=0.01, high=10000.0),
    Parameter("depth.min_confidence", "double", 0.3, "Less confident depths become NaN.", low=0.0,
              high=1.0),
    Parameter("provenance.rel_tolerance", "double", 0.05,
              "Depth difference within which a real view confirms a point.", low=0.005, high=0.5),
    Parameter("color.composite", "bool", True,
              "Target views show measured surfaces where there are any; false: the model's view "
              "only."),
    Parameter("cloud.voxel_size", "double", 0.0, "Voxel filter of predicted clouds; 0 is off.",
              unit="m", low=0.0, high=1.0),
    Parameter("cloud.stride", "int", 1, "Every n-th pixel of rows and columns becomes a point.",
              low=1, high=16),
    Parameter("cloud.organized_observed", "bool", True,
              "Observed clouds keep the image's grid, with NaN for invalid points."),
    Parameter("cloud.predicted_provenance", "string[]",
              ["measured", "corroborated", "hallucinated"],
              "Which predicted points are published.", choices=PROVENANCE_NAMES),
    Parameter("observed.provenance", "string[]", ["measured", "completed"],
              "Which depth ~/observed/* has, images and clouds alike; only measured may clear "
              "a map.", choices=OBSERVED_NAMES, min_entries=1),
    Parameter("cloud.publish_merged", "bool", False, "Also offer ~/merged/points.", INACTIVE),
    Parameter("product.max_age", "double", 8.0,
              "Older products are dropped; keep it below the consumers' TF cache. 0 is off.",
              unit="s", low=0.0, high=60.0),
    # Running
    Parameter("autostart", "bool", False,
              "Configure and activate at start; false leaves that to a lifecycle manager or a "
              "person.", START),
    Parameter("release_on_deactivate", "bool", False, "Free the weights at deactivate."),
    Parameter("shutdown_timeout", "double", 3.0, "How long shutdown waits for a running step.",
              unit="s", low=0.0, high=60.0),
    Parameter("diagnostics.period", "double", 1.0, "Period of /diagnostics.", unit="s", low=0.1,
              high=60.0),
    Parameter("time.backward_tolerance", "double", 0.1, "Smaller jumps back in time are ignored.",
              INACTIVE, unit="s", low=0.0, high=10.0),
    Parameter("time.forward_gap", "double", 10.0, "Larger jumps forward start a new epoch.",
              INACTIVE, unit="s", low=1.0, high=3600.0),
)
# fmt: on

BY_NAME: dict[str, Parameter] = {parameter.name: parameter for parameter in TABLE}


def per_camera_parameters(camera_names: Sequence[str]) -> tuple[Parameter, ...]:
    """Return the parameters that exist once per camera."""
    return tuple(
        Parameter(
            f"frame_id_override.{name}",
            "string",
            "",
            f"Optical frame of {name!r}, instead of the one in its images; empty takes theirs.",
            INACTIVE,
        )
        for name in camera_names
    )
