"""The one training loop: every job runs through `train`.

Owns optimisation, skipping of bad batches, averaging, checkpoints, the wall-clock guard and
logging. What is learned, and from which data, belongs to the stages in `stages/`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import signal
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from gld_ros.training.checkpoint import (
    load_checkpoint,
    random_states,
    restore_random_states,
    save_checkpoint,
)
from gld_ros.training.config import RunConfig
from gld_ros.training.curves import RunLog
from gld_ros.training.distributed import Ranks, all_ranks_agree, mean_over_ranks
from gld_ros.training.ema import ParameterAverage
from gld_ros.training.environment import choose_precision, log_environment
from gld_ros.training.schedule import learning_rate

log = logging.getLogger(__name__)

MAX_CONSECUTIVE_SKIPS = 50


class TrainingFailed(RuntimeError):
    """Training cannot go on; the last checkpoint is intact."""


class Stage(nn.Module):
    """One training job: parameters, batches, loss, validation and what it leaves behind.

    Trained are the parameters with `requires_grad`. `batch` must be a pure function of its
    arguments, so that a resumed run repeats what an uninterrupted one would have done.
    """

    def batch(self, step: int, samples: range) -> dict[str, Any]:
        """Return samples `samples` (positions in the global batch) of `step`, on the device."""
        raise NotImplementedError

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return scalar losses; the one named `loss` is minimised, the others are logged."""
        raise NotImplementedError

    def validate(self) -> dict[str, float]:
        """Return figures on held-out data, with averaged parameters in place."""
        return {}

    def export(self, folder: Path) -> None:
        """Write the trained part into bundle folder `folder`, averaged parameters in place."""
        raise NotImplementedError


@dataclass
class Progress:
    """How far a run has come; stored in every checkpoint."""

    step: int = 0
    skipped_batches: int = 0
    dropped_steps: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What `train` returns: the final progress and whether all steps were done."""

    progress: Progress
    finished: bool
    figures: dict[str, float]


class _StopRequest:
    """Turns SIGTERM and SIGINT into a flag that the loop reads between steps."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> _StopRequest:
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._previous[number] = signal.signal(number, self._handle)
            except ValueError:  # not the main thread: the caller handles signals
                break
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def train(
    stage: Stage,
    config: RunConfig,
    folder: Path,
    *,
    device: torch.device,
    ranks: Ranks | None = None,
    max_minutes: float = math.inf,
    stop_at_step: int | None = None,
) -> Outcome:
    """Run or resume `stage` in `folder` until its steps or the wall-clock guard end.

    `folder` receives `last.pt`, `metrics.jsonl`, `curves.png`, TensorBoard events and the
    exported bundle part. Raises CheckpointError when `last.pt` belongs to another
    configuration, TrainingFailed when no usable batch comes any more.
    """
    ranks = ranks or Ranks(rank=0, size=1)
    precision = choose_precision(config.precision, device)
    if ranks.is_first:
        log_environment(device, precision)
    parameters = [p for p in stage.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters,
        lr=config.optimizer.learning_rate,
        betas=config.optimizer.betas,
        weight_decay=config.optimizer.weight_decay,
        fused=True,
    )
    average = ParameterAverage(stage, config.optimizer.ema_decay)
    progress = Progress()
    checkpoint = folder / "last.pt"
    plain_config = dataclasses.asdict(config)
    if checkpoint.exists():
        progress = _resume(checkpoint, plain_config, stage, optimizer, average)
        log.info("resumed %s at step %d", checkpoint, progress.step)
    model: nn.Module = stage
    if ranks.size > 1:
        model = DistributedDataParallel(stage, find_unused_parameters=True)

    run_log = RunLog(folder, enabled=ranks.is_first, first_step=progress.step)
    started = time.monotonic()
    earlier_seconds = progress.seconds
    last_saved = started
    consecutive_skips = 0
    last_step = min(config.steps, stop_at_step if stop_at_step is not None else config.steps)
    bar = tqdm(
        total=config.steps, initial=progress.step, desc=config.stage, disable=not ranks.is_first
    )
    figures: dict[str, float] = {}

    def save() -> None:
        if ranks.is_first:
            state = _state(progress, plain_config, stage, optimizer, average)
            save_checkpoint(checkpoint, state)

    with _StopRequest() as stop:
        while progress.step < last_step:
            losses = _step(model, stage, optimizer, parameters, progress, config, ranks, precision)
            progress.seconds = earlier_seconds + time.monotonic() - started
            if losses is None:
                consecutive_skips += 1
                if consecutive_skips >= MAX_CONSECUTIVE_SKIPS:
                    raise TrainingFailed(
                        f"{consecutive_skips} batches in a row had a non-finite loss, one above "
                        f"{config.max_loss}, or non-finite gradients; lower the learning rate or "
                        f"inspect the data. {checkpoint} holds the last good state."
                    )
            else:
                consecutive_skips = 0
                average.update(stage)
                run_log.add(progress.step, progress.seconds, losses)
                bar.set_postfix(loss=f"{losses['loss']:.4f}", refresh=False)
            progress.step += 1
            bar.update()
            now = time.monotonic()
            out_of_time = now - started > max_minutes * 60
            if progress.step % config.validate_every == 0 or progress.step == config.steps:
                figures = _validate(stage, average, ranks)
                run_log.add(progress.step, progress.seconds, figures)
                run_log.draw()
            if now - last_saved > config.checkpoint_minutes * 60:
                save()
                last_saved = now
            if not all_ranks_agree(not (out_of_time or stop.requested), ranks, device):
                break
    bar.close()
    save()
    run_log.close()
    finished = progress.step >= config.steps
    if ranks.is_first:
        average.swap(stage)
        stage.export(folder / "export")
        average.swap(stage)
        if not finished:
            log.info(
                "stopped at step %d of %d; run the same command to go on",
                progress.step,
                config.steps,
            )
    return Outcome(progress, finished, figures)


def _step(
    model: nn.Module,
    stage: Stage,
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
    progress: Progress,
    config: RunConfig,
    ranks: Ranks,
    precision: Any,
) -> dict[str, float] | None:
    """Do one optimiser step; return its mean losses, or None when it was skipped on all ranks."""
    rate = learning_rate(
        progress.step,
        peak=config.optimizer.learning_rate,
        warmup_steps=config.optimizer.warmup_steps,
        total_steps=config.steps,
        final_fraction=config.optimizer.final_fraction,
    )
    for group in optimizer.param_groups:
        group["lr"] = rate
    stage.train()
    optimizer.zero_grad(set_to_none=True)
    device = parameters[0].device
    totals: dict[str, float] = {}
    share = ranks.share(config.batch_size)
    micro_size = len(share) // config.accumulation
    for micro in range(config.accumulation):
        samples = share[micro * micro_size : (micro + 1) * micro_size]
        is_last = micro == config.accumulation - 1
        wait = (
            nullcontext()
            if is_last or not isinstance(model, DistributedDataParallel)
            else model.no_sync()
        )
        batch = stage.batch(progress.step, samples)
        autocast = (
            torch.autocast(device.type, precision.autocast_dtype)
            if precision.autocast_dtype is not None
            else nullcontext()
        )
        with wait:
            with autocast:
                losses = model(batch)
            loss = losses["loss"]
            good = bool(torch.isfinite(loss)) and float(loss.detach()) <= config.max_loss
            if not all_ranks_agree(good, ranks, device):
                progress.skipped_batches += 1
                log.warning("step %d: loss %g, batch skipped", progress.step, float(loss.detach()))
                return None
            (loss / config.accumulation).backward()
        for name, value in losses.items():
            totals[name] = totals.get(name, 0.0) + float(value.detach()) / config.accumulation
    norm = torch.nn.utils.clip_grad_norm_(parameters, config.optimizer.clip_norm)
    if not all_ranks_agree(bool(torch.isfinite(norm)), ranks, device):
        progress.dropped_steps += 1
        log.warning("step %d: gradients are not finite, step dropped", progress.step)
        return None
    if float(norm) > 10 * config.optimizer.clip_norm:
        log.debug("step %d: gradient norm %.1f", progress.step, float(norm))
    optimizer.step()
    totals = mean_over_ranks(totals, ranks, device)
    return {**totals, "gradient_norm": float(norm), "learning_rate": rate}


def _validate(stage: Stage, average: ParameterAverage, ranks: Ranks) -> dict[str, float]:
    if not ranks.is_first:
        return {}
    average.swap(stage)
    stage.eval()
    with torch.no_grad():
        figures = stage.validate()
    average.swap(stage)
    if figures:
        log.info("validation: %s", json.dumps({k: round(v, 4) for k, v in figures.items()}))
    return {f"validation/{name}": value for name, value in figures.items()}


def _state(
    progress: Progress,
    config: dict[str, Any],
    stage: Stage,
    optimizer: torch.optim.Optimizer,
    average: ParameterAverage,
) -> dict[str, Any]:
    trained = {n: p.detach() for n, p in stage.named_parameters() if p.requires_grad}
    return {
        "config": config,
        "progress": dataclasses.asdict(progress),
        "model": trained,
        "ema": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": random_states(),
    }


def _resume(
    path: Path,
    config: dict[str, Any],
    stage: Stage,
    optimizer: torch.optim.Optimizer,
    average: ParameterAverage,
) -> Progress:
    state = load_checkpoint(path, config=config)
    with torch.no_grad():
        for name, parameter in stage.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(state["model"][name])
    optimizer.load_state_dict(state["optimizer"])
    average.load_state_dict(state["ema"])
    restore_random_states(state["random"])
    return Progress(**state["progress"])
