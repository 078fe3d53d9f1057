"""From what was typed to bags: folders, files, globs and lists; and a name for each output."""

import glob
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

BAG_SUFFIXES = (".mcap", ".db3")


def find_bags(given: Sequence[str], out: Path) -> list[Path]:
    """The bags that are meant, absolute, each once, in the order given.

    An entry is a bag, a folder that holds bags at any depth, a glob, or `@FILE` with one entry per
    line (empty lines and those that begin with # do not count). What a path without wildcards
    names is taken as it is: whether it is a good bag shows when it is run. Nothing inside `out` is
    taken. Raises ValueError for entries that hold no bag, OSError for a list that cannot be read.
    """
    bags: dict[Path, None] = {}
    out = out.absolute()
    for entry in _entries(given):
        found = [bag for bag in _bags_of(entry) if not bag.is_relative_to(out)]
        if not found:
            raise ValueError(
                f"{entry} holds no bag; a bag is a folder with metadata.yaml, or a "
                f"{' or '.join(BAG_SUFFIXES)} file"
            )
        bags.update(dict.fromkeys(found))
    if not bags:
        raise ValueError("no bags are given")
    return list(bags)


def _entries(given: Iterable[str]) -> Iterator[str]:
    for entry in given:
        if not entry.startswith("@"):
            yield entry
            continue
        lines = Path(entry[1:]).read_text(encoding="utf-8").splitlines()
        yield from (line.strip() for line in lines if line.strip() and line.strip()[0] != "#")


def _bags_of(entry: str) -> list[Path]:
    path = Path(entry).absolute()
    if path.exists():
        return _bags_below(path) if path.is_dir() else [path]
    if not glob.has_magic(entry):
        return [path]
    # Path.glob takes no absolute patterns.
    matches = [Path(m).absolute() for m in sorted(glob.glob(entry, recursive=True))]  # noqa: PTH207
    return [bag for match in matches for bag in _bags_below(match)]


def _bags_below(path: Path) -> list[Path]:
    """A bag itself, or all bags in a folder; hidden ones, which are being written, are none."""
    if not path.is_dir():
        return [path] if path.suffix in BAG_SUFFIXES else []
    if (path / "metadata.yaml").is_file():
        return [path]
    inside = [child for child in sorted(path.iterdir()) if not child.name.startswith(".")]
    return [bag for child in inside for bag in _bags_below(child)]


def output_names(bags: Sequence[Path], taken: Mapping[Path, str]) -> dict[Path, str]:
    """A name for each bag, different from all others; `taken` ones keep theirs.

    It is the bag's own name without suffix, with as many of the folders above it in front as it
    takes.
    """
    names = {bag: taken[bag] for bag in bags if bag in taken}
    used = set(taken.values())
    new = [bag for bag in bags if bag not in taken]
    for bag in new:
        stem = _stem(bag)
        others = {_stem(other) for other in new if other != bag}
        candidates = [stem, *_longer_names(bag, stem)]
        first = 1 if stem in others and len(candidates) > 1 else 0
        names[bag] = next(
            name
            for name in itertools.chain(candidates[first:], _numbered(candidates[-1]))
            if name not in used
        )
        used.add(names[bag])
    return {bag: names[bag] for bag in bags}


def _stem(bag: Path) -> str:
    return bag.stem if bag.suffix in BAG_SUFFIXES else bag.name


def _longer_names(bag: Path, stem: str) -> Iterator[str]:
    name = stem
    for folder in bag.parents:
        if not folder.name:
            return
        name = f"{folder.name}-{name}"
        yield name


def _numbered(name: str) -> Iterator[str]:
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1
