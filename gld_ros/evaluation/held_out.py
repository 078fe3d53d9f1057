"""Where the truth comes from: scene folders, bags, other layouts, stores and procedural rooms.

Owns the choice of the frames given to a model (references, first in every sample) and of those
withheld from it (targets), and the batches of equal size that a model runs on.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from gld_ros.geometry.crop_resize import choose_model_hw
from gld_ros.scenes.datasets import KINDS, open_recordings
from gld_ros.scenes.folders import CAMERAS_FILE
from gld_ros.scenes.layouts import LAYOUTS
from gld_ros.scenes.picking import sample_of_frames
from gld_ros.scenes.recording import Recording, RecordingError
from gld_ros.scenes.rendered import KINDS as RENDERED_KINDS
from gld_ros.scenes.rendered import open_rendered
from gld_ros.scenes.rooms import DOMAINS, split_ids
from gld_ros.scenes.sample import SampleError
from gld_ros.scenes.store import DESCRIPTION_FILE, SceneStore
from gld_ros.training.view_order import evenly_spaced

ReferenceChoice = Literal["spread", "first"]

DEFAULT_ROOMS = 64
# Frames between the views of a sample where the recording is long enough and nothing was asked.
DEFAULT_EVERY = 5
ROOMS_PER_RENDER = 8
# Rooms whose mean depth is the control if the data are not procedural rooms.
DEFAULT_PRIOR = "narrow"


@dataclass(frozen=True)
class ViewPlan:
    """Views of every sample: how many are given, how many withheld, and where they are on the path.

    references "spread" over the whole path (targets between them), or "first" on it (targets
    beyond); `every` frames of a recording lie between neighbouring views (None: as fits).
    """

    num_references: int = 2
    num_targets: int = 2
    references: ReferenceChoice | None = None  # None: the data's own choice
    every: int | None = None
    max_scenes: int | None = None

    def __post_init__(self) -> None:
        for name, value in (
            ("references", self.num_references),
            ("targets", self.num_targets),
            ("every", self.every),
            ("max_scenes", self.max_scenes),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; at least 1 is needed")

    @property
    def num_views(self) -> int:
        """References and targets together."""
        return self.num_references + self.num_targets

    def order(self, meant: ReferenceChoice = "spread") -> list[int]:
        """Views of a path with the references first, all in path order otherwise."""
        shown = list(range(self.num_references))
        if (self.references or meant) == "spread":
            shown = evenly_spaced(self.num_views, self.num_references)
        return shown + [v for v in range(self.num_views) if v not in shown]


@dataclass
class HeldOutScenes:
    """Samples of one size with the references first, made when iterated; `skipped` by reason."""

    name: str
    kind: str  # a kind of rendered scenes, "store", or a kind of recordings
    samples: Iterable[dict[str, Any]]
    count: int
    image_hw: tuple[int, int]
    reference_choice: str
    prior_domain: str  # the rooms whose mean depth is the depth control
    skipped: Counter[str] = field(default_factory=Counter)


def open_held_out(
    data: str, plan: ViewPlan, resolutions_hw: tuple[tuple[int, int], ...]
) -> HeldOutScenes:
    """Open what `--data` names.

    data: rooms:DOMAIN[:COUNT], furnished:FOLDER[:COUNT] or meshes:WORLD.glb[:COUNT] (test split), a
    scene folder or a folder of them, a bag, a store of rendered scenes, or LAYOUT:PATH of a
    preprocessed dataset. `resolutions_hw`: image sizes to choose from, best first. Raises
    ValueError (RecordingError, StoreError) that names what is wrong.
    """
    head, _, rest = data.partition(":")
    if head in RENDERED_KINDS and rest:
        return _rendered(data, plan, resolutions_hw[0])
    if head in LAYOUTS and rest:
        return _recordings(head, Path(rest).expanduser(), plan, resolutions_hw)
    path = Path(data).expanduser()
    if not path.exists():
        raise RecordingError(
            f"{data} does not exist; give a scene folder, a bag, a store, rooms:DOMAIN[:COUNT], "
            "furnished:FOLDER[:COUNT], meshes:FILE[:COUNT], or LAYOUT:PATH with a layout of "
            f"{', '.join(k for k in KINDS if k in LAYOUTS)}"
        )
    if (path / DESCRIPTION_FILE).is_file():
        return _store(path, plan)
    return _recordings(recording_kind(path), path, plan, resolutions_hw)


def batches(samples: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    """Lists of `size` samples; the last two may be smaller, so that none holds a single sample.

    Some controls compare the scenes of a batch. One sample in all gives one list of one.
    """
    if size < 3:
        raise ValueError(f"batch size is {size}; at least 3 is needed")
    waiting: list[dict[str, Any]] = []
    for sample in samples:
        waiting.append(sample)
        if len(waiting) == size + 2:
            yield waiting[:size]
            waiting = waiting[size:]
    half = len(waiting) if len(waiting) <= size else (len(waiting) + 1) // 2
    for part in (waiting[:half], waiting[half:]):
        if part:
            yield part


def _rendered(data: str, plan: ViewPlan, image_hw: tuple[int, int]) -> HeldOutScenes:
    address, _, number = data.rpartition(":")
    if number.isdigit() and ":" in address:
        count = int(number)
    elif data.startswith("rooms:") and data.count(":") > 1:
        raise ValueError(f"{number!r} in {data} is not a number of rooms; write rooms:DOMAIN:COUNT")
    else:
        address, count = data, DEFAULT_ROOMS
    scenes = open_rendered(address)
    ids = split_ids("test", min(count, plan.max_scenes or count))
    meant: ReferenceChoice = "first" if scenes.keeps_targets_apart else "spread"
    order = plan.order(meant)

    def render() -> Iterator[dict[str, Any]]:
        for first in range(0, len(ids), ROOMS_PER_RENDER):
            part = ids[first : first + ROOMS_PER_RENDER]
            batch = scenes.render(
                part, plan.num_views, image_hw, num_references=plan.num_references
            )
            for i in range(len(part)):
                yield _one_scene(batch, i, order)

    return HeldOutScenes(
        f"{scenes.kind} {scenes.short_name} (test split)", scenes.kind, render(), len(ids),
        image_hw, plan.references or meant,
        scenes.place if scenes.kind == "rooms" else DEFAULT_PRIOR,
    )  # fmt: skip


def _store(path: Path, plan: ViewPlan) -> HeldOutScenes:
    store = SceneStore.open(path)
    views = store.description.views
    words = store.description.source.split()
    domain = next((word for word in words if word in DOMAINS), DEFAULT_PRIOR)
    if views != plan.num_views:
        raise ValueError(
            f"the scenes of {path} have {views} views; references ({plan.num_references}) and "
            f"targets ({plan.num_targets}) must add up to that"
        )
    meant: ReferenceChoice = "spread"
    if any(word.startswith("look_around") for word in words):
        meant = "first"
    order = plan.order(meant)
    count = min(len(store), plan.max_scenes or len(store))

    def load() -> Iterator[dict[str, Any]]:
        for index in range(count):
            arrays = store.arrays(index)
            scenes = {
                "images": torch.from_numpy(arrays["images"].copy())[None].float() / 255,
                "scene_id": [f"{path.name}/{index}"],
                "metric": True,
            }
            for name in ("depth_m", "K_px", "T_world_cam"):
                scenes[name] = torch.from_numpy(arrays[name].astype(np.float32))[None]
            yield _one_scene(scenes, 0, order)

    return HeldOutScenes(
        f"store {path.name} ({store.description.source})",
        "store",
        load(),
        count,
        store.image_hw,
        plan.references or meant,
        domain,
    )


def _one_scene(scenes: dict[str, Any], index: int, order: list[int]) -> dict[str, Any]:
    sample = {name: scenes[name][index][order] for name in ("images", "depth_m")}
    sample |= {name: scenes[name][index][order] for name in ("K_px", "T_world_cam")}
    return sample | {"scene_id": scenes["scene_id"][index], "metric": scenes["metric"]}


def recording_kind(path: Path) -> str:
    """Return "folders" or "bags"; for anything else "folders", whose error explains what to do."""
    if path.is_file() or (path / "metadata.yaml").is_file():
        return "bags"
    has_bag = any(path.glob("*.mcap")) or any(path.glob("*.db3"))
    return "bags" if has_bag and not (path / CAMERAS_FILE).is_file() else "folders"


def _recordings(
    kind: str, path: Path, plan: ViewPlan, resolutions_hw: tuple[tuple[int, int], ...]
) -> HeldOutScenes:
    recordings = open_recordings(kind, path)
    skipped: Counter[str] = Counter()
    for recording in recordings:
        for reason, count in recording.dropped.items():
            skipped[f"frame: {reason}"] += count
    windows: list[tuple[Recording, list[int]]] = []
    for recording in recordings:
        frames = _windows(len(recording), plan)
        if not frames:
            skipped[f"recording too short ({len(recording)} frames)"] += 1
        windows += [(recording, indices) for indices in frames]
    if not windows:
        longest = max(len(recording) for recording in recordings)
        raise RecordingError(
            f"{path}: no sample of {plan.num_views} views every {plan.every or 1} frames fits: the "
            f"longest of {len(recordings)} recordings has {longest} usable frames; use fewer "
            "references or targets, or a smaller --every"
        )
    if plan.max_scenes is not None and len(windows) > plan.max_scenes:
        windows = [windows[i] for i in evenly_spaced(len(windows), plan.max_scenes)]
    order = plan.order()
    image_hw = _fitting_size(windows, resolutions_hw)

    def load() -> Iterator[dict[str, Any]]:
        for recording, indices in windows:
            try:
                frames = [recording.load(indices[v]) for v in order]
                name = f"{recording.scene_id}/{'-'.join(str(indices[v]) for v in order)}"
                yield sample_of_frames(frames, name, recording.metric, image_hw)
            except (RecordingError, SampleError) as error:
                skipped[f"sample: {error}"] += 1

    return HeldOutScenes(
        f"{kind} {path.name}", kind, load(), len(windows), image_hw, plan.references or "spread",
        DEFAULT_PRIOR, skipped,
    )  # fmt: skip


def _windows(num_frames: int, plan: ViewPlan) -> list[list[int]]:
    """Frame indices of every sample of a recording, in path order.

    Samples do not share frames; if `max_scenes` asks for more than fit, they are spread evenly over
    the recording.
    """
    gaps = plan.num_views - 1
    every = plan.every or max(1, min(DEFAULT_EVERY, (num_frames - 1) // max(gaps, 1)))
    span = gaps * every + 1
    starts = num_frames - span + 1
    if starts < 1:
        return []
    count = num_frames // span
    if plan.max_scenes is not None:
        count = min(plan.max_scenes, starts)
    return [
        [start + every * v for v in range(plan.num_views)]
        for start in dict.fromkeys(evenly_spaced(starts, count))
    ]


def _fitting_size(
    windows: list[tuple[Recording, list[int]]], resolutions_hw: tuple[tuple[int, int], ...]
) -> tuple[int, int]:
    """The image size whose shape suits the first readable frame."""
    if len(resolutions_hw) > 1:
        for recording, indices in windows:
            try:
                frame = recording.load(indices[0])
            except RecordingError:
                continue  # counted when its sample is made
            height, width = frame.rgb.shape[:2]
            return choose_model_hw(resolutions_hw, [(frame.K_px, (height, width))], [])
    return resolutions_hw[0]
