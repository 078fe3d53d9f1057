"""What a run leaves to look at: a line of JSON per step, TensorBoard events, one PNG of curves."""

import json
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from gld_ros.training.checkpoint import write_atomically


class RunLog:
    """Append-only log of scalars per number of steps done.

    Entries beyond `last_step`, left by a try that was killed after its checkpoint, are dropped.
    """

    def __init__(self, folder: Path, *, enabled: bool, last_step: int) -> None:
        self.enabled = enabled
        self.folder = folder
        if not enabled:
            return
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        self.rows = [row for row in read_metrics(path) if row["step"] <= last_step]
        text = "".join(json.dumps(row) + "\n" for row in self.rows)
        write_atomically(path, lambda temporary: temporary.write_text(text))
        self._file = path.open("a", buffering=1)
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=last_step + 1)

    def add(self, step: int, seconds: float, values: dict[str, float]) -> None:
        """Append scalars of `step`."""
        if not self.enabled or not values:
            return
        row = {"step": step, "seconds": round(seconds, 2), **values}
        self.rows.append(row)
        self._file.write(json.dumps(row) + "\n")
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def draw(self) -> None:
        """Write `curves.png` with one panel per scalar."""
        if self.enabled:
            draw_curves(self.rows, self.folder / "curves.png")

    def close(self) -> None:
        """Flush everything."""
        if self.enabled:
            self._file.close()
            self._events.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read `metrics.jsonl`; a half-written last line, left by a killed process, is ignored."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def draw_curves(rows: list[dict[str, float]], path: Path) -> None:
    """Draw every scalar of `rows` over the steps into one image."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = sorted({name for row in rows for name in row} - {"step", "seconds"})
    if not names:
        return
    columns = min(4, len(names))
    lines = -(-len(names) // columns)
    figure, axes = pyplot.subplots(
        lines, columns, figsize=(4 * columns, 2.6 * lines), squeeze=False
    )
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    for axis, name in zip(axes.flat, names, strict=False):
        points = [(row["step"], row[name]) for row in rows if name in row]
        steps, values = zip(*points, strict=True)
        axis.plot(
            steps, values, linewidth=0.8, marker="o" if len(points) < 40 else None, markersize=2
        )
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
