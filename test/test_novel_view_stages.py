"""The stages of novel view synthesis on batches of scenes."""

import torch

from gld_ros.diffusion.conditioning import camera_conditions
from gld_ros.diffusion.guidance import Guidance
from gld_ros.novel_view_stages import (
    decode,
    decoder_inputs,
    encode_references,
    latent_shape,
    level_tokens,
    sample,
    sampling_conditions,
)

IMAGE_HW, GRID_HW, VIEWS, REFERENCES = (28, 42), (2, 3), 3, 2


def test_a_batch_of_scenes_equals_its_scenes(tmp_path, save_vggt_bundle):
    bundle = save_vggt_bundle(tmp_path / "bundle")
    backbone, denoiser, rgb_decoder = (
        bundle.load_module(name) for name in ("backbone", "level1", "rgb_decoder")
    )
    statistics = {1: bundle.statistics(1)}
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, REFERENCES, 3, *IMAGE_HW, generator=generator)
    noise = torch.randn(2, *latent_shape(denoiser.config, VIEWS, GRID_HW), generator=generator)
    T_world_cam = torch.eye(4).repeat(2, VIEWS, 1, 1)
    T_world_cam[..., :3, 3] = torch.randn(2, VIEWS, 3, generator=generator)
    K_px = torch.tensor([[30.0, 0, 21], [0, 30, 14], [0, 0, 1]]).repeat(2, VIEWS, 1, 1)

    def run(scenes):
        encoded = encode_references(backbone, statistics, images[scenes])
        camera_map, viewmats, _ = camera_conditions(
            T_world_cam[scenes], K_px[scenes], IMAGE_HW, REFERENCES
        )
        conditions = sampling_conditions(
            denoiser, encoded.latents[1], camera_map, viewmats, K_px[scenes]
        )
        *_, last = sample(
            denoiser, conditions, noise[scenes], num_steps=2, shift=None, guidance=Guidance(1.5)
        )
        tokens = level_tokens(
            backbone, statistics, {1: last.latent}, encoded.special, grid_hw=GRID_HW
        )
        return decode(backbone, rgb_decoder, decoder_inputs(backbone, tokens), IMAGE_HW)

    together = run(slice(0, 2))
    for i in range(2):
        alone = run(slice(i, i + 1))
        torch.testing.assert_close(together.rgb[i], alone.rgb[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(
            together.geometry.depth[i], alone.geometry.depth[0], atol=1e-5, rtol=1e-4
        )
