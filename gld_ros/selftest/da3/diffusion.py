"""Checks of cameras in the denoiser, the denoisers and their sampling: prope, dit_*, sampler."""

import re
from collections.abc import Iterator
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from gld_ros.diffusion.conditioning import DenoiserConditions, camera_conditions
from gld_ros.diffusion.denoiser import Denoiser
from gld_ros.diffusion.flow import time_grid, time_shift
from gld_ros.diffusion.guidance import Guidance, guided_velocity
from gld_ros.diffusion.prope import PropeTables, camera_matrices, prope_tables, transform
from gld_ros.novel_view_stages import sample, sampling_conditions
from gld_ros.selftest.da3.models import Da3Models
from gld_ros.selftest.da3.tolerances import FLOAT32
from gld_ros.selftest.fixture import Fixture
from gld_ros.selftest.rows import Row

_CALL = re.compile(r"cond(\d+)\.t([0-9.eE+-]+)\.(?:(forward)|cfg([0-9.]*)(_nocamdrop)?)")
_RUN = re.compile(r"(l1|cas)\.(?:nocfg|cfg([0-9.]+))\.traj")
_OFFICIAL_GRID = re.compile(r"t_grid_official_(\d+)")
_OFFICIAL_CHANNELS, _OFFICIAL_SIDE, _OFFICIAL_VIEWS = 1536, 18, 8


def check_prope(fixture: Fixture, models: Da3Models) -> Iterator[Row]:
    """Camera maps, camera matrices, and features transformed by them."""
    inputs = {name: models.to_device(values) for name, values in fixture.inputs.items()}
    T_world_cam, K_px = inputs["c2w"], inputs["K"]
    image_hw = fixture.size_hw()
    for name in fixture.outputs:
        if match := re.fullmatch(r"mask_and_plucker_cond(\d+)", name):
            camera_map, _, _ = camera_conditions(T_world_cam, K_px, image_hw, int(match[1]))
            yield from fixture.check(name, camera_map.flatten(0, 1), FLOAT32)
    _, viewmats, scale = camera_conditions(T_world_cam, K_px, image_hw, 1)
    viewmats = _in_world_frame(viewmats, T_world_cam, scale)
    yield from fixture.check("scale", scale[:, None, None], FLOAT32)
    yield from fixture.check("viewmats", viewmats, FLOAT32)

    for size_name in sorted({n.split(".")[0] for n in fixture.outputs if "." in n}):
        if size_name == "hw":
            normalised_by = image_hw
        elif match := re.fullmatch(r"sq(\d+)", size_name):
            normalised_by = (int(match[1]), int(match[1]))
        else:
            continue
        P, P_kv = camera_matrices(viewmats, K_px, normalised_by)
        yield from fixture.check(f"{size_name}.P", P, FLOAT32)
        yield from fixture.check(f"{size_name}.P_kv_as_coded", P_kv, FLOAT32)
        feat = inputs["feat"]
        identity = torch.eye(4, device=models.device).expand_as(viewmats)
        cameras = {
            "cond": (viewmats, K_px),
            "uncond_new": (identity, torch.eye(3, device=models.device).expand_as(K_px)),
            "uncond_legacy": (identity, K_px),
        }
        grid_hw = (image_hw[0] // 14, image_hw[1] // 14)
        for branch, (view, K) in cameras.items():
            tables = prope_tables(view, K, normalised_by, grid_hw, feat.shape[-1])
            for part, values in _transformed(feat, tables).items():
                yield from fixture.check(f"{size_name}.{branch}.{part}", values, FLOAT32)


def check_dit_level1(fixture: Fixture, models: Da3Models) -> Iterator[Row]:
    """Single calls of the level-1 denoiser."""
    yield from _check_calls(fixture, models, models.level1)


def check_dit_cascade(fixture: Fixture, models: Da3Models) -> Iterator[Row]:
    """Single calls of the cascade denoiser."""
    yield from _check_calls(fixture, models, models.cascade)


def check_sampler(fixture: Fixture, models: Da3Models) -> Iterator[Row]:
    """Time grids and whole Euler trajectories."""
    points, shift = models.config["euler_points"], models.config["time_dist_shift"]
    yield from fixture.check("t_grid", time_grid(points, shift), FLOAT32)
    official = time_shift(_OFFICIAL_CHANNELS, _OFFICIAL_SIDE, _OFFICIAL_SIDE, _OFFICIAL_VIEWS)
    for name in fixture.outputs:
        if match := _OFFICIAL_GRID.fullmatch(name):
            yield from fixture.check(name, time_grid(int(match[1]), official), FLOAT32)

    references = int(fixture.inputs["cond_num"])
    for name, trajectory in fixture.outputs.items():
        match = _RUN.fullmatch(name)
        if match is None:
            continue
        denoiser = models.cascade if match[1] == "cas" else models.level1
        conditions = _conditions(fixture, models, denoiser, references)
        noise = models.to_device(fixture.inputs[f"noise_{match[1]}"])
        noise = noise.unflatten(0, conditions.reference_latent.shape[:2])
        steps = sample(
            denoiser,
            conditions,
            noise,
            num_steps=len(trajectory) - 1,
            shift=shift,
            guidance=Guidance(float(match[2] or 1.0)),
        )
        states = [noise, *(step.latent for step in steps)]
        computed = torch.stack([state.flatten(0, 1) for state in states])
        yield from fixture.check(name, computed, models.limits.run)


def _check_calls(fixture: Fixture, models: Da3Models, denoiser: Denoiser) -> Iterator[Row]:
    """Every `cond{R}.t{t}.*` output: the plain call, and guided ones on the fast path."""
    noisy = models.to_network(fixture.inputs["noisy"])
    for name in fixture.outputs:
        match = _CALL.fullmatch(name)
        if match is None:
            continue
        conditions = _conditions(fixture, models, denoiser, int(match[1]))
        scenes = noisy.unflatten(0, conditions.reference_latent.shape[:2])
        t = float(match[2])
        if match[3]:
            times = torch.full((len(scenes),), t, device=models.device)
            output = denoiser(scenes, times, conditions)
        else:
            kept: Literal["kept", "dropped"] = "kept" if match[5] else "dropped"
            guidance = Guidance(float(match[4] or models.config["cfg_scale"]), camera_map=kept)
            output = guided_velocity(denoiser, conditions, guidance)(scenes, t)
        yield from fixture.check(name, output.flatten(0, 1), models.limits.module)


def _conditions(
    fixture: Fixture, models: Da3Models, denoiser: Denoiser, num_references: int
) -> DenoiserConditions:
    inputs = fixture.inputs
    T_world_cam, K_px = models.to_device(inputs["c2w"]), models.to_device(inputs["K"])
    views = T_world_cam.shape[:2]
    features = models.to_device(inputs["ref_feat"]).unflatten(0, views)
    camera_map, viewmats, _ = camera_conditions(
        T_world_cam, K_px, fixture.size_hw(), num_references
    )
    source = None
    if denoiser.config.source_conditioned:
        source = models.to_device(inputs["l1_feat"]).unflatten(0, views)
    return sampling_conditions(
        denoiser, features[:, :num_references], camera_map, viewmats, K_px, source
    )


def _in_world_frame(viewmats: Tensor, T_world_cam: Tensor, scale: Tensor) -> Tensor:
    """Scaled world-to-camera matrices of the last view's frame, moved to the frame of the poses.

    The library measures positions from the last view, the references from the poses' origin;
    attention is the same for both.
    """
    T_world_last = T_world_cam[:, -1:].double().clone()
    T_world_last[..., :3, 3] *= scale.double()[:, None, None]
    return (viewmats.double() @ torch.linalg.inv(T_world_last)).float()


def _transformed(feat: Tensor, tables: PropeTables) -> dict[str, Tensor]:
    """`feat` (B, heads, V*N, d) as a query, as a key or value, and as an attention output."""
    views, heads = tables.query.shape[1], feat.shape[1]
    per_view = rearrange(feat, "b h (v n) d -> b v n (h d)", v=views)
    parts = {
        "q": transform(per_view, tables.query, tables, heads),
        "kv": transform(per_view, tables.key_value, tables, heads),
        "o": transform(per_view, tables.output, tables, heads, rotate_back=True),
    }
    return {
        name: rearrange(values, "b v n (h d) -> b h (v n) d", h=heads)
        for name, values in parts.items()
    }
