"""Depth of real images from a bundle's geometry backbone alone: no diffusion, no imagined views.

Any bundle will do, one that holds a backbone alone as well. Owns the size at which images are
looked at. Requests and results are `view_request`'s, metres are for others (`gld_ros.mapping`).

    pipeline = DepthPipeline.from_pretrained("da3-base")
    view = pipeline(DepthRequest([image], K_px[None])).references[0]
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gld_ros.backbones.interface import NUM_LEVELS, Geometry
from gld_ros.geometry.crop_resize import (
    resample_confidence,
    resample_depth,
    resample_image,
    resized_intrinsics,
)
from gld_ros.memory_estimate import MemoryEstimate, RunShape, memory_bound
from gld_ros.novel_view_stages import unit_confidence, view_confidence
from gld_ros.pipeline_device import (
    Dtype,
    StageSeconds,
    free_memory,
    resolve_device,
    resolve_dtype,
)
from gld_ros.remembered_estimates import remembered_estimate
from gld_ros.view_request import DepthRequest, NovelViews, Progress, View, run_to_end
from gld_ros.weights.bundle import Bundle

ImageHw = tuple[int, int]


class DepthPipeline:
    """Gives images their depth, in the model's unit; holds the backbone's weights.

    Several images of one request are seen together and share one unit; image 0 is the model's
    origin. Images of different requests have different units.
    """

    def __init__(
        self, bundle: Bundle, *, device: str | torch.device = "auto", dtype: Dtype = "auto"
    ) -> None:
        """Prepare to run `bundle`; weights are read on the first request.

        device "auto" is CUDA where there is one. Weights are kept in float32; dtype is that of
        autocast ("auto": bfloat16 where the processor or GPU has products of it, else none on a CPU
        and float16 on a GPU), heads stay in float32.
        Raises ValueError for unknown options.
        """
        self.bundle = bundle
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(dtype, self.device)
        self.patch_size: int = bundle.config.backbone.config.patch_size
        self._backbone: Any = None

    @classmethod
    def from_pretrained(
        cls,
        bundle: str | Path = "tiny",
        *,
        device: str | torch.device = "auto",
        dtype: Dtype = "auto",
    ) -> DepthPipeline:
        """Pipeline of a bundle folder, a fetched bundle's name, or the embedded "tiny".

        Raises BundleError that says what is missing.
        """
        return cls(Bundle.open(bundle), device=device, dtype=dtype)

    def __call__(self, request: DepthRequest) -> NovelViews:
        """Run a request to its end; raises as `run` does."""
        return run_to_end(self.run(request))

    def run(self, request: DepthRequest) -> Generator[Progress, None, NovelViews]:
        """Generator of `Progress` after encoding and decoding; its return value is the result.

        The request is checked before the generator is returned: ValueError for wrong shapes or
        types, singular intrinsics, and images smaller than one patch.
        """
        request.validate()
        image_hw: ImageHw = (request.images[0].shape[0], request.images[0].shape[1])
        if min(image_hw) < self.patch_size:
            raise ValueError(
                f"images have size {image_hw[0]}x{image_hw[1]} (height x width); the smallest the "
                f"model can look at is one patch, {self.patch_size}x{self.patch_size}"
            )
        model_hw = request.model_hw or self.model_hw(image_hw)
        if any(side % self.patch_size for side in model_hw):
            raise ValueError(f"model_hw is {model_hw}; both must be multiples of {self.patch_size}")
        return self._estimated(request, image_hw, model_hw)

    @property
    def longest_side_px(self) -> int:
        """The longest side of the sizes that the weights were trained for."""
        return max(side for hw in self.bundle.config.resolutions_hw for side in hw)

    def model_hw(self, image_hw: ImageHw) -> ImageHw:
        """Size at which an image is looked at: all of it, its longest side as long as in training.

        Sides are whole patches, so the aspect may differ by half a patch, as in the published
        routine of Depth Anything 3.
        """
        scale = self.longest_side_px / max(image_hw)
        rows, columns = (max(1, round(side * scale / self.patch_size)) for side in image_hw)
        return rows * self.patch_size, columns * self.patch_size

    def estimate(self, num_images: int = 1, image_hw: ImageHw | None = None) -> MemoryEstimate:
        """Memory that a request needs at its worst moment, for images of `image_hw`.

        None is a square image, which needs most. See `memory_estimate` for what is not counted.
        """
        return remembered_estimate(
            self.bundle.config,
            self._shape(num_images, image_hw),
            dtype=torch.float32,
            keep_weights=True,
        )

    def memory_bound(self) -> int:
        """Bytes that no image needs, found at once; `estimate` is near what it needs."""
        return memory_bound(self.bundle.config, self._shape(1, None))

    def _shape(self, num_images: int, image_hw: ImageHw | None) -> RunShape:
        side = self.longest_side_px
        model_hw = (side, side) if image_hw is None else self.model_hw(image_hw)
        return RunShape(num_images, 0, model_hw)

    def release(self) -> None:
        """Drop the weights from memory; the next request reads them again."""
        self._backbone = None
        free_memory(self.device)

    def _estimated(
        self, request: DepthRequest, image_hw: ImageHw, model_hw: ImageHw
    ) -> Generator[Progress, None, NovelViews]:
        seconds = StageSeconds()
        with seconds.of("encoding"):
            backbone = self._loaded()
            scale_y, scale_x = (new / old for new, old in zip(model_hw, image_hw, strict=True))
            model_K = [resized_intrinsics(K, scale_x, scale_y) for K in request.K_px]
            pixels = np.stack(
                [
                    resample_image(image, K, K_small, model_hw)
                    for image, K, K_small in zip(request.images, request.K_px, model_K, strict=True)
                ]
            )
            images = torch.from_numpy(pixels).permute(0, 3, 1, 2)[None].to(self.device)
            with torch.no_grad(), self._precision():
                levels = backbone.encode_levels(images, range(NUM_LEVELS))
        yield Progress("encoding", 1, 1)
        with seconds.of("decoding"):
            with torch.no_grad(), self._precision():
                inputs = [backbone.decoder_input(levels[level]) for level in range(NUM_LEVELS)]
                geometry: Geometry = backbone.decode_geometry(inputs, model_hw)
            depth, confidence = (
                tensor[0].float().cpu().numpy()
                for tensor in (geometry.depth, view_confidence(geometry))
            )
            rays = geometry.ray_confidence
            views = tuple(
                View(
                    rgb=image.astype(np.float32) / np.float32(255.0),
                    depth=resample_depth(depth[i], model_K[i], request.K_px[i], image_hw),
                    confidence=resample_confidence(
                        confidence[i], model_K[i], request.K_px[i], image_hw
                    ),
                    K_px=np.asarray(request.K_px[i], np.float64),
                    T_world_cam=_UNPLACED,
                    T_model_cam=None,
                    recovered_K_px=None,
                    ray_confidence_mean=None
                    if rays is None
                    else float(unit_confidence(rays[0, i]).mean()),
                )
                for i, image in enumerate(request.images)
            )
        yield Progress("decoding", 1, 1)
        return NovelViews(views, (), 0, seconds.total)

    def _loaded(self) -> Any:
        if self._backbone is None:
            self._backbone = self.bundle.load_module("backbone", self.device, torch.float32)
        return self._backbone

    def _precision(self) -> torch.autocast:
        lower = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype if lower else None, enabled=lower)


# A request of images alone has no world; every image is its own.
_UNPLACED: NDArray[np.float64] = np.eye(4)
