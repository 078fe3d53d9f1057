"""Writes the module index of docs/architecture.md: one line per module, from its docstring.

python tools/module_index.py           prints the index
python tools/module_index.py --write   puts it into docs/architecture.md
"""

import argparse
import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN = "<!-- module index: python tools/module_index.py --write -->\n"


def first_line(module: Path) -> str:
    """Return the first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n", 1)[0].split()).replace("|", "\\|")


def index(root: Path = ROOT) -> str:
    """Return the index as Markdown: a table per folder, files in order of name."""
    folders: dict[str, list[Path]] = {}
    for module in sorted((root / "gld_ros").rglob("*.py")):
        if module.name != "__init__.py" and "fixtures" not in module.parts:
            folders.setdefault(module.parent.relative_to(root).as_posix(), []).append(module)
    sections = []
    for folder, modules in sorted(folders.items()):
        about = first_line(root / folder / "__init__.py") if folder != "gld_ros" else ""
        rows = "\n".join(f"| `{m.name}` | {first_line(m)} |" for m in modules)
        title = f"### {folder}/\n\n" + (f"{about}\n\n" if about else "")
        sections.append(f"{title}| module | what it owns |\n| --- | --- |\n{rows}\n")
    return "\n".join(sections)


def page_with_index(page: str) -> str:
    """Return the page with everything behind the marker replaced by the index."""
    return page.split(BEGIN)[0] + BEGIN + "\n" + index()


def main() -> int:
    """Print or write the index."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="update docs/architecture.md")
    if parser.parse_args().write:
        PAGE.write_text(page_with_index(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(index())
    return 0


if __name__ == "__main__":
    sys.exit(main())
