"""Checks of the denoisers with special tokens: single calls, guidance, short sampling runs.

References pack a latent as (scenes * views, C, S + N, 1).
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from gld_ros.diffusion.conditioning import DenoiserConditions
from gld_ros.diffusion.config import DenoiserConfig
from gld_ros.diffusion.denoiser import Denoiser
from gld_ros.diffusion.guidance import Guidance, guided_velocity
from gld_ros.novel_view_stages import sample
from gld_ros.selftest.rows import Row
from gld_ros.selftest.vggt.module_file import ModuleFile

_WITHOUT_SPECIAL = "forward_spatial_no_special"
_WITHOUT_SOURCE = "forward_no_source"


def check_denoiser(file: ModuleFile) -> Iterator[Row]:
    """Both published layouts; a file with a source condition is a cascade."""
    fixture = file.fixture
    denoiser = _denoiser(file, source_conditioned="source_condition" in fixture.inputs)
    conditions, t = _conditions(file), _times(file)
    noisy = _views(file, "x_noisy")
    network_noisy = noisy.to(file.dtype)

    yield from _check(file, "forward", denoiser(network_noisy, t, conditions))
    for name in ("forward_cfg", "forward_cfg_no_camera_drop"):
        if name in fixture.outputs:
            # One scene at a time: scenes have times of their own, a sampling step has one time.
            guidance = Guidance(
                file.config["cfg_scale"],
                camera_map="dropped" if name == "forward_cfg" else "kept",
            )
            velocities = [
                guided_velocity(denoiser, _one_scene(conditions, scene), guidance)(
                    network_noisy[scene : scene + 1], float(t[scene])
                )
                for scene in range(len(t))
            ]
            yield from _check(file, name, torch.cat(velocities))
    if _WITHOUT_SPECIAL in fixture.outputs:
        maps = replace(conditions, reference_latent=_as_map(file, conditions.reference_latent))
        output = denoiser(_as_map(file, network_noisy), t, maps)
        yield from _check(file, _WITHOUT_SPECIAL, output)
    if _WITHOUT_SOURCE in fixture.outputs:
        plain = _denoiser(file, source_conditioned=False)
        output = plain(network_noisy, t, replace(conditions, source=None))
        yield from _check(file, _WITHOUT_SOURCE, output)

    sampler = file.config["sampler"]
    for name, scale in (("sample", sampler["cfg_scale"]), ("sample_nocfg", 1.0)):
        if name in fixture.outputs:
            *_, last = sample(
                denoiser,
                conditions,
                noisy,
                num_steps=sampler["num_points"] - 1,
                shift=sampler["time_shift"],
                guidance=Guidance(scale),
            )
            yield from _check(file, name, last.latent)


def _check(file: ModuleFile, name: str, latent: Tensor) -> Iterator[Row]:
    folded = latent.flatten(0, 1)
    packed = folded if folded.ndim == 4 else folded[..., None]
    yield from file.fixture.check(name, packed, file.limit)


def _denoiser(file: ModuleFile, *, source_conditioned: bool) -> Denoiser:
    config = file.config
    file.expect_constants(
        patch_size=1,
        use_qknorm=False,
        use_swiglu=True,
        use_rope=False,
        use_rmsnorm=True,
        wo_shift=False,
        use_pos_embed=False,
        use_prope=True,
        architecture_mode="new",
        cfg_mode="new",
        is_concat_mode=True,
        predict_cls=False,
        cam_in_channels=7,
    )
    with torch.device("meta"):
        denoiser = Denoiser(
            DenoiserConfig(
                channels=config["in_channels"],
                hidden=tuple(config["hidden_size"]),
                depth=tuple(config["depth"]),
                heads=tuple(config["num_heads"]),
                source_conditioned=source_conditioned,
                special_tokens=config["num_special_tokens"],
                time_features=file.parameters["t_embedder.W"].numel(),
                camera_patch=config["cam_patch_size"],
                mlp_ratio=config["mlp_ratio"],
            )
        )
    return file.fill(denoiser, dtype=file.dtype)


def _conditions(file: ModuleFile) -> DenoiserConditions:
    height, width = file.config["prope_image_size"]
    source = None
    if "source_condition" in file.fixture.inputs:
        source = _views(file, "source_condition").to(file.dtype)
    return DenoiserConditions(
        reference_latent=_views(file, "ref_cond").to(file.dtype),
        num_references=file.config.get("cond_num") or file.config["total_view"] // 2,
        camera_map=_views(file, "camera_embedding").to(file.dtype),
        viewmats=file.input("viewmats"),
        K_px=file.input("Ks"),
        image_hw=(int(height), int(width)),
        source=source,
    )


def _one_scene(conditions: DenoiserConditions, scene: int) -> DenoiserConditions:
    of_scene = slice(scene, scene + 1)
    return replace(
        conditions,
        reference_latent=conditions.reference_latent[of_scene],
        camera_map=conditions.camera_map[of_scene],
        viewmats=conditions.viewmats[of_scene],
        K_px=conditions.K_px[of_scene],
        source=None if conditions.source is None else conditions.source[of_scene],
    )


def _times(file: ModuleFile) -> Tensor:
    per_view = file.input("t").unflatten(0, (-1, file.config["total_view"]))
    if not bool((per_view == per_view[:, :1]).all()):
        raise ValueError("views of one scene have different times; they share one in this model")
    return per_view[:, 0]


def _views(file: ModuleFile, name: str) -> Tensor:
    """Input (B * V, C, S + N, 1) as (B, V, C, S + N), a map (B * V, C, h, w) as (B, V, C, h, w)."""
    values = file.input(name)
    if values.ndim == 4 and values.shape[-1] == 1:
        values = values[..., 0]
    return values.unflatten(0, (-1, file.config["total_view"]))


def _as_map(file: ModuleFile, latent: Tensor) -> Tensor:
    rows, columns = file.config["grid"]
    return latent[..., -rows * columns :].unflatten(-1, (rows, columns))
