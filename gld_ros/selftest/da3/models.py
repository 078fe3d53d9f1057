"""The modules of a Depth Anything 3 fixture folder, built from its config and weight files.

Weights pass through the same naming and filling as published checkpoints do. As in the pipeline,
the backbone with its heads runs in float32 and the other networks in the precision asked for.
"""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gld_ros.backbones.da3.config import Da3Config
from gld_ros.backbones.da3.model import DepthAnything3
from gld_ros.backbones.da3.official_keys import key_from_official
from gld_ros.decoders.rgb import RgbDecoder, RgbDecoderConfig
from gld_ros.diffusion.config import DenoiserConfig
from gld_ros.diffusion.denoiser import Denoiser
from gld_ros.selftest.da3.tolerances import Limits
from gld_ros.weights.statistics import LevelStatistics
from gld_ros.weights.tensor_file import fill_module

WEIGHT_FILES = {
    "weights_da3",
    "weights_dpt_decoder",
    "weights_mae_decoder",
    "weights_level1",
    "weights_cascade",
    "stats",
}


class Da3Models:
    """Everything checks need beside their fixture; modules are built on first use."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        self.folder = folder
        self.device = device
        self.dtype = dtype
        self.limits = Limits.of(dtype)
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))

    def to_device(self, values: Tensor) -> Tensor:
        """`values` where the networks run."""
        return values.to(self.device)

    def to_network(self, values: Tensor) -> Tensor:
        """Input of a denoiser or the RGB decoder, which run in the precision asked for."""
        return values.to(self.device, self.dtype)

    def bfloat16_autocast(self) -> AbstractContextManager[object]:
        """The context of references named bf16; weights of 16 bits run as they are."""
        if self.dtype == torch.float32:
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    @cached_property
    def da3(self) -> DepthAnything3:
        """The stand-alone model of weights_da3."""
        return self._depth_anything(self._weights("weights_da3"))

    @cached_property
    def gld_backbone(self) -> DepthAnything3:
        """The same with the fine-tuned head of weights_dpt_decoder, as the pipeline uses it."""
        head = {
            key.replace("decoder.", "model.head.", 1): values
            for key, values in self._weights("weights_dpt_decoder").items()
        }
        return self._depth_anything(self._weights("weights_da3") | head)

    @cached_property
    def rgb_decoder(self) -> RgbDecoder:
        """The RGB decoder of weights_mae_decoder."""
        sizes = self.config["mae"]
        patch = int(sizes.get("patch_size", 14))
        base_h, base_w = sizes["base_image_size"]
        config = RgbDecoderConfig(
            in_channels=4 * 2 * self.config["da3"]["embed_dim"],
            width=sizes["decoder_hidden_size"],
            depth=sizes["decoder_num_hidden_layers"],
            heads=sizes["decoder_num_attention_heads"],
            mlp=sizes["decoder_intermediate_size"],
            table_hw=(base_h // patch, base_w // patch),
            patch_size=patch,
        )
        weights = {
            key.removeprefix("decoder."): values
            for key, values in self._weights("weights_mae_decoder").items()
        }
        with torch.device("meta"):
            decoder = RgbDecoder(config)
        self._fill(decoder, weights, "weights_mae_decoder", self.dtype)
        return decoder

    @cached_property
    def level1(self) -> Denoiser:
        """The level-1 denoiser."""
        return self._denoiser("l1", "weights_level1", cascade=False)

    @cached_property
    def cascade(self) -> Denoiser:
        """The cascade denoiser."""
        return self._denoiser("cas", "weights_cascade", cascade=True)

    def statistics(self, level: int) -> LevelStatistics:
        """Statistics of one level, on the CPU."""
        stats = self._weights("stats")
        return LevelStatistics(
            stats[f"level{level}.mean"].reshape(-1), stats[f"level{level}.var"].reshape(-1)
        )

    def _weights(self, name: str) -> dict[str, Tensor]:
        return load_file(self.folder / f"{name}.safetensors")

    def _depth_anything(self, weights: Mapping[str, Tensor]) -> DepthAnything3:
        sizes = self.config["da3"]
        config = Da3Config(
            embed_dim=sizes["embed_dim"],
            depth=sizes["depth"],
            num_heads=sizes["num_heads"],
            image_size=sizes["img_size"],
            alt_start=sizes["alt_start"],
            qknorm_start=sizes["qknorm_start"],
            rope_start=sizes["rope_start"],
            tap_layers=tuple(sizes["out_layers"]),
            head_features=sizes["features"],
            head_out_channels=tuple(sizes["out_channels"]),
            camera_heads=sizes["cam_heads"],
        )
        with torch.device("meta"):
            model = DepthAnything3(config)
        ours = {key_from_official(key): values for key, values in weights.items()}
        self._fill(model, ours, "weights_da3", torch.float32)
        return model

    def _denoiser(self, sizes_name: str, file: str, *, cascade: bool) -> Denoiser:
        sizes, common = self.config[sizes_name], self.config["dit_common"]
        prope_side = int(self.config["cam_input_size"])
        config = DenoiserConfig(
            channels=sizes["in_channels"],
            hidden=tuple(sizes["hidden_size"]),
            depth=tuple(sizes["depth"]),
            heads=tuple(sizes["num_heads"]),
            separate_embedders=not cascade,
            source_conditioned=cascade,
            prope_image_hw=(prope_side, prope_side) if cascade else None,
            camera_patch=common["cam_patch_size"],
            mlp_ratio=common["mlp_ratio"],
            time_features=self._weights(file)["t_embedder.W"].numel(),
        )
        with torch.device("meta"):
            denoiser = Denoiser(config)
        self._fill(denoiser, self._weights(file), file, self.dtype)
        return denoiser

    def _fill(
        self, module: nn.Module, weights: Mapping[str, Tensor], file: str, dtype: torch.dtype
    ) -> None:
        fill_module(
            module,
            weights.items(),
            device=self.device,
            dtype=dtype,
            where=str(self.folder / f"{file}.safetensors"),
        )
