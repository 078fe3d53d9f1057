"""`gld-ros selftest`: compares what this machine computes with stored reference numbers."""

import argparse
import json
import sys

HELP = "compare what this machine computes with stored references"
DESCRIPTION = """\
Run stored reference cases through the library on the chosen device and precision and compare every
quantity. Use it after installing on a new machine or driver.

Without FOLDER the small sets in the package are used, one for each backbone family. Any folder of
either layout works, whatever its sizes. Exit status: 0 if everything agrees; 1 if anything differs,
a file is unknown, or a stored quantity was not checked.
"""

EXAMPLES = """\
examples:
  gld-ros selftest
  gld-ros selftest --device cuda --dtype bfloat16
  gld-ros selftest path/to/fixtures --json > report.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `gld-ros selftest`."""
    parser.add_argument(
        "folder",
        nargs="?",
        metavar="FOLDER",
        help="folder of fixtures (default: those in the package)",
    )
    parser.add_argument(
        "--device", default="cpu", help="where networks run: cpu, cuda, cuda:1 (default: cpu)"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="precision of denoisers and RGB decoder; the backbone always runs in float32, as in "
        "the pipeline (default: float32)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print a JSON list of rows instead of the table"
    )


def run(args: argparse.Namespace) -> int:
    """Run the fixtures, print the report; 1 if any row failed."""
    import torch
    from tqdm import tqdm

    from gld_ros.selftest.rows import table
    from gld_ros.selftest.run import run_selftest
    from gld_ros.weights.tensor_file import DTYPE_NAMES

    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {args.device}: torch sees no CUDA device here; use cpu")

    with tqdm(bar_format="running {desc}", leave=False, disable=None) as bar:
        rows = run_selftest(
            args.folder,
            device=args.device,
            dtype=DTYPE_NAMES[args.dtype],
            progress=bar.set_description_str,
        )
    failures = [row for row in rows if not row.ok]
    if args.json:
        print(json.dumps([row.to_json() for row in rows], indent=1))
        for row in failures:
            print(f"FAILED {row.fixture} {row.quantity}: {row.note}", file=sys.stderr)
    else:
        print(table(rows))
        print(
            f"\n{len(rows) - len(failures)} of {len(rows)} quantities agree "
            f"({args.device}, {args.dtype}, torch {torch.__version__})"
        )
    return 1 if failures or not rows else 0
