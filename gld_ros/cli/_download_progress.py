"""How far a download is: a bar on a terminal, a line now and then in a log."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINE_EVERY_S = 30.0


@contextmanager
def download_progress(
    name: str, total_bytes: int, have_bytes: int
) -> Iterator[Callable[[int], None]]:
    """A function to be called with the bytes that arrived since its last call."""
    from tqdm import tqdm

    bar = tqdm(
        total=total_bytes,
        initial=have_bytes,
        unit="B",
        unit_scale=True,
        desc=name,
        disable=None,  # where there is no terminal
    )
    with bar:
        yield _lines(name, total_bytes, have_bytes) if bar.disable else bar.update


def _lines(name: str, total_bytes: int, have_bytes: int) -> Callable[[int], None]:
    started_s = line_s = time.monotonic()
    have = have_bytes

    def arrived(count: int) -> None:
        nonlocal have, line_s
        have += count
        now_s = time.monotonic()
        if now_s - line_s < LINE_EVERY_S:
            return
        line_s = now_s
        bytes_per_s = max(1.0, (have - have_bytes) / (now_s - started_s))
        minutes = (total_bytes - have) / bytes_per_s / 60
        print(
            f"{name}: {have / 1e9:.2f} of {total_bytes / 1e9:.2f} GB, "
            f"{bytes_per_s / 1e6:.1f} MB/s, {minutes:.0f} min left",
            flush=True,
        )

    return arrived
