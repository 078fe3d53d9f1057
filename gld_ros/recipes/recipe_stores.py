"""The stores of a bundle's recipe: what fills them, which are left out, how they are mixed."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from gld_ros.evaluation.held_out import recording_kind
from gld_ros.recipes.held_out_recordings import open_site_recordings, shown_name
from gld_ros.recipes.inputs import content_of
from gld_ros.recipes.steps import rendering_device
from gld_ros.scenes.recording import RecordingError
from gld_ros.scenes.rendered import RenderedScenes, open_rendered
from gld_ros.scenes.rooms import split_ids
from gld_ros.scenes.store_sources import StoreSource, recorded_source, rendered_source
from gld_ros.training.config import ConfigError, DataConfig, PartConfig

RECORDINGS = "recordings:"
_PLACE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class StoreRecipe:
    """Scenes of `KIND:PLACE` (`gld_ros.scenes.rendered`) or `recordings:PATH,PATH...`.

    Without scenes the store is left out. An epoch draws `draws` scenes of it; 0: each of them once.
    """

    scenes: str | None
    count: int
    split: str = "train"
    first: int = 0
    draws: int = 0
    licence: str = ""
    minutes: float | None = None

    @property
    def is_learned_from(self) -> bool:
        """Whether it is trained on; all others are watched."""
        return self.split == "train"


@dataclass(frozen=True)
class OpenedStore:
    """A store whose scenes exist: `rendered`, or drawn from recordings at `paths`."""

    recipe: StoreRecipe
    rendered: RenderedScenes | None
    paths: tuple[Path, ...]

    @property
    def places(self) -> tuple[str, ...]:
        """How a bundle's origin names what it learned from."""
        if self.rendered is not None:
            return (f"{self.rendered.kind} {self.rendered.short_name}",)
        return tuple(f"recording {shown_name(path)}" for path in self.paths)

    @property
    def content(self) -> str:
        """What its files are made of, in a line; empty for procedural rooms."""
        return "; ".join(content_of(path) for path in self.paths)

    def source(self, views: int, image_hw: tuple[int, int], device: torch.device) -> StoreSource:
        """What fills the store; `device` renders rooms."""
        recipe = self.recipe
        if self.rendered is not None:
            ids = split_ids(recipe.split, recipe.count, recipe.first)
            return rendered_source(
                self.rendered,
                ids,
                views,
                image_hw,
                device=rendering_device(self.rendered, device),
            )
        opened = open_site_recordings(self.paths)
        recordings = [recording for found in opened.values() for recording in found]
        kinds = " and ".join(sorted({recording_kind(path) for path in self.paths}))
        return recorded_source(
            kinds, self.paths, recordings, views, image_hw, first_seed=recipe.first
        )


def in_places(text: str | None, places: Mapping[str, str | None], owner: str) -> str | None:
    """`text` with the folders of its {NAME}s, None where one has none; ConfigError if unknown."""
    if text is None:
        return None
    for name in _PLACE.findall(text):
        if name not in places:
            known = ", ".join(places) or "none"
            raise ConfigError(f"{owner} names the place {{{name}}}; places has {known}")
        folder = places[name]
        if not folder:
            return None
        text = text.replace(f"{{{name}}}", folder.rstrip("/"))
    return text


def with_scenes(
    stores: Mapping[str, StoreRecipe], places: Mapping[str, str | None]
) -> dict[str, StoreRecipe]:
    """The stores that are not left out, with their places filled in."""
    filled = {n: in_places(s.scenes, places, f"stores.{n}.scenes") for n, s in stores.items()}
    return {n: replace(stores[n], scenes=scenes) for n, scenes in filled.items() if scenes}


def why_left_out(name: str, store: StoreRecipe) -> str:
    """A line for the plan about a store that has no scenes."""
    if store.scenes:
        places = dict.fromkeys(_PLACE.findall(store.scenes))  # each once
        missing = " ".join(f"--set places.{place}=FOLDER" for place in places)
        return f"store {name} is left out: {store.scenes} needs a folder ({missing})"
    return f"store {name} is left out: no scenes are given (--set stores.{name}.scenes=KIND:PLACE)"


def open_store(name: str, store: StoreRecipe) -> OpenedStore:
    """Find the scenes of a store; raises ConfigError that says what is wrong with them."""
    scenes = store.scenes or ""
    try:
        split_ids(store.split, store.count, store.first)
        if scenes.startswith(RECORDINGS):
            paths = tuple(Path(path) for path in scenes.removeprefix(RECORDINGS).split(","))
            open_site_recordings(paths)
            return OpenedStore(store, None, paths)
        rendered = open_rendered(scenes)
        return OpenedStore(store, rendered, (rendered.path,) if rendered.path else ())
    except (ValueError, RecordingError) as error:
        raise ConfigError(f"stores.{name}: {error}") from error


def mixed(data: DataConfig, stores: Mapping[str, StoreRecipe], folder: Path) -> DataConfig:
    """`data` of a stage, learning from the stores in `folder` as often as `draws` says."""

    def paths(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(str((folder / name).absolute()) for name in names)

    learned = [name for name, store in stores.items() if store.is_learned_from]
    watched = paths([name for name, store in stores.items() if not store.is_learned_from])
    if not any(stores[name].draws for name in learned):
        return replace(
            data, kind="rooms", paths=paths(learned), held_out_paths=watched, parts=(), draws=0
        )
    parts = tuple(
        PartConfig("rooms", paths([name]), () if i else watched, stores[name].draws)
        for i, name in enumerate(learned)
    )
    return replace(data, kind="mix", paths=(), held_out_paths=(), draws=0, parts=parts)
