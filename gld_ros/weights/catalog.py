"""What is published and can be fetched: repositories, files, sizes, licences as stated upstream.

Facts only; talking to the hub is `hub`, turning files into bundles `convert`.
"""

from dataclasses import dataclass

from gld_ros.weights.errors import WeightsError
from gld_ros.weights.families import CODE_REPOSITORY, FAMILIES


@dataclass(frozen=True)
class PublishedFile:
    """A file of a hub repository: the first of `paths` that is there, stored below `folder`."""

    repository: str
    paths: tuple[str, ...]
    folder: str = ""


@dataclass(frozen=True)
class PublishedModel:
    """One entry of the catalog; `kind` names its family, `licences` every part with its source."""

    name: str
    summary: str
    kind: str
    files: tuple[PublishedFile, ...]
    licences: tuple[str, ...]
    non_commercial: bool
    download_gb: float


_GLD = "SeonghuJeon/GLD"
_DA3_BASE = "depth-anything/DA3-BASE"
_VGGT_1B = "facebook/VGGT-1B"
_GLD_LICENCE = f"{_GLD} (diffusion, decoders): Apache-2.0, by its model card"
_DA3_LICENCE = f"{_DA3_BASE} (encoder): Apache-2.0, by its model card"
_VGGT_LICENCE = (
    f"{_VGGT_1B} (encoder): CC-BY-NC-4.0, by its model card, which excludes commercial use"
)
_STATISTICS_LICENCE = (
    f"level statistics: none stated for the files; MIT for {CODE_REPOSITORY}, where they are"
)


def _gld_files(encoder: str, kind: str) -> tuple[PublishedFile, ...]:
    """The hub files of a GLD family: the encoder of another repository, the rest of its own."""
    parts = {part: places for part, places in FAMILIES[kind].files.items() if part != "encoder"}
    return (
        PublishedFile(encoder, ("model.safetensors",), encoder),
        *(PublishedFile(_GLD, places) for places in parts.values()),
    )


CATALOG: dict[str, PublishedModel] = {
    model.name: model
    for model in (
        PublishedModel(
            name="gld-da3",
            summary="Geometric Latent Diffusion on Depth Anything 3 Base (1.8 G parameters)",
            kind="gld-da3",
            files=_gld_files(_DA3_BASE, "gld-da3"),
            licences=(_GLD_LICENCE, _DA3_LICENCE, _STATISTICS_LICENCE),
            non_commercial=False,
            download_gb=7.9,
        ),
        PublishedModel(
            name="da3-base",
            summary="Depth Anything 3 Base alone: depth and cameras, no predicted views",
            kind="da3",
            files=(PublishedFile(_DA3_BASE, ("model.safetensors",)),),
            licences=(_DA3_LICENCE,),
            non_commercial=False,
            download_gb=0.6,
        ),
        PublishedModel(
            name="gld-vggt",
            summary="Geometric Latent Diffusion on VGGT (3.2 G parameters)",
            kind="gld-vggt",
            files=_gld_files(_VGGT_1B, "gld-vggt"),
            licences=(_GLD_LICENCE, _VGGT_LICENCE, _STATISTICS_LICENCE),
            non_commercial=True,
            download_gb=13.2,
        ),
        PublishedModel(
            name="vggt-1b",
            summary="VGGT alone: depth, points and cameras, no predicted views",
            kind="vggt",
            files=(PublishedFile(_VGGT_1B, ("model.safetensors",)),),
            licences=(_VGGT_LICENCE,),
            non_commercial=True,
            download_gb=5.0,
        ),
    )
}


def published_model(name: str) -> PublishedModel:
    """The catalog entry called `name`; raises WeightsError with the names that exist."""
    if name not in CATALOG:
        raise WeightsError(f"no published model {name!r}; known: {', '.join(CATALOG)}")
    return CATALOG[name]
