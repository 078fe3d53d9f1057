"""Every interface type survives serialisation with every field set."""

import array
import re
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.ros

TYPES = [
    "msg.Provenance",
    "msg.StageTimes",
    "msg.ScaleEstimate",
    "msg.SynthesizedView",
    "msg.SynthesizedViewArray",
    "msg.GldStatus",
    "srv.SaveScene.Request",
    "srv.SaveScene.Response",
    "action.SynthesizeViews.Goal",
    "action.SynthesizeViews.Result",
    "action.SynthesizeViews.Feedback",
]


def interface(dotted: str):
    import importlib

    folder, *names = dotted.split(".")
    found = importlib.import_module(f"gld_ros.{folder}")
    for name in names:
        found = getattr(found, name)
    return found


def value_of(type_name: str, counter: list[int]):
    """Return a value unlike the default for an IDL type name, different at every call."""
    import importlib

    counter[0] += 1
    number = counter[0]
    if type_name.startswith("sequence<"):
        inner = type_name[len("sequence<") : -1].split(",")[0]
        values = [value_of(inner, counter), value_of(inner, counter)]
        codes = {"uint8": "B", "double": "d", "float": "f"}
        return array.array(codes[inner], values) if inner in codes else values
    if type_name.endswith("]"):
        inner, length = type_name[:-1].split("[")
        return np.arange(number, number + int(length), dtype=np.dtype(inner))
    if "/" in type_name:
        package, name = type_name.split("/")
        return filled(getattr(importlib.import_module(f"{package}.msg"), name), counter)
    if type_name == "boolean":
        return True
    if type_name == "string":
        return f"text {number}"
    if type_name in ("float", "double"):
        return number + 0.5  # exact in both widths
    return number % 100 + 1


def filled(message_type: type, counter: list[int]):
    message = message_type()
    for field, type_name in message_type.get_fields_and_field_types().items():
        setattr(message, field, value_of(type_name, counter))
    return message


@pytest.mark.parametrize("dotted", TYPES)
def test_round_trip_keeps_every_field(dotted):
    from rclpy.serialization import deserialize_message, serialize_message

    message_type = interface(dotted)
    message = filled(message_type, [0])
    assert message != message_type()
    assert deserialize_message(serialize_message(message), message_type) == message


def test_list_of_types_is_complete():
    import gld_ros.action
    import gld_ros.msg
    import gld_ros.srv

    listed = {".".join(name.split(".")[:2]) for name in TYPES}
    for folder in (gld_ros.msg, gld_ros.srv, gld_ros.action):
        short = folder.__name__.removeprefix("gld_ros.")
        public = {f"{short}.{name}" for name in dir(folder) if name[0].isupper()}
        public = {name for name in public if "_" not in name}  # generated service parts
        assert public <= listed


def test_provenance_values_are_those_of_the_documentation():
    from gld_ros.msg import Provenance

    names = ["UNKNOWN", "MEASURED", "CORROBORATED", "HALLUCINATED", "CONTRADICTED", "COMPLETED"]
    assert [getattr(Provenance, name) for name in names] == [0, 1, 2, 3, 4, 5]


def test_error_codes_are_distinct():
    from gld_ros.action import SynthesizeViews

    text = (Path(__file__).parents[2] / "action" / "SynthesizeViews.action").read_text()
    names = re.findall(r"^uint16 ([A-Z_]+)=", text, re.MULTILINE)
    codes = {name: getattr(SynthesizeViews.Result, name) for name in names}
    assert codes["NONE"] == 0
    assert sorted(codes.values())[1:] == list(range(900, 911))


def test_action_goal_reaches_a_server_and_comes_back(ros_graph):
    from rclpy.action import ActionClient, ActionServer

    from gld_ros.action import SynthesizeViews

    def execute(goal):
        feedback = SynthesizeViews.Feedback(step=3, total_steps=8, progress=0.375)
        goal.publish_feedback(feedback)
        goal.succeed()
        return SynthesizeViews.Result(error_msg=f"seed {goal.request.seed}")

    server_node = ros_graph.node("server")
    server = ActionServer(server_node, SynthesizeViews, "synthesize_views", execute)
    client = ActionClient(ros_graph.node("client"), SynthesizeViews, "synthesize_views")
    assert client.wait_for_server(timeout_sec=60.0)
    steps = []
    accepted = client.send_goal_async(
        SynthesizeViews.Goal(seed=7), feedback_callback=lambda m: steps.append(m.feedback.step)
    )
    ros_graph.wait_for(accepted.done, "the goal to be accepted")
    answer = accepted.result().get_result_async()
    ros_graph.wait_for(answer.done, "the result")
    assert answer.result().result.error_msg == "seed 7"
    ros_graph.wait_for(lambda: steps == [3], "the feedback")
    client.destroy()
    server.destroy()
