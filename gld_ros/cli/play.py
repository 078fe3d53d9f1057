"""`gld-ros play`: a bag on the ROS graph in real time, with /clock, pausing and looping."""

import argparse
import signal
import sys
import threading
from typing import Any

HELP = "play a bag on the ROS graph"
DESCRIPTION = """\
Play a ROS 2 bag (MCAP or SQLite) on the graph, on machines without `ros2 bag play`.

Image bytes are unchanged, /tf_static stays available to late joiners, and with --clock other nodes
run on bag time (use_sim_time:=true). Playback starts when there is a subscriber. Space pauses and
resumes in a terminal; so does the service /gld_player/pause (std_srvs/SetBool).

  gld-ros play recording/ --clock
  gld-ros play recording/ --clock --rate 0.5 --loop
  gld-ros play recording/ --topics /camera/image_raw /tf --remap /camera/image_raw:=/front/image
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `gld-ros play`."""
    parser.add_argument("bag", metavar="BAG", help="folder of the bag, or one .mcap or .db3 file")
    parser.add_argument(
        "--rate", type=float, default=1.0, help="speed; 1 is real time (default: 1)"
    )
    parser.add_argument("--loop", action="store_true", help="start again at the end")
    parser.add_argument(
        "--clock",
        type=float,
        nargs="?",
        const=100.0,
        default=0.0,
        metavar="HZ",
        help="publish /clock (100 times per second, or HZ)",
    )
    parser.add_argument("--start-paused", action="store_true", help="wait for space or the service")
    parser.add_argument(
        "--topics", nargs="+", default=[], metavar="TOPIC", help="play only these topics"
    )
    parser.add_argument(
        "--remap", nargs="+", default=[], metavar="FROM:=TO", help="play topics under other names"
    )
    parser.add_argument(
        "--wait",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="longest wait for subscribers, then play anyway (default: 10)",
    )
    parser.add_argument(
        "--wait-for",
        nargs="+",
        default=[],
        metavar="TOPIC",
        help="wait until each of these has a subscriber, and fail if it gets none",
    )


def run(args: argparse.Namespace) -> int:
    """Play; exit status 0 at the end of the bag, 1 if a --wait-for topic had no subscriber."""
    from gld_ros.bags.reader import BagReader
    from gld_ros.ros.player import PlayOptions

    options = PlayOptions(
        rate=args.rate,
        loop=args.loop,
        clock_hz=args.clock,
        start_paused=args.start_paused,
        topics=tuple(args.topics),
        remap=dict(_remap_rule(rule) for rule in args.remap),
        wait_s=args.wait,
        wait_for=tuple(args.wait_for),
    )
    with BagReader(args.bag) as bag:
        return _play(bag, options)


def _remap_rule(rule: str) -> tuple[str, str]:
    before, separator, after = rule.partition(":=")
    if not (before and separator and after):
        raise ValueError(f"remapping {rule!r} is not of the form FROM:=TO")
    return before, after


def _play(bag: Any, options: Any) -> int:
    from std_srvs.srv import SetBool

    from gld_ros.cli._spinning import spinning_node
    from gld_ros.ros.player import Player

    with spinning_node("gld_player") as node:
        player = Player(node, bag, options)
        # Playback that is stopped by the user has not failed, as with any node of a launch file.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: player.stop())

        def pause(request: Any, response: Any) -> Any:
            if request.data:
                player.pause()
            else:
                player.resume()
            response.success = True
            response.message = "paused" if request.data else "playing"
            return response

        node.create_service(SetBool, "~/pause", pause)
        with _SpaceKey(player):
            return _play_with_progress(player, bag, options)


def _play_with_progress(player: Any, bag: Any, options: Any) -> int:
    from tqdm import tqdm

    for topic, why in player.report.not_played.items():
        print(f"not played: {topic} ({why})", file=sys.stderr)
    if not player.wait_for_subscribers() and not player.stopped:
        if options.wait_for:
            waited = ", ".join(options.wait_for)
            print(f"no subscriber for {waited} within {options.wait_s:g} s", file=sys.stderr)
            return 1
        print(f"no subscriber within {options.wait_s:g} s; playing anyway", file=sys.stderr)

    length_s = (bag.end_ns - bag.start_ns) / 1e9
    with tqdm(
        total=round(length_s, 2),
        unit="s",
        desc=str(bag.path.name),
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} s of the bag{postfix}",
        disable=None,
    ) as bar:

        def show(bag_s: float, num_messages: int) -> None:
            state = ", paused" if player.paused else ""
            bar.set_postfix_str(f"{num_messages} messages{state}", refresh=False)
            bar.update(min(bag_s, bar.total) - bar.n)

        report = player.play(show)
    print(
        f"played {report.num_messages} messages, {report.num_bytes / 1e6:.1f} MB; late by "
        f"{report.lateness_percentile_ms(50):.2f} ms (median), "
        f"{report.lateness_percentile_ms(99):.2f} ms (99 %)"
    )
    if report.held_s > 0:
        print(
            f"bag time stood still for {report.held_s:.1f} s in all, where this machine was too "
            "slow; a lower --rate leaves it more time"
        )
    return 0


class _SpaceKey:
    """Space pauses and resumes while a terminal is attached; restores the terminal at the end."""

    def __init__(self, player: Any) -> None:
        self._player = player
        self._done = threading.Event()
        self._settings: list[Any] | None = None

    def __enter__(self) -> None:
        if not sys.stdin.isatty():
            return
        import termios
        import tty

        self._settings = termios.tcgetattr(sys.stdin)
        tty.setcbreak(sys.stdin)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        import select

        while not self._done.is_set():
            if select.select([sys.stdin], [], [], 0.1)[0] and sys.stdin.read(1) == " ":
                if self._player.paused:
                    self._player.resume()
                else:
                    self._player.pause()

    def __exit__(self, *reason: object) -> None:
        self._done.set()
        if self._settings is not None:
            import termios

            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._settings)
