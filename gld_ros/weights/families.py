"""The published families of weights: their files, licences and sampling settings, and their inputs.

Adding a family is one entry in `FAMILIES`. Reading tensors is `published_da3`, `published_vggt` and
`published_diffusion`; writing the bundle is `convert`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from gld_ros.weights.checkpoint_file import read_checkpoint
from gld_ros.weights.errors import WeightsError
from gld_ros.weights.published_da3 import infer_da3_config, read_da3
from gld_ros.weights.published_vggt import infer_vggt_config, read_vggt

CODE_REPOSITORY = "https://github.com/cvlab-kaist/GLD"
NUM_VIEWS = 8


@dataclass(frozen=True)
class Family:
    """One published layout.

    files: places of every part below the root, best first; the layout on the hub and its
        documentation differ for two of them. A family of one part is one backbone file.
    statistics: groups of level statistics it needs, and the folder of `model_stats` they lie in.
    known_by: the file (of a backbone alone: the tensor) by which the family is recognised.
    shift_grid: patches a side of the latent that sets the time shift, whatever the image size: that
        of the evaluation behind the published figures.
    has_variants: whether the published cascade can be read in two ways (`convert`).
    """

    backbone: str
    read: Callable[[Mapping[str, Path], list[str]], dict[str, Tensor]]
    infer: Callable[..., Any]
    files: Mapping[str, tuple[str, ...]]
    known_by: str
    licence: str
    origin: str
    where_from: str
    non_commercial: bool
    num_euler_points: int
    resolutions_hw: tuple[tuple[int, int], ...]
    statistics: tuple[str, ...] = ()
    shift_grid: int = 0
    has_variants: bool = False

    @property
    def imagines(self) -> bool:
        """Whether it has diffusion weights, so that the source is a folder of files."""
        return bool(self.statistics)


_DA3_WHERE = (
    "The encoder is model.safetensors of depth-anything/DA3-BASE on the Hugging Face hub; the "
    f"statistics are in the folder model_stats of {CODE_REPOSITORY}, not on the hub: give that "
    "folder, or a clone, with --statistics, or compute them from your images (--statistics-from)"
)
_VGGT_WHERE = _DA3_WHERE.replace(
    "depth-anything/DA3-BASE on the Hugging Face hub",
    "facebook/VGGT-1B on the Hugging Face hub, for non-commercial use only",
)

FAMILIES: dict[str, Family] = {
    "gld-da3": Family(
        backbone="da3",
        read=read_da3,
        infer=infer_da3_config,
        files={
            "encoder": (
                "depth-anything/DA3-BASE/model.safetensors",
                "depth-anything/DA3-Base/model.safetensors",
            ),
            "head": ("pretrained_models/da3/model.safetensors",),
            "dpt_decoder": ("pretrained_models/da3/dpt_decoder.pt", "checkpoints/dpt_decoder.pt"),
            "mae_decoder": (
                "pretrained_models/mae_decoder.pt",
                "pretrained_models/da3/mae_decoder.pt",
                "checkpoints/mae_decoder.pt",
            ),
            "level1": ("checkpoints/da3_level1.pt",),
            "cascade": ("checkpoints/da3_cascade.pt",),
        },
        statistics=("level0", "level1"),
        known_by="checkpoints/da3_level1.pt",
        licence="Apache-2.0 (Depth Anything 3 Base and Geometric Latent Diffusion)",
        origin="SeonghuJeon/GLD and depth-anything/DA3-BASE on the Hugging Face hub",
        where_from=_DA3_WHERE,
        non_commercial=False,
        num_euler_points=50,
        resolutions_hw=((504, 504), (336, 504), (280, 504)),
        shift_grid=18,
    ),
    "gld-vggt": Family(
        backbone="vggt",
        read=read_vggt,
        infer=infer_vggt_config,
        files={
            "encoder": ("facebook/VGGT-1B/model.safetensors", "facebook/VGGT-1B/model.pt"),
            "mae_decoder": ("pretrained_models/vggt/mae_decoder.pt",),
            "level1": ("checkpoints/vggt_level1.pt",),
            "cascade": ("checkpoints/vggt_cascade.pt",),
        },
        statistics=("level0", "level1", "special0", "special1"),
        known_by="checkpoints/vggt_level1.pt",
        licence="CC-BY-NC-4.0 (facebook/VGGT-1B), Apache-2.0 (Geometric Latent Diffusion)",
        origin="SeonghuJeon/GLD and facebook/VGGT-1B on the Hugging Face hub",
        where_from=_VGGT_WHERE,
        non_commercial=True,
        num_euler_points=100,
        resolutions_hw=((504, 504), (378, 504), (336, 504), (280, 504)),
        shift_grid=37,
        has_variants=True,
    ),
    "da3": Family(
        backbone="da3",
        read=read_da3,
        infer=infer_da3_config,
        files={"encoder": ("model.safetensors",)},
        known_by="model.backbone.pretrained.cls_token",
        licence="Apache-2.0 (Depth Anything 3 Base)",
        origin="depth-anything on the Hugging Face hub",
        where_from="It is model.safetensors of depth-anything/DA3-BASE on the Hugging Face hub",
        non_commercial=False,
        num_euler_points=50,
        resolutions_hw=((280, 504), (378, 504), (504, 504)),
    ),
    "vggt": Family(
        backbone="vggt",
        read=read_vggt,
        infer=infer_vggt_config,
        files={"encoder": ("model.safetensors", "model.pt")},
        known_by="aggregator.camera_token",
        licence="CC-BY-NC-4.0 (facebook/VGGT-1B)",
        origin="facebook/VGGT-1B on the Hugging Face hub",
        where_from="It is model.safetensors of facebook/VGGT-1B on the Hugging Face hub",
        non_commercial=True,
        num_euler_points=100,
        resolutions_hw=((518, 518), (392, 518), (294, 518)),
    ),
}


def recognise(source: Path) -> str:
    """Family of the published files at `source`; WeightsError if there is none or more than one."""
    if source.is_file():
        names = read_checkpoint(source).keys()
        kinds = [k for k, f in FAMILIES.items() if not f.imagines and f.known_by in names]
    else:
        kinds = [k for k, f in FAMILIES.items() if f.imagines and (source / f.known_by).is_file()]
    if len(kinds) == 1:
        return kinds[0]
    if kinds:
        raise WeightsError(f"{source} has files of {' and '.join(kinds)}; say which with --kind")
    wanted = ", ".join(f"{family.known_by} ({kind})" for kind, family in FAMILIES.items())
    raise WeightsError(f"{source} has none of the files or tensors a model is known by: {wanted}")


def find_inputs(
    family: Family,
    source: Path,
    encoder_file: Path | None = None,
    statistics: Path | None = None,
) -> dict[str, Path]:
    """The file of every part below `source`, or `source` itself where it is one backbone file.

    `encoder_file` and `statistics` (see `find_statistics`) are used if given. Raises WeightsError
    that lists every missing file and where it is published.
    """
    if source.is_file() and not family.imagines:
        return {"encoder": source}
    if not source.is_dir():
        raise WeightsError(f"{source} is not a folder")
    wanted = {part: [source / place for place in places] for part, places in family.files.items()}
    if encoder_file is not None:
        wanted["encoder"] = [encoder_file]
    found: dict[str, Path] = {}
    missing = []
    for part, candidates in wanted.items():
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            missing.append(f"{part}: {' or '.join(map(str, candidates))}")
        else:
            found[part] = path
    try:
        found |= find_statistics(family, source if statistics is None else statistics)
    except WeightsError as error:
        missing.append(str(error))
    if missing:
        listed = "\n  ".join(missing)
        raise WeightsError(
            f"{source} lacks files of the published layout:\n  {listed}\n{family.where_from}"
        )
    return found


def find_encoder(family: Family, source: Path) -> Path:
    """The backbone's file below `source`; raises WeightsError when it is not there."""
    candidates = [source / place for place in family.files["encoder"]]
    for path in candidates:
        if path.is_file():
            return path
    raise WeightsError(f"{source} has no {' or '.join(map(str, candidates))}")


def find_statistics(family: Family, place: Path) -> dict[str, Path]:
    """The level statistics of a family, by part, at `place`.

    `place` is a clone of the code repository, its folder `model_stats`, the folder of the files, a
    bundle or training export, or the `statistics.safetensors` of one. Raises WeightsError that
    names what is missing.
    """
    if not family.statistics:
        return {}
    for bundled in (place, place / "statistics.safetensors"):
        if bundled.is_file() and bundled.suffix == ".safetensors":
            return {"statistics": bundled}
    names = {
        group: f"{'special' if group.startswith('special') else 'normalization'}"
        f"_stats_level{group[-1]}.pt"
        for group in family.statistics
    }
    folders = [place / "model_stats" / family.backbone, place / family.backbone]
    folders += [place / "model_stats", place]
    for folder in folders:
        paths = {f"statistics_{group}": folder / name for group, name in names.items()}
        missing = [path.name for path in paths.values() if not path.is_file()]
        if not missing:
            return paths
        if len(missing) < len(paths):
            raise WeightsError(f"statistics: {folder} has no {', '.join(missing)}")
    raise WeightsError(
        f"statistics: {place / 'model_stats' / family.backbone / names['level0']} (and the other "
        f"{len(names) - 1} beside it), model_stats/{names['level0']} or {names['level0']}"
    )
