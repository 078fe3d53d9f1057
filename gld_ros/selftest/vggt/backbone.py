"""Checks of the backbone: aggregator, dense heads, camera head."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from gld_ros.backbones.images import imagenet_normalise
from gld_ros.backbones.interface import NUM_LEVELS, LevelTokens
from gld_ros.backbones.pose_encoding import decode_transform, encode_transform
from gld_ros.backbones.vggt.aggregator import NORM_EPS, Aggregator
from gld_ros.backbones.vggt.camera_head import NUM_ROUNDS, CameraHead
from gld_ros.backbones.vggt.config import VggtConfig
from gld_ros.backbones.vggt.dpt_head import DptHead
from gld_ros.backbones.vggt.model import VggtBackbone
from gld_ros.selftest.rows import Row
from gld_ros.selftest.vggt.module_file import FLOAT32, ModuleFile, grid_of

# Below this, which of the two quaternions of a rotation is named is a matter of rounding.
_HALF_TURN = 1e-3


def check_aggregator(file: ModuleFile) -> Iterator[Row]:
    """Image transformer, every block, the levels, and the levels resumed from earlier ones."""
    file.expect_constants(norm_eps=NORM_EPS, qk_norm_eps=1e-5, dino_norm_eps=1e-6, rope_base=100.0)
    config, fixture = aggregator_config(file), file.fixture
    model = _aggregator_alone(file, config)
    for case in file.cases("images"):
        images = _as_views(file.input(f"{case}/images"))
        if fixture.expects(f"{case}/dino_patchtokens"):
            tokens = model.aggregator.patch_embed(imagenet_normalise(images).flatten(0, 1))
            yield from fixture.check(f"{case}/dino_patchtokens", tokens, FLOAT32)
        for level, level_tokens in model.encode_levels(images, range(NUM_LEVELS)).items():
            for name, values in vars(level_tokens).items():
                quantity = f"{case}/level{level}_{name}"
                yield from fixture.check(quantity, values.flatten(0, 1), FLOAT32)
        if fixture.expects(f"{case}/block"):
            yield from _check_blocks(file, config, case, images)
    for start in range(NUM_LEVELS):
        for name in (f"from{start}", f"from{start}_nospecial"):
            if fixture.expects(f"{name}/"):
                yield from _check_resumed(file, model, name, start)


def check_dpt(file: ModuleFile) -> Iterator[Row]:
    """Values and confidence of every head in the file."""
    file.expect_constants(norm_eps=1e-5)
    config = file.config
    for name, head_config in config["heads"].items():
        file_head = _head(file, name, head_config["output_dim"], head_config["activation"])
        for case in file.cases("image_hw"):
            height, width = (int(side) for side in file.fixture.inputs[f"{case}/image_hw"])
            rows, columns = grid_of((height, width), config["patch_size"])
            levels = [
                file.input(f"{case}/level{level}")[:, :, -rows * columns :]
                for level in range(NUM_LEVELS)
            ]
            values, confidence = file_head(levels, (height, width))
            yield from file.fixture.check(f"{case}/{name}_pred", values, FLOAT32)
            yield from file.fixture.check(f"{case}/{name}_conf", confidence, FLOAT32)


def check_camera_head(file: ModuleFile) -> Iterator[Row]:
    """The rounds of the camera head, and pose numbers from and to matrices."""
    config, fixture = file.config, file.fixture
    file.expect_constants(num_iterations=NUM_ROUNDS, block_norm_eps=1e-5, adaln_norm_eps=1e-6)
    with torch.device("meta"):
        head = CameraHead(
            config["dim_in"],
            num_heads=config["num_heads"],
            depth=config["trunk_depth"],
            mlp_ratio=config["mlp_ratio"],
        )
    head = file.fill(head, "camera_head.")
    for i, estimate in enumerate(head(file.input("last_tokens")[:, :, 0])):
        yield from fixture.check(f"pose_enc_iter{i}", estimate, FLOAT32)

    image_hw = int(config["image_hw"][0]), int(config["image_hw"][1])
    # Stored among the outputs, it is what the stored matrices were decoded from.
    encoding = fixture.outputs.pop("decode/pose_enc").to(file.device)
    T_cam_world, K_px = decode_transform(encoding, image_hw)
    yield from fixture.check("decode/extrinsics", T_cam_world[..., :3, :], FLOAT32)
    yield from fixture.check("decode/intrinsics", K_px, FLOAT32)

    matrices = file.input("extrinsics")
    T_cam_world = torch.eye(4, device=file.device).repeat(*matrices.shape[:-2], 1, 1)
    T_cam_world[..., :3, :] = matrices
    encoded = encode_transform(T_cam_world, file.input("intrinsics"), image_hw)
    expected = fixture.outputs["encode/pose_enc"].to(file.device)
    half_turn = encoded[..., 6:7].abs() < _HALF_TURN
    opposite = (encoded[..., 3:7] * expected[..., 3:7]).sum(-1, keepdim=True) < 0
    encoded[..., 3:7] = torch.where(half_turn & opposite, -encoded[..., 3:7], encoded[..., 3:7])
    yield from fixture.check("encode/pose_enc", encoded, FLOAT32)


def aggregator_config(file: ModuleFile) -> VggtConfig:
    """Sizes of the backbone of a file; of the depth head where the file has one."""
    config = file.config
    head = config.get("depth_head", {"features": 8, "out_channels": (4, 4, 4, 4)})
    return VggtConfig(
        embed_dim=config["embed_dim"],
        depth=config["depth"],
        num_heads=config["num_heads"],
        image_depth=config["dino_depth"],
        image_heads=config["dino_heads"],
        tap_layers=tuple(config["out_layers"]),
        head_features=head["features"],
        head_out_channels=tuple(head["out_channels"]),
        num_registers=config["num_register_tokens"],
        image_size=config["img_size"],
        patch_size=config["patch_size"],
        mlp_ratio=config["mlp_ratio"],
    )


def _aggregator_alone(file: ModuleFile, config: VggtConfig) -> VggtBackbone:
    """A backbone whose heads are never used and stay on the meta device."""
    with torch.device("meta"):
        model = VggtBackbone(config)
    file.fill(model.aggregator, "aggregator.")
    return model


def _check_blocks(file: ModuleFile, config: VggtConfig, case: str, images: Tensor) -> Iterator[Row]:
    """Every pair of blocks, by tapping four at a time."""
    for first in range(0, config.depth, NUM_LEVELS):
        start = min(first, config.depth - NUM_LEVELS)
        taps = (start, start + 1, start + 2, start + 3)
        with torch.device("meta"):
            aggregator = Aggregator(replace(config, tap_layers=taps))
        levels = file.fill(aggregator, "aggregator.")(imagenet_normalise(images))
        for level, tokens in levels.items():
            if taps[level] >= first:
                whole = torch.cat([tokens.special, tokens.patches], dim=2)
                yield from file.fixture.check(f"{case}/block{taps[level]}", whole, FLOAT32)


def _check_resumed(file: ModuleFile, model: VggtBackbone, name: str, start: int) -> Iterator[Row]:
    """Later levels resumed from true tokens, or without special tokens (`_nospecial`)."""
    expected = next(v for k, v in file.fixture.outputs.items() if k.startswith(f"{name}/"))
    for images in _images_with(file, expected.shape):
        grid_hw = grid_of((images.shape[-2], images.shape[-1]), model.patch_size)
        tokens = model.encode_levels(images, [start])[start]
        if name.endswith("_nospecial"):
            learned = model.learned_special_tokens(*images.shape[:2])
            tokens = LevelTokens(tokens.patches, learned)
        for level, later in model.propagate(tokens, start, grid_hw).items():
            quantity = f"{name}/level{level}_patches"
            yield from file.fixture.check(quantity, later.patches.flatten(0, 1), FLOAT32)
        return


def _images_with(file: ModuleFile, tokens_shape: torch.Size) -> Iterator[Tensor]:
    """Images of the cases whose patches have this (views, N, C); most views per scene first."""
    patch = file.config["patch_size"]
    inputs = [_as_views(file.input(f"{case}/images")) for case in file.cases("images")]
    for images in sorted(inputs, key=lambda images: -images.shape[1]):
        rows, columns = grid_of((images.shape[-2], images.shape[-1]), patch)
        if (
            images.shape[0] * images.shape[1] == tokens_shape[0]
            and rows * columns == tokens_shape[1]
        ):
            yield images


def _head(file: ModuleFile, name: str, outputs: int, activation: str) -> DptHead:
    config = file.config
    if activation not in ("exp", "inv_log"):
        raise ValueError(f"{name}: unknown activation {activation!r}")
    with torch.device("meta"):
        head = DptHead(
            config["dim_in"],
            config["features"],
            config["out_channels"],
            outputs=outputs,
            activation="exp" if activation == "exp" else "inv_log",
            hidden_features=config["hidden_last"],
            patch_size=config["patch_size"],
        )
    return file.fill(head, f"{name}.")


def _as_views(images: Tensor) -> Tensor:
    """Images (B, V, 3, H, W); a batch without views is one view per scene."""
    return images if images.ndim == 5 else images[:, None]
