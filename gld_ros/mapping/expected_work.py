"""How much work a run over recordings is, known from their poses before any image is decoded.

Owns the number of jobs, the operations of one, and the speed of this machine. All is an estimate:
jobs are those that the gate of keyframes lets through, and of a job only the networks' matrix
products, convolutions and attention are counted. Imports torch only when called.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from gld_ros.mapping.keyframes import GateParameters, KeyframeGate

if TYPE_CHECKING:
    import torch

    from gld_ros.diffusion.conditioning import DenoiserConditions
    from gld_ros.diffusion.config import DenoiserConfig
    from gld_ros.mapping.parameters import SamplerParameters
    from gld_ros.novel_view_stages import Sampling
    from gld_ros.scenes.recording import Recording
    from gld_ros.weights.bundle_config import BundleConfig

ImageHw = tuple[int, int]

# Of the rate of one large matrix product, what whole evaluations reach; measured, as
# docs/performance.md ("How long a run takes") shows.
GPU_SHARE, CPU_SHARE = 0.27, 0.72
TIMED_SIDE = {"cuda": 8192, "cpu": 512}
TIMED_REPEATS = range(4, 30)  # at least, at most
TIMED_S = 0.5


def expected_keyframes(recordings: Sequence[Recording], parameters: GateParameters) -> int:
    """How many images of recordings (one per camera) pass the gate; blur is not looked at."""
    gate, count = KeyframeGate(), 0
    images = (
        (int(stamp_ns), number, pose)
        for number, recording in enumerate(recordings)
        for stamp_ns, pose in zip(recording.stamps_ns, recording.T_world_cam, strict=True)
    )
    for stamp_ns, number, pose in sorted(images, key=lambda image: image[:2]):
        camera = str(number)
        if gate.too_soon(camera, stamp_ns, parameters):
            continue
        if gate.judge(camera, stamp_ns, pose, parameters).accepted:
            gate.accept(camera, stamp_ns, pose)
            count += 1
    return count


def nearest_size_hw(sizes_hw: Sequence[ImageHw], image_hw: ImageHw) -> ImageHw:
    """That of the network's sizes whose aspect is nearest to an image's."""
    height, width = image_hw
    return min(sizes_hw, key=lambda hw: abs(math.log(hw[1] / hw[0] * height / width)))


def step_operations(
    config: BundleConfig, sampling: Sampling, sampler: SamplerParameters, model_hw: ImageHw
) -> int:
    """Floating-point operations of one step of every denoiser, for the largest job planned."""
    branches = 2 if sampling.guidance.scale > 1 else 1
    views = sampler.reference_views, sampler.max_targets
    once = sum(
        denoiser_operations(config.denoisers[sampling.module_of(name)].config, *views, model_hw)
        for name in config.denoiser_names
    )
    return once * branches * sampler.samples


def denoiser_operations(
    config: DenoiserConfig, references: int, targets: int, image_hw: ImageHw
) -> int:
    """Operations of one evaluation of a denoiser's network on one scene, without guidance."""
    import torch

    from gld_ros.diffusion.denoiser import Denoiser
    from gld_ros.weights.without_storage import without_storage

    with without_storage():
        denoiser = Denoiser(config).eval()
    with torch.device("meta"):
        conditions = blank_conditions(config, references, targets, image_hw)
        noisy = torch.zeros_like(conditions.reference_latent)
        return operations(lambda: denoiser(noisy, torch.ones(1), conditions))


def blank_conditions(
    config: DenoiserConfig, references: int, targets: int, image_hw: ImageHw
) -> DenoiserConditions:
    """What a denoiser reads of one scene, all zero, on torch's default device."""
    import torch

    from gld_ros.diffusion.conditioning import CAMERA_CHANNELS, DenoiserConditions

    views, patch = references + targets, config.camera_patch
    latent = torch.zeros(1, views, config.channels, image_hw[0] // patch, image_hw[1] // patch)
    return DenoiserConditions(
        latent,
        references,
        torch.zeros(1, views, CAMERA_CHANNELS, *image_hw),
        torch.zeros(1, views, 4, 4),
        torch.zeros(1, views, 3, 3),
        image_hw,
        latent if config.source_conditioned else None,
    )


def depth_operations(config: BundleConfig, model_hw: ImageHw) -> int:
    """Operations of the depth of one image."""
    import torch

    from gld_ros.weights.without_storage import without_storage

    with without_storage():
        backbone: Any = config.build_module("backbone").eval()

    def run() -> None:
        levels = backbone.encode_levels(torch.zeros(1, 1, 3, *model_hw), range(4))
        backbone.decode_geometry([backbone.decoder_input(levels[i]) for i in range(4)], model_hw)

    with torch.device("meta"):
        return operations(run)


def operations(call: Callable[[], object]) -> int:
    """Matrix products, convolutions and attention of a call, by torch's own counter."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def operations_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """What this machine sustains in the networks, from a matrix product that is timed now."""
    import torch

    side = TIMED_SIDE[device.type]
    values = torch.rand(side, side, device=device, dtype=dtype)
    seconds: list[float] = []
    while len(seconds) < TIMED_REPEATS.start or (
        len(seconds) < TIMED_REPEATS.stop and sum(seconds) < TIMED_S
    ):
        started_s = time.perf_counter()
        values @ values
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started_s)
    share = GPU_SHARE if device.type == "cuda" else CPU_SHARE
    return share * 2 * side**3 / min(seconds[1:])
