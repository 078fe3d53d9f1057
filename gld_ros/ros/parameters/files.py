"""Parameter files and NAME=VALUE overrides for programs that run without a graph."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gld_ros.plain_yaml import YamlError, parse_yaml, read_yaml
from gld_ros.ros.parameters.snapshot import Snapshot, make_snapshot
from gld_ros.ros.parameters.table import BY_NAME, TABLE, per_camera_parameters
from gld_ros.ros.parameters.validation import problem_with, problem_with_set


class ParameterError(ValueError):
    """A parameter file or override that cannot be used."""


def load_snapshot(
    file: Path | None = None, overrides: Sequence[str] = (), cameras: Sequence[str] = ()
) -> Snapshot:
    """Return the defaults, changed by a ROS parameter file and by NAME=VALUE overrides.

    Raises ParameterError that names the parameter, what was given and what is allowed.
    """
    values: dict[str, Any] = {p.name: p.default for p in TABLE}
    rows = dict(BY_NAME)
    given = _from_file(file) if file else {}
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator:
            raise ParameterError(f"override {override!r} is not of the form NAME=VALUE")
        try:
            given[name.strip()] = parse_yaml(text)
        except YamlError as error:
            raise ParameterError(f"override {override!r}: {error}") from error
    names = list(cameras) or given.get("camera_names") or values["camera_names"]
    problem = problem_with(BY_NAME["camera_names"], names)
    if problem:
        raise ParameterError(problem)
    for parameter in per_camera_parameters(names):
        rows[parameter.name] = parameter
        values[parameter.name] = parameter.default
    for name, value in given.items():
        if name not in rows:
            if name.startswith("frame_id_override."):
                continue  # of a camera that this run does not have
            raise ParameterError(f"unknown parameter {name!r}; `gld-ros params` lists them")
        typed = float(value) if rows[name].type == "double" and type(value) is int else value
        problem = problem_with(rows[name], typed)
        if problem:
            raise ParameterError(problem)
        values[name] = typed
    problem = problem_with_set(values)
    if problem:
        raise ParameterError(problem)
    return make_snapshot(values)


def _from_file(file: Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for section in _sections(file).values():
        values |= _flat(section)
    values.pop("use_sim_time", None)
    return values


def _sections(file: Path) -> dict[str, dict[str, Any]]:
    """The parameters of a file by the node that they are for."""
    try:
        document = read_yaml(file)
    except YamlError as error:
        raise ParameterError(str(error)) from error
    if not isinstance(document, dict):
        raise ParameterError(f"{file} holds no mapping of nodes")
    for node, section in document.items():
        if not isinstance(section, dict) or not isinstance(section.get("ros__parameters"), dict):
            raise ParameterError(f"{file}: {node!r} has no ros__parameters")
    return {str(node): section["ros__parameters"] for node, section in document.items()}


def values_for_node(file: Path, node: str) -> dict[str, Any]:
    """Return what a ROS parameter file gives one node (a full name: /gld), unchecked.

    Later sections count more. Raises ParameterError for a file that is no parameter file.
    """
    values: dict[str, Any] = {}
    for name, section in _sections(file).items():
        if _applies(name, node):
            values |= _flat(section)
    return values


def _applies(section: str, node: str) -> bool:
    """Whether a section's name is that of a node; * is one part of it, ** any number of parts."""
    parts = [part for part in section.split("/") if part]
    pattern = "".join({"**": "(/[^/]+)*", "*": "/[^/]+"}.get(p, f"/{re.escape(p)}") for p in parts)
    return re.fullmatch(pattern, node) is not None


def _flat(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested names joined by dots, as rcl does."""
    flat: dict[str, Any] = {}
    for key, value in section.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat
