"""What fits is what the run itself accepts later, and where nothing does, options that would."""

import re
import shlex
from types import SimpleNamespace

import pytest
import torch

from gld_ros.cli._bag_run import BagOptions
from gld_ros.cli._quickstart_machine import Machine, require_memory
from gld_ros.cli.main import main
from gld_ros.mapping import memory_preflight
from gld_ros.mapping.memory_preflight import NotEnoughMemory
from gld_ros.mapping.model import prepare_pipeline
from gld_ros.weights.catalog import CATALOG
from gld_ros.weights.convert import convert
from gld_ros.weights.unfetched import UnfetchedBundle

GIB = 2**30


@pytest.fixture
def memory_of(monkeypatch, tmp_path):
    """Give this machine a device with so many free bytes: the CPU, or a GPU that is pretended."""
    monkeypatch.setenv("GLD_ROS_DATA", str(tmp_path / "data"))

    def set_memory(device, free_bytes):
        gpu = device == "cuda"
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (free_bytes, free_bytes))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a GPU")
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
        properties = SimpleNamespace(is_integrated=False, total_memory=free_bytes)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: properties)
        meminfo = tmp_path / "meminfo"
        meminfo.write_text(f"MemAvailable: {free_bytes // 1024} kB\n", "utf-8")
        monkeypatch.setattr(memory_preflight, "MEMINFO", meminfo)
        monkeypatch.setattr(memory_preflight, "CGROUP", tmp_path / "no cgroup")

    return set_memory


def settings_of(*overrides, bundle="gld-da3"):
    options = BagOptions(bundle=bundle, overrides=overrides)
    return lambda further: options.snapshot(further).session


def asked(model, settings):
    bundle = UnfetchedBundle(CATALOG[model], dtype="bfloat16")
    return require_memory(bundle, CATALOG[model], Machine.of(settings(())), settings)


def options_in(text):
    listed = re.findall(r"^  (--.*?)(?:  \(.*)?$", text, re.M)
    return [shlex.split(line) for line in listed]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_accepted_before_the_download_is_accepted_by_the_run(
    small_sizes, memory_of, layout, tmp_path, device
):
    bundle = convert(layout, tmp_path / "b", kind="gld-da3", dtype=torch.bfloat16).bundle
    memory_of(device, 10**12)
    settings = settings_of()
    _, pipeline, _ = prepare_pipeline(bundle, settings(()))
    needed = pipeline.estimate(4, 4).peak_bytes
    answers = []
    for share in (0.5, 1.0, 1.2, 1.8, 3.0):
        memory_of(device, int(share * needed))
        try:
            asked("gld-da3", settings)
        except ValueError as error:
            answers.append(False)
            with pytest.raises(NotEnoughMemory):
                prepare_pipeline(bundle, settings(()))
            for words in options_in(str(error)):
                if words[0] == "--set":
                    prepare_pipeline(bundle, settings(words[1::2]))
        else:
            answers.append(True)
            prepare_pipeline(bundle, settings(()))
    assert answers == sorted(answers)
    assert set(answers) == {False, True}


@pytest.mark.slow
@pytest.mark.parametrize("free_gb", [6, 12, 25])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_published_sizes_on_machines_of_all_sizes(memory_of, device, free_gb):
    memory_of(device, free_gb * 10**9)
    settings = settings_of()
    bundle = UnfetchedBundle(CATALOG["gld-da3"], dtype="bfloat16")
    if (device, free_gb) in {("cpu", 25), ("cuda", 12), ("cuda", 25)}:
        assert asked("gld-da3", settings)[0] == "views"
        prepare_pipeline(bundle, settings(()))
        return
    with pytest.raises(ValueError, match="while level1 runs") as caught:
        asked("gld-da3", settings)
    print(caught.value)
    options = options_in(str(caught.value))
    assert ["--set", "mode=depth"] in options
    assert ["--weights", "da3-base"] in options
    for words in options:
        if words[0] == "--set":
            prepare_pipeline(bundle, settings(words[1::2]))


def test_a_machine_without_memory_is_named_before_the_hub_is_asked(
    hub, memory_of, arguments, capsys
):
    memory_of("cpu", 30 * 2**20)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert "needs about" in error
    assert "Options of the same command that fit" in error
    assert hub.tokens == set()


def test_the_device_that_was_asked_for_is_judged(memory_of):
    memory_of("cuda", 40 * GIB)
    assert Machine.of(settings_of()(())) == Machine("cuda", "a GPU", 40 * GIB)
    on_cpu = Machine.of(settings_of("device=cpu")(()))
    assert on_cpu.device == "cpu"
    assert on_cpu.name == "the CPU"
    memory_of("cpu", GIB)
    with pytest.raises(ValueError, match="torch sees no CUDA device"):
        Machine.of(settings_of("device=cuda")(()))


def test_the_mode_decides_what_is_needed(small_sizes, memory_of):
    memory_of("cpu", 10**12)
    assert asked("gld-da3", settings_of())[0] == "views"
    assert asked("gld-da3", settings_of("mode=depth"))[0] == "depth"
    with pytest.raises(ValueError, match="imagines no views"):
        asked("da3-base", settings_of("mode=views", bundle="da3-base"))
