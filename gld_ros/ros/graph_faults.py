"""Faults of an observed graph, the one to fix first at the top.

Looking at the graph belongs to `graph_watch`; nothing here needs a running graph.
"""

from dataclasses import dataclass
from typing import Any

from gld_ros.measuring.agreement import DISAGREE, Agreement
from gld_ros.messages.camera_info import CameraInfoError, camera_info_values, pinhole_camera
from gld_ros.messages.fixed_frame import AUTO
from gld_ros.messages.images import ImageError, rgb_from_message
from gld_ros.messages.stamps import age_in_words
from gld_ros.ros.graph_watch import GraphSeen, TopicSeen

MAX_AGE_S = 2.0  # of an image when it arrives
MAX_AHEAD_S = 0.05
ANOTHER_MACHINE = (
    "; this shell sees only its own machine: for a camera of another one, export GLD_LOCAL_ONLY=0 "
    "in a new shell before . ./env.sh"
)


@dataclass(frozen=True)
class Fault:
    """Something wrong: on what, what, and what to do."""

    subject: str
    problem: str
    fix: str
    fatal: bool = True


def judge(seen: GraphSeen) -> list[Fault]:
    """Return what is wrong, in the order in which to fix it; warnings (`fatal` False) last."""
    faults = []
    if not seen.clock_runs:
        faults.append(
            Fault(
                "/clock",
                "use_sim_time is set, but nothing publishes /clock",
                "play the bag with --clock, start the simulator, or unset use_sim_time",
            )
        )
    if seen.node_state not in ("", "active"):
        # First: it subscribes to nothing yet, and its topics are only guessed.
        faults.append(
            Fault(
                seen.node_name,
                f"the node is {seen.node_state}",
                "configure and activate it (ros2 lifecycle set, or autostart of the launch file); "
                "its log and /diagnostics say why if it fails",
            )
        )
    for image, info in seen.cameras:
        faults += _image_faults(image, ANOTHER_MACHINE if seen.local_only else "")
        faults += _info_faults(image, info, seen.rectification)
        if image.agreement is not None:
            faults += agreement_faults(image.topic, image.agreement)
    if seen.tf_asked and not seen.tf_placed:
        frames = sorted({image.frame_id for image, _ in seen.cameras if image.frame_id})
        fixed = "odom" if seen.fixed_frame == AUTO else seen.fixed_frame
        faults.append(
            Fault(
                "/tf",
                f"no image could be placed: {seen.tf_problem}",
                f"publish the chain {fixed} <- ... <- {', '.join(frames)} with stamps around those "
                "of the images (odometry), or set fixed_frame to a frame that exists; mode depth "
                "needs no poses",
            )
        )
    if not seen.node_state:
        faults.append(
            Fault(
                seen.node_name,
                "no such node",
                "ros2 launch gld_ros gld.launch.py, or name it with --node",
            )
        )
    if 0 < seen.tf_placed < 0.9 * seen.tf_asked:
        faults.append(
            Fault(
                "/tf",
                f"{seen.tf_asked - seen.tf_placed} of {seen.tf_asked} images could not be placed "
                f"({seen.tf_problem})",
                "publish TF faster, or synchronise the clocks of camera and odometry",
                fatal=False,
            )
        )
    if seen.tf_rejected:
        faults.append(
            Fault(
                "/tf",
                f"{seen.tf_rejected} transforms are invalid (NaN or not a rotation)",
                "find the publisher and normalise its quaternions",
                fatal=False,
            )
        )
    return sorted(faults, key=lambda fault: not fault.fatal)


def agreement_faults(topic: str, agreement: Agreement) -> list[Fault]:
    """The warning that images and TF do not belong together, if there is evidence."""
    if not agreement.disagrees:
        return []
    what, _, fix = DISAGREE.partition(": ")
    problem = f"{what}: corners are {agreement.error_px:.1f} px off their epipolar lines"
    if agreement.time_offset_s is not None:
        problem += (
            f", {agreement.error_at_offset_px:.1f} px with image stamps shifted by "
            f"{agreement.time_offset_s * 1e3:+.0f} ms"
        )
    return [Fault(topic, problem, fix, fatal=False)]


def _image_faults(image: TopicSeen, if_elsewhere: str) -> list[Fault]:
    faults = []
    if not image.publishers:
        return [
            Fault(
                image.topic,
                "nothing publishes images here",
                "start the camera driver, or remap <camera>/image of the node to its topic"
                f"{if_elsewhere}",
            )
        ]
    wrong = sorted({p.topic_type for p in image.publishers} - {image.type})
    if wrong:
        return [
            Fault(
                image.topic,
                f"the publisher sends {', '.join(wrong)}, not {image.type}",
                "set image_transport to what the driver sends, or remap to the right topic",
            )
        ]
    faults += _qos_faults(image)
    if not image.count:
        problem = "there is a publisher, but no image arrived"
        fix = "check that the camera streams, and the network and DDS profile for large messages"
        return [*faults, Fault(image.topic, problem, fix)]
    if 0 in image.stamps_ns:
        faults.append(
            Fault(image.topic, "image stamps are zero", "let the driver stamp its images")
        )
    elif image.age_s is not None and image.age_s > MAX_AGE_S:
        faults.append(
            Fault(
                image.topic,
                f"age of images on arrival: {age_in_words(image.age_s)}",
                "synchronise the clocks (chrony); for a bag set use_sim_time and play with --clock",
            )
        )
    elif image.age_s is not None and image.age_s < -MAX_AHEAD_S:
        faults.append(
            Fault(
                image.topic,
                f"image stamps are {-image.age_s:.1f} s in the future",
                "synchronise the clocks (chrony); for a simulator set use_sim_time",
            )
        )
    if not image.frame_id:
        faults.append(
            Fault(
                image.topic,
                "images have an empty frame_id",
                "set it in the driver, or give frame_id_override.<camera>",
            )
        )
    return faults


def _info_faults(image: TopicSeen, info: TopicSeen, rectification: Any) -> list[Fault]:
    if not info.count:
        faults = _qos_faults(info)
        who = "nothing publishes" if not info.publishers else "there is a publisher, but no"
        return [
            *faults,
            Fault(
                info.topic,
                f"{who} CameraInfo",
                "let the driver publish camera_info next to its images, or remap it",
            ),
        ]
    if image.newest is None:
        return []
    try:
        rgb = rgb_from_message(image.newest).rgb
    except ImageError as error:
        return [Fault(image.topic, str(error), "change the driver's encoding")]
    values = camera_info_values(info.newest)
    try:
        pinhole_camera(values, (rgb.shape[0], rgb.shape[1]), rectification, image.topic)
    except CameraInfoError as error:
        return [Fault(info.topic, str(error), "calibrate the camera and load the calibration")]
    return []


def _qos_faults(topic: TopicSeen) -> list[Fault]:
    from rclpy.qos import QoSCompatibility, qos_check_compatible

    for publisher in topic.publishers:
        for subscription in topic.subscriptions:
            verdict, reason = qos_check_compatible(publisher.qos_profile, subscription.qos_profile)
            if verdict == QoSCompatibility.ERROR:
                return [
                    Fault(
                        topic.topic,
                        f"QoS of {publisher.node_name} and {subscription.node_name} differ: "
                        f"{reason}",
                        "change the driver's QoS, or the node's with qos_overrides",
                        fatal=False,
                    )
                ]
    return []
