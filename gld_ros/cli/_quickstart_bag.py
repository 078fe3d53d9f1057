"""The bag of `gld-ros quickstart`: whether it can be run, and how long that will take."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gld_ros.depth_pipeline import DepthPipeline
    from gld_ros.mapping.parameters import Mode, SessionParameters
    from gld_ros.pipeline import NovelViewPipeline

LONG_S = 60.0  # a job that takes longer is worth a hint


@dataclass(frozen=True)
class BagWork:
    """What a bag asks for: cameras by name, jobs at most, and the size of the first camera."""

    cameras: tuple[str, ...]
    jobs: int
    image_hw: tuple[int, int]


def look_at_bag(
    path: Path, parameters: "SessionParameters", mode: "Mode", every: int = 1
) -> BagWork:
    """Read what a run needs beside images: CameraInfo, transforms, the topic of a policy.

    Raises ValueError (BagError, RecordingError) that says what is missing.
    """
    from gld_ros.bags.cameras import bag_cameras
    from gld_ros.bags.reader import BagError, BagReader
    from gld_ros.cli._bag_run import run_fixed_frame
    from gld_ros.mapping.expected_work import expected_keyframes
    from gld_ros.mapping.offline_policy import bag_policy_topic
    from gld_ros.scenes.bags import open_bag
    from gld_ros.scenes.recording import RecordingError

    with BagReader(path) as reader:
        cameras = bag_cameras(reader)
        infos = [reader.first(camera.info_topic) for camera in cameras]
        images = sum(reader.topics[camera.image_topic].num_messages for camera in cameras)
        if not images or not any(infos):
            topics = ", ".join(c.info_topic if images else c.image_topic for c in cameras)
            raise BagError(f"bag {path} has no message on {topics}")
        info = next(info for info in infos if info is not None)
        image_hw = (int(info.height), int(info.width))
        names = tuple(camera.name for camera in cameras)
        fixed = run_fixed_frame(reader, parameters.frames.fixed, mode)
        if mode == "depth":
            return BagWork(names, images, image_hw)
        bag_policy_topic(reader, parameters.policy.type, None)
    try:
        recordings = open_bag(path, fixed)
    except RecordingError as error:
        raise RecordingError(
            f"{error}. Views need CameraInfo, /tf and /tf_static beside the images; "
            f"`gld-ros check {path}` says more. Depth of every image needs no TF: --set mode=depth"
        ) from error
    keyframes = expected_keyframes(recordings, parameters.gate)
    return BagWork(names, -(-keyframes // every), image_hw)


def duration_lines(
    work: BagWork,
    pipeline: "NovelViewPipeline | DepthPipeline",
    parameters: "SessionParameters",
) -> list[str]:
    """How long the run will take here, and where that is long what makes it shorter."""
    import torch

    from gld_ros.depth_pipeline import DepthPipeline
    from gld_ros.mapping import expected_work
    from gld_ros.novel_view_stages import sampling_of

    config, sampler = pipeline.bundle.config, parameters.sampler
    on_cpu = pipeline.device.type == "cpu"
    dtype = torch.float32 if on_cpu and isinstance(pipeline, DepthPipeline) else pipeline.dtype
    speed = expected_work.operations_per_s(pipeline.device, dtype)
    notes = []
    if isinstance(pipeline, DepthPipeline):
        model_hw = pipeline.model_hw(work.image_hw)
        each = expected_work.depth_operations(config, model_hw)
        what = f"depth of {work.jobs} images"
    else:
        model_hw = expected_work.nearest_size_hw(config.resolutions_hw, work.image_hw)
        guidance = sampler.guidance_scale
        sampling = sampling_of(config, sampler.preset, sampler.num_steps, guidance)
        step = expected_work.step_operations(config, sampling, sampler, model_hw)
        each = step * sampling.num_steps
        what = (
            f"up to {work.jobs} jobs (keyframes) of {sampler.reference_views} + "
            f"{sampler.max_targets} views in {sampling.num_steps} steps"
        )
        if on_cpu and each / speed > LONG_S:
            fast_s = step * sampling_of(config, "fast", None, guidance).num_steps / speed
            notes.append(
                "NOTE: views want a GPU. Without one, --weights da3-base gives the depth of every "
                f"image; --set sampler.preset=fast takes {in_words(fast_s)} per job; --every N "
                "makes a job of every N-th keyframe only"
            )
    each_s = each / speed
    return [
        f"time: {what}, about {in_words(each_s)} each, {in_words(each_s * work.jobs)} in all "
        f"(computed: {_operations(each)} each; a matrix product timed now on "
        f"{'the CPU' if on_cpu else 'the GPU'} suggests {_operations(speed)}/s)",
        *notes,
    ]


def _operations(count: float) -> str:
    return f"{count / 1e12:.0f} TFLOP" if count >= 1e13 else f"{count / 1e9:.0f} GFLOP"


def in_words(seconds: float) -> str:
    """A duration as people say it, such as "40 s", "12 min", "7.6 h" or "12 days"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.0f} days"
