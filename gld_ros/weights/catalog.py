"""What is published and may be fetched: repositories, files, licences, rough sizes.

Facts only; talking to the hub is `hub`, turning files into bundles `official`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from gld_ros.weights.errors import WeightsError
from gld_ros.weights.official import OFFICIAL_FILES
from gld_ros.weights.official_vggt import VGGT_FILES


@dataclass(frozen=True)
class PublishedFile:
    """A file of a hub repository: the first of `paths` that is there, stored at `place`."""

    repository: str
    paths: tuple[str, ...]
    place: str


@dataclass(frozen=True)
class PublishedModel:
    """One entry of the catalog; `kind` names what turns it into a bundle (`converters`)."""

    name: str
    summary: str
    kind: str
    files: tuple[PublishedFile, ...]
    licences: tuple[str, ...]
    non_commercial: bool
    download_gb: float


_GLD = "SeonghuJeon/GLD"
_DA3_BASE = "depth-anything/DA3-Base"
_VGGT_1B = "facebook/VGGT-1B"


def _gld_files(encoder: str, files: Mapping[str, tuple[str, ...]]) -> tuple[PublishedFile, ...]:
    """The files of a layout that are on the hub; statistics are in the code repository."""
    published = [PublishedFile(encoder, ("model.safetensors",), files["encoder"][0])]
    for part, places in files.items():
        if part != "encoder" and not part.startswith("statistics_"):
            published.append(PublishedFile(_GLD, places, places[0]))
    return tuple(published)


CATALOG: dict[str, PublishedModel] = {
    model.name: model
    for model in (
        PublishedModel(
            name="gld-da3",
            summary="Geometric Latent Diffusion on Depth Anything 3 Base (1.8 G parameters)",
            kind="gld-da3",
            files=_gld_files(_DA3_BASE, OFFICIAL_FILES),
            licences=(
                f"{_GLD}: Apache-2.0",
                f"{_DA3_BASE}: Apache-2.0",
            ),
            non_commercial=False,
            download_gb=7.9,
        ),
        PublishedModel(
            name="da3-base",
            summary="Depth Anything 3 Base alone: depth and cameras, no imagined views",
            kind="da3",
            files=(PublishedFile(_DA3_BASE, ("model.safetensors",), "model.safetensors"),),
            licences=(f"{_DA3_BASE}: Apache-2.0",),
            non_commercial=False,
            download_gb=0.6,
        ),
        PublishedModel(
            name="gld-vggt",
            summary="Geometric Latent Diffusion on VGGT (3.2 G parameters)",
            kind="gld-vggt",
            files=_gld_files(_VGGT_1B, VGGT_FILES),
            licences=(
                f"{_GLD}: Apache-2.0",
                f"{_VGGT_1B}: CC-BY-NC-4.0, which excludes commercial use of the whole",
            ),
            non_commercial=True,
            download_gb=13.2,
        ),
        PublishedModel(
            name="vggt-1b",
            summary="VGGT alone: depth, points and cameras, no imagined views",
            kind="vggt",
            files=(PublishedFile(_VGGT_1B, ("model.safetensors",), "model.safetensors"),),
            licences=(f"{_VGGT_1B}: CC-BY-NC-4.0, which excludes commercial use",),
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
