"""Every command takes sizes of images as WxH, and says so when it is given another form."""

import argparse

import pytest

from gld_ros.cli.main import build_parser, command_names

COMMANDS = {
    "bench": ["bench"],
    "eval": ["eval", "--data", "rooms:narrow"],
    "evals": ["evals", "rooms:narrow", "--out", "judged"],
    "export": ["export", "tiny", "out", "--format", "onnx"],
    "scenes bag": ["scenes", "bag", "tour"],
    "scenes preview": ["scenes", "preview"],
    "scenes render": ["scenes", "render", "rooms"],
    "scenes store": ["scenes", "store", "rooms"],
}


def commands_with_a_size(parser, words=()):
    """Every command below a parser whose --size is no single number."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield from commands_with_a_size(child, (*words, name))
        elif "--size" in action.option_strings and action.type is not int:
            yield " ".join(words)


def test_these_are_all_commands_that_take_a_size():
    found = [c for name in command_names() for c in commands_with_a_size(build_parser(name))]
    assert sorted(found) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_width_comes_first(command):
    words = COMMANDS[command]
    args = build_parser(words[0]).parse_args([*words, "--size", "112x84"])
    assert args.size == (84, 112)


@pytest.mark.parametrize("size", ["320", "0x10", "axb", "84 112", "-4x4", "4x4x4", "²x2"])
@pytest.mark.parametrize("command", COMMANDS)
def test_another_form_is_refused_with_the_right_one(command, size, capsys):
    words = COMMANDS[command]
    with pytest.raises(SystemExit):
        build_parser(words[0]).parse_args([*words, f"--size={size}"])
    error = capsys.readouterr().err
    assert repr(size) in error
    assert "WxH, such as 112x84" in error or "at least 1 pixel" in error
