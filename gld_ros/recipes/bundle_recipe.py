"""`gld-ros train bundle`: from a recipe in YAML to a chain that makes a bundle.

    name, licence    of the bundle
    model            folder with the config.json of its sizes
    start            bundle whose weights the first stage goes on from; without it, from nothing
    places           NAME: folder that `scenes` of stores and `data` of evaluations call {NAME};
                     what names a place without a folder is left out
    image_wh, views  of every stored scene
    dtype            that the finished bundle is stored in
    stores           NAME: what is rendered or recorded; split train is learned from, the others are
                     watched
    stages           NAME: a configuration of `gld-ros train`, in order, each from the one before
    evaluations      NAME: what the finished bundle is judged on
    measured_on      the machine that `minutes` of stores, stages and evaluations are from

Paths of `model` and `config` are relative to the recipe, those of scenes to where the command runs.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gld_ros.evaluation.totals import bundle_hash
from gld_ros.recipes.card import CardFacts, DataSource, card, figures_section, typed_command
from gld_ros.recipes.chain import Chain, Step, read_records
from gld_ros.recipes.inputs import read_report
from gld_ros.recipes.recipe_stores import (
    OpenedStore,
    StoreRecipe,
    in_places,
    mixed,
    open_store,
    why_left_out,
    with_scenes,
)
from gld_ros.recipes.steps import (
    EvaluationPlan,
    bundle_step,
    card_step,
    evaluation_step,
    stage_step,
    store_step,
)
from gld_ros.training.config import (
    ConfigError,
    RunConfig,
    load_run_config,
    parse,
    read_settings,
)
from gld_ros.weights.bundle import Bundle
from gld_ros.weights.bundle_config import read_bundle_config
from gld_ros.weights.tensor_file import DTYPE_NAMES

RESERVED_NAMES = ("stores", "evaluation", "bundle")  # folders of a chain


@dataclass(frozen=True)
class StageRecipe:
    """A configuration file and what is set differently in it."""

    config: str
    settings: dict[str, Any] = field(default_factory=dict)
    minutes: float | None = None


@dataclass(frozen=True)
class EvaluationRecipe(EvaluationPlan):
    """An evaluation of the finished bundle, and the minutes that it took elsewhere."""

    minutes: float | None = None


@dataclass(frozen=True)
class BundleRecipe:
    """A whole recipe; see the top of this file."""

    name: str
    licence: str
    model: str
    image_wh: tuple[int, int]
    stores: dict[str, StoreRecipe]
    stages: dict[str, StageRecipe]
    evaluations: dict[str, EvaluationRecipe]
    start: str | None = None
    places: dict[str, str | None] = field(default_factory=dict)
    views: int = 4
    dtype: str = "float16"
    measured_on: str = "another machine"

    def __post_init__(self) -> None:
        """Check what no chain can be made of."""
        if self.dtype not in DTYPE_NAMES:
            raise ConfigError(f"dtype is {self.dtype!r}; use one of {', '.join(DTYPE_NAMES)}")
        if not self.stages:
            raise ConfigError("stages is empty; name at least one")
        for name in (*self.stages, *self.stores, *self.evaluations):
            if not name.isidentifier() or name in RESERVED_NAMES:
                raise ConfigError(
                    f"{name!r} cannot be the name of a store, a stage or an evaluation; use "
                    f"letters, digits and _, and none of {', '.join(RESERVED_NAMES)}"
                )
        used = with_scenes(self.stores, self.places)
        if not any(store.is_learned_from for store in used.values()):
            raise ConfigError("stores has no scenes of split train, so nothing to learn from")


def load_recipe(path: Path, overrides: Sequence[str]) -> BundleRecipe:
    """Read a recipe and apply `dotted.name=value` overrides; raises ConfigError."""
    values = read_settings(path, overrides)
    _forget_times(values, overrides)
    return parse(BundleRecipe, values, path.name)


def bundle_chain(path: Path, overrides: Sequence[str], folder: Path, device: torch.device) -> Chain:
    """The chain of the recipe in `path` in `folder`; raises ConfigError for what cannot be made.

    The bundle is in `folder / "bundle"`, with its card.
    """
    recipe = load_recipe(path, overrides)
    base = path.parent
    plan_folder = base / recipe.model
    read_bundle_config(plan_folder)
    stores = with_scenes(recipe.stores, recipe.places)
    opened = {name: open_store(name, store) for name, store in stores.items()}
    evaluations, without_place = _evaluations(recipe)
    configs = dict(_stage_configs(base, recipe, stores, folder))
    steps = [_store(name, store, recipe, folder, device) for name, store in opened.items()]
    exported: str | Path | None = recipe.start
    start_hash = ""
    if exported is not None:
        start_hash = bundle_hash(Bundle.open(exported))
    for name, config in configs.items():
        steps.append(
            stage_step(
                name,
                config,
                folder / name,
                device,
                bundle=exported,
                plan_folder=plan_folder,
                minutes_elsewhere=recipe.stages[name].minutes,
            )
        )
        exported = folder / name / "export"
    finished = folder / "bundle"
    steps.append(_finish(recipe, opened, Path(exported or ""), finished))
    steps += [
        evaluation_step(
            name,
            evaluation,
            finished,
            folder / "evaluation",
            device,
            minutes_elsewhere=evaluation.minutes,
        )
        for name, evaluation in evaluations.items()
    ]
    steps.append(
        card_step(
            finished,
            partial(_card, path, overrides, recipe, stores, evaluations, configs, folder, device),
        )
    )
    identity = {
        **asdict(recipe),
        "model": json.loads((plan_folder / "config.json").read_text(encoding="utf-8")),
        "stages": {name: asdict(config) for name, config in configs.items()},
        "files": {name: store.content for name, store in opened.items() if store.content},
        "start_hash": start_hash,
    }
    left_out = tuple(
        why_left_out(name, store) for name, store in recipe.stores.items() if name not in stores
    )
    return Chain(
        f"bundle {recipe.name}",
        _without_times(identity),
        tuple(steps),
        recipe.measured_on,
        left_out + without_place,
    )


def _forget_times(values: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Drop the minutes of what was changed: they are those of the recipe as it is written."""
    for override in overrides:
        section, _, rest = override.partition("=")[0].partition(".")
        name, _, changed = rest.partition(".")
        entry = values.get(section)
        if changed and changed != "minutes" and isinstance(entry, dict):
            entry[name].pop("minutes", None)


def _evaluations(
    recipe: BundleRecipe,
) -> tuple[dict[str, EvaluationRecipe], tuple[str, ...]]:
    """The evaluations with their places filled in, and a line about each that has none."""
    kept, notes = {}, []
    for name, evaluation in recipe.evaluations.items():
        data = in_places(evaluation.data, recipe.places, f"evaluations.{name}.data")
        if data is None:
            notes.append(f"evaluation {name} is left out: {evaluation.data} needs a folder")
        else:
            kept[name] = replace(evaluation, data=data)
    return kept, tuple(notes)


def _store(
    name: str, store: OpenedStore, recipe: BundleRecipe, folder: Path, device: torch.device
) -> Step:
    width, height = recipe.image_wh
    return store_step(
        folder / "stores" / name,
        store.source(recipe.views, (height, width), device),
        store.recipe.count,
        recipe.views,
        (height, width),
        minutes_elsewhere=store.recipe.minutes,
    )


def _stage_configs(
    base: Path, recipe: BundleRecipe, stores: Mapping[str, StoreRecipe], folder: Path
) -> Iterator[tuple[str, RunConfig]]:
    """The configuration of every stage, learning from the recipe's stores."""
    for name, stage in recipe.stages.items():
        overrides = [f"{key}={json.dumps(value)}" for key, value in _dotted(stage.settings)]
        config = load_run_config(base / stage.config, overrides)
        data = mixed(config.data, stores, folder / "stores")
        for width, height in data.sizes_wh:
            if width > recipe.image_wh[0] or height > recipe.image_wh[1]:
                raise ConfigError(
                    f"stages.{name}: data.sizes_wh has {width}x{height}, larger than the stored "
                    f"images ({recipe.image_wh[0]}x{recipe.image_wh[1]}, image_wh)"
                )
        if data.views > recipe.views:
            raise ConfigError(
                f"stages.{name}: data.views is {data.views}; stored scenes have {recipe.views}"
            )
        yield name, replace(config, data=data)


def _dotted(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as dotted names; names may be dotted already."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _finish(
    recipe: BundleRecipe, opened: Mapping[str, OpenedStore], trained: Path, finished: Path
) -> Step:
    learned = [store for store in opened.values() if store.recipe.is_learned_from]
    places = ", ".join(dict.fromkeys(place for store in learned for place in store.places))
    start = (
        "from nothing" if recipe.start is None else f"from {Bundle.open(recipe.start).config.name}"
    )
    return bundle_step(
        trained,
        finished,
        dtype=DTYPE_NAMES[recipe.dtype],
        name=recipe.name,
        origin=f"trained {start} on {places} (gld-ros train bundle)",
        licence=recipe.licence,
    )


def _card(
    path: Path,
    overrides: Sequence[str],
    recipe: BundleRecipe,
    stores: Mapping[str, StoreRecipe],
    evaluations: Mapping[str, EvaluationRecipe],
    configs: Mapping[str, RunConfig],
    folder: Path,
    device: torch.device,
) -> str:
    finished = folder / "bundle"
    facts = CardFacts(
        Bundle.open(finished),
        typed_command("bundle", ["--recipe", str(path)], overrides),
        f"Trained {'from nothing' if recipe.start is None else f'on from {recipe.start}'} by one "
        "command; every figure below was measured at its end.",
        [
            DataSource(
                name,
                store.scenes or "",
                store.count,
                "training" if store.is_learned_from else "validation",
                store.licence,
            )
            for name, store in stores.items()
        ],
        configs,
        read_records(folder),
        device,
    )
    return card(
        facts,
        [
            figures_section(
                name,
                evaluation.command(finished),
                read_report(folder / "evaluation" / f"{name}.json"),
            )
            for name, evaluation in evaluations.items()
        ],
    )


def _without_times(identity: dict[str, Any]) -> dict[str, Any]:
    """What was measured elsewhere is no part of what is made."""
    kept = {name: value for name, value in identity.items() if name != "measured_on"}
    for section in ("stores", "evaluations"):
        kept[section] = {
            name: {key: value for key, value in entry.items() if key != "minutes"}
            for name, entry in identity[section].items()
        }
    return kept
