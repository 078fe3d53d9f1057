"""Entry point of `gld-ros`: finds the commands, parses the arguments, reports errors in one line.

A command is a file of this folder, `check_bag.py` for `gld-ros check-bag`, with

    HELP, DESCRIPTION, EXAMPLES      its help; examples only where there are some
    add_arguments(parser) -> None    declares its arguments
    run(args) -> int                 does the work, returns the exit status

Command files import the library inside `run`, so that help and completion stay fast and a command
that needs ROS does not keep the others from working. Only the file of the command that was typed
is imported.
"""

import argparse
import pkgutil
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from gld_ros import __version__

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_DESCRIPTION = """\
Measure depth from posed images and imagine views that no camera has taken: on a robot, on bags and
on photos, with commands for weights, training and evaluation.

Details of a command: gld-ros COMMAND --help
"""


def command_names() -> list[str]:
    """Every command, by the files of this folder."""
    modules = pkgutil.iter_modules([str(Path(__file__).parent)])
    return sorted(
        module.name.replace("_", "-")
        for module in modules
        if module.name != "main" and not module.name.startswith("_")
    )


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser with all commands, or with the one named `only` (its file alone is imported)."""
    parser = argparse.ArgumentParser(
        prog="gld-ros",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"gld-ros {__version__}")
    parser.add_argument(
        "--traceback", action="store_true", help="show where in the code an error came from"
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name in command_names() if only is None else [only]:
        module = import_module(f"gld_ros.cli.{name.replace('-', '_')}")
        command: argparse.ArgumentParser = subparsers.add_parser(
            name,
            help=module.HELP,
            description=module.DESCRIPTION,
            epilog=getattr(module, "EXAMPLES", None),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `gld-ros`; returns the exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    command = next((word for word in typed if not word.startswith("-")), None)
    parser = build_parser(command if command in command_names() else None)
    args = parser.parse_args(typed)
    if args.command is None:
        parser.print_help()
        return EXIT_USAGE
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of the output has gone
        return EXIT_ERROR
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if args.traceback:
            traceback.print_exc()
        print(f"gld-ros {args.command}: error: {error}", file=sys.stderr)
        return EXIT_ERROR


if __name__ == "__main__":
    sys.exit(main())
