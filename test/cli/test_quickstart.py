"""`gld-ros quickstart` from nothing to a finished bag, with small weights from a loopback hub."""

import multiprocessing
import os
import re
import shutil
import signal
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gld_ros.cli.main import main
from gld_ros.weights.bundle import Bundle

from ..weights.fake_hub import Fault
from ..weights.published_layout import GLD_REPOSITORY


def until(condition, what):
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, f"never came to: {what}"
        time.sleep(0.01)


def killed(arguments, condition, what, stop_in=None):
    """Run the command in a process of its own and kill it once `condition` holds."""

    log = Path("child.log")

    def run():
        if stop_in is not None:
            module, name, mark = stop_in

            def stop(*args, **options):
                mark.touch()
                time.sleep(600)

            setattr(module, name, stop)
        with log.open("w") as file, redirect_stdout(file), redirect_stderr(file):
            main(arguments)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    until(lambda: condition() or not process.is_alive(), what)
    assert process.is_alive(), f"ended before: {what}\n{log.read_text()}"
    os.kill(process.pid, signal.SIGKILL)
    process.join()


@pytest.mark.slow
def test_from_nothing_to_a_finished_bag_through_three_kills(hub, arguments, tmp_path, capsys):
    from gld_ros.mapping import offline
    from gld_ros.weights import bundle as bundle_module

    total = sum(map(len, hub.repositories[GLD_REPOSITORY].values()))
    hub.bytes_per_s = total // 4
    killed(arguments, lambda: hub.sent_bytes > total // 2, "half of the download")
    assert not (tmp_path / "data/bundles").exists()
    hub.bytes_per_s = None
    mark = tmp_path / "converting"
    stop_in = (bundle_module, "_write_statistics", mark)
    killed(arguments, mark.exists, "the end of the conversion", stop_in)
    assert any(start > 0 for _, start in hub.requests)  # the second run went on, not anew
    assert not (tmp_path / "data/bundles/gld-da3").exists()
    downloads = len(hub.requests)
    mark = tmp_path / "running"
    killed(arguments, mark.exists, "the run", (offline, "write_jobs", mark))
    assert len(hub.requests) == downloads  # every file was here
    assert Bundle.open("gld-da3").config.files["level1.safetensors"].dtype == "bfloat16"
    assert not (tmp_path / "data/downloads/gld-da3").exists()
    hub.repositories.clear()  # from here on no network is needed

    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "is here already" in printed
    assert "every byte as recorded" in printed
    assert np.asarray(Image.open(tmp_path / "tour-gld-da3.png")).max() > 0
    assert (tmp_path / "tour-gld-da3").exists()
    assert main(arguments) == 0
    assert "5 run: tour-gld-da3 is here already" in capsys.readouterr().out


def test_what_will_happen_is_said_before_the_first_byte(hub, arguments, capsys):
    hub.repositories.clear()
    assert main(arguments) == 1
    printed, error = capsys.readouterr()
    assert "SeonghuJeon/GLD (diffusion, decoders): Apache-2.0" in printed
    assert re.search(r"^machine: .* GB of memory and \d+ GB of disk free$", printed, re.M)
    assert "1 fetch 7.9 GB" in printed
    assert "min at 100 Mbit/s" in printed
    assert "2 convert to a bundle of" in printed
    assert "not found (404)" in error
    assert hub.requests == []


@pytest.mark.parametrize(
    ("fault", "hint"),
    [
        (Fault(401), "asks for a login (401)"),
        (
            Fault(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Ask the authors first."}),
            "The hub says: Ask the authors first.",
        ),
        (Fault(404), "not found (404); it was renamed, moved or removed"),
        (Fault(429, {"Retry-After": "600"}), "run the same command again in 10 minutes"),
    ],
)
def test_what_the_hub_refuses_ends_in_its_hint(hub, arguments, capsys, tmp_path, fault, hint):
    hub.faults[GLD_REPOSITORY] = fault
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("gld-ros quickstart: error: ")
    assert hint in error
    assert "Traceback" not in error
    assert not (tmp_path / "data/bundles").exists()


def test_a_disk_without_room_for_files_and_bundle_is_named_first(
    hub, arguments, capsys, monkeypatch
):
    full = shutil._ntuple_diskusage(10**6, 10**6, 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    assert main(arguments) == 1
    assert "the download with the bundle made from it needs" in capsys.readouterr().err
    assert hub.requests == []


def test_a_bag_that_cannot_be_read_is_named_first(hub, arguments, capsys, tmp_path):
    wrong = ["quickstart", "--bag", str(tmp_path / "gone"), *arguments[3:]]
    assert main(wrong) == 1
    assert "does not exist" in capsys.readouterr().err
    assert not hub.tokens


@pytest.mark.parametrize("kept", [[], ["--keep-downloads"]], ids=["removed", "kept"])
def test_depth_alone_from_nothing_to_a_image(hub, bag, tmp_path, capsys, kept):
    run = ["quickstart", "--bag", str(bag), "--weights", "da3-base", "--yes", "--no-open"]
    assert main([*run, *kept, "--set", "depth.min_confidence=0.0"]) == 0
    printed = capsys.readouterr().out
    assert "every byte as recorded" in printed
    assert "depth of 4 (4 in metres" in printed  # its depth camera gives them
    assert np.asarray(Image.open(tmp_path / "tour-da3-base.png")).max() > 0
    made = sorted(path.name for path in (tmp_path / "tour-da3-base").iterdir())
    assert made == ["metadata.yaml", "tour-da3-base.mcap"]
    assert GLD_REPOSITORY not in {repository for repository, _ in hub.requests}
    assert f"3 {'keep' if kept else 'remove'} the downloaded files" in printed
    assert (tmp_path / "data/downloads/da3-base").exists() == bool(kept)
    assert main(run) == 0  # finished steps are skipped
    again = capsys.readouterr().out
    assert "is here already" in again
    assert (f"no longer needed: rm -r {tmp_path}" in again) == bool(kept)
