"""The command line itself: every command found, help quick, errors in one line."""

import subprocess
import sys

import pytest

from gld_ros.cli import main as cli


def test_every_file_of_the_folder_is_a_command_with_help():
    names = cli.command_names()
    assert {"selftest", "weights"} <= set(names)
    assert "main" not in names
    text = cli.build_parser().format_help()
    for name in names:
        assert f"    {name}" in text


def test_help_imports_no_torch():
    code = (
        "import sys\n"
        "from gld_ros.cli.main import build_parser\n"
        "build_parser().format_help()\n"
        "heavy = {'torch', 'numpy', 'cv2', 'rclpy', 'huggingface_hub'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


def test_no_command_shows_the_help(capsys):
    assert cli.main([]) == cli.EXIT_USAGE
    assert "commands:" in capsys.readouterr().out


def test_an_unknown_command_names_those_there_are(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["selftset"])
    assert caught.value.code == cli.EXIT_USAGE
    assert "selftest" in capsys.readouterr().err


def test_user_errors_are_one_line_and_the_traceback_is_optional(capsys, tmp_path):
    assert cli.main(["selftest", str(tmp_path)]) == cli.EXIT_ERROR
    error = capsys.readouterr().err
    assert error.startswith("gld-ros selftest: error:")
    assert "Traceback" not in error
    assert cli.main(["--traceback", "selftest", str(tmp_path)]) == cli.EXIT_ERROR
    assert "Traceback" in capsys.readouterr().err


def test_an_interruption_has_its_own_status(monkeypatch, capsys):
    from gld_ros.cli import selftest

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(selftest, "run", interrupted)
    assert cli.main(["selftest"]) == cli.EXIT_INTERRUPTED
