"""One bag through the node's session: what `gld-ros bag` and the workers of `gld-ros bags` run.

Owns what the options of both commands mean. The same options give the same bytes in both.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gld_ros.cli._arguments import add_mode_argument, add_parameter_arguments
from gld_ros.cli._batch_run import add_threads_argument

if TYPE_CHECKING:
    from tqdm import tqdm

    from gld_ros.bags.reader import BagReader
    from gld_ros.mapping.model import LoadedModel
    from gld_ros.mapping.offline_summary import OfflineSummary
    from gld_ros.mapping.parameters import SessionParameters
    from gld_ros.ros.parameters.snapshot import Snapshot

# As mapping.targets.POLICIES without "none"; here so that help imports no NumPy.
OFFLINE_POLICIES = ("look_around", "stereo_baseline", "path_ahead", "topic", "frontier")


def add_bag_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options that decide what is made of a bag."""
    parser.add_argument("--bundle", help="weights: name or folder (default: model.bundle, tiny)")
    add_mode_argument(parser)
    add_parameter_arguments(parser)
    parser.add_argument(
        "--policy",
        choices=OFFLINE_POLICIES,
        help="where mode views imagines views (default: policy.type, or look_around if that is "
        "none); path_ahead, topic and frontier follow a Path, a PoseArray or an OccupancyGrid of "
        "the bag",
    )
    parser.add_argument(
        "--policy-topic", metavar="TOPIC", help="the topic to follow where a bag has several"
    )
    parser.add_argument(
        "--every",
        type=int,
        default=1,
        metavar="N",
        help="a job at every N-th keyframe (default: 1; policy.rate does not count offline)",
    )
    add_threads_argument(parser)


@dataclass(frozen=True)
class BagOptions:
    """What decides, besides the bag itself, what is made of it; `threads` 0 is torch's choice."""

    bundle: str | None = None
    mode: str | None = None
    params: Path | None = None
    overrides: tuple[str, ...] = ()
    policy: str | None = None
    policy_topic: str | None = None
    every: int = 1
    threads: int = 0

    @classmethod
    def of(cls, args: argparse.Namespace) -> "BagOptions":
        """The options of a command line. Raises ValueError for numbers below 1."""
        for name in ("every", "threads"):
            given = getattr(args, name)
            if given is not None and given < 1:
                raise ValueError(f"--{name} is {given}; at least 1 is needed")
        return cls(
            args.bundle,
            args.mode,
            args.params,
            tuple(args.overrides),
            args.policy,
            args.policy_topic,
            args.every,
            args.threads or 0,
        )

    def snapshot(self, extra: Sequence[str] = (), cameras: Sequence[str] = ()) -> "Snapshot":
        """All parameters under these options. Raises ParameterError."""
        from gld_ros.ros.parameters.files import load_snapshot

        given = load_snapshot(self.params, self.overrides, cameras)
        policy = self.policy or given.session.policy.type
        chosen = [f"policy.type={'look_around' if policy == 'none' else policy}"]
        if self.mode is not None:
            chosen.append(f"mode={self.mode}")
        if self.bundle is not None:
            chosen.append(f"model.bundle={self.bundle}")
        return load_snapshot(self.params, [*self.overrides, *chosen, *extra], cameras)


def shown_on(bar: "tqdm[Any]") -> "Callable[[int, OfflineSummary], Callable[[], None]]":
    """What `BagRunner.run` takes as `watch`, so that a bar shows messages and jobs so far."""

    def watch(total: int, summary: "OfflineSummary") -> Callable[[], None]:
        bar.reset(total)

        def on_message() -> None:
            bar.set_postfix(jobs=summary.jobs, refresh=False)
            bar.update()

        return on_message

    return watch


class BagRunner:
    """Runs bags with the same options one after the other; their model is loaded once."""

    def __init__(self, options: BagOptions) -> None:
        self._options = options
        self._model: LoadedModel | None = None

    def load(self) -> "LoadedModel":
        """The model, loaded at the first call. Raises ModelUnavailable or ParameterError."""
        if self._model is None:
            self._model = self._load(self._options.snapshot().session)
        return self._model

    def run(
        self,
        bag: Path,
        out: Path,
        watch: "Callable[[int, OfflineSummary], Callable[[], Any]] | None" = None,
    ) -> "OfflineSummary":
        """Write what the node would have published; `out` must not exist.

        `watch` is told the number of messages and the summary that grows, and returns what is
        called per message. Raises ValueError for a bag or options that will not do, DeviceFault
        when the device is lost.
        """
        from gld_ros.bags.cameras import bag_cameras, bag_fixed_frame
        from gld_ros.bags.reader import BagReader
        from gld_ros.mapping.offline import OfflineRun, write_jobs, written_products
        from gld_ros.messages.fixed_frame import AUTO

        options = self._options
        with BagReader(bag) as reader:
            wanted = options.snapshot().session.frames.fixed
            if wanted != AUTO and reader.transforms()[0].frames():
                bag_fixed_frame(reader, wanted)  # before minutes of loading
            model = self.load()
            parameters = options.snapshot(
                [f"fixed_frame={run_fixed_frame(reader, wanted, model.mode)}"],
                [camera.name for camera in bag_cameras(reader)],
            )
            if out.exists():
                raise ValueError(f"bag {out} exists already; remove it or choose another name")
            offline = OfflineRun(
                reader,
                model,
                parameters.session,
                wanted=written_products(model.mode, merged=parameters.node.merged_cloud),
                every=options.every,
                policy_topic=options.policy_topic,
            )
            on_message = watch(offline.num_messages, offline.summary) if watch else lambda: None
            jobs = offline.jobs(on_message)
            for _ in write_jobs(jobs, out, parameters.session.frames, mode=model.mode):
                pass
        return offline.summary

    def _load(self, parameters: "SessionParameters") -> "LoadedModel":
        from gld_ros.mapping.model import load_model

        if self._options.threads:
            import torch

            torch.set_num_threads(self._options.threads)
        return load_model(parameters)


def run_fixed_frame(reader: "BagReader", wanted: str, mode: str) -> str:
    """The frame that a run takes poses in; depth alone needs none. Raises BagError."""
    from gld_ros.bags.cameras import bag_fixed_frame
    from gld_ros.bags.reader import BagError
    from gld_ros.messages.fixed_frame import AUTO

    try:
        return bag_fixed_frame(reader, wanted)
    except BagError:
        if mode != "depth" or (wanted != AUTO and reader.transforms()[0].frames()):
            raise
        return wanted
