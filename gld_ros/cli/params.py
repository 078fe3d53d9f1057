"""`gld-ros params`: the node's parameter table, as a list, as YAML or as the docs page."""

import argparse

HELP = "list the node's parameters; --yaml writes a complete parameter file"
DESCRIPTION = """\
List every parameter of the node with default, allowed values and meaning.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `gld-ros params`."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--yaml", action="store_true", help="print config/gld.yaml")
    form.add_argument("--markdown", action="store_true", help="print docs/parameters.md")
    parser.add_argument("name", nargs="?", help="show only parameters whose name contains this")


def run(args: argparse.Namespace) -> int:
    """Print the table in the wanted form."""
    from gld_ros.ros.parameters.documents import as_markdown, as_yaml, describe_allowed, yaml_value
    from gld_ros.ros.parameters.table import TABLE, per_camera_parameters

    if args.yaml or args.markdown:
        rows = [p for p in TABLE if not args.name or args.name in p.name]
        print(as_yaml(rows) if args.yaml else as_markdown(rows), end="")
        return 0
    rows = [*TABLE, *per_camera_parameters(["<camera>"])]
    rows = [p for p in rows if not args.name or args.name in p.name]
    if not rows:
        print(f"no parameter has {args.name!r} in its name")
        return 1
    for parameter in rows:
        print(f"{parameter.name} = {yaml_value(parameter.default)}  ({parameter.type})")
        print(f"    {parameter.description}")
        print(f"    allowed: {describe_allowed(parameter)}; {parameter.when.value}")
    return 0
