"""What documents tell people to type is accepted, links lead somewhere, quick starts run."""

import contextlib
import os
import re
import resource
import runpy
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gld_ros.cli.main import build_parser, command_names

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
QUICK_STARTS = sorted((ROOT / "docs" / "quickstart").glob("*.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^    (gld-ros (?:.*\\\n)*.*)", re.MULTILINE)
NEEDS = "# needs: "  # the first line of a block that does not run on any machine


def blocks(page):
    """Shell text of a page: fenced blocks, and indented commands."""
    text = page.read_text(encoding="utf-8")
    return [b for kind, b in BLOCK.findall(text) if kind in ("", "bash")] + INDENTED.findall(text)


def typed_commands(page):
    """Every `gld-ros` command line of a page, as words."""
    for block in blocks(page):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.split(" (")[0], comments=True)
            while "gld-ros" in words:
                words = words[words.index("gld-ros") + 1 :]
                ends = [i for i, w in enumerate(words) if w in ("&", "&&", "|", ";", ">", "beside")]
                yield words[: min(ends, default=len(words))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_that_a_page_shows_is_accepted(page, capsys):
    for words in typed_commands(page):
        if not words or words[0] not in command_names() or "..." in words:
            continue
        try:
            build_parser(words[0]).parse_args(words)
        except SystemExit:
            pytest.fail(f"gld-ros {' '.join(words)}: {capsys.readouterr().err}")


LAUNCHING = [*PAGES, ROOT / "docker" / "compose.yaml", ROOT / "docker" / "Dockerfile"]


@pytest.mark.parametrize("page", LAUNCHING, ids=lambda p: str(p.relative_to(ROOT)))
def test_launch_arguments_that_are_shown_exist(page):
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for file, arguments in re.findall(r"ros2 launch gld_ros (\w+\.launch\.py)([^`\n]*)", text):
        declared = _with_included_launch_files(file)
        for name in re.findall(r"(\w+):=", arguments):
            assert re.search(rf'^ +\(?"{name}",', declared, re.M), f"{page.name}: {file} {name}:="


def _with_included_launch_files(name):
    """The text of a launch file and of those that it names, and so on."""
    files = {path.name: path for path in (ROOT / "launch").rglob("*.launch.py")}
    texts, names = {}, [name]
    assert name in files
    while names:
        one = names.pop()
        if one in files and one not in texts:
            texts[one] = files[one].read_text(encoding="utf-8")
            names += re.findall(r"\w+\.launch\.py", texts[one])
    return "\n".join(texts.values())


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_and_images_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.replace("\n", " ").partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles]
            assert anchor in slugs, f"{page.name}: {target}"


def test_the_words_of_troubleshooting_are_those_of_the_code():
    sources = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "gld_ros").rglob("*.py"))
    said = re.sub(r'"\s*\n\s*f?"', "", sources)  # texts that go over several lines
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    shown = [
        c for row in re.findall(r"^\| (`.*?) \| ", page, re.M) for c in re.findall("`(.*?)`", row)
    ]
    parts = [p.strip(" ();") for c in shown for p in re.split(r"'.*?'|\.\.\.|\bN\b|\d+|:", c)]
    words = [p for p in parts if " " in p and "," not in p and "/msg/" not in p]
    assert len(words) > 20
    assert [w for w in words if w not in said] == []


def test_every_page_is_in_the_site():
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if f": {page}\n" not in site] == []


def test_images_are_small_enough_to_clone():
    images = [p for p in (ROOT / "docs" / "images").iterdir() if p.suffix != ".md"]
    assert sum(p.stat().st_size for p in images) < 3_000_000


def shown_outside_of_blocks(page):
    """Command lines in running text, which nobody runs."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
    starts = r"make |\. |pip |colcon |ros2 (launch|run) |gld-ros \S+ "
    return [span for span in spans if re.match(starts, span)]


@pytest.mark.parametrize("page", QUICK_STARTS, ids=lambda p: p.stem)
def test_every_command_of_a_quick_start_is_in_a_block_that_runs_or_says_what_it_needs(page):
    # `make build` as the name of an environment is no step
    assert [span for span in shown_outside_of_blocks(page) if span != "make build"] == []


PYTHON_PAGES = [page for page in PAGES if "```python\n" in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda p: p.stem)
def test_python_of_a_page_runs_as_it_stands(page, tmp_path, monkeypatch, backbone_alone):
    text = page.read_text(encoding="utf-8")
    runs = [b for kind, b in BLOCK.findall(text) if kind == "python" and not b.startswith(NEEDS)]
    # What the pages speak of: a folder of photos, and fetched weights.
    (tmp_path / "photos").mkdir()
    for name in ("kitchen.jpg", "hall.jpg"):
        pixels = np.random.default_rng(len(name)).integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((160, 120)).save(tmp_path / "photos" / name)
    shutil.copytree(backbone_alone.folder, tmp_path / "data" / "bundles" / "da3-base")
    monkeypatch.setenv("GLD_ROS_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "typed.py").write_text("\n".join(runs))
    runpy.run_path("typed.py")


def commands_of(page):
    """What a page has one type on any machine, once its environment is entered."""
    text = page.read_text(encoding="utf-8")
    runs = [b for kind, b in BLOCK.findall(text) if kind == "bash" and not b.startswith(NEEDS)]
    assert runs
    return "".join(runs)


def type_into_a_shell(script, folder, said):
    """Run a script to its end; its seconds, those of processors, and whom it left behind."""
    folder.mkdir()
    started, waited_for = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with said.open("w") as output:
        process = subprocess.Popen(
            ["bash", "-ec", script],
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            assert process.wait(3000) == 0, said.read_text()[-3000:]
            ended = resource.getrusage(resource.RUSAGE_CHILDREN)
            processor_s = ended.ru_utime + ended.ru_stime
            processor_s -= waited_for.ru_utime + waited_for.ru_stime
            return time.monotonic() - started, processor_s, processes_of(process.pid)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)


def processes_of(group):
    """Command lines of what runs in a process group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            state, _, of, *_ = stat.read_text().rpartition(")")[2].split()
            if int(of) == group and state != "Z":
                found.append(stat.with_name("cmdline").read_text().replace("\0", " "))
    return found


@pytest.mark.slow
@pytest.mark.ros
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", QUICK_STARTS, ids=lambda p: p.stem)
def test_quick_start_runs_as_it_stands(page, tmp_path, own_domain):
    folder = tmp_path / "typed_here"
    seconds, processor_s, left = type_into_a_shell(commands_of(page), folder, tmp_path / "said.txt")
    print(f"{page.stem}: {seconds:.0f} s, processor {processor_s:.0f} s")
    assert left == []
    assert list(folder.iterdir())


@pytest.mark.slow
@pytest.mark.ros
@pytest.mark.timeout(3600)
def test_quick_starts_run_one_after_the_other_in_one_shell(tmp_path, own_domain):
    pages = {page.stem: page for page in QUICK_STARTS}
    named = re.findall(r"\(docs/quickstart/(\w+)\.md\)", (ROOT / "README.md").read_text())
    assert sorted(named) == sorted(pages)
    script = "".join(commands_of(pages[name]) for name in named)  # as README lists them
    said = tmp_path / "said.txt"
    _, _, left = type_into_a_shell(script, tmp_path / "typed_here", said)
    assert left == []
    assert said.read_text().count("nothing to fix") == script.count("gld-ros check")
