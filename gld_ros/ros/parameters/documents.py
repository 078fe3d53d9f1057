"""The table as a YAML file and as a docs page; tests compare both with those in the repository."""

from collections.abc import Sequence

from gld_ros.ros.parameters.spec import Parameter, Value
from gld_ros.ros.parameters.table import TABLE, per_camera_parameters

YAML_HEADER = """\
# Every parameter of the node with its default. Generated: gld-ros params --yaml
/**:
  ros__parameters:
"""
MARKDOWN_HEADER = """\
# Parameters

Generated: `gld-ros params --markdown`. "When" says when a change is accepted: *any time* takes
effect with the next job, *inactive* needs the node deactivated, *start* needs a restart. Unknown
names make configure fail.

| name | type | default | allowed | when | meaning |
| --- | --- | --- | --- | --- | --- |
"""


def as_yaml(table: Sequence[Parameter] = TABLE) -> str:
    """Return `config/gld.yaml`."""
    lines = []
    for parameter in (*table, *per_camera_parameters(["camera"])):
        lines.append(f"    # {parameter.description} [{describe_allowed(parameter)}]")
        lines.append(f"    {parameter.name}: {yaml_value(parameter.default)}")
    return YAML_HEADER + "\n".join(lines) + "\n"


def as_markdown(table: Sequence[Parameter] = TABLE) -> str:
    """Return `docs/parameters.md`."""
    rows = [
        f"| `{p.name}` | {p.type} | `{yaml_value(p.default)}` | {describe_allowed(p)} "
        f"| {p.when.name.lower().replace('_', ' ')} | {p.description} |"
        for p in (*table, *per_camera_parameters(["<camera>"]))
    ]
    return MARKDOWN_HEADER + "\n".join(rows) + "\n"


def describe_allowed(parameter: Parameter) -> str:
    """Return the range, choices and unit of a parameter in words."""
    parts = []
    if parameter.choices:
        parts.append(", ".join(parameter.choices))
    if parameter.low is not None and parameter.high is not None:
        parts.append(f"{parameter.low:g} to {parameter.high:g} {parameter.unit}".rstrip())
    if parameter.max_entries is not None:
        parts.append(f"{parameter.min_entries} to {parameter.max_entries} entries")
    if not parts:
        parts.append("true, false" if parameter.type == "bool" else "any")
    return "; ".join(parts)


def yaml_value(value: Value) -> str:
    """Return a value as YAML; doubles always keep their decimal point, or ROS reads an integer."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(yaml_value(entry) for entry in value) + "]"
    if isinstance(value, str):
        return f'"{value}"'
    return repr(value)
