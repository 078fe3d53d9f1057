"""A fixed frame that is named and missing is an error of every command on bags; `auto` is told."""

import pytest

from gld_ros.cli.main import main

MISSING = "has no frame 'odmo'; its frames are: base_link, camera, odom"


@pytest.fixture
def robot(tmp_path):
    """A parameter file with a misspelt frame."""
    path = tmp_path / "robot.yaml"
    path.write_text("/**:\n  ros__parameters: {fixed_frame: odmo}\n")
    return str(path)


def typed(command, bag, out):
    """The beginning of a command line for a bag."""
    return {
        "bag-info": ["bag-info", bag],
        "check": ["check", bag],
        "bag": ["bag", bag, out],
        "bags": ["bags", bag, "--out", out, "--workers", "0"],
        "fly": ["fly", bag, "--out", out],
    }[command]


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("bag-info", ["--fixed-frame", "odmo"]),
        ("bag-info", ["--params", "FILE"]),
        ("check", ["--fixed-frame", "odmo"]),
        ("bag", ["--set", "fixed_frame=odmo"]),
        ("bag", ["--params", "FILE"]),
        ("bags", ["--set", "fixed_frame=odmo"]),
        ("bags", ["--params", "FILE"]),
        ("fly", ["--set", "fixed_frame=odmo"]),
        ("fly", ["--params", "FILE"]),
    ],
)
def test_a_misspelt_fixed_frame_is_an_error_with_the_frames(
    command, option, small_bag, robot, tmp_path, capsys
):
    words = [robot if word == "FILE" else word for word in option]
    assert main([*typed(command, str(small_bag), str(tmp_path / "out")), *words]) != 0
    told = capsys.readouterr()
    assert MISSING in told.out + told.err


def test_the_frame_that_was_found_is_told(small_bag, robot, capsys):
    assert main(["bag-info", str(small_bag)]) == 0
    assert "fixed frame      odom (found)" in capsys.readouterr().out
    named = ["--params", robot, "--fixed-frame", "base_link"]
    assert main(["bag-info", str(small_bag), *named]) == 0
    assert "fixed frame      base_link\n" in capsys.readouterr().out
    main(["check", str(small_bag)])
    assert "fixed frame 'odom' (found)" in capsys.readouterr().out
