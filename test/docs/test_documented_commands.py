"""What documents tell people to type is accepted, links lead somewhere, quick starts run."""

import contextlib
import os
import re
import resource
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

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


def still_running_s(group):
    """Processor time of the processes of a group, such as a node in the background."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
@pytest.mark.ros
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", QUICK_STARTS, ids=lambda p: p.stem)
def test_quick_start_runs_as_it_stands(page, tmp_path, own_domain):
    runs = [
        block
        for kind, block in BLOCK.findall(page.read_text(encoding="utf-8"))
        if kind == "bash" and not block.startswith(NEEDS)
    ]
    assert runs
    script = "\n".join(["set -e", *runs])
    said, folder = tmp_path / "said.txt", tmp_path / "typed_here"
    folder.mkdir()
    started, waited_for = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with said.open("w") as output:
        process = subprocess.Popen(
            ["bash", "-c", script],
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            assert process.wait(1500) == 0, said.read_text()[-3000:]
            ended = resource.getrusage(resource.RUSAGE_CHILDREN)
            processor_s = ended.ru_utime + ended.ru_stime + still_running_s(process.pid)
            processor_s -= waited_for.ru_utime + waited_for.ru_stime
            print(f"{page.stem}: {time.monotonic() - started:.0f} s, processor {processor_s:.0f} s")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)  # what it started in the background
    assert list(folder.iterdir())
