"""`gld-ros quickstart` from nothing to a finished bag, with small weights from a loopback hub."""

import multiprocessing
import os
import re
import signal
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
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
        # The threads of the parent's matrix products are not there after a fork; one needs none.
        torch.set_num_threads(1)
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
    assert (
        "5 run: tour-gld-da3 is here already, made with these settings" in capsys.readouterr().out
    )


def test_what_will_happen_is_said_before_the_first_byte(hub, arguments, capsys):
    hub.repositories.clear()
    assert main(arguments) == 1
    printed, error = capsys.readouterr()
    assert "SeonghuJeon/GLD (diffusion, decoders): Apache-2.0" in printed
    assert re.search(r"^machine: .* GB of memory free$", printed, re.M)
    assert re.search(r"^run: mode views, memory: .* GiB$", printed, re.M)
    assert re.search(
        r"^time: up to \d jobs \(keyframes\) of 4 \+ 4 views in 1 steps, about .* each, .* in all "
        r"\(computed: ",
        printed,
        re.M,
    )
    assert "disk: 100 GB free" in printed
    assert "1 fetch 7.9 of 7.9 GB" in printed
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


@pytest.mark.parametrize("kept", [[], ["--keep-downloads"]], ids=["removed", "kept"])
def test_depth_alone_from_nothing_to_a_image(hub, bag, tmp_path, capsys, kept):
    run = ["quickstart", "--bag", str(bag), "--weights", "da3-base", "--yes", "--no-open"]
    run += ["--set", "depth.min_confidence=0.0"]
    assert main([*run, *kept]) == 0
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


@pytest.mark.parametrize("weights", ["gld-da3", "gld-vggt"])
def test_statistics_of_ones_own_images_take_the_place_of_the_published_ones(
    hub, arguments, bag, layout, capsys, tmp_path, weights
):
    own = [word for word in arguments if word not in ("--statistics", str(layout))]
    own += ["--statistics-from", str(bag), "--statistics-scenes", "2", "--weights", weights]
    assert main([*own, "--accept-licence"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"measure level statistics on .*tour \([\d.]+ GB of disk meanwhile\)", printed)
    assert "statistics: features of up to 2 samples of" in printed
    jobs = re.search(r"time: up to (\d+) jobs", printed)[1]
    assert f"4 images, {jobs} keyframes" in printed  # as many as were expected
    bundle = Bundle.open(weights)
    published = 2.0 if weights == "gld-da3" else 1.0
    for level in (0, 1):
        statistics = bundle.statistics(level)
        assert float(statistics.var.min()) > 0
        assert not bool((statistics.mean == published + level).any())
        assert (statistics.special is None) == (weights == "gld-da3")
    assert [path.name for path in (tmp_path / "data/bundles").iterdir()] == [weights]
    assert np.asarray(Image.open(tmp_path / f"tour-{weights}.png")).max() > 0


def test_weights_that_exclude_commercial_use_want_their_licence_accepted(hub, arguments, capsys):
    vggt = [*arguments, "--weights", "gld-vggt"]
    assert main(vggt) == 1
    printed, error = capsys.readouterr()
    assert "CC-BY-NC-4.0" in printed
    assert "MUST NOT be used commercially" in printed
    assert "give --accept-licence" in error
    assert hub.tokens == set()

    assert main([*vggt, "--accept-licence"]) == 0
    config = Bundle.open("gld-vggt").config
    assert config.non_commercial
    assert config.denoisers["cascade"].config.special_tokens == 5
    fetched = {path for path, _ in hub.requests}
    assert "checkpoints/vggt_cascade.pt" in fetched
    assert not {path for path in fetched if "da3" in path}
