"""The figures of `gpu.py` as Markdown: docs/performance.md quotes from it. Owns nothing else."""

from typing import Any


def markdown(report: dict[str, Any]) -> str:
    """Tables of all parts; a part without figures is named with the reason."""
    height, width = report["image_hw"]
    lines = [
        f"{report['device']}, torch {report['torch']}, {report['size']} size, {width}x{height}, "
        f"{report['views']} views, random weights."
    ]
    for name, part in report["parts"].items():
        lines.append("")
        if part["status"] != "ok":
            lines.append(f"**{name}**: {part['status']}: {part['error']}")
            continue
        result = part["result"]
        rows = result if isinstance(result, list) else [result]
        lines += [f"**{name}** ({part['seconds']} s)", "", *_table([_flat(row) for row in rows])]
    return "\n".join(lines)


def _flat(row: dict[str, Any]) -> dict[str, str]:
    """A row's cells as text; figures by stage get a column each."""
    cells: dict[str, str] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            cells |= {f"{name}, s": _text(inner) for name, inner in value.items()}
        else:
            cells[key.replace("_", " ")] = _text(value)
    return cells


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(_text(one) for one in value)
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:,.4g}"
    return str(value).replace("\n", " ").replace("|", "/")[:300]


def _table(rows: list[dict[str, str]]) -> list[str]:
    """One line per row; columns that are empty throughout are left out."""
    columns = [c for c in dict.fromkeys(k for row in rows for k in row) if any(_column(rows, c))]
    lines = ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    return lines + ["| " + " | ".join(row.get(c, "") for c in columns) + " |" for row in rows]


def _column(rows: list[dict[str, str]], column: str) -> list[str]:
    """The cells of one column."""
    return [row.get(column, "") for row in rows]
