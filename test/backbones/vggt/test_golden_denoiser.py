"""Both VGGT denoisers, with special tokens, against an independent run of the published ones.

Reference tensors are packed as (scenes * views, C, 5 + N, 1).
"""

from dataclasses import replace

import pytest
import torch

from gld_ros.diffusion.conditioning import unconditional
from gld_ros.diffusion.denoiser import Denoiser, DenoiserConditions, DenoiserConfig
from gld_ros.diffusion.flow import sample_euler, time_grid
from gld_ros.diffusion.guidance import guided_velocity

both = pytest.mark.parametrize("golden", ["vggt_dit_level1", "vggt_dit_cascade"], indirect=True)
level1 = pytest.mark.parametrize("golden", ["vggt_dit_level1"], indirect=True)
cascade = pytest.mark.parametrize("golden", ["vggt_dit_cascade"], indirect=True)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def config_of(golden):
    config = golden.config
    return DenoiserConfig(
        channels=config["in_channels"],
        hidden=tuple(config["hidden_size"]),
        depth=tuple(config["depth"]),
        heads=tuple(config["num_heads"]),
        source_conditioned="in/source_condition" in golden.tensors,
        special_tokens=config["num_special_tokens"],
        time_features=golden["param/t_embedder.W"].numel(),
        camera_patch=config["cam_patch_size"],
        mlp_ratio=config["mlp_ratio"],
    )


def build(golden, config=None):
    denoiser = Denoiser(config or config_of(golden))
    denoiser.load_state_dict(golden.params())
    return denoiser.eval()


def views_of(golden, name):
    """Packed tensor (B * V, C, L, 1) as (B, V, C, L)."""
    return golden[name].squeeze(-1).unflatten(0, (-1, golden.config["total_view"]))


def conditions_of(golden):
    return DenoiserConditions(
        reference_latent=views_of(golden, "in/ref_cond"),
        num_references=golden.config["cond_num"],
        camera_map=views_of(golden, "in/camera_embedding"),
        viewmats=golden["in/viewmats"],
        K_px=golden["in/Ks"],
        image_hw=tuple(golden.config["prope_image_size"]),
        source=views_of(golden, "in/source_condition")
        if "in/source_condition" in golden.tensors
        else None,
    )


def times_of(golden):
    per_view = golden["in/t"].unflatten(0, (-1, golden.config["total_view"]))
    assert (per_view == per_view[:, :1]).all()
    return per_view[:, 0]


@both
def test_forward(golden, close):
    output = build(golden)(views_of(golden, "in/x_noisy"), times_of(golden), conditions_of(golden))
    close(output, views_of(golden, "out/forward"))


@both
def test_step_equals_forward_at_one_time_per_scene(golden, close):
    denoiser, noisy = build(golden), views_of(golden, "in/x_noisy")
    for scene, t in enumerate(times_of(golden).tolist()):
        conditions = conditions_of(golden)
        one = replace(
            conditions,
            **{
                name: value[scene : scene + 1]
                for name, value in vars(conditions).items()
                if isinstance(value, torch.Tensor)
            },
        )
        constants = denoiser.precompute(one, torch.tensor([t]))
        output = denoiser.step(noisy[scene : scene + 1], t, constants)
        close(output, views_of(golden, "out/forward")[scene : scene + 1])


@both
@pytest.mark.parametrize(
    ("name", "camera_map"),
    [("forward_cfg", "dropped"), ("forward_cfg_no_camera_drop", "kept")],
)
def test_guidance_acts_on_special_tokens_too(golden, name, camera_map, close):
    denoiser, conditions = build(golden), conditions_of(golden)
    noisy, t, scale = views_of(golden, "in/x_noisy"), times_of(golden), golden.config["cfg_scale"]
    assert denoiser.config.unconditional_intrinsics == "identity"
    without = unconditional(conditions, camera_map=camera_map)
    free = denoiser(noisy, t, without)
    close(free + scale * (denoiser(noisy, t, conditions) - free), views_of(golden, f"out/{name}"))


@both
@pytest.mark.parametrize(("name", "guided"), [("sample", True), ("sample_nocfg", False)])
@pytest.mark.parametrize("branches", ["together", "in turn"])
def test_sampling(golden, name, guided, branches, close):
    sampler = golden.config["sampler"]
    grid = time_grid(sampler["num_points"], sampler["time_shift"])
    velocity = guided_velocity(
        build(golden),
        conditions_of(golden),
        guidance_scale=sampler["cfg_scale"] if guided else 1.0,
        times=grid[:-1],
        branches=branches,
    )
    *_, last = sample_euler(velocity, views_of(golden, "in/x_noisy"), grid)
    close(last.latent, views_of(golden, f"out/{name}"))


@level1
def test_maps_are_processed_without_special_tokens(golden, close):
    rows, columns = golden.config["grid"]
    special = golden.config["num_special_tokens"]

    def patches(latent):
        return latent[..., special:].unflatten(-1, (rows, columns))

    conditions = conditions_of(golden)
    as_maps = replace(conditions, reference_latent=patches(conditions.reference_latent))
    output = build(golden)(patches(views_of(golden, "in/x_noisy")), times_of(golden), as_maps)
    close(output.flatten(0, 1), golden["out/forward_spatial_no_special"])


@cascade
def test_cascade_without_source_is_a_level_1_model(golden, close):
    denoiser = build(golden, replace(config_of(golden), source_conditioned=False))
    conditions = replace(conditions_of(golden), source=None)
    output = denoiser(views_of(golden, "in/x_noisy"), times_of(golden), conditions)
    close(output, views_of(golden, "out/forward_no_source"))


@cascade
def test_special_tokens_of_the_source_have_no_influence(golden, close):
    conditions = conditions_of(golden)
    changed = conditions.source.clone()
    changed[..., : golden.config["num_special_tokens"]] = 9.0
    output = build(golden)(
        views_of(golden, "in/x_noisy"), times_of(golden), replace(conditions, source=changed)
    )
    close(output, views_of(golden, "out/forward"))
