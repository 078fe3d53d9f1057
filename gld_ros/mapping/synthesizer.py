"""The interface to models: anything that runs a request for views or depth step by step.

Owns the protocol that `gld_ros.pipeline.NovelViewPipeline` fits, the errors a worker understands,
and `OracleSynthesizer`, which returns the true colours and depth of a scene that it can render. The
oracle tests geometry, scale and stamps without any learning; it is never used as a model.
"""

import time
from collections.abc import Callable, Generator
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from gld_ros.geometry.poses import rigid_transform
from gld_ros.view_request import DepthRequest, NovelViews, Progress, View, ViewRequest

FloatArray = NDArray[np.floating[Any]]
# (T_world_cam, K_px, (height, width)) -> colours (H, W, 3), uint8 or [0, 1], and z-depth in metres
Render = Callable[[FloatArray, FloatArray, tuple[int, int]], tuple[NDArray[Any], FloatArray]]

ORACLE_CONFIDENCE = 1.0  # of depth that is true
ORACLE_STEPS = 4


class OutOfMemory(RuntimeError):
    """The device has no memory left for this request; a smaller one may fit."""


class DeviceFault(RuntimeError):
    """The device is lost to this process (a sticky CUDA error); nothing will work any more."""


class ViewSynthesizer(Protocol):
    """Imagines views; a generator, so that a caller can follow and stop it between steps."""

    def run(self, request: ViewRequest) -> Generator[Progress, None, NovelViews]:
        """Yield after every step; return the result.

        Raises ValueError for a bad request, `OutOfMemory` or `DeviceFault`.
        """
        ...


class DepthSynthesizer(Protocol):
    """Gives real images their depth, in a unit of its own."""

    def run(self, request: DepthRequest) -> Generator[Progress, None, NovelViews]:
        """Yield after every step; return the images with depth as references, without targets.

        Raises ValueError for a bad request, `OutOfMemory` or `DeviceFault`.
        """
        ...


Synthesizer = ViewSynthesizer | DepthSynthesizer


@runtime_checkable
class MemoryLimited(Protocol):
    """A synthesizer that can trade time or resolution for memory.

    has_smaller_bucket: whether `smallest_bucket` can change anything.
    """

    @property
    def has_smaller_bucket(self) -> bool: ...

    def limit_memory(self, *, chunk_decoder: bool, smallest_bucket: bool) -> None:
        """Take effect from the next request on."""
        ...


@runtime_checkable
class ReadsMeasurements(Protocol):
    """A synthesizer that may continue what was measured (`ViewRequest.surfaces`)."""

    @property
    def reads_measurements(self) -> bool: ...


class OracleSynthesizer:
    """Returns what a renderer sees, in an arbitrary frame and unit of its own.

    The model frame is the world rotated, translated and divided by `metres_per_unit`, so a caller
    must recover scale and use relative poses, as with a real model.
    """

    def __init__(
        self,
        render: Render,
        *,
        metres_per_unit: float = 2.7,
        frame_seed: int = 0,
        step_delay_s: float = 0.0,
    ) -> None:
        if not metres_per_unit > 0:
            raise ValueError(f"metres_per_unit is {metres_per_unit}; > 0 is needed")
        self._render = render
        self._metres_per_unit = metres_per_unit
        self._T_frame_world = _random_rigid(frame_seed)
        self._step_delay_s = step_delay_s

    def run(self, request: ViewRequest) -> Generator[Progress, None, NovelViews]:
        """See `ViewSynthesizer`; the image of a target is what the renderer sees there."""
        request.validate()
        seconds: dict[str, float] = {}
        started = time.monotonic()
        references = []
        for i, image in enumerate(request.images):
            K_px, T_world_cam = request.K_px_ref[i], request.T_world_cam_ref[i]
            _, depth_m = self._render(T_world_cam, K_px, (image.shape[0], image.shape[1]))
            rgb = image.astype(np.float32) / 255.0
            references.append(self._view(rgb, depth_m, K_px, T_world_cam, None))
        yield self._stepped(Progress("encoding", 1, 1))
        seconds["encoding"], started = time.monotonic() - started, time.monotonic()

        steps = ORACLE_STEPS if request.num_steps is None else request.num_steps
        for step in range(1, steps + 1):
            yield self._stepped(Progress("sampling", step, steps))
        seconds["sampling"], started = time.monotonic() - started, time.monotonic()

        targets = []
        for i, image_hw in enumerate(request.target_hw):
            K_px, T_world_cam = request.K_px_target[i], request.T_world_cam_target[i]
            colours, depth_m = self._render(T_world_cam, K_px, image_hw)
            rgb = np.asarray(colours)
            rgb = rgb / np.float32(255.0) if rgb.dtype == np.uint8 else rgb
            spread = np.zeros(image_hw, np.float32) if request.samples > 1 else None
            targets.append(self._view(rgb, depth_m, K_px, T_world_cam, spread))
        yield self._stepped(Progress("decoding", 1, 1))
        seconds["decoding"] = time.monotonic() - started
        seed = 0 if request.seed is None else request.seed
        return NovelViews(tuple(references), tuple(targets), seed, seconds)

    def _stepped(self, progress: Progress) -> Progress:
        if self._step_delay_s > 0:
            time.sleep(self._step_delay_s)
        return progress

    def _view(
        self,
        rgb: NDArray[Any],
        depth_m: FloatArray,
        K_px: FloatArray,
        T_world_cam: FloatArray,
        spread: NDArray[np.float32] | None,
    ) -> View:
        known = np.isfinite(depth_m) & (depth_m > 0)
        T_model_cam = self._T_frame_world @ T_world_cam
        T_model_cam[:3, 3] /= self._metres_per_unit
        return View(
            rgb=rgb.astype(np.float32),
            depth=np.where(known, depth_m / self._metres_per_unit, np.nan).astype(np.float32),
            confidence=np.where(known, ORACLE_CONFIDENCE, 0.0).astype(np.float32),
            K_px=K_px,
            T_world_cam=T_world_cam,
            T_model_cam=T_model_cam,
            recovered_K_px=K_px,
            ray_confidence_mean=ORACLE_CONFIDENCE,
            spread=spread,
        )


def _random_rigid(seed: int) -> FloatArray:
    generator = np.random.default_rng(seed)
    Q, R = np.linalg.qr(generator.normal(size=(3, 3)))
    Q = Q * np.sign(np.diagonal(R))
    if np.linalg.det(Q) < 0:
        Q[:, 0] = -Q[:, 0]
    return rigid_transform(Q, generator.normal(size=3) * 10.0)
