"""`gld-ros request`: requests views from a running node, shows progress, saves the results."""

import argparse
import json
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

HELP = "request views from a running node; save images and points"
DESCRIPTION = """\
Send a goal to a running gld_node and show its progress. Target views are given as poses in any TF
frame (x forward as for robots, or --optical), or as an offset and a turn from the current pose of
the camera. Write images, depth (metres, as .npy and as a colour image with a scale), the result as
JSON, and a PLY of the predicted points into --out. Exit status 0 if the views were made.

  gld-ros request --forward 0.5                                   half a metre ahead
  gld-ros request --left 0.3 --yaw -20 --out look                 from the left, turned right
  gld-ros request --frame odom --pose 1 0 1.2 0 0 0 1 --pose 2 0 1.2 0 0 0.7071 0.7071
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `gld-ros request`."""
    parser.add_argument(
        "--pose",
        nargs=7,
        type=float,
        action="append",
        default=[],
        metavar=("X", "Y", "Z", "QX", "QY", "QZ", "QW"),
        help="pose in --frame, metres and quaternion; repeatable",
    )
    parser.add_argument("--frame", default="odom", help="frame of --pose (default: odom)")
    parser.add_argument(
        "--optical", action="store_true", help="--pose has optical axes: z forward, y down"
    )
    parser.add_argument("--forward", type=float, metavar="M", help="metres ahead of the camera")
    parser.add_argument("--left", type=float, metavar="M", help="metres to the camera's left")
    parser.add_argument("--yaw", type=float, metavar="DEG", help="turn; positive is left")
    parser.add_argument(
        "--camera",
        default="camera",
        help="camera of --forward, --left, --yaw (default: %(default)s)",
    )
    parser.add_argument("--node", default="/gld", help="full name of gld_node (default: /gld)")
    parser.add_argument("--steps", type=int, default=0, help="sampling steps (0: parameter)")
    parser.add_argument("--guidance", type=float, default=0.0, help="guidance (0: parameter)")
    parser.add_argument("--seed", type=int, help="for a repeatable result")
    parser.add_argument(
        "--max-wait",
        type=float,
        default=10.0,
        help="seconds to wait for keyframes, TF and the worker (default: 10)",
    )
    parser.add_argument(
        "--timeout", type=float, default=600.0, help="seconds after which to give up (default: 600)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/request"),
        help="folder to write (default: out/request)",
    )


def run(args: argparse.Namespace) -> int:
    """Send, wait, write; 1 if the node answered with an error."""
    relative = any(value is not None for value in (args.forward, args.left, args.yaw))
    if relative == bool(args.pose):
        raise ValueError(
            "give the target views: either --pose (once or more), or --forward/--left/--yaw"
        )
    if args.seed is not None and not 0 <= args.seed < 2**32:
        raise ValueError(f"--seed is {args.seed}; 0 to {2**32 - 1} is allowed")
    if not 0 <= args.steps < 2**16:
        raise ValueError(f"--steps is {args.steps}; 0 to {2**16 - 1} is allowed")
    from gld_ros.cli._spinning import spinning_node
    from gld_ros.messages.transforms import pose_message
    from gld_ros.messages.types import rclpy_type
    from gld_ros.ros.goal_client import GoalClient, offset_pose

    # Ctrl-C is not caught by rclpy: it cancels the goal.
    with spinning_node("gld_request") as node, closing(_Progress()) as progress:
        client = GoalClient(node, args.node)
        if relative:
            T = offset_pose(args.forward or 0.0, args.left or 0.0, args.yaw or 0.0)
            frame = client.camera_frame(args.camera, args.max_wait)
            goal = client.goal([pose_message(T, rclpy_type)], frame, optical=True)
        else:
            poses = [_pose(values, rclpy_type) for values in args.pose]
            goal = client.goal(poses, args.frame, optical=args.optical)
        goal.num_steps, goal.guidance_scale = args.steps, args.guidance
        if args.seed is not None:
            goal.use_seed, goal.seed = True, args.seed
        answer = _ask(client, goal, progress, args.max_wait, args.timeout)
    return _report(answer, args.out)


def _ask(client: Any, goal: Any, progress: "_Progress", max_wait_s: float, timeout_s: float) -> Any:
    """The node's answer; where time jumped, as at each loop of a bag, that to a later goal.

    The node has then lost its keyframes, which `max_wait_s` in all is there to wait for.
    """
    deadline_s = time.monotonic() + max_wait_s
    while True:
        left_s = max(0.0, deadline_s - time.monotonic())
        goal.max_wait.sec, goal.max_wait.nanosec = divmod(int(left_s * 1e9), 10**9)
        answer = client.ask(goal, progress.show, timeout_s)
        if answer.result.error_code != answer.result.TIME_JUMP or time.monotonic() > deadline_s:
            return answer
        print("time jumped, as when a bag begins anew: asking again", file=sys.stderr)


def _pose(values: list[float], lookup: Any) -> Any:
    x, y, z, qx, qy, qz, qw = values
    return lookup("geometry_msgs/msg/Pose")(
        position=lookup("geometry_msgs/msg/Point")(x=x, y=y, z=z),
        orientation=lookup("geometry_msgs/msg/Quaternion")(x=qx, y=qy, z=qz, w=qw),
    )


def _report(answer: Any, out: Path) -> int:
    import cv2
    import numpy as np

    from gld_ros.depth_colours import depth_with_scale
    from gld_ros.mapping.ply import write_ply
    from gld_ros.messages.depth_images import depth_m_from_message
    from gld_ros.messages.images import rgb_from_image
    from gld_ros.ros.distribution.point_clouds import read_cloud

    result = answer.result
    if result.error_msg:
        print(f"error {result.error_code}: {result.error_msg}", file=sys.stderr)
    if not result.views.views:
        return 1
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for index, message in enumerate(result.images):
        written.append(f"view_{index}.png")
        cv2.imwrite(str(out / written[-1]), rgb_from_image(message).rgb[..., ::-1])
    for index, message in enumerate(result.depths):
        depth_m = depth_m_from_message(message)
        written += [f"depth_{index}.npy", f"depth_{index}.png"]
        np.save(out / written[-2], depth_m)
        cv2.imwrite(str(out / written[-1]), depth_with_scale(depth_m, "m")[..., ::-1])
    if answer.cloud is not None:
        points = read_cloud(answer.cloud)
        write_ply(points, out / "predicted.ply")
        written.append(f"predicted.ply ({len(points)} points)")
    (out / "result.json").write_text(json.dumps(_summary(result), indent=1) + "\n")
    print(f"{out}: {', '.join([*written, 'result.json'])}")
    for view in _summary(result)["views"]:
        print(
            f"view {view['slot']}: confidence {view['mean_confidence']:.2f}, corroborated "
            f"{view['corroborated']:.0%}, hallucinated {view['hallucinated']:.0%}, contradicted "
            f"{view['contradicted']:.0%}"
        )
    return 1 if result.error_code else 0


def _summary(result: Any) -> dict[str, Any]:
    return {
        "error_code": int(result.error_code),
        "error_msg": result.error_msg,
        "job_id": int(result.views.job_id),
        "frame_id": result.views.header.frame_id,
        "views": [
            {
                "slot": int(view.slot),
                "seed": int(view.seed),
                "mean_confidence": float(view.mean_confidence),
                "overlap": float(view.overlap),
                "measured": float(view.measured_fraction),
                "corroborated": float(view.corroborated_fraction),
                "hallucinated": float(view.hallucinated_fraction),
                "contradicted": float(view.contradicted_fraction),
            }
            for view in result.views.views
        ],
    }


class _Progress:
    """A progress bar fed by the action's feedback."""

    STAGES = ("queued", "encoding", "sampling", "decoding")

    def __init__(self) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            total=100,
            unit="%",
            bar_format="{desc:24}|{bar}| {n:3.0f} % {elapsed}",
            leave=False,
            disable=None,
        )

    def show(self, message: Any) -> None:
        """Move the bar to where a feedback message says."""
        feedback = message.feedback
        stage = self.STAGES[min(feedback.stage, 3)]
        steps = f" {feedback.step}/{feedback.total_steps}" if feedback.total_steps else ""
        self._bar.set_description_str(f"{stage}{steps}")
        self._bar.n = 100 * float(feedback.progress)
        self._bar.refresh()

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()
