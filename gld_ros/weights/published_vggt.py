"""The published VGGT tensors, and the sizes of the model they describe."""

import math
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from gld_ros.backbones.vggt.config import VggtConfig
from gld_ros.weights.checkpoint_file import read_checkpoint, unwrap
from gld_ros.weights.errors import CoverageError, WeightsError
from gld_ros.weights.published_diffusion import count_indexed, shape_of

# The taps are not stored in any tensor; these are those of the published model, by its depth.
_TAP_LAYERS = {24: (4, 11, 17, 23)}
# The released evaluation has no use for the camera head. Here it reads the cameras of predicted
# views, by which metric scale is measured.
_USED_WITH_DIFFUSION = ("aggregator.", "depth_head.", "camera_head.")
_OTHER_HEADS = ("point_head.",)
_NEVER_USED = ("track_head.",)


def read_vggt(paths: Mapping[str, Path], notes: list[str]) -> dict[str, Tensor]:
    """Tensors of the backbone from the file "encoder"; the point head only without diffusion."""
    path = paths["encoder"]
    wanted = _USED_WITH_DIFFUSION if "level1" in paths else _USED_WITH_DIFFUSION + _OTHER_HEADS
    tensors = unwrap(read_checkpoint(path), (), path)
    known = _USED_WITH_DIFFUSION + _OTHER_HEADS + _NEVER_USED
    unknown = sorted(name for name in tensors if not name.startswith(known))
    if unknown:
        raise CoverageError(f"{path}: unexpected tensor(s) {', '.join(unknown[:10])}")
    kept = {name: values for name, values in tensors.items() if name.startswith(wanted)}
    left_out = sorted({name.split(".")[0] for name in tensors.keys() - kept.keys()})
    if left_out:
        count = len(tensors) - len(kept)
        notes.append(f"{path.name}: {count} tensors of {', '.join(left_out)} are not used.")
    return kept


def infer_vggt_config(tensors: Mapping[str, Tensor], *, camera_heads: int) -> VggtConfig:
    """Sizes of a VGGT model from its tensors; WeightsError if they fit no model."""
    embed_dim = shape_of(tensors, "aggregator.camera_token")[-1]
    depth = count_indexed(tensors, "aggregator.frame_blocks.")
    if depth not in _TAP_LAYERS:
        known = ", ".join(map(str, _TAP_LAYERS))
        raise WeightsError(
            f"the aggregator has {depth} frame blocks; the published model has {known}"
        )
    num_heads = embed_dim // shape_of(tensors, "aggregator.frame_blocks.0.attn.q_norm.weight")[0]
    patch_size = shape_of(tensors, "aggregator.patch_embed.patch_embed.proj.weight")[-1]
    table_side = math.isqrt(shape_of(tensors, "aggregator.patch_embed.pos_embed")[1] - 1)
    stages = [shape_of(tensors, f"depth_head.projects.{stage}.weight")[0] for stage in range(4)]
    has_camera_head = "camera_head.token_norm.weight" in tensors
    try:
        return VggtConfig(
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            image_depth=count_indexed(tensors, "aggregator.patch_embed.blocks."),
            image_heads=num_heads,
            tap_layers=_TAP_LAYERS[depth],
            head_features=shape_of(tensors, "depth_head.scratch.layer1_rn.weight")[0],
            head_out_channels=(stages[0], stages[1], stages[2], stages[3]),
            num_registers=shape_of(tensors, "aggregator.register_token")[2],
            image_size=table_side * patch_size,
            patch_size=patch_size,
            mlp_ratio=shape_of(tensors, "aggregator.frame_blocks.0.mlp.fc1.bias")[0] / embed_dim,
            point_head="point_head.norm.weight" in tensors,
            camera_head=has_camera_head,
            camera_heads=camera_heads,
            camera_depth=count_indexed(tensors, "camera_head.trunk.") if has_camera_head else 4,
        )
    except ValueError as error:
        raise WeightsError(f"the backbone's tensors describe no valid model: {error}") from error
