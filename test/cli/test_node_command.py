"""`gld-ros node`: what it hands to the node's process."""

import pytest

from gld_ros.cli.main import build_parser
from gld_ros.cli.node import DESCRIPTION, node_arguments


def arguments_of(*typed):
    return node_arguments(build_parser("node").parse_args(["node", *map(str, typed)]))


def test_one_camera_gets_its_camera_info_from_beside_the_image():
    words = arguments_of("--camera", "/front/image_raw", "--depth", "/front/depth/image")
    assert "camera/image:=/front/image_raw" in words
    assert "camera/camera_info:=/front/camera_info" in words
    assert "camera/depth:=/front/depth/image" in words
    assert "image_transport:=raw" in words
    assert "autostart:=true" in words


def test_several_compressed_cameras_have_names():
    words = arguments_of("--camera", "front=/f/image/compressed", "rear=/r/image/compressed")
    assert "camera_names:=[front, rear]" in words
    assert "image_transport:=compressed" in words
    assert "rear/image:=/r/image" in words
    assert "rear/camera_info:=/r/camera_info" in words


def test_what_is_set_comes_after_what_the_options_say(tmp_path):
    file = tmp_path / "robot.yaml"
    file.touch()
    words = arguments_of("--params", file, "--policy", "none", "--set", "policy.type=topic")
    assert words[:3] == ["--ros-args", "--params-file", str(file)]
    assert "policy.type:=topic" in words
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
        (["--camera", "a=/a/image", "b=/b/image/compressed"], "some topics are compressed"),
        (["--camera", "a=/a/image", "--depth", "/a/depth"], "no --camera has that name"),
        (["--params", "/nowhere.yaml"], "there is no such file"),
        (["--set", "policy.type"], "NAME=VALUE is needed"),
    ],
)
def test_what_clashes_is_told(typed, words):
    with pytest.raises(ValueError, match=words):
        arguments_of(*typed)


def test_the_examples_of_its_help_are_accepted():
    examples = [words.split() for words in DESCRIPTION.split("gld-ros node ")[1:]]
    assert len(examples) == 6
    for words in examples:
        end = next((i for i, word in enumerate(words) if word in ("gld-ros", "Views")), len(words))
        assert arguments_of(*words[:end])[0] == "--ros-args"
