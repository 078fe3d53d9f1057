"""From parameters to a loaded synthesizer: bundle, mode, device, precision, memory, self-test.

Owns what configure reports when the model cannot be loaded. Imports torch only when called.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gld_ros.diffusion.presets import PresetName
from gld_ros.mapping.memory_preflight import (
    NotEnoughMemory,
    check_depth_memory,
    check_memory,
    enforce_budget,
)
from gld_ros.mapping.model_fault import Fault
from gld_ros.mapping.model_fault import fault_of as named_fault
from gld_ros.mapping.parameters import Mode, SessionParameters
from gld_ros.mapping.synthesizer import DeviceFault, Synthesizer
from gld_ros.measuring.measure import search_device
from gld_ros.view_request import DepthRequest, ViewRequest, run_to_end

if TYPE_CHECKING:
    import torch

    from gld_ros.depth_pipeline import DepthPipeline
    from gld_ros.pipeline import NovelViewPipeline
    from gld_ros.weights.bundle import Bundle


class ModelUnavailable(RuntimeError):
    """The requested model cannot be loaded; the text says why in one line."""


@dataclass(frozen=True)
class LoadedModel:
    """A synthesizer of the mode it runs in, and what diagnostics report of it."""

    synthesizer: Synthesizer
    description: dict[str, str]
    model_hw: tuple[int, int] | None
    fault_of: Callable[[BaseException], Fault]
    random_weights: bool = False
    release: Callable[[], None] = lambda: None
    mode: Mode = "views"
    measuring_device: torch.device | None = None  # see `measure_depth`


ModelFactory = Callable[[SessionParameters], LoadedModel]


def load_model(parameters: SessionParameters) -> LoadedModel:
    """Load the bundle of `model.bundle`.

    Raises ModelUnavailable with what is wrong and what to do, or DeviceFault if the device is lost.
    """
    wanted = parameters.model
    name = wanted.bundle
    try:
        from gld_ros.weights.bundle import Bundle
        from gld_ros.weights.verify import verify_bundle
    except ModuleNotFoundError as error:
        raise ModelUnavailable(
            f"model.bundle {name!r} needs the Python package {error.name!r}, which is not "
            f"installed in {sys.prefix}; install the packages of gld_ros there: `make build` or "
            "`pip install .` in a checkout"
        ) from error
    try:
        bundle = Bundle.open(name)
        # The self-test loads every module, and so compares names and shapes of all tensors.
        checks = verify_bundle(bundle.folder, layouts=not wanted.self_test)
        broken = [check for check in checks if check.problem]
        if broken:
            raise ModelUnavailable(
                "; ".join(f"{bundle.folder / c.file}: {c.problem}" for c in broken)
            )
        kind = bundle.config.backbone.kind
        if wanted.backend not in ("auto", kind):
            raise ModelUnavailable(
                f"model.bundle {name!r} has backend {kind!r}, but model.backend is "
                f"{wanted.backend!r}; "
                f"use 'auto' or {kind!r}, or another bundle"
            )
        mode, pipeline, memory = prepare_pipeline(bundle, parameters)
        enforce_budget(pipeline.device, wanted.memory_budget_gib)
    except ModelUnavailable:
        raise
    except NotEnoughMemory as error:
        raise ModelUnavailable(str(error)) from error
    except (ValueError, OSError, RuntimeError) as error:
        raise _why_unavailable(name, error) from error
    self_test = "skipped"
    if wanted.self_test:
        try:
            self_test = _try_once(
                pipeline, mode, bundle.config.resolutions_hw[0], parameters.sampler.preset
            )
        except ModelUnavailable:
            raise
        except (ValueError, RuntimeError) as error:
            raise _why_unavailable(name, error) from error
    description = {
        "mode": mode,
        "backend": kind,
        "bundle": bundle.config.name,
        "precision": str(pipeline.dtype).removeprefix("torch."),
        "device": str(pipeline.device),
        "memory": memory,
        "weights_sha256": bundle.config.files["backbone.safetensors"].sha256[:16],
        "weights": "RANDOM" if bundle.config.random_weights else bundle.config.origin,
        "self_test": self_test,
    }
    return LoadedModel(
        pipeline,
        description,
        bundle.config.resolutions_hw[0],
        torch_fault_of,
        bundle.config.random_weights,
        pipeline.release,
        mode,
        search_device(pipeline.device),
    )


def prepare_pipeline(
    bundle: Bundle, parameters: SessionParameters
) -> tuple[Mode, NovelViewPipeline | DepthPipeline, str]:
    """The mode that a bundle runs in, a pipeline without weights yet, and its memory in words.

    Raises ModelUnavailable or ValueError for parameters that the bundle cannot run with,
    NotEnoughMemory if it does not fit.
    """
    from gld_ros.depth_pipeline import DepthPipeline
    from gld_ros.novel_view_stages import sampling_of
    from gld_ros.pipeline import NovelViewPipeline

    wanted, wish = parameters.model, parameters.sampler
    mode = mode_of(parameters, bundle.config.imagines)
    if mode == "depth":
        depth = DepthPipeline(bundle, device=wanted.device, dtype=wanted.precision)
        return mode, depth, check_depth_memory(depth, parameters)
    sampling_of(bundle.config, wish.preset, wish.num_steps, wish.guidance_scale)
    views = NovelViewPipeline(
        bundle,
        device=wanted.device,
        dtype=wanted.precision,
        compile_blocks=wanted.compile_blocks,
    )
    return mode, views, check_memory(views, parameters)


def mode_of(parameters: SessionParameters, imagines: bool) -> Mode:
    """The mode to run in with a bundle that does or does not imagine views.

    Raises ModelUnavailable for views from a bundle without them, and for a scale that depth of
    single images cannot have.
    """
    if parameters.mode == "views" and not imagines:
        raise ModelUnavailable(
            f"model.bundle {parameters.model.bundle!r} has only a geometry backbone and "
            "imagines no views, but mode is 'views'; use mode depth or auto, or a bundle with "
            "diffusion and RGB decoder weights"
        )
    if parameters.mode == "views" or (parameters.mode == "auto" and imagines):
        return "views"
    if parameters.scale.mode == "tf_baseline":
        raise ModelUnavailable(
            "scale.mode is 'tf_baseline', which compares several views of one run, but mode depth "
            "processes one image at a time; use scale.mode auto, measured or fixed"
        )
    return "depth"


def _why_unavailable(name: str, error: Exception) -> RuntimeError:
    fault = torch_fault_of(error)
    if fault is Fault.DEVICE_LOST:
        return DeviceFault(f"model.bundle {name!r}: {error}")
    if fault is Fault.OUT_OF_MEMORY:
        return ModelUnavailable(
            f"model.bundle {name!r}: out of memory in the self-test ({error}); free memory, or "
            "use model.precision bf16, a smaller bundle or another device"
        )
    return ModelUnavailable(f"model.bundle {name!r}: {error}")


def torch_fault_of(error: BaseException) -> Fault:
    """Distinguish allocation failures and lost devices of torch from other errors."""
    import torch

    if isinstance(error, torch.cuda.OutOfMemoryError):
        return Fault.OUT_OF_MEMORY
    text = str(error)
    # Of the host's allocator on Windows, and elsewhere.
    if isinstance(error, RuntimeError) and (
        "not enough memory" in text or "can't allocate memory" in text
    ):
        return Fault.OUT_OF_MEMORY
    if isinstance(error, RuntimeError) and "CUDA error" in text:
        return Fault.DEVICE_LOST
    return named_fault(error)


def _try_once(synthesizer: Any, mode: Mode, image_hw: tuple[int, int], preset: PresetName) -> str:
    """Make depth or one view of noise; ModelUnavailable unless all is finite.

    In one step, or in those of the student where it is the one to run.
    """
    height, width = image_hw
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8)]
    K_px = np.array([[width, 0.0, width / 2], [0.0, width, height / 2], [0.0, 0.0, 1.0]])
    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[1, 0, 3] = 0.3
    request: ViewRequest | DepthRequest = DepthRequest(images, K_px[None])
    if mode == "views":
        request = ViewRequest(
            images,
            K_px[None],
            poses[:1],
            K_px[None],
            poses[1:],
            [image_hw],
            preset=preset,
            num_steps=None if preset == "fastest" else 1,
            seed=0,
        )
    views = run_to_end(synthesizer.run(request))
    made = views.targets if mode == "views" else views.references
    finite = all(np.isfinite(v.rgb).all() and np.isfinite(v.depth).all() for v in made)
    if not finite:
        raise ModelUnavailable(
            "the loaded model computes NaN or infinity; run `gld-ros selftest` on this device"
        )
    return "passed"
