"""From what was typed to items: bags, recordings and addresses of scenes; a name for each output.

An item is named by its source: an absolute path, or an address such as rooms:narrow:64.
"""

import glob
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

BAG_SUFFIXES = (".mcap", ".db3")
# Files that make a folder a recording or a store (`scenes.folders`, `scenes.store`).
BAG_MARK, SCENE_MARK, STORE_MARK = "metadata.yaml", "cameras.json", "store.json"
PATHLESS = "rooms"  # the head of addresses that name no file

_IsItem = Callable[[Path], bool]


def find_bags(given: Sequence[str], out: Path) -> list[str]:
    """The bags that are meant, absolute, each once, in the order given.

    An entry is a bag, a folder that holds bags at any depth, a glob, or `@FILE` with one entry per
    line (empty lines and those that begin with # do not count). What a path without wildcards
    names is taken as it is: whether it is a good bag shows when it is run. Nothing inside `out` is
    taken. Raises ValueError for entries that hold no bag, OSError for a list that cannot be read.
    """
    wanted = f"a bag is a folder with {BAG_MARK}, or a {' or '.join(BAG_SUFFIXES)} file"
    return _find(given, out, _is_bag, "bag", wanted)


def find_recordings(given: Sequence[str], out: Path) -> list[str]:
    """As `find_bags`, of bags and scene folders."""
    wanted = f"one is a bag, or a scene folder with {SCENE_MARK}"
    return _find(given, out, _is_recording, "recording", wanted)


def find_held_out(given: Sequence[str], out: Path, heads: Iterable[str]) -> list[str]:
    """As `find_recordings`, of stores and of addresses HEAD:REST with one of the heads as well."""
    heads = tuple(f"{head}:" for head in heads)
    wanted = (
        f"give bags, scene folders with {SCENE_MARK}, stores with {STORE_MARK}, or one of "
        f"{', '.join(heads)}"
    )
    return _find(
        given,
        out,
        lambda path: _is_recording(path) or _has(path, STORE_MARK),
        "scene",
        wanted,
        heads,
    )


def source_path(source: str) -> Path | None:
    """The path of an item whose change asks for another run; None where it has none."""
    if source.startswith("/"):
        return Path(source)
    parts = _split_address(source)
    return parts and parts[1]


def output_names(sources: Sequence[str], taken: Mapping[str, str]) -> dict[str, str]:
    """A name for each item, different from all others; `taken` ones keep theirs.

    It is the file's own name without suffix, with as many of the folders above it in front as it
    takes; of an address, its words.
    """
    names = {source: taken[source] for source in sources if source in taken}
    used = set(taken.values())
    new = [source for source in sources if source not in taken]
    for source in new:
        stem = _stem(source)
        others = {_stem(other) for other in new if other != source}
        candidates = [stem, *_longer_names(source, stem)]
        first = 1 if stem in others and len(candidates) > 1 else 0
        names[source] = next(
            name
            for name in itertools.chain(candidates[first:], _numbered(candidates[-1]))
            if name not in used
        )
        used.add(names[source])
    return {source: names[source] for source in sources}


def _find(
    given: Sequence[str],
    out: Path,
    is_item: _IsItem,
    noun: str,
    wanted: str,
    heads: tuple[str, ...] = (),
) -> list[str]:
    items: dict[str, None] = {}
    out = out.absolute()
    for entry in _entries(given):
        if heads and entry.startswith(heads):
            parts = _split_address(entry)
            items["".join(map(str, parts)) if parts else entry] = None
            continue
        found = [path for path in _items_of(entry, is_item) if not path.is_relative_to(out)]
        if not found:
            raise ValueError(f"{entry} holds no {noun}; {wanted}")
        items.update(dict.fromkeys(str(path) for path in found))
    if not items:
        raise ValueError(f"no {noun}s are given")
    return list(items)


def _entries(given: Iterable[str]) -> Iterator[str]:
    for entry in given:
        if not entry.startswith("@"):
            yield entry
            continue
        lines = Path(entry[1:]).read_text(encoding="utf-8").splitlines()
        yield from (line.strip() for line in lines if line.strip() and line.strip()[0] != "#")


def _items_of(entry: str, is_item: _IsItem) -> list[Path]:
    path = Path(entry).absolute()
    if path.exists():
        return _items_below(path, is_item) if path.is_dir() else [path]
    if not glob.has_magic(entry):
        return [path]
    # Path.glob takes no absolute patterns.
    matches = [Path(m).absolute() for m in sorted(glob.glob(entry, recursive=True))]  # noqa: PTH207
    return [found for match in matches for found in _items_below(match, is_item)]


def _items_below(path: Path, is_item: _IsItem) -> list[Path]:
    """An item itself, or all in a folder; hidden ones, which are being written, are none."""
    if is_item(path):
        return [path]
    if not path.is_dir():
        return []
    inside = [child for child in sorted(path.iterdir()) if not child.name.startswith(".")]
    return [found for child in inside for found in _items_below(child, is_item)]


def _is_bag(path: Path) -> bool:
    return _has(path, BAG_MARK) if path.is_dir() else path.suffix in BAG_SUFFIXES


def _is_recording(path: Path) -> bool:
    return _is_bag(path) or _has(path, SCENE_MARK)


def _has(path: Path, mark: str) -> bool:
    return path.is_dir() and (path / mark).is_file()


def _split_address(address: str) -> tuple[str, Path, str] | None:
    """HEAD:, the existing path and what follows it (:COUNT, ?OPTIONS); None where there is none."""
    head, _, rest = address.partition(":")
    if head == PATHLESS:
        return None
    for typed in (rest, rest.rpartition(":")[0], rest.partition("?")[0]):
        if typed and (path := Path(typed).expanduser()).exists():
            return f"{head}:", path.absolute(), rest.removeprefix(typed)
    return None


def _stem(source: str) -> str:
    if not source.startswith("/"):
        return re.sub(r"[^\w.]+", "-", source).strip("-")
    path = Path(source)
    return path.stem if path.suffix in BAG_SUFFIXES else path.name


def _longer_names(source: str, stem: str) -> Iterator[str]:
    name = stem
    for folder in Path(source).parents if source.startswith("/") else ():
        if not folder.name:
            return
        name = f"{folder.name}-{name}"
        yield name


def _numbered(name: str) -> Iterator[str]:
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1
