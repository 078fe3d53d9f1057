"""Cameras, denoisers and sampling against recorded numbers of the official implementation."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

from gld_ros.diffusion.conditioning import camera_conditions
from gld_ros.diffusion.denoiser import Denoiser, DenoiserConditions, DenoiserConfig
from gld_ros.diffusion.flow import sample_euler, time_grid, time_shift
from gld_ros.diffusion.guidance import guided_velocity
from gld_ros.diffusion.prope import camera_matrices, prope_tables, transform

MODULE = {"atol": 1e-5, "rtol": 1e-4}
RUN = {"atol": 5e-5, "rtol": 5e-4}
MODELS = {"level1": ("l1", "dit_level1"), "cascade": ("cas", "dit_cascade")}


def load_denoiser(folder, layout):
    sizes = json.loads((folder / "config.json").read_text())[MODELS[layout][0]]
    cascade = layout == "cascade"
    denoiser = Denoiser(
        DenoiserConfig(
            sizes["in_channels"],
            tuple(sizes["hidden_size"]),
            tuple(sizes["depth"]),
            tuple(sizes["num_heads"]),
            separate_embedders=not cascade,
            source_conditioned=cascade,
            prope_image_hw=(504, 504) if cascade else None,
        )
    )
    denoiser.load_state_dict(load_file(folder / f"weights_{layout}.safetensors"))
    return denoiser.eval()


def load_conditions(golden, layout, references):
    image_hw = tuple(golden["in.size_hw"].tolist())
    per_scene = golden["in.c2w"].shape[:2]
    reference_latent = golden["in.ref_feat"].unflatten(0, per_scene).clone()
    reference_latent[:, references:] = 0
    camera_map, viewmats, _ = camera_conditions(
        golden["in.c2w"], golden["in.K"], image_hw, references
    )
    source = golden["in.l1_feat"].unflatten(0, per_scene) if layout == "cascade" else None
    return DenoiserConditions(
        reference_latent, references, camera_map, viewmats, golden["in.K"], image_hw, source
    )


def test_camera_inputs(golden_da3):
    golden = load_file(golden_da3 / "prope.safetensors")
    camera_map, viewmats, scale = camera_conditions(
        golden["in.c2w"], golden["in.K"], tuple(golden["in.size_hw"].tolist()), 1
    )
    torch.testing.assert_close(camera_map[0], golden["out.mask_and_plucker_cond1"], **MODULE)
    torch.testing.assert_close(scale, golden["out.scale"].flatten(), **MODULE)
    # The recording has the original world frame, ours is that of the last view.
    world = golden["out.viewmats"]
    torch.testing.assert_close(viewmats @ world[:, -1:], world, **MODULE)


@pytest.mark.parametrize(
    ("size", "branch"),
    [("hw", "cond"), ("hw", "uncond_new"), ("sq504", "cond"), ("sq504", "uncond_legacy")],
)
def test_prope_transforms(golden_da3, size, branch):
    golden = load_file(golden_da3 / "prope.safetensors")
    image_hw = tuple(golden["in.size_hw"].tolist())
    grid_hw = (image_hw[0] // 14, image_hw[1] // 14)
    size_hw = image_hw if size == "hw" else (504, 504)
    viewmats, K_px = golden["out.viewmats"], golden["in.K"]
    if branch != "cond":
        viewmats = torch.eye(4).expand_as(viewmats)
    if branch == "uncond_new":
        K_px = torch.eye(3).expand_as(K_px)
    if branch == "cond":
        P, P_kv = camera_matrices(viewmats, K_px, size_hw)
        torch.testing.assert_close(P, golden[f"out.{size}.P"], **MODULE)
        torch.testing.assert_close(P_kv, golden[f"out.{size}.P_kv_as_coded"], **MODULE)
    _, heads, _, head_dim = golden["in.feat"].shape
    tables = prope_tables(viewmats, K_px, size_hw, grid_hw, heads, head_dim)
    feat = golden["in.feat"].unflatten(2, (viewmats.shape[1], -1)).permute(0, 2, 3, 1, 4).flatten(3)
    for part, matrix in (("q", tables.query), ("kv", tables.key_value), ("o", tables.output)):
        result = transform(feat, matrix, tables, rotate_back=part == "o")
        result = result.unflatten(3, (heads, head_dim)).permute(0, 3, 1, 2, 4).flatten(2, 3)
        torch.testing.assert_close(result, golden[f"out.{size}.{branch}.{part}"], **MODULE)


@pytest.mark.parametrize("layout", MODELS)
def test_denoiser_calls(golden_da3, layout):
    golden = load_file(golden_da3 / f"{MODELS[layout][1]}.safetensors")
    denoiser = load_denoiser(golden_da3, layout)
    noisy = golden["in.noisy"].unflatten(0, golden["in.c2w"].shape[:2])
    guidance = {
        "cfg": {"guidance_scale": 1.5},
        "cfg3_nocamdrop": {"guidance_scale": 3.0, "unconditional_camera_map": "kept"},
    }
    checked = 0
    for name in (name for name in golden if name.startswith("out.")):
        references, t, kind = re.fullmatch(r"out\.cond(\d)\.t([\d.]+)\.(\w+)", name).groups()
        conditions = load_conditions(golden, layout, int(references))
        with torch.no_grad():
            if kind == "forward":
                results = [
                    denoiser(noisy, torch.full((len(noisy),), float(t)), conditions),
                    denoiser.step(noisy, float(t), denoiser.precompute(conditions)),
                ]
            else:
                results = [
                    guided_velocity(denoiser, conditions, branches=way, **guidance[kind])(
                        noisy, float(t)
                    )
                    for way in ("together", "in turn")
                ]
        for result in results:
            torch.testing.assert_close(result.flatten(0, 1), golden[name], **MODULE)
            checked += 1
    assert checked >= 24


def test_time_grids(golden_da3):
    golden = load_file(golden_da3 / "sampler.safetensors")
    config = json.loads((golden_da3 / "config.json").read_text())
    assert torch.equal(
        time_grid(config["euler_points"], config["time_dist_shift"]), golden["out.t_grid"]
    )
    for points in (50, 100):
        grid = time_grid(points, time_shift(1536, 18, 18, 8))
        assert torch.equal(grid, golden[f"out.t_grid_official_{points}"])


@pytest.mark.parametrize("layout", MODELS)
@pytest.mark.parametrize(("mode", "scale"), [("nocfg", 1.0), ("cfg1.5", 1.5)])
def test_sampling_trajectories(golden_da3, layout, mode, scale):
    golden = load_file(golden_da3 / "sampler.safetensors")
    short = MODELS[layout][0]
    noise = golden[f"in.noise_{short}"][None]
    grid = golden["out.t_grid"]
    velocity = guided_velocity(
        load_denoiser(golden_da3, layout),
        load_conditions(golden, layout, int(golden["in.cond_num"])),
        guidance_scale=scale,
        times=grid,
    )
    states = [noise, *(step.latent for step in sample_euler(velocity, noise, grid))]
    torch.testing.assert_close(torch.cat(states), golden[f"out.{short}.{mode}.traj"], **RUN)
