"""Every part of every family becomes a graph of tensors, which computes what the networks do."""

from itertools import pairwise

import pytest
import torch

from gld_ros.diffusion.flow import time_grid
from gld_ros.export.parts import RunSize, build_part, part_names
from gld_ros.export.run import trace
from gld_ros.novel_view_stages import (
    decode,
    decoder_inputs,
    encode_references,
    level_tokens,
    sample,
    sampling_conditions,
)
from gld_ros.weights.bundle import Bundle

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def vggt_bundle(save_vggt_bundle, tmp_path_factory):
    return save_vggt_bundle(tmp_path_factory.mktemp("vggt") / "bundle", cascade=True)


@pytest.fixture
def bundle(request):
    return request.getfixturevalue(request.param)


DA3 = ("encoder", "level1", "cascade", "propagation", "rgb_decoder", "geometry_head", "features")
CASES = [
    *((name, part) for name in ("da3_bundle", "vggt_bundle") for part in DA3),
    *(("backbone_alone", part) for part in ("features", "geometry_head")),
]


@pytest.mark.parametrize(("bundle", "name"), CASES, indirect=["bundle"])
def test_a_traced_part_computes_what_the_module_does(bundle, name):
    size = RunSize(bundle.config.resolutions_hw[0], 2, 1)
    part = build_part(bundle, name, size, CPU)
    program = trace(part)
    with torch.no_grad():
        made = program.module()(*part.inputs.values())
    truth = part.eager()
    made = [made] if isinstance(made, torch.Tensor) else list(made)
    assert len(truth) == len(made) == len(part.outputs)
    for right, found in zip(truth, made, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)


def test_parts_one_after_the_other_are_a_whole_run():
    """Encoder, steps of Euler, propagation and decoders, joined by the names of their tensors."""
    bundle, size = Bundle.open("tiny"), RunSize((84, 112), 2, 1)
    parts = {
        name: build_part(bundle, name, size, CPU)
        for name in ("encoder", "level1", "propagation", "rgb_decoder", "geometry_head")
    }
    step = parts["level1"].inputs
    backbone, denoiser = bundle.load_module("backbone"), bundle.load_module("level1")
    statistics = {1: bundle.statistics(1)}
    images = parts["encoder"].inputs["images"]
    encoded = encode_references(backbone, statistics, images)
    cameras = (step["camera_map"], step["viewmats"], step["K_px"])
    conditions = sampling_conditions(denoiser, encoded.latents[1], *cameras)
    with torch.no_grad():
        *_, last = sample(denoiser, conditions, step["noisy"], num_steps=3, shift=2.0)
    tokens = level_tokens(backbone, statistics, {1: last.latent}, encoded.special)
    truth = decode(
        backbone, bundle.load_module("rgb_decoder"), decoder_inputs(backbone, tokens), (84, 112)
    )

    with torch.no_grad():
        latent, special = parts["encoder"].module(images)
        references = torch.cat([latent, torch.zeros_like(latent[:, :1])], dim=1)
        x, times = step["noisy"], time_grid(4, 2.0).tolist()
        for t, later in pairwise(times):
            velocity = parts["level1"].module(x, torch.tensor([t]), references, *cameras)
            x = x + (later - t) * velocity
        levels = parts["propagation"].module(x, special)
        rgb = parts["rgb_decoder"].module(*levels)
        depth = parts["geometry_head"].module(*levels)[0]
    torch.testing.assert_close(rgb, truth.rgb, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(depth, truth.geometry.depth, rtol=1e-3, atol=1e-3)


def test_tracing_does_not_depend_on_what_ran_before_and_leaves_nothing_behind(da3_bundle):
    """A size of its own, so that no table of it is there yet; then the network runs as always."""
    size = RunSize((70, 98), 3, 0)
    part = build_part(da3_bundle, "features", size, CPU)
    trace(part)
    again = build_part(da3_bundle, "features", size, CPU)
    for right, found in zip(part.eager(), again.eager(), strict=True):
        assert torch.isfinite(found).all()
        torch.testing.assert_close(found, right, rtol=0, atol=0)


def test_the_names_of_parts_are_those_that_can_be_built(da3_bundle, backbone_alone):
    assert part_names(da3_bundle.config) == DA3
    assert part_names(backbone_alone.config) == ("features", "geometry_head")
    with pytest.raises(ValueError, match=r"no part 'level1'; it has features, geometry_head"):
        build_part(backbone_alone, "level1", RunSize((42, 56), 2, 1), CPU)


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (RunSize((84, 100), 2, 2), "100x84; both sides must be multiples of 14"),
        (RunSize((0, 112), 2, 2), "multiples of 14"),
        (RunSize((84, 112), 0, 2), "at least one reference"),
        (RunSize((84, 112), 2, -1), "cannot be negative"),
    ],
)
def test_sizes_that_cannot_run_are_refused(size, told):
    with pytest.raises(ValueError, match=told):
        build_part(Bundle.open("tiny"), "features", size, CPU)
