"""Items of a batch one after the other in this process, without a cluster."""

import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence

from gld_ros.batch.work import BatchOutcome, BatchTask, BatchWork, WorkerUnusable

log = logging.getLogger(__name__)


def run_here(tasks: Sequence[BatchTask], work: BatchWork) -> Iterator[BatchOutcome]:
    """Run the items in order. Raises what `work.load` raises, and WorkerUnusable."""
    work.load()
    for task in tasks:
        yield run_task(task, work)


def run_task(task: BatchTask, work: BatchWork) -> BatchOutcome:
    """Run one item; its failure is its outcome. Raises WorkerUnusable."""
    worker = f"{socket.gethostname()}:{os.getpid()}"
    started = time.monotonic()
    reason, summary = "", {}
    try:
        summary = work.run(task)
    except WorkerUnusable:
        raise
    except (ValueError, OSError, RuntimeError) as error:  # said to the user in their own words
        reason = str(error) or type(error).__name__
    except Exception as error:  # one item must not end the others
        log.debug("%s", task.source, exc_info=True)
        reason = f"{type(error).__name__}: {error}"
    return BatchOutcome(task, reason, summary, time.monotonic() - started, worker=worker)
