"""The published Depth Anything 3 tensors under our names, and the sizes of the model they describe.

Every tensor is accounted for: the published loader skips what does not fit and keeps random values
there, this one names it and stops.
"""

import math
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from gld_ros.backbones.da3.config import Da3Config
from gld_ros.backbones.da3.official_keys import key_from_official
from gld_ros.weights.checkpoint_file import read_checkpoint, unwrap
from gld_ros.weights.errors import CoverageError, WeightsError
from gld_ros.weights.published_diffusion import count_indexed, shape_of

# The taps are not stored in any tensor; these are the published models by number of blocks.
_TAP_LAYERS = {12: (5, 7, 9, 11), 24: (11, 15, 19, 23), 40: (19, 27, 33, 39)}


def read_da3(paths: Mapping[str, Path], notes: list[str]) -> dict[str, Tensor]:
    """Tensors of the backbone from the files "encoder" and, for GLD, "head" and "dpt_decoder".

    The head of the GLD repository replaces that of the hub model, the fine-tuned one either.
    """
    tensors = _model_tensors(paths["encoder"])
    if "head" not in paths:
        return tensors
    head_model = _model_tensors(paths["head"])
    head = {name: values for name, values in head_model.items() if name.startswith("head.")}
    _expect_same_names(tensors, head, "head.", paths["head"])
    path = paths["dpt_decoder"]
    content = read_checkpoint(path)
    if "model" not in content:
        raise WeightsError(f'{path} has no entry "model"; it has {", ".join(content)}')
    fine_tuned: dict[str, Tensor] = {}
    ignored = 0
    for key, value in unwrap(content, ("model",), path).items():
        prefix = next((p for p in ("decoder.", "pred.") if key.startswith(p)), None)
        if prefix is None:
            ignored += 1
        else:
            fine_tuned[f"head.{key.removeprefix(prefix)}"] = value
    if not fine_tuned:
        raise CoverageError(f'{path}: no name begins with "decoder." or "pred."')
    _expect_known_names(tensors, fine_tuned, path)
    if ignored:
        notes.append(f"{path.name}: {ignored} tensors outside decoder.* are not used")
    kept = sorted(head.keys() - fine_tuned.keys())
    if kept:
        notes.append(f"{path.name} lacks {len(kept)} head tensors: taken from {paths['head'].name}")
    return tensors | head | fine_tuned


def infer_da3_config(tensors: Mapping[str, Tensor], *, camera_heads: int) -> Da3Config:
    """Sizes of a DA3 model from its tensors under our names; WeightsError if they fit no model."""
    embed_dim = shape_of(tensors, "backbone.cls_token")[-1]
    depth = count_indexed(tensors, "backbone.blocks.")
    normalised = [i for i in range(depth) if f"backbone.blocks.{i}.attn.q_norm.weight" in tensors]
    if not normalised or depth not in _TAP_LAYERS:
        raise WeightsError(
            f"the backbone has {depth} blocks, {len(normalised)} of them with normalised queries; "
            f"known any-view models have {', '.join(map(str, _TAP_LAYERS))} blocks"
        )
    first = normalised[0]
    head_dim = shape_of(tensors, f"backbone.blocks.{first}.attn.q_norm.weight")[0]
    patch_size = shape_of(tensors, "backbone.patch_embed.proj.weight")[-1]
    table_side = math.isqrt(shape_of(tensors, "backbone.pos_embed")[1] - 1)
    stages = [shape_of(tensors, f"head.projects.{stage}.weight")[0] for stage in range(4)]
    try:
        return Da3Config(
            embed_dim=embed_dim,
            depth=depth,
            num_heads=embed_dim // head_dim,
            image_size=table_side * patch_size,
            alt_start=first,
            qknorm_start=first,
            rope_start=first,
            tap_layers=_TAP_LAYERS[depth],
            head_features=shape_of(tensors, "head.scratch.layer1_rn.weight")[0],
            head_out_channels=(stages[0], stages[1], stages[2], stages[3]),
            camera_heads=camera_heads,
            camera_depth=count_indexed(tensors, "camera_encoder.trunk."),
            patch_size=patch_size,
            ffn="swiglu" if "backbone.blocks.0.mlp.w12.weight" in tensors else "mlp",
        )
    except ValueError as error:
        raise WeightsError(f"the backbone's tensors describe no valid model: {error}") from error


def _model_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a flat DA3 model file under our names; foreign names are an error."""
    renamed: dict[str, Tensor] = {}
    for key, value in unwrap(read_checkpoint(path), (), path).items():
        try:
            renamed[key_from_official(key)] = value
        except ValueError as error:
            raise CoverageError(f"{path}: unexpected tensor: {error}") from error
    return renamed


def _expect_same_names(
    tensors: Mapping[str, Tensor], given: Mapping[str, Tensor], prefix: str, path: Path
) -> None:
    wanted = {name for name in tensors if name.startswith(prefix)}
    missing = sorted(wanted - given.keys())
    if missing:
        raise CoverageError(f"{path}: missing tensor(s) {', '.join(missing[:10])}")
    _expect_known_names(tensors, given, path)


def _expect_known_names(
    tensors: Mapping[str, Tensor], given: Mapping[str, Tensor], path: Path
) -> None:
    unknown = sorted(given.keys() - tensors.keys())
    if unknown:
        raise CoverageError(f"{path}: unexpected tensor(s) {', '.join(unknown[:10])}")
    misshapen = [
        f"{name}: {tuple(value.shape)}, expected {tuple(tensors[name].shape)}"
        for name, value in given.items()
        if value.shape != tensors[name].shape
    ]
    if misshapen:
        raise CoverageError(f"{path}: misshapen tensor(s) {'; '.join(misshapen[:10])}")
