"""Checks of parameter values: each by its row, and the set as a whole."""

import math
from collections.abc import Mapping, Sequence

from gld_ros.ros.parameters.spec import Parameter, Value

_PYTHON_TYPES = {"bool": bool, "int": int, "double": float, "string": str}


def problem_with(parameter: Parameter, value: object) -> str:
    """Return why `value` is not allowed, naming what was given and what is allowed; else ''."""
    given = f"{parameter.name} is {value!r}"
    entry_type, is_list = parameter.type.removesuffix("[]"), parameter.type.endswith("[]")
    if is_list:
        if not isinstance(value, Sequence) or isinstance(value, str):
            return f"{given}; it must be a list"
        entries = list(value)
        if len(entries) < parameter.min_entries:
            return f"{given}; it needs at least {parameter.min_entries} entries"
        if parameter.max_entries is not None and len(entries) > parameter.max_entries:
            return f"{given}; it takes at most {parameter.max_entries} entries"
    else:
        entries = [value]
    for entry in entries:
        expected = _PYTHON_TYPES[entry_type]
        if type(entry) is not expected:
            return f"{given}; it must be of type {parameter.type}"
        if isinstance(entry, float) and not math.isfinite(entry):
            return f"{given}; it must be finite"
        if isinstance(entry, int | float) and not isinstance(entry, bool):
            low, high = parameter.low, parameter.high
            if (low is not None and entry < low) or (high is not None and entry > high):
                return f"{given}; allowed: {low:g} to {high:g} {parameter.unit}".rstrip()
        if parameter.choices and entry not in parameter.choices:
            return f"{given}; allowed: {', '.join(parameter.choices)}"
    # After their types: only then can entries surely be hashed.
    if is_list and entry_type == "string" and len(set(entries)) != len(entries):
        return f"{given}; its entries must differ"
    return ""


def problem_with_set(values: Mapping[str, Value]) -> str:
    """Return which values contradict each other, or ''; `values` holds every parameter."""
    v = values
    if _number(v["depth.min"]) >= _number(v["depth.max"]):
        return f"depth.min ({v['depth.min']}) must be below depth.max ({v['depth.max']})"
    if _number(v["keyframes.min_interval"]) > _number(v["keyframes.max_interval"]):
        return (
            f"keyframes.min_interval ({v['keyframes.min_interval']}) must not exceed "
            f"keyframes.max_interval ({v['keyframes.max_interval']})"
        )
    guidance = _number(v["sampler.guidance_scale"])
    if 0 < guidance < 1:
        return f"sampler.guidance_scale is {guidance}; allowed: 0 (the bundle's) or 1 to 10"
    for name in ("fixed_frame", "base_frame", "view_frame_prefix"):
        if not v[name]:
            return f"{name} is empty; give a frame name"
    cameras = v["camera_names"]
    if isinstance(cameras, list) and any(not str(name).strip("/") for name in cameras):
        return f"camera_names is {cameras!r}; names must not be empty"
    return ""


def _number(value: Value) -> float:
    assert isinstance(value, int | float)  # the row's own check came first
    return float(value)
