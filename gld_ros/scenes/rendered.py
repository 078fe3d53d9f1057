"""Scenes that are rendered on request, behind one interface: rooms, furnished rooms, mesh worlds.

    rooms:DOMAIN                       procedural rooms
    furnished:FOLDER[?paths=STYLE]     rooms with the furniture of a folder
    meshes:WORLD.glb[?up=y&scale=0.001&paths=STYLE]

STYLE is `along` (views spread over a path) or `look_around` (targets turn away from what the
references saw).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gld_ros.scenes.rooms import ROOMS_VERSION, domain_named, render_rooms

KINDS = ("rooms", "furnished", "meshes")


@dataclass(frozen=True)
class RenderedScenes:
    """One source of rendered scenes; opened lazily, so that it can be handed to other processes."""

    kind: str
    place: str

    def __post_init__(self) -> None:
        """Check the kind, and that what it names exists."""
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of scenes {self.kind!r}; use one of {', '.join(KINDS)}")
        if self.kind == "rooms":
            domain_named(self.place)
        elif not self._address.path.exists():
            raise ValueError(f"{self._address.path} does not exist")
        else:
            _ = self._style

    @property
    def short_name(self) -> str:
        """Name for file names and reports."""
        if self.kind == "rooms":
            return self.place
        return "furnished" if self.kind == "furnished" else self._address.path.stem

    @property
    def path(self) -> Path | None:
        """The file or folder that the scenes are made of; None for procedural rooms."""
        return None if self.kind == "rooms" else Path(self._address.path)

    @property
    def source(self) -> str:
        """Version and everything that decides what an id looks like."""
        if self.kind == "rooms":
            return f"rooms v{ROOMS_VERSION} {self.place}"
        if self.kind == "furnished":
            from gld_ros.scenes.furnished.generate import FURNISHED_VERSION

            return f"furnished v{FURNISHED_VERSION} {self._style.name}"
        from gld_ros.scenes.meshes.generate import MESHES_VERSION

        up, scale = self._address.up, self._address.scale
        return f"meshes v{MESHES_VERSION} {self.short_name} {self._style.name} {up}-up x{scale:g}"

    @property
    def keeps_targets_apart(self) -> bool:
        """Whether references come first on the path and targets lie beyond them."""
        if self.kind == "rooms":
            return domain_named(self.place).reference_target_split is not None
        return self._style.reference_target_split is not None

    def render(
        self,
        ids: Sequence[int],
        num_views: int,
        image_hw: tuple[int, int],
        *,
        num_references: int | None = None,
        antialias: int = 2,
        device: str = "cpu",
    ) -> dict[str, Any]:
        """A batched sample dictionary of the scenes of these ids (see `rooms.render_rooms`)."""
        if self.kind == "rooms":
            return render_rooms(
                self.place,
                ids,
                num_views,
                image_hw,
                num_references=num_references,
                antialias=antialias,
                device=device,
            )
        if torch.device(device).type != "cpu":
            raise ValueError(f"{self.kind} are rendered on the CPU; leave device {device!r} out")
        if self.kind == "furnished":
            from gld_ros.scenes.furnished.generate import render_furnished

            return render_furnished(
                self._address.path,
                self._style,
                ids,
                num_views,
                image_hw,
                num_references=num_references,
                antialias=antialias,
            )
        from gld_ros.scenes.meshes.generate import open_world, render_world

        world = open_world(self._address.without_options())
        return render_world(
            world,
            self._style,
            ids,
            num_views,
            image_hw,
            num_references=num_references,
            antialias=antialias,
        )

    @property
    def _address(self) -> Any:
        from gld_ros.scenes.meshes.load import MeshAddress

        return MeshAddress.parse(self.place, ("paths",))

    @property
    def _style(self) -> Any:
        from gld_ros.scenes.meshes.paths import style_named

        return style_named(self._address.option("paths", "along"))


def open_rendered(text: str) -> RenderedScenes:
    """Read `KIND:PLACE`; raises ValueError that says what is wrong with it."""
    kind, colon, place = text.partition(":")
    if not colon or not place:
        raise ValueError(
            f"{text!r} names no scenes; write rooms:DOMAIN, furnished:FOLDER or meshes:FILE"
        )
    return RenderedScenes(kind, place)


def is_rendered(text: str) -> bool:
    """Whether a text is meant as `KIND:PLACE` of rendered scenes."""
    return text.partition(":")[0] in KINDS and ":" in text
