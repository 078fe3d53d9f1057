"""Bags one after the other in this process, without a cluster."""

import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence

from gld_ros.batch.work import BagOutcome, BagTask, BagWork, WorkerUnusable

log = logging.getLogger(__name__)


def run_here(tasks: Sequence[BagTask], work: BagWork) -> Iterator[BagOutcome]:
    """Run the bags in order. Raises what `work.load` raises, and WorkerUnusable."""
    work.load()
    for task in tasks:
        yield run_task(task, work)


def run_task(task: BagTask, work: BagWork) -> BagOutcome:
    """Run one bag; its failure is its outcome. Raises WorkerUnusable."""
    worker = f"{socket.gethostname()}:{os.getpid()}"
    started = time.monotonic()
    reason, summary = "", {}
    try:
        summary = work.run(task)
    except WorkerUnusable:
        raise
    except (ValueError, OSError, RuntimeError) as error:  # said to the user in their own words
        reason = str(error) or type(error).__name__
    except Exception as error:  # one bag must not end the others
        log.debug("bag %s", task.bag, exc_info=True)
        reason = f"{type(error).__name__}: {error}"
    return BagOutcome(task, reason, summary, time.monotonic() - started, worker=worker)
