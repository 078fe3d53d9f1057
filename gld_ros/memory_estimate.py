"""How much memory a run of a bundle will need, estimated before any weight is read.

Owns the estimate: the networks of a bundle's config are built without storage and the stages of a
run (`novel_view_stages`) are traced on them while every tensor that lives is counted. So the
estimate follows the code by itself. How much memory there is, and what to do if it is too little,
is for who asks (`gld_ros.mapping.memory_preflight`).

Counted: weights, and tensors alive at the worst moment of each stage. Not counted: the process and
its libraries, the context of a CUDA device, scratch memory of single operations, fragmentation,
results of earlier runs. `WEIGHTS_SHARE` and `SCRATCH_SHARE` are added for the last three;
docs/performance.md says how far measured peaks are from the sum.

A trace takes seconds of a start. `memory_bound` takes none: a rule of thumb that is never too low,
so that a run far from the limit needs no trace.
"""

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter

from gld_ros.backbones.interface import NUM_LEVELS
from gld_ros.diffusion.flow import time_grid
from gld_ros.diffusion.guidance import Branches, Guidance, guided_velocity
from gld_ros.novel_view_stages import (
    DecodedViews,
    EncodedReferences,
    decode,
    decoder_inputs,
    encode_references,
    latent_shape,
    level_tokens,
    sampling_conditions,
)
from gld_ros.weights.bundle_config import BundleConfig
from gld_ros.weights.statistics import LevelStatistics
from gld_ros.weights.tensor_file import float32_at_run
from gld_ros.weights.without_storage import without_storage

META = torch.device("meta")
CAMERA_MAP_CHANNELS = 7
# Measured on a CPU (benchmark/memory_estimate.py). Of the weights: files that are mapped while
# they are read. Of the activations: buffers of single operations, the allocator's gaps.
WEIGHTS_SHARE = 0.25
SCRATCH_SHARE = 0.75
# Of `memory_bound`: numbers alive per token and unit of width, per pixel and feature of the depth
# head, per pixel of a finished view; features of the head's last layers; tokens of a view beside
# its patches. Far above what traces of both families find (test_memory_estimate).
TOKEN_NUMBERS, HEAD_NUMBERS, RESULT_NUMBERS = 40, 6, 16
HEAD_HIDDEN, SPECIAL_TOKENS = 32, 8
FLOAT32_BYTES = 4


@dataclass(frozen=True)
class RunShape:
    """What decides how much a run takes: counts, the model's image size, and options."""

    num_references: int
    num_targets: int
    image_hw: tuple[int, int]
    samples: int = 1
    guided: bool = False
    branches: Branches = "together"
    decoded_together: int | None = None  # views in the decoders at once; None is all


@dataclass(frozen=True)
class StageMemory:
    """Bytes that one stage needs at its worst moment."""

    weights: int
    activations: int

    @property
    def total(self) -> int:
        """Weights, activations and what single operations need beside them."""
        return round((1 + WEIGHTS_SHARE) * self.weights + (1 + SCRATCH_SHARE) * self.activations)


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of a run: of every module's weights, and of every stage, in their order."""

    weights: Mapping[str, int]
    stages: Mapping[str, StageMemory]

    @property
    def peak_stage(self) -> str:
        """Name of the stage that needs most."""
        return max(self.stages, key=lambda name: self.stages[name].total)

    @property
    def peak_bytes(self) -> int:
        """What the worst stage needs."""
        return self.stages[self.peak_stage].total


def estimate_memory(
    config: BundleConfig, shape: RunShape, *, dtype: torch.dtype, keep_weights: bool
) -> MemoryEstimate:
    """Memory of one run of a bundle with denoisers and RGB decoder in `dtype`.

    Without targets it is a run of the backbone alone (`DepthPipeline`). `keep_weights`: whether all
    weights stay in memory between stages, as in `NovelViewPipeline`. Takes a few seconds and no
    memory to speak of. Raises ValueError for targets from a bundle that makes no views and for a
    size that is not a multiple of the patch.
    """
    depth_only = shape.num_targets == 0
    if not (depth_only or config.imagines):
        raise ValueError(f"bundle {config.name!r} has only a geometry backbone")
    patch = config.backbone.config.patch_size
    if min(shape.image_hw) < patch or any(side % patch for side in shape.image_hw):
        raise ValueError(f"image_hw is {shape.image_hw}; both must be multiples of {patch}")
    with without_storage():
        names = ("backbone",) if depth_only else config.module_names
        modules = {name: config.build_module(name).eval() for name in names}
    weights = {
        name: _to_running_precision(module, torch.float32 if name == "backbone" else dtype)
        for name, module in modules.items()
    }
    everything = sum(weights.values())
    if depth_only:
        peak = _depth_trace(modules["backbone"], shape)
        return MemoryEstimate(weights, {"depth": StageMemory(everything, peak)})
    activations = _trace(config, modules, shape)
    stages = {}
    for name, peak in activations.items():
        own = {"backbone", {"encoding": "backbone", "decoding": "rgb_decoder"}.get(name, name)}
        held = everything if keep_weights else sum(weights[module] for module in own)
        stages[name] = StageMemory(held, peak)
    return MemoryEstimate(weights, stages)


def memory_bound(config: BundleConfig, shape: RunShape) -> int:
    """Bytes that a run surely does not exceed, in float32 and with all weights kept.

    Where there is room for so much, `estimate_memory` need not be asked. Counts the same things.
    """
    backbone, rgb = config.backbone.config, config.rgb_decoder
    pixels = shape.image_hw[0] * shape.image_hw[1]
    views = shape.num_references + shape.num_targets
    tokens = views * (pixels // backbone.patch_size**2 + SPECIAL_TOKENS)
    numbers = _backbone_numbers(backbone, views, shape.image_hw)
    if shape.num_targets and rgb is not None:
        denoisers = [spec.config for spec in config.denoisers.values()]
        branches = 2 if shape.guided else 1
        width = branches * max(max(one.hidden) for one in denoisers)
        numbers += TOKEN_NUMBERS * tokens * (width + rgb.width)
        channels = sum(one.channels for one in denoisers)
        numbers += RESULT_NUMBERS * shape.samples * (views * pixels + tokens * channels)
    modules = config.module_names if shape.num_targets else ("backbone",)
    parameters = sum(config.files[f"{name}.safetensors"].num_values for name in modules)
    weights = FLOAT32_BYTES * parameters
    return StageMemory(weights, FLOAT32_BYTES * numbers).total


def forward_estimate(backbone: Any, num_views: int, image_hw: tuple[int, int]) -> int:
    """Bytes that a call of a loaded backbone needs beside its weights, in float32.

    For images (1, V, 3, H, W) without known cameras, whose tokens are few. Takes seconds.
    """
    with without_storage():
        module = type(backbone)(backbone.config).eval()
    live = LiveTensors("meta")
    with torch.inference_mode(), META, live, _FusedKernels():
        module(torch.zeros(1, num_views, 3, *image_hw))
    return StageMemory(0, live.peak_bytes).total


def forward_bound(backbone: Any, num_views: int, image_hw: tuple[int, int]) -> int:
    """Bytes that `forward_estimate` surely does not exceed, found at once."""
    numbers = _backbone_numbers(backbone.config, num_views, image_hw)
    return StageMemory(0, FLOAT32_BYTES * numbers).total


def _backbone_numbers(config: Any, num_views: int, image_hw: tuple[int, int]) -> int:
    """Numbers that a backbone of this config keeps alive at once, by the rule of thumb."""
    pixels = image_hw[0] * image_hw[1]
    tokens = num_views * (pixels // config.patch_size**2 + SPECIAL_TOKENS)
    features = config.head_features + HEAD_HIDDEN
    per_pixel = HEAD_NUMBERS * features + RESULT_NUMBERS
    return int(TOKEN_NUMBERS * tokens * config.embed_dim + num_views * pixels * per_pixel)


def _to_running_precision(module: nn.Module, dtype: torch.dtype) -> int:
    """Give a module without storage the types it will run in; its bytes."""
    kept = float32_at_run(module)
    state = {
        name: values.to(torch.float32 if name in kept else dtype)
        for name, values in module.state_dict().items()
    }
    module.load_state_dict(state, assign=True)
    return sum(values.numel() * values.element_size() for values in state.values())


def _depth_trace(backbone: Any, shape: RunShape) -> int:
    """Peak bytes of activations of what `DepthPipeline` does."""
    live = LiveTensors("meta")
    with torch.no_grad(), META, live, _FusedKernels():
        levels = backbone.encode_levels(
            torch.zeros(1, shape.num_references, 3, *shape.image_hw), range(NUM_LEVELS)
        )
        inputs = [backbone.decoder_input(levels[level]) for level in range(NUM_LEVELS)]
        backbone.decode_geometry(inputs, shape.image_hw)
    return live.peak_bytes


def _trace(
    config: BundleConfig, modules: Mapping[str, nn.Module], shape: RunShape
) -> dict[str, int]:
    """Peak bytes of activations of every stage: what `NovelViewPipeline` keeps alive, in order."""
    live, peaks = LiveTensors("meta"), dict[str, int]()

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        live.peak_bytes = live.bytes
        yield
        peaks[name] = live.peak_bytes

    height, width = shape.image_hw
    views = shape.num_references + shape.num_targets
    backbone: Any = modules["backbone"]
    denoisers = config.denoiser_names
    level_of = {name: 0 if name == "cascade" else config.boundary_level for name in denoisers}
    statistics = {level: _statistics(config) for level in sorted(level_of.values())}
    grid_hw = (height // backbone.patch_size, width // backbone.patch_size)
    noise_shape = latent_shape(config.denoisers[denoisers[0]].config, views, grid_hw)

    with torch.no_grad(), META, live, _FusedKernels():
        images = torch.zeros(1, shape.num_references, 3, height, width)
        camera_map = torch.zeros(1, views, CAMERA_MAP_CHANNELS, height, width)
        viewmats, K_px = torch.zeros(1, views, 4, 4), torch.zeros(1, views, 3, 3)
        noises = {name: torch.zeros(shape.samples, *noise_shape) for name in denoisers}
        with stage("encoding"):
            encoded: EncodedReferences = encode_references(
                backbone, statistics, images, config.boundary_level
            )
        latents: list[dict[int, Tensor]] = [{} for _ in range(shape.samples)]
        for name in denoisers:
            denoiser: Any = modules[name]
            with stage(name):
                for k, sample_latents in enumerate(latents):
                    source = sample_latents[config.boundary_level] if name == "cascade" else None
                    conditions = sampling_conditions(
                        denoiser,
                        encoded.latents[level_of[name]],
                        camera_map,
                        viewmats,
                        K_px,
                        source=source,
                    )
                    with torch.device("cpu"):
                        times = time_grid(3, 1.0)
                    velocity = guided_velocity(
                        denoiser,
                        conditions,
                        Guidance(2.0 if shape.guided else 1.0),
                        times=times[:-1],
                        branches=shape.branches,
                    )
                    latent = noises[name][k : k + 1]
                    weight_dtype = conditions.reference_latent.dtype
                    for t in (1.0, 0.5):
                        latent = latent + velocity(latent.to(weight_dtype), t).float()
                    sample_latents[level_of[name]] = latent
                    del conditions, velocity, latent, source
        decoded: list[DecodedViews] = []
        with stage("decoding"):
            for sample_latents in latents:
                tokens = level_tokens(
                    backbone,
                    statistics,
                    sample_latents,
                    encoded.special,
                    config.boundary_level,
                    grid_hw,
                )
                inputs = decoder_inputs(backbone, tokens)
                rgb_decoder: Any = modules["rgb_decoder"]
                decoded.append(
                    decode(backbone, rgb_decoder, inputs, shape.image_hw, shape.decoded_together)
                )
                del inputs, tokens
    return peaks


def _statistics(config: BundleConfig) -> LevelStatistics:
    """Statistics of one level, without values."""
    denoiser = config.denoisers[config.base_denoiser].config
    mean = torch.zeros(denoiser.channels, device=META)
    special = LevelStatistics(mean, mean) if denoiser.special_tokens else None
    return LevelStatistics(mean, mean, special)


class LiveTensors(TorchFunctionMode):
    """Counts the bytes of tensors that were made under it and still exist, and their peak.

    A context for one thread. `device_type`: only tensors of this kind of device count. It sees what
    functions return, not what they make and drop inside.
    """

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self.device_type = device_type
        self.bytes = 0
        self.peak_bytes = 0
        self._known: set[int] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        # Inputs may be weights, which are counted apart: an output can be a view of one.
        inputs = {
            t.untyped_storage()._cdata for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)
        }
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor) and tensor.device.type == self.device_type:
                storage = tensor.untyped_storage()
                if storage._cdata not in inputs and storage._cdata not in self._known:
                    self.add(storage)
        return result

    def add(self, storage: torch.UntypedStorage) -> None:
        """Count a storage until it is freed."""
        self._known.add(storage._cdata)
        size = storage.nbytes()
        self.bytes += size
        self.peak_bytes = max(self.peak_bytes, self.bytes)
        weakref.finalize(storage, self._freed, storage._cdata, size)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.bytes -= size


class _FusedKernels(TorchFunctionMode):
    """Operations that real devices do in one kernel, and the meta device in many parts.

    Attention stores no matrix of scores, interpolation nothing but its result.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            query, _, value = args[:3]
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        if func is F.interpolate and kwargs and kwargs.get("size") is not None:
            return args[0].new_empty(*args[0].shape[:2], *kwargs["size"])
        return func(*args, **(kwargs or {}))
