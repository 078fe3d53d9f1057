"""Requests to a view synthesizer and their results: plain data, NumPy only.

Owns the dataclasses that `gld_ros.pipeline` and the robot logic in `gld_ros.mapping` share, their
validation, and how a caller runs a request to its end. Needs neither torch nor ROS, so that robot
logic can be tested without a model. Cameras are camera-to-world with OpenCV axes (x right, y down,
z forward); pixel centres are integers.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gld_ros.diffusion.presets import PRESET_NAMES, PresetName
from gld_ros.geometry.poses import is_rigid
from gld_ros.measuring.surfaces import Surface

FloatArray = NDArray[np.floating[Any]]

MAX_SEED = 2**63 - 1

Stage = Literal["encoding", "sampling", "decoding"]


@dataclass(frozen=True)
class ViewRequest:
    """One scene: R real images with their cameras, and T cameras to imagine a view for."""

    images: Sequence[NDArray[np.uint8]]  # R arrays (H_i, W_i, 3), RGB
    K_px_ref: FloatArray  # (R, 3, 3) in pixels of `images`
    T_world_cam_ref: FloatArray  # (R, 4, 4), metres or any one unit
    K_px_target: FloatArray  # (T, 3, 3)
    T_world_cam_target: FloatArray  # (T, 4, 4)
    target_hw: Sequence[tuple[int, int]]  # size of each imagined view
    preset: PresetName = "published"  # solver, number of steps and when guidance acts
    num_steps: int | None = None  # None: the preset's
    guidance_scale: float | None = None  # None: what the weights were made for
    seed: int | None = None  # None: the synthesizer picks one and reports it
    noise: Any = None  # explicit start noise in the synthesizer's own layout
    samples: int = 1  # independent samples per target; their spread goes to `View.spread`
    # Whether references come with the model's colours of them; NaN without, which takes less time.
    reference_colours: bool = True
    model_hw: tuple[int, int] | None = None  # size the model runs at; None: the best trained one
    # What posed images have measured, its fixed frame being this world, in metres; read by models
    # that continue measurements, and by no others.
    surfaces: Sequence[Surface] = ()

    def validate(self) -> None:
        """Raise one ValueError that names the first fault, the value given and what is allowed."""
        references, targets = len(self.images), len(self.target_hw)
        if references == 0:
            raise ValueError("images is empty; at least one reference image is needed")
        if targets == 0:
            raise ValueError("target_hw is empty; at least one target view is needed")
        for i, image in enumerate(self.images):
            _require_image(image, f"images[{i}]")
        for i, hw in enumerate(self.target_hw):
            _require_size(hw, f"target_hw[{i}]")
        _require_cameras(self.K_px_ref, self.T_world_cam_ref, references, "ref", "images")
        _require_cameras(self.K_px_target, self.T_world_cam_target, targets, "target", "target_hw")
        if self.preset not in PRESET_NAMES:
            raise ValueError(f"preset is {self.preset!r}; use one of {', '.join(PRESET_NAMES)}")
        if self.num_steps is not None and self.num_steps < 1:
            raise ValueError(f"num_steps is {self.num_steps}; at least 1 is needed")
        if self.guidance_scale is not None and not (
            np.isfinite(self.guidance_scale) and self.guidance_scale >= 0
        ):
            raise ValueError(f"guidance_scale is {self.guidance_scale}; finite and >= 0 is needed")
        if self.seed is not None and not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed is {self.seed}; 0 to {MAX_SEED} is allowed")
        if self.samples < 1:
            raise ValueError(f"samples is {self.samples}; at least 1 is needed")
        if self.model_hw is not None:
            _require_size(self.model_hw, "model_hw")
        for i, surface in enumerate(self.surfaces):
            _require_surface(surface, f"surfaces[{i}]")


@dataclass(frozen=True)
class DepthRequest:
    """Real images whose depth is wanted; several are seen together and share one unit."""

    images: Sequence[NDArray[np.uint8]]  # R arrays (H_i, W_i, 3), RGB; all of one size
    K_px: FloatArray  # (R, 3, 3) in pixels of `images`
    model_hw: tuple[int, int] | None = None  # size the model runs at; None: what suits the images

    def validate(self) -> None:
        """Raise one ValueError that names the first fault, the value given and what is allowed."""
        if len(self.images) == 0:
            raise ValueError("images is empty; at least one image is needed")
        for i, image in enumerate(self.images):
            _require_image(image, f"images[{i}]")
        sizes = sorted({image.shape[:2] for image in self.images})
        if len(sizes) > 1:
            raise ValueError(f"images have the sizes {sizes}; all of a request must have one")
        if np.shape(self.K_px) != (len(self.images), 3, 3):
            raise ValueError(
                f"K_px has shape {np.shape(self.K_px)}; {(len(self.images), 3, 3)} is needed, one "
                "per image"
            )
        for i, K_px in enumerate(self.K_px):
            _require_intrinsics(K_px, f"K_px[{i}]")
        if self.model_hw is not None:
            _require_size(self.model_hw, "model_hw")


@dataclass(frozen=True)
class Progress:
    """One finished step of a running synthesis; a synthesis can be abandoned at each of them."""

    stage: Stage
    step: int  # 1..total_steps within the stage
    total_steps: int


@dataclass(frozen=True)
class View:
    """One image with depth, in the camera that was asked for and in the one the model believes.

    `depth` and the centre of `T_model_cam` share one unknown unit ("model unit") per result. What
    is recovered is None where the model recovers no cameras, or describes none that is one;
    `ray_confidence_mean` also where it predicts no rays.
    """

    # (H, W, 3) in [0, 1]; NaN where the model does not look, and for references without colours
    rgb: NDArray[np.float32]
    depth: NDArray[np.float32]  # (H, W) z-depth, model units; NaN where nothing is known
    confidence: NDArray[np.float32]  # (H, W) in (0, 1], more is surer; 0 where no depth
    K_px: FloatArray  # (3, 3) as requested
    T_world_cam: FloatArray  # (4, 4) as requested
    T_model_cam: FloatArray | None  # (4, 4) recovered by the model
    recovered_K_px: FloatArray | None  # (3, 3) recovered, in pixels of this view
    ray_confidence_mean: float | None  # in (0, 1]
    # (H, W) standard deviation of log-depth over the samples; None for one sample or a real view
    spread: NDArray[np.float32] | None = None
    rgb_spread: NDArray[np.float32] | None = None  # (H, W) likewise of colour, mean over channels

    def validate(self) -> None:
        """Raise one ValueError for the first array of wrong shape or type, or broken camera.

        Values of images are not judged: NaN from a model is counted where it is published.
        """
        if self.rgb.ndim != 3 or self.rgb.shape[2] != 3:
            raise ValueError(f"rgb has shape {self.rgb.shape}; (H, W, 3) is needed")
        hw = self.rgb.shape[:2]
        for name in ("depth", "confidence", "spread", "rgb_spread"):
            array = getattr(self, name)
            if array is None and name.endswith("spread"):
                continue
            if array.shape != hw:
                raise ValueError(f"{name} has shape {array.shape}; {hw} as rgb is needed")
            _require_float(array, name)
        _require_float(self.rgb, "rgb")
        _require_intrinsics(self.K_px, "K_px")
        # A fit to rays is not exactly upper triangular.
        K = self.recovered_K_px
        if K is not None and (K.shape != (3, 3) or not np.isfinite(K).all()):
            raise ValueError(f"recovered_K_px must be finite (3, 3): {K.tolist()}")
        _require_pose(self.T_world_cam, "T_world_cam")
        if self.T_model_cam is not None:
            _require_pose(self.T_model_cam, "T_model_cam")
        if self.ray_confidence_mean is not None and not np.isfinite(self.ray_confidence_mean):
            raise ValueError(f"ray_confidence_mean is {self.ray_confidence_mean}; not finite")


@dataclass(frozen=True)
class NovelViews:
    """Result of one request: its references as the model saw them, and the imagined targets.

    Of a `DepthRequest` there are no targets; references are the images as they are, with depth.
    """

    references: tuple[View, ...]
    targets: tuple[View, ...]
    seed: int
    stage_seconds: dict[str, float]  # steady-clock seconds per `Stage`

    def validate(self) -> None:
        """Raise one ValueError that names the view and its fault."""
        for group, views in (("references", self.references), ("targets", self.targets)):
            for i, view in enumerate(views):
                try:
                    view.validate()
                except ValueError as error:
                    raise ValueError(f"{group}[{i}]: {error}") from error


def _require_image(image: Any, name: str) -> None:
    if not isinstance(image, np.ndarray):
        raise ValueError(f"{name} is a {type(image).__name__}; a NumPy array is needed")
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"{name} has shape {image.shape}; (H, W, 3) RGB is needed")
    _require_size(image.shape[:2], name)
    if image.dtype != np.uint8:
        raise ValueError(f"{name} has type {image.dtype}; uint8 is needed")


def _require_size(hw: Sequence[int], name: str) -> None:
    if len(hw) != 2 or min(hw) < 1:
        raise ValueError(f"{name} is {tuple(hw)}; (height, width) of at least 1 pixel is needed")


def _require_float(array: NDArray[Any], name: str) -> None:
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{name} has type {array.dtype}; floating point is needed")


def _require_cameras(
    K_px: FloatArray, T_world_cam: FloatArray, count: int, suffix: str, counted_by: str
) -> None:
    for name, array, shape in (
        (f"K_px_{suffix}", K_px, (count, 3, 3)),
        (f"T_world_cam_{suffix}", T_world_cam, (count, 4, 4)),
    ):
        if np.shape(array) != shape:
            raise ValueError(
                f"{name} has shape {np.shape(array)}; {shape} is needed, one per {counted_by}"
            )
    for i in range(count):
        _require_intrinsics(K_px[i], f"K_px_{suffix}[{i}]")
        _require_pose(T_world_cam[i], f"T_world_cam_{suffix}[{i}]")


def _require_intrinsics(K_px: FloatArray, name: str) -> None:
    if np.shape(K_px) != (3, 3):
        raise ValueError(f"{name} has shape {np.shape(K_px)}; (3, 3) is needed")
    if not np.isfinite(K_px).all():
        raise ValueError(f"{name} has NaN or infinite entries: {np.asarray(K_px).tolist()}")
    if K_px[0, 0] <= 0 or K_px[1, 1] <= 0:
        raise ValueError(f"{name} has focal lengths {K_px[0, 0]}, {K_px[1, 1]}; > 0 is needed")
    if not np.allclose(K_px[2], (0.0, 0.0, 1.0), atol=1e-6):
        raise ValueError(f"{name} has last row {np.asarray(K_px[2]).tolist()}; [0, 0, 1] is needed")
    if abs(K_px[1, 0]) > 1e-6:
        raise ValueError(f"{name} has {K_px[1, 0]} left of fy; rectified images have 0 there")


def _require_surface(surface: Surface, name: str) -> None:
    _require_image(surface.image, f"{name}.image")
    _require_intrinsics(surface.K_px, f"{name}.K_px")
    _require_pose(surface.T_fixed_cam, f"{name}.T_fixed_cam")
    shape = surface.depth_m.shape
    if len(shape) != 2 or surface.confidence.shape != shape:
        raise ValueError(
            f"{name} has depth_m of shape {shape} and confidence of {surface.confidence.shape}; "
            "one (h, w) is needed"
        )


def run_to_end(
    steps: Generator[Progress, None, NovelViews],
    progress: Callable[[Progress], None] | None = None,
) -> NovelViews:
    """Result of a running synthesis, calling `progress` after every step; raises what it raises."""
    while True:
        try:
            step = next(steps)
        except StopIteration as stop:
            result: NovelViews = stop.value
            return result
        if progress is not None:
            progress(step)


def _require_pose(T: FloatArray, name: str) -> None:
    if np.shape(T) != (4, 4):
        raise ValueError(f"{name} has shape {np.shape(T)}; (4, 4) is needed")
    if not np.isfinite(T).all():
        raise ValueError(f"{name} has NaN or infinite entries")
    T = np.asarray(T, dtype=np.float64)
    if not is_rigid(T):
        raise ValueError(
            f"{name} is not a rigid motion: rotation {T[:3, :3].tolist()}, last row {T[3].tolist()}"
        )
