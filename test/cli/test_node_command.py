"""`gld-ros node`: what it hands to the node's process."""

from pathlib import Path

import pytest
import yaml

from gld_ros.cli.main import build_parser
from gld_ros.cli.node import DESCRIPTION, node_arguments
from gld_ros.ros.parameters.table import BY_NAME

ROOT = Path(__file__).resolve().parents[2]


def arguments_of(*typed):
    return node_arguments(build_parser("node").parse_args(["node", *map(str, typed)]))


def test_one_camera_gets_its_camera_info_from_beside_the_image():
    words = arguments_of("--camera", "/front/image_raw", "--depth", "/front/depth/image")
    assert "camera/image:=/front/image_raw" in words
    assert "camera/camera_info:=/front/camera_info" in words
    assert "camera/depth:=/front/depth/image" in words
    assert "autostart:=true" in words


def test_several_compressed_cameras_have_names():
    words = arguments_of("--camera", "front=/f/image/compressed", "rear=/r/image/compressed")
    assert "camera_names:=[front, rear]" in words
    assert "image_transport:=compressed" in words
    assert "rear/image:=/r/image" in words
    assert "rear/camera_info:=/r/camera_info" in words


def test_what_is_set_comes_after_what_the_options_say(tmp_path):
    file = tmp_path / "robot.yaml"
    file.write_text("/**:\n  ros__parameters: {policy.rate: 0.1}\n")
    words = arguments_of("--params", file, "--policy", "none", "--set", "policy.type=topic")
    assert words.index("--params-file") < words.index("policy.type:=topic")
    assert 'policy.type:="none"' not in words


def test_the_mode_is_handed_over_only_if_it_is_given():
    assert "mode:=depth" in arguments_of("--mode", "depth")
    assert not [word for word in arguments_of() if word.startswith("mode:=")]


def test_depth_is_looked_for_unless_it_is_given_or_not_wanted():
    assert not [word for word in arguments_of("--camera", "/a/image") if "depth" in word]
    none = arguments_of("--camera", "/a/image", "--depth", "none")
    assert "depth.source:=stereo" in none
    assert not [word for word in none if "/depth" in word]
    set_too = arguments_of("--depth", "none", "--set", "depth.source=model")
    assert "depth.source:=model" in set_too


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["--camera", "/a/image", "/b/image"], "need names of their own"),
        (["--set", "camera_names=[a, b]", "--camera", "/a/image"], "camera_names is a, b"),
        (["--set", "camera_names=front"], "must be a list"),
        (["--camera", "a=/a/image", "b=/b/image/compressed"], "some topics are compressed"),
        (
            ["--camera", "a=/a/image", "--depth", "b=/a/depth"],
            "no camera has that name; there are: a",
        ),
        (["--params", "/nowhere.yaml"], "there is no such file"),
        (["--set", "policy.type"], "NAME=VALUE is needed"),
    ],
)
def test_what_clashes_is_told(typed, words):
    with pytest.raises(ValueError, match=words):
        arguments_of(*typed)


FILE = """\
/**:
  ros__parameters:
    camera_names: [front]
    model.bundle: mine
    policy: {type: stereo_baseline}
    fixed_frame: map
    sampler.preset: fast
    image_transport: compressed
    use_sim_time: true
    autostart: false
gld:
  ros__parameters: {depth.max: 9.0}
/robot2/gld:
  ros__parameters: {camera_names: [of, another, robot]}
"""


@pytest.fixture
def robot(tmp_path):
    path = tmp_path / "robot.yaml"
    path.write_text(FILE)
    return path


def values_of(*typed):
    """The node's parameters, as ROS reads them from the command."""
    rclpy = pytest.importorskip("rclpy")
    from gld_ros.ros.parameters.declare import NodeParameters

    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("gld", context=context, cli_args=arguments_of(*typed))
    try:
        parameters = NodeParameters(node, lambda: False)
        assert parameters.problems() == []
        sim_time = node.get_parameter("use_sim_time").value
        return dict(parameters.snapshot.values) | {"use_sim_time": sim_time}
    finally:
        node.destroy_node()
        context.try_shutdown()


@pytest.mark.ros
def test_without_options_the_node_has_its_own_defaults_and_shows_something():
    values = values_of()
    changed = {k: v for k, v in values.items() if k in BY_NAME and v != BY_NAME[k].default}
    assert changed == {"autostart": True, "policy.type": "look_around"}


@pytest.mark.ros
def test_what_a_file_says_is_kept_unless_something_else_is_typed(robot):
    said = {
        "camera_names": ["front"],
        "model.bundle": "mine",
        "policy.type": "stereo_baseline",
        "fixed_frame": "map",
        "sampler.preset": "fast",
        "image_transport": "compressed",
        "use_sim_time": True,
        "depth.max": 9.0,
        "autostart": True,  # that is what the command is for
    }
    values = values_of("--params", robot, "--camera", "/front/image_raw")
    assert {name: values[name] for name in said} == said
    typed = values_of(
        *("--params", robot, "--camera", "rear=/rear/image", "--bundle", "other"),
        *("--policy", "none", "--frame", "odom", "--preset", "published"),
        *("--set", "depth.max=5.0", "--set", "autostart=false"),
    )
    assert {name: typed[name] for name in said} == said | {
        "camera_names": ["rear"],
        "model.bundle": "other",
        "policy.type": "none",
        "fixed_frame": "odom",
        "sampler.preset": "published",
        "depth.max": 5.0,
        "autostart": False,
    }


@pytest.mark.ros
@pytest.mark.parametrize(
    "path", sorted((ROOT / "config").glob("profile_*.yaml")), ids=lambda p: p.name
)
def test_a_shipped_profile_keeps_all_that_it_says(path):
    said = yaml.safe_load(path.read_text())["/**"]["ros__parameters"]
    values = values_of("--params", path)
    assert {name: values[name] for name in said} == said


def test_topics_belong_to_the_cameras_that_the_file_names(robot):
    words = arguments_of("--params", robot, "--camera", "/f/image_raw", "--depth", "/f/depth")
    assert "front/image:=/f/image_raw" in words
    assert "front/camera_info:=/f/camera_info" in words
    assert "front/depth:=/f/depth" in words
    assert not [word for word in words if word.startswith("camera/")]
    without = arguments_of("--params", robot, "--depth", "/f/depth")
    assert [word for word in without if word.startswith("front/")] == ["front/depth:=/f/depth"]
    assert not [word for word in without if word.startswith("camera_names")]


def test_the_examples_of_its_help_are_accepted():
    examples = [words.split() for words in DESCRIPTION.split("gld-ros node ")[1:]]
    assert len(examples) == 6
    for words in examples:
        end = next((i for i, word in enumerate(words) if word in ("gld-ros", "Views")), len(words))
        assert arguments_of(*words[:end])[0] == "--ros-args"
