"""Whether this machine can run a model with the settings of `gld-ros quickstart`; asked first.

Owns what is said of the machine, and the search for settings that fit where those given do not. The
judgement itself is the run's own (`gld_ros.mapping.model.prepare_pipeline`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gld_ros.depth_pipeline import DepthPipeline
    from gld_ros.mapping.parameters import Mode, SessionParameters
    from gld_ros.pipeline import NovelViewPipeline
    from gld_ros.weights.bundle import Bundle
    from gld_ros.weights.catalog import PublishedModel

    SettingsWith = Callable[[Sequence[str]], SessionParameters]  # further NAME=VALUE


@dataclass(frozen=True)
class Machine:
    """The device of a run: as torch names it, as people do, and its free memory."""

    device: str
    name: str
    free_bytes: int

    @classmethod
    def of(cls, parameters: "SessionParameters") -> "Machine":
        """The device that a run with these parameters takes. Raises ValueError if it is not there.

        A CUDA device where there is one and the parameter `device` allows it, else the CPU.
        """
        import torch

        from gld_ros.mapping.memory_preflight import free_bytes
        from gld_ros.pipeline_device import resolve_device

        device = resolve_device(parameters.model.device)
        free, _ = free_bytes(device)
        if device.type == "cuda":
            return cls(str(device), torch.cuda.get_device_name(device), free)
        name = "the CPU" if torch.cuda.is_available() else "no CUDA device: the CPU"
        return cls(str(device), name, free)


def require_memory(
    bundle: "Bundle", model: "PublishedModel", machine: Machine, settings: "SettingsWith"
) -> "tuple[Mode, NovelViewPipeline | DepthPipeline, str]":
    """Mode, pipeline without weights, memory in words. ValueError names settings that fit."""
    from gld_ros.mapping.memory_preflight import NotEnoughMemory
    from gld_ros.mapping.model import ModelUnavailable, prepare_pipeline

    try:
        return prepare_pipeline(bundle, settings(()))
    except ModelUnavailable as error:
        raise ValueError(str(error)) from error
    except NotEnoughMemory as error:
        print("memory: too little; looking for settings that fit", flush=True)
        fitting = _fitting(bundle, model, machine, settings, error.smaller)
        listed = "".join(f"\n  {option}" for option in fitting) or " none"
        raise ValueError(
            f"{error.need}. Close other programs, or use a larger machine. "
            f"Options of the same command that fit into what is free:{listed}"
        ) from error


def _fitting(
    bundle: "Bundle",
    model: "PublishedModel",
    machine: Machine,
    settings: "SettingsWith",
    smaller: dict[str, int],
) -> list[str]:
    """Options that let a run fit, those that change least first."""
    from gld_ros.mapping.memory_preflight import NotEnoughMemory
    from gld_ros.mapping.model import ModelUnavailable, prepare_pipeline
    from gld_ros.weights.catalog import published_model
    from gld_ros.weights.unfetched import UnfetchedBundle

    def fits(candidate: "Bundle", changes: list[str]) -> dict[str, int] | None:
        """The further changes that it takes: none, those of a smaller job, or None if none help."""
        try:
            prepare_pipeline(candidate, settings(changes))
        except NotEnoughMemory as error:
            return error.smaller or None
        except (ModelUnavailable, ValueError):
            return None
        return {}

    options = [_options(smaller)] if smaller else []
    if machine.device == "cpu" and bundle.config.imagines:
        half = "model.precision=bf16"
        further = fits(bundle, [half])
        if further is not None:
            option = f"--set {half} {_options(further)}".rstrip()
            options.append(f"{option}  (slower where the processor does not multiply bfloat16)")
    depth = "mode=depth"
    if bundle.config.imagines and fits(bundle, [depth]) == {}:
        options.append(f"--set {depth}  (depth of every image, no predicted views)")
    encoder = published_model("da3-base")
    if model.name != encoder.name and fits(UnfetchedBundle(encoder), [depth]) == {}:
        options.append(
            f"--weights {encoder.name}  (the same with a download of {encoder.download_gb:.1f} GB)"
        )
    return options


def _options(changes: dict[str, int]) -> str:
    return " ".join(f"--set {name}={value}" for name, value in changes.items())
