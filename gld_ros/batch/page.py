"""The summary of a batch as one HTML page that needs no other file: a row and a picture per bag."""

import base64
from collections.abc import Mapping
from html import escape
from pathlib import Path

from gld_ros.batch.manifest import BagRecord
from gld_ros.batch.table import COUNTS, problem_with, withheld

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
    path: Path,
    bags: Mapping[str, BagRecord],
    thumbnails: Path,
    *,
    require_metric: bool = False,
) -> None:
    """Write the page; bags with a problem come first. `thumbnails` holds NAME.jpg of each bag."""
    problems = {
        bag: problem_with(record, require_metric=require_metric) for bag, record in bags.items()
    }
    ordered = sorted(bags.items(), key=lambda item: not problems[item[0]])
    good = sum(not problem for problem in problems.values())
    totals = {name: sum(r.summary.get(name, 0) for r in bags.values()) for name in COUNTS}
    articles = [
        _article(bag, record, problems[bag], thumbnails / f"{record.name}.jpg")
        for bag, record in ordered
    ]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{good} of {len(bags)} bags</title>\n<style>{_STYLE}</style></head><body>\n"
        f"<h1>{good} of {len(bags)} bags without a problem</h1>\n"
        f'<p class="total">{totals["images"]} images, {totals["jobs"]} jobs '
        f"({totals['metric_jobs']} metric), {totals['views']} views. In the pictures: one row per "
        "kind of image, time from left to right.</p>\n"
        f"{''.join(articles)}</body></html>\n"
    )
    path.write_text(page, encoding="utf-8")


def _article(bag: str, record: BagRecord, problem: str, thumbnail: Path) -> str:
    counts = "".join(
        f"<span><b>{record.summary[name]}</b> {name.replace('_', ' ')}</span>"
        for name in COUNTS
        if name in record.summary
    )
    counts += f"<span><b>{record.seconds:.1f}</b> s</span>"
    if record.attempts > 1:
        counts += f"<span><b>{record.attempts}</b> attempts</span>"
    why = f'<div class="why">{escape(problem)}</div>' if problem else ""
    lines = "".join(f"<li>{escape(line)}</li>" for line in withheld(record.summary))
    picture = ""
    if thumbnail.is_file():
        data = base64.b64encode(thumbnail.read_bytes()).decode("ascii")
        picture = f'<img alt="images of {escape(record.name)}" src="data:image/jpeg;base64,{data}">'
    return (
        f"<article{' class=problem' if problem else ''}><div><h2>{escape(record.name)}</h2>"
        f'<div class="path">{escape(bag)}</div>{why}<div class="counts">{counts}</div>'
        f"{f'<ul>{lines}</ul>' if lines else ''}</div><div>{picture}</div></article>\n"
    )
