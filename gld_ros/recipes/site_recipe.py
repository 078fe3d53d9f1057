"""`gld-ros train site`: a chain that fine-tunes any bundle on recordings of one's own site.

What is learned from: stores of the site's recordings, of its mesh if there is one, and of rooms, so
that the model keeps what it knows. Judged, before and after, on a recording that is held out and on
rooms. The encoder, and so the feature space, stays as it is, and so does a cascade.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gld_ros.evaluation.held_out import recording_kind
from gld_ros.evaluation.totals import bundle_hash
from gld_ros.geometry.crop_resize import choose_model_hw
from gld_ros.recipes.card import CardFacts, DataSource, card, comparison_section, typed_command
from gld_ros.recipes.chain import Chain, Step, read_records
from gld_ros.recipes.held_out_recordings import open_site_recordings, refuse_overlap, shown_name
from gld_ros.recipes.inputs import content_of, read_report
from gld_ros.recipes.steps import (
    EvaluationPlan,
    bundle_step,
    card_step,
    evaluation_step,
    rendering_device,
    stage_step,
    store_step,
)
from gld_ros.scenes.recording import Recording
from gld_ros.scenes.rendered import RenderedScenes
from gld_ros.scenes.rooms import split_ids
from gld_ros.scenes.store_sources import StoreSource, recorded_source, rendered_source
from gld_ros.training.config import ConfigError, RunConfig, apply_overrides, parse
from gld_ros.weights.bundle import STATISTICS, Bundle
from gld_ros.weights.tensor_file import DTYPE_NAMES

ROOM_DOMAINS = ("narrow", "look_around")
FIRST_ROOM = 100_000  # of the train split: far from the ids that recipes of bundles use
PUBLISHED_WIDTH = 768  # from this width on, networks get the learning rates of the published ones
REFERENCE_WEIGHTS = (0.25, 0.5, 0.25)
# What --set may change: scenes per store, and every setting of the two stages but their data.
DEFAULTS: dict[str, Any] = {
    "stores": {"site": 1500, "mesh": 1000, "rooms": 1000, "held_out": 32},
    "decoder": {
        "steps": 300,
        "batch_size": 8,
        "optimizer": {"warmup_steps": 20, "final_fraction": 0.05, "ema_decay": 0.98},
        "validate_every": 100,
        "options": {"geometry_weight": 0.3, "posed_probability": 0.5},
    },
    "level1": {
        "steps": 1000,
        "batch_size": 8,
        "optimizer": {"warmup_steps": 100, "final_fraction": 0.1, "ema_decay": 0.998},
        "validate_every": 100,
        "options": {"interpolate_probability": 0.5, "camera_drop": 0.1},
    },
    "evaluation": {"references": 2, "targets": 2, "seeds": 1, "scenes": 16, "rooms": 32},
}


@dataclass(frozen=True)
class Site:
    """What a site is learned from and judged on; an empty licence is not stated."""

    recordings: tuple[Path, ...]
    held_out: Path
    mesh: str = ""
    licence: str = ""


def site_chain(
    site: Site, bundle_name: str, overrides: Sequence[str], folder: Path, device: torch.device
) -> Chain:
    """The chain that fine-tunes a bundle in `folder`; the result is in `folder / "bundle"`.

    Raises RecordingError, OverlapError, ConfigError and BundleError before anything is made.
    """
    bundle = Bundle.open(bundle_name)
    settings = copy.deepcopy(DEFAULTS)
    apply_overrides(settings, overrides)
    _check_names(settings)
    learned = open_site_recordings(site.recordings)
    held_out = open_site_recordings([site.held_out])
    refuse_overlap(learned, site.held_out, held_out[site.held_out])
    stages, notes = _stages(bundle)
    sources = _sources(site, bundle, learned, held_out, settings["stores"], device)
    configs = {
        name: _stage_config(name, settings[name], bundle, sources, folder) for name in stages
    }
    steps = [source.step(folder) for source in sources]
    plans = _evaluations(site, settings["evaluation"])
    evaluated = folder / "evaluation"
    steps += [
        evaluation_step(f"{name}_before", plan, bundle.folder, evaluated, device)
        for name, plan in plans.items()
    ]
    trained = bundle.folder
    for name, config in configs.items():
        steps.append(
            stage_step(name, config, folder / name, device, bundle=trained, plan_folder=None)
        )
        trained = folder / name / "export"
    finished = folder / "bundle"
    steps.append(_finish(site, bundle, trained, finished))
    steps += [
        evaluation_step(f"{name}_after", plan, finished, evaluated, device, like=f"{name}_before")
        for name, plan in plans.items()
    ]
    card_text = partial(
        _card, site, bundle_name, overrides, sources, configs, plans, folder, device
    )
    steps.append(card_step(finished, card_text))
    paths = [*site.recordings, site.held_out]
    identity = {
        "bundle": bundle_hash(bundle),
        "recordings": {str(path): content_of(path) for path in paths},
        "held_out": str(site.held_out),
        "mesh": site.mesh,
        "licence": site.licence,
        "stores": settings["stores"],
        "stages": {name: asdict(config) for name, config in configs.items()},
        "evaluation": settings["evaluation"],
    }
    if site.mesh:
        path = RenderedScenes("meshes", site.mesh).path
        identity["mesh_file"] = content_of(path) if path else ""
    name = f"site bundle from {bundle.config.name}"
    return Chain(name, identity, tuple(steps), notes=tuple(notes))


@dataclass(frozen=True)
class _StorePlan:
    """A store of the chain, and how the card lists it."""

    name: str
    listed: DataSource
    source: StoreSource
    views: int
    image_hw: tuple[int, int]

    def step(self, folder: Path) -> Step:
        return store_step(
            folder / "stores" / self.name,
            self.source,
            self.listed.count,
            self.views,
            self.image_hw,
        )


def _check_names(settings: Mapping[str, Any]) -> None:
    for section, values in settings.items():
        allowed = DEFAULTS.get(section)
        if allowed is None or not isinstance(values, dict):
            raise ConfigError(
                f"--set {section} is unknown; use a name below {', '.join(DEFAULTS)}, as "
                "level1.steps=500"
            )
        if section in ("stores", "evaluation"):
            for name, value in values.items():
                if name not in allowed or type(value) is not int or value < 1:
                    raise ConfigError(
                        f"--set {section}.{name}={value}: use {', '.join(allowed)} with a whole "
                        "number from 1 on"
                    )


def _stages(bundle: Bundle) -> tuple[list[str], list[str]]:
    """The stages that this bundle can be fine-tuned with, and why others are left out."""
    config, stages, notes = bundle.config, [], []
    if not bundle.has(STATISTICS):
        raise ConfigError(
            f"bundle {config.name!r} has no feature statistics, so nothing of it can be "
            "fine-tuned; measure them with `gld-ros train statistics`"
        )
    if config.rgb_decoder is not None:
        stages.append("decoder")
    else:
        notes.append(f"stage decoder is left out: bundle {config.name!r} has no RGB decoder")
    if config.base_denoiser in config.denoisers:
        stages.append("level1")
    else:
        notes.append(f"stage level1 is left out: bundle {config.name!r} has no denoiser")
    if not stages:
        raise ConfigError(
            f"bundle {config.name!r} holds a geometry backbone alone; there is nothing to fine-tune"
        )
    notes += [
        f"the bundle's denoiser {name!r} is kept as it is: it is not fine-tuned"
        for name in config.denoisers
        if name != config.base_denoiser
    ]
    return stages, notes


def _sources(
    site: Site,
    bundle: Bundle,
    learned: Mapping[Path, list[Recording]],
    held_out: Mapping[Path, list[Recording]],
    counts: Mapping[str, int],
    device: torch.device,
) -> list[_StorePlan]:
    """What is learned from, and the held-out scenes to watch, on one image size."""
    views = bundle.config.num_views
    everything = [recording for opened in learned.values() for recording in opened]
    first = everything[0].load(0)
    height, width = first.rgb.shape[:2]
    image_hw = choose_model_hw(bundle.config.resolutions_hw, [(first.K_px, (height, width))], [])

    def recorded(name: str, opened: Mapping[Path, list[Recording]], use: str) -> _StorePlan:
        recordings = [recording for found in opened.values() for recording in found]
        kinds = " and ".join(sorted({recording_kind(path) for path in opened}))
        source = recorded_source(kinds, list(opened), recordings, views, image_hw)
        listed = DataSource(
            name, ", ".join(shown_name(p) for p in opened), counts[name], use, site.licence
        )
        return _StorePlan(name, listed, source, views, image_hw)

    def rendered(
        name: str, scenes: RenderedScenes, count: int, first_id: int, licence: str
    ) -> _StorePlan:
        source = rendered_source(
            scenes,
            split_ids("train", count, first_id),
            views,
            image_hw,
            device=rendering_device(scenes, device),
        )
        listed = DataSource(name, f"{scenes.kind}:{scenes.place}", count, "training", licence)
        return _StorePlan(name, listed, source, views, image_hw)

    plans = [recorded("site", learned, "training")]
    if site.mesh:
        mesh = RenderedScenes("meshes", site.mesh)
        plans.append(rendered("mesh", mesh, counts["mesh"], 0, site.licence))
    each = max(1, counts["rooms"] // len(ROOM_DOMAINS))
    plans += [
        rendered(f"rooms_{domain}", RenderedScenes("rooms", domain), each, FIRST_ROOM, "Apache-2.0")
        for domain in ROOM_DOMAINS
    ]
    return [*plans, recorded("held_out", held_out, "validation")]


def _stage_config(
    name: str,
    settings: Mapping[str, Any],
    bundle: Bundle,
    sources: Sequence[_StorePlan],
    folder: Path,
) -> RunConfig:
    """The configuration of a stage: defaults that fit the bundle, then what was set."""
    config, views = bundle.config, bundle.config.num_views
    height, width = sources[0].image_hw
    if name == "decoder":
        assert config.rgb_decoder is not None  # else the stage is left out
        large = config.rgb_decoder.width >= PUBLISHED_WIDTH
        rate, options = 2e-4 if large else 4e-4, {}
    else:
        hidden = max(config.denoisers[config.base_denoiser].config.hidden)
        rate = 5e-5 if hidden >= PUBLISHED_WIDTH else 2e-4
        options = {
            "reference_weights": list(REFERENCE_WEIGHTS[: views - 1]),
            "validation_references": min(2, views - 1),
        }
    stores = {
        use: [
            str((folder / "stores" / s.name).absolute()) for s in sources if s.listed.split == use
        ]
        for use in ("training", "validation")
    }
    values = {
        "stage": name,
        **settings,
        "data": {
            "kind": "rooms",
            "sizes_wh": [[width, height]],
            "views": views,
            "paths": stores["training"],
            "held_out_paths": stores["validation"],
        },
        "optimizer": {"learning_rate": rate, **settings["optimizer"]},
        "options": {**options, **settings["options"]},
    }
    return parse(RunConfig, values, f"settings of {name}")


def _evaluations(site: Site, settings: Mapping[str, int]) -> dict[str, EvaluationPlan]:
    views = settings["references"], settings["targets"], settings["seeds"]
    return {
        "held_out": EvaluationPlan(str(site.held_out), *views, max_scenes=settings["scenes"]),
        "rooms": EvaluationPlan(f"rooms:{ROOM_DOMAINS[0]}:{settings['rooms']}", *views),
    }


def _finish(site: Site, bundle: Bundle, trained: Path, finished: Path) -> Step:
    config = bundle.config
    places = ", ".join(shown_name(path) for path in site.recordings)
    places += f" and the mesh {Path(site.mesh).name}" if site.mesh else ""
    licence = config.licence
    if site.licence and site.licence != licence:
        licence = f"{licence}; recordings of the site: {site.licence}"
    return bundle_step(
        trained,
        finished,
        dtype=DTYPE_NAMES[config.files["backbone.safetensors"].dtype],
        name=f"{config.name}-site",
        origin=f"{config.name} ({config.origin}), fine-tuned on {places} (gld-ros train site)",
        licence=licence,
    )


def _card(
    site: Site,
    bundle_name: str,
    overrides: Sequence[str],
    sources: Sequence[_StorePlan],
    configs: Mapping[str, RunConfig],
    plans: Mapping[str, EvaluationPlan],
    folder: Path,
    device: torch.device,
) -> str:
    finished = folder / "bundle"
    words = ["--bag", *map(str, site.recordings), "--held-out", str(site.held_out)]
    words += [*(["--mesh", site.mesh] if site.mesh else []), "--bundle", bundle_name]
    facts = CardFacts(
        Bundle.open(finished),
        typed_command("site", words, overrides),
        f"`{bundle_name}`, fine-tuned on recordings of one site, mixed with procedural rooms. "
        f"**Trained on: {', '.join(shown_name(path) for path in site.recordings)}.** The held-out "
        f"recording, {shown_name(site.held_out)}, was never learned from.",
        [source.listed for source in sources],
        configs,
        read_records(folder),
        device,
    )
    titles = {
        "held_out": "Held-out recording of the site",
        "rooms": "Procedural rooms (test split)",
    }
    return card(
        facts,
        [
            comparison_section(
                titles[name],
                plan.command(finished),
                *(
                    read_report(folder / "evaluation" / f"{name}_{when}.json")
                    for when in ("before", "after")
                ),
            )
            for name, plan in plans.items()
        ],
    )
