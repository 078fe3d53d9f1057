"""The summary of a batch as one HTML page without other files: a row and an image per item."""

import base64
from collections.abc import Mapping
from html import escape
from pathlib import Path

from gld_ros.batch.kind import BatchKind, problem_with
from gld_ros.batch.manifest import BatchRecord

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1250px;
       padding: 0 1rem; color: #1d232a; background: #fff; }
h1 { font-size: 1.5rem; margin: 0; }
p.total { margin: .3rem 0 1.2rem; color: #4a5560; }
article { border: 1px solid #d8dde3; border-left: 6px solid #2e8b57; border-radius: 6px;
          padding: .7rem 1rem; margin: 0 0 .8rem; display: grid; gap: .3rem 1.2rem;
          grid-template-columns: minmax(0, 1fr) auto; }
article.problem { border-left-color: #c0392b; }
h2 { font-size: 1.05rem; margin: 0; }
.path { color: #66717c; font-size: .85rem; overflow-wrap: anywhere; }
.problem .why { color: #a93226; font-weight: 600; overflow-wrap: anywhere; }
.counts { margin: .4rem 0; display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; }
.counts b { font-variant-numeric: tabular-nums; }
ul { margin: .3rem 0 0; padding-left: 1.1rem; color: #4a5560; font-size: .88rem; }
img { max-width: 460px; width: 100%; border-radius: 4px; }
@media (max-width: 800px) { article { grid-template-columns: 1fr; } }
"""


def write_page(
    path: Path, kind: BatchKind, items: Mapping[str, BatchRecord], thumbnails: Path
) -> None:
    """Write the page; items with a problem come first. `thumbnails` holds NAME.jpg of each."""
    problems = {source: problem_with(kind, record) for source, record in items.items()}
    ordered = sorted(items.items(), key=lambda item: not problems[item[0]])
    good = sum(not problem for problem in problems.values())
    done = [record.summary for record in items.values() if record.status == "done"]
    articles = [
        _article(kind, source, record, problems[source], thumbnails / f"{record.name}.jpg")
        for source, record in ordered
    ]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{good} of {len(items)} {kind.noun}s</title>\n"
        f"<style>{_STYLE}</style></head><body>\n"
        f"<h1>{good} of {len(items)} {kind.noun}s without a problem</h1>\n"
        f'<p class="total">{escape(kind.totals(done))}</p>\n'
        f"{''.join(articles)}</body></html>\n"
    )
    path.write_text(page, encoding="utf-8")


def _article(
    kind: BatchKind, source: str, record: BatchRecord, problem: str, thumbnail: Path
) -> str:
    values = [(c, record.summary[c.name]) for c in kind.columns if c.name in record.summary]
    figures = "".join(
        f'<span title="{escape(column.meaning)}"><b>{_shown(value)}</b> '
        f"{column.name.replace('_', ' ')}</span>"
        for column, value in values
        if value is not None
    )
    figures += f"<span><b>{record.seconds:.1f}</b> s</span>"
    if record.attempts > 1:
        figures += f"<span><b>{record.attempts}</b> attempts</span>"
    why = f'<div class="why">{escape(problem)}</div>' if problem else ""
    lines = "".join(f"<li>{escape(line)}</li>" for line in kind.notes(record.summary))
    image = ""
    if thumbnail.is_file():
        data = base64.b64encode(thumbnail.read_bytes()).decode("ascii")
        image = f'<img alt="images of {escape(record.name)}" src="data:image/jpeg;base64,{data}">'
    return (
        f"<article{' class=problem' if problem else ''}><div><h2>{escape(record.name)}</h2>"
        f'<div class="path">{escape(source)}</div>{why}<div class="counts">{figures}</div>'
        f"{f'<ul>{lines}</ul>' if lines else ''}</div><div>{image}</div></article>\n"
    )


def _shown(value: float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
