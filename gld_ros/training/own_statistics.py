"""Level statistics of published weights, measured on one's own recordings.

For weights whose published statistics are not at hand. Views come out worse than with those, which
the denoisers were trained with.
"""

from pathlib import Path

import torch

from gld_ros.training.bundle_parts import WorkingBundle
from gld_ros.training.config import DataConfig, OptimizerConfig, RunConfig
from gld_ros.training.data import ScenePool, open_scenes
from gld_ros.training.jobs import choose_device, write_statistics
from gld_ros.weights.convert import PUBLISHED_SIZES, UnstoredSizes, convert
from gld_ros.weights.families import Family

VIEWS = 4


def statistics_source(
    family: Family, data_kind: str, data: Path, scenes: int, *, try_one: bool = False
) -> tuple[DataConfig, ScenePool]:
    """`scenes` samples of four views of a bag or scene folder, in the smallest size of a family.

    `try_one` draws one of them. Raises ValueError (ConfigError, RecordingError) for a recording
    that gives no samples.
    """
    height, width = min(family.resolutions_hw, key=lambda hw: hw[0] * hw[1])
    config = DataConfig(
        kind=data_kind,
        sizes_wh=((width, height),),
        views=VIEWS,
        paths=(str(data),),
        draws=scenes,
    )
    source = open_scenes(config)
    if try_one:
        source.held_out_batch([0], torch.device("cpu"))
    return config, source


def statistics_from_recordings(
    encoder_file: Path,
    family: Family,
    data_kind: str,
    data: Path,
    folder: Path,
    *,
    scenes: int,
    sizes: UnstoredSizes = PUBLISHED_SIZES,
) -> Path:
    """Measure the features of `scenes` samples of four views of a recording; returns a bundle.

    `folder` takes the backbone as a bundle, and the same with statistics. Raises as
    `statistics_source`.
    """
    data_config, source = statistics_source(family, data_kind, data, scenes)
    config = RunConfig("statistics", 1, 1, data_config, OptimizerConfig(0.0))
    backbone = convert(encoder_file, folder / "backbone", kind=family.backbone, sizes=sizes).bundle
    bundle = WorkingBundle.open(backbone.folder, None)
    device: torch.device = choose_device("auto")
    write_statistics(config, scenes, bundle, source, folder / "measured", device)
    return folder / "measured"
