"""Which published layouts can be turned into bundles, and how one is recognised.

Adding a family is one entry in `CONVERTERS`; the functions share their first arguments and raise
alike, see `official.convert_official`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gld_ros.weights.checkpoint_file import read_checkpoint
from gld_ros.weights.errors import WeightsError
from gld_ros.weights.official import OFFICIAL_FILES, convert_da3_model, convert_official
from gld_ros.weights.official_vggt import (
    VGGT_FILES,
    convert_official_vggt,
    convert_vggt_model,
)
from gld_ros.weights.published_files import Conversion


@dataclass(frozen=True)
class Converter:
    """One layout: what converts it, and the file (or tensor) by which it is known.

    convert: takes source, folder and the keywords name, dtype, sizes, overwrite, progress; if
        `whole`, those of `options` too.
    whole: the source is a folder with a backbone and diffusion weights, not one backbone file.
    """

    convert: Callable[..., Conversion]
    whole: bool
    known_by: str
    options: tuple[str, ...] = ()


CONVERTERS: dict[str, Converter] = {
    "gld-da3": Converter(
        convert_official,
        True,
        OFFICIAL_FILES["level1"][0],
        ("encoder_file", "statistics_folder"),
    ),
    "gld-vggt": Converter(
        convert_official_vggt,
        True,
        VGGT_FILES["level1"][0],
        ("encoder_file", "statistics_folder", "variant", "special_statistics"),
    ),
    "da3": Converter(convert_da3_model, False, "model.backbone.pretrained.cls_token"),
    "vggt": Converter(convert_vggt_model, False, "aggregator.camera_token"),
}


def recognise(source: Path) -> str:
    """Kind of the published files at `source`; WeightsError if there is none or more than one."""
    if source.is_file():
        names = read_checkpoint(source).keys()
        kinds = [k for k, c in CONVERTERS.items() if not c.whole and c.known_by in names]
    else:
        kinds = [k for k, c in CONVERTERS.items() if c.whole and (source / c.known_by).is_file()]
    if len(kinds) == 1:
        return kinds[0]
    if kinds:
        raise WeightsError(f"{source} has files of {' and '.join(kinds)}; say which with --kind")
    wanted = ", ".join(f"{c.known_by} ({kind})" for kind, c in CONVERTERS.items())
    raise WeightsError(f"{source} has none of the files or tensors a model is known by: {wanted}")
