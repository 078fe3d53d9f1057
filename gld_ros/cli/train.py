"""`gld-ros train`: a whole bundle, one for a site, or one stage; all resumable."""

import argparse
import os
import sys
from pathlib import Path

from gld_ros.cli._arguments import add_set_argument

STAGES = {
    "encoder": "a small geometric encoder from nothing, on scenes with depth",
    "statistics": "mean and variance of the encoder's features",
    "decoder": "features to RGB (and the depth head, for missing levels)",
    "level1": "multi-view diffusion of level-1 features",
    "cascade": "diffusion of level 0, conditioned on level 1",
    "distill": "a student of one of these two that samples in 1 to 4 calls",
}

HELP = "train a bundle, fine-tune one on your site, or train one part"
DESCRIPTION = """\
Train a whole bundle in one command, fine-tune one on your own site, or train one part of GLD.

  gld-ros train bundle --recipe config/train/tiny/recipe.yaml
  gld-ros train site --bag monday.mcap tuesday.mcap --held-out friday.mcap --run runs/site

These run everything that is needed in sequence: stores, stages, evaluation, model card. The others
are single stages; they build on each other through bundles: each writes RUN/export, a bundle with
its own part and all earlier parts, which the next one takes as --bundle (docs/training.md).

A student that samples in two calls, from any bundle that can imagine views:

  gld-ros train distill --config C/distill.yaml --bundle runs/level1/export --run runs/distill

The same command resumes after a stop, a kill or --max-minutes.
"""

_BUNDLE = """\
Make a bundle by a recipe: render scenes into stores, train the stages, write the bundle
(RUN/bundle), judge it on held-out scenes, and write its model card. The same command resumes after
a stop: finished steps are skipped, and an interrupted one continues. --max-minutes 9 runs it in
pieces of 9 minutes.

Look first: --plan prints the steps, the bytes of the stores and the time, and does nothing.
A recipe may name folders that are yours to give: --set places.worlds=FOLDER
"""

_SITE = """\
Fine-tune a bundle on recordings of your own site (bags or scene folders), mixed with rooms so that
it keeps what it knows; judged before and after on a held-out recording, with the same seeds.
The result is RUN/bundle, with a model card. Drive once more on another day for --held-out.

--set changes numbers of scenes and settings of the stages: --set stores.site=500
--set level1.steps=300 --set decoder.optimizer.learning_rate=1e-4
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `gld-ros train` and its jobs."""
    jobs = parser.add_subparsers(dest="stage", metavar="JOB", required=True)
    _add_bundle(jobs)
    _add_site(jobs)
    for name, what in STAGES.items():
        add_stage_arguments(jobs.add_parser(name, help=what, description=f"Train: {what}."))


def _add_bundle(jobs: argparse._SubParsersAction) -> None:
    parser = jobs.add_parser(
        "bundle",
        help="a whole bundle from nothing, by a recipe",
        description=_BUNDLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--recipe", type=Path, required=True, help="YAML file of the recipe")
    parser.add_argument(
        "--run", type=Path, dest="run_folder", help="folder of the chain (default: runs/NAME)"
    )
    _add_chain_arguments(parser, "a value of the recipe, e.g. --set stores.narrow.count=16000")


def _add_site(jobs: argparse._SubParsersAction) -> None:
    parser = jobs.add_parser(
        "site",
        help="fine-tune a bundle on recordings of your own site",
        description=_SITE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--bag",
        nargs="+",
        type=Path,
        required=True,
        dest="bags",
        metavar="BAG",
        help="bags or scene folders to learn from",
    )
    parser.add_argument(
        "--held-out", type=Path, required=True, metavar="BAG", help="never learned from, to judge"
    )
    parser.add_argument("--mesh", default="", metavar="WORLD", help="mesh of the site, to render")
    parser.add_argument("--bundle", default="tiny", help="to start from (default: %(default)s)")
    parser.add_argument(
        "--run", type=Path, required=True, dest="run_folder", help="folder of the chain"
    )
    parser.add_argument(
        "--licence", default="", help="of the recordings and the mesh, for the model card"
    )
    _add_chain_arguments(parser, "a number of scenes or a setting of a stage, see above")


def _add_chain_arguments(parser: argparse.ArgumentParser, settable: str) -> None:
    parser.add_argument("--plan", action="store_true", help="print what would be done, and stop")
    add_set_argument(parser, f"change {settable}")
    _add_limits(parser)


def add_stage_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare configuration, run folder and the rest of what a stage takes."""
    parser.add_argument("--config", type=Path, required=True, help="YAML file of the job")
    parser.add_argument(
        "--run", type=Path, required=True, dest="run_folder", help="folder of checkpoints and logs"
    )
    parser.add_argument("--bundle", help="bundle to build on or to fine-tune: folder or name")
    parser.add_argument(
        "--model", type=Path, help="folder with the config.json of a new model's sizes"
    )
    parser.add_argument(
        "--recordings",
        nargs="+",
        default=[],
        metavar="PATH",
        help="bags or scene folders to learn from, in place of those of the config",
    )
    parser.add_argument(
        "--held-out",
        nargs="+",
        default=[],
        metavar="PATH",
        help="recordings to validate on, never learned from",
    )
    add_set_argument(
        parser, "change a value of the config, e.g. --set optimizer.learning_rate=3e-4"
    )
    _add_limits(parser)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-minutes",
        type=float,
        default=float("inf"),
        help="save a checkpoint and stop after this time",
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Run or resume the job; exit status 0 also when the time limit stopped it, saved."""
    from gld_ros.training.environment import restart_with_tuned_allocator

    restart_with_tuned_allocator(["-m", "gld_ros.cli.main", *sys.argv[1:]])
    if args.stage in ("bundle", "site"):
        return _run_chain(args)
    from gld_ros.training.jobs import run_job

    return run_job(args)


def _run_chain(args: argparse.Namespace) -> int:
    import logging

    from gld_ros.recipes.bundle_recipe import bundle_chain, load_recipe
    from gld_ros.recipes.chain import plan_lines, run_chain
    from gld_ros.recipes.site_recipe import Site, site_chain
    from gld_ros.training.jobs import choose_device

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(f"train {args.stage} runs in one process; leave torchrun out")
    device = choose_device(args.device)
    if args.stage == "bundle":
        name = load_recipe(args.recipe, args.overrides).name
        folder = args.run_folder or Path("runs") / name
        chain = bundle_chain(args.recipe, args.overrides, folder, device)
    else:
        folder = args.run_folder
        site = Site(tuple(args.bags), args.held_out, args.mesh, args.licence)
        chain = site_chain(site, args.bundle, args.overrides, folder, device)
    if args.plan:
        print("\n".join(plan_lines(chain, folder)))
        return 0
    if run_chain(chain, folder, device, args.max_minutes):
        print(f"bundle {folder / 'bundle'}\ncard   {folder / 'bundle' / 'model_card.md'}")
    return 0
