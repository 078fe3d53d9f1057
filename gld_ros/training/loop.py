"""The one training loop: every job runs through `train`.

Owns optimisation, skipping of bad batches, averaging, checkpoints, the wall-clock guard and
logging. What is learned, and from which data, belongs to the stages in `stages/`.
"""

import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from gld_ros.training.checkpoint import (
    CheckpointError,
    load_checkpoint,
    random_states,
    restore_random_states,
    save_checkpoint,
)
from gld_ros.training.config import RunConfig
from gld_ros.training.curves import RunLog
from gld_ros.training.data import BadBatch
from gld_ros.training.distributed import Ranks, all_ranks_agree, mean_over_ranks
from gld_ros.training.ema import ParameterAverage
from gld_ros.training.environment import Precision, choose_precision, log_environment
from gld_ros.training.run_lock import run_folder_lock
from gld_ros.training.schedule import learning_rate
from gld_ros.training.sharding import placed_like, shard_modules, whole, whole_state
from gld_ros.training.stop_request import StopRequest

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

    def trained_modules(self) -> dict[str, nn.Module]:
        """Return what the run leaves behind, by the names under which `export` gets it."""
        raise NotImplementedError

    def export(self, folder: Path, tensors: dict[str, dict[str, Tensor]]) -> None:
        """Write state dicts of the trained modules, parameters averaged, into `folder`."""
        raise NotImplementedError

    def sharding_units(self) -> list[nn.Module]:
        """Return the modules that FSDP gathers one at a time, inner ones first; none: no FSDP."""
        return []

    def after_step(self, step: int, batch: dict[str, Any]) -> dict[str, float]:
        """Train what is not part of the optimised loss (an adversary); return scalars to log."""
        return {}

    def extra_state(self) -> dict[str, Any]:
        """Return what `after_step` changes, for the checkpoint."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Undo `extra_state`."""

    def data_counters(self) -> dict[str, float]:
        """Return how many samples the data could not give so far, by reason."""
        return {}


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


def train(
    stage: Stage,
    config: RunConfig,
    folder: Path,
    *,
    device: torch.device,
    ranks: Ranks | None = None,
    max_minutes: float = math.inf,
    stop_at_step: int | None = None,
    after_step: Callable[[int], None] = lambda step: None,
) -> Outcome:
    """Run or resume `stage` in `folder` until its steps or the wall-clock guard end.

    `folder` receives `last.pt`, `metrics.jsonl`, `curves.png`, TensorBoard events and the
    exported bundle part; `after_step` gets the number of finished steps. Raises CheckpointError
    when `last.pt` belongs to another configuration or is damaged, RunFolderInUse when another
    process trains there, TrainingFailed when no usable batch comes any more.
    """
    ranks = ranks or Ranks(rank=0, size=1)
    with run_folder_lock(folder, ranks, device):
        return _train(stage, config, folder, device, ranks, max_minutes, stop_at_step, after_step)


def _train(
    stage: Stage,
    config: RunConfig,
    folder: Path,
    device: torch.device,
    ranks: Ranks,
    max_minutes: float,
    stop_at_step: int | None,
    after_step: Callable[[int], None],
) -> Outcome:
    precision = choose_precision(config.precision, device)
    if ranks.is_first:
        log_environment(device, precision)
    sharded = ranks.size > 1 and config.distributed == "fsdp"
    if sharded:
        shard_modules(stage.sharding_units(), _trained(stage), ranks, device)
    optimizer = torch.optim.AdamW(
        _trained(stage).values(),
        lr=config.optimizer.learning_rate,
        betas=config.optimizer.betas,
        weight_decay=config.optimizer.weight_decay,
        fused=not sharded,
    )
    run = _Run(stage, config, ranks, device, optimizer)
    run.average = ParameterAverage(stage, config.optimizer.ema_decay)
    run.checkpoint = folder / "last.pt"
    found = run.checkpoint.exists()
    if all_ranks_agree(found, ranks, device):
        run.resume()
        log.info("resumed %s at step %d", run.checkpoint, run.progress.step)
    elif not all_ranks_agree(not found, ranks, device):
        raise CheckpointError(
            f"only some processes see {run.checkpoint}; the run folder must be on a disk that all "
            "machines share"
        )
    if ranks.size > 1 and not sharded:
        run.model = DistributedDataParallel(stage, find_unused_parameters=True)
    run_log = RunLog(folder, enabled=ranks.is_first, last_step=run.progress.step)
    try:
        figures = run.steps(run_log, precision, max_minutes, stop_at_step, after_step)
    finally:
        run_log.close()
    run.average.swap(stage)
    tensors = {name: whole_state(module) for name, module in stage.trained_modules().items()}
    if ranks.is_first:
        stage.export(folder / "export", tensors)
    run.average.swap(stage)
    all_ranks_agree(True, ranks, device)  # nobody leaves before the files are there
    finished = run.progress.step >= config.steps
    if ranks.is_first and not finished:
        log.info(
            "stopped at step %d of %d; run the same command to go on",
            run.progress.step,
            config.steps,
        )
    return Outcome(run.progress, finished, figures)


def _trained(stage: Stage) -> dict[str, nn.Parameter]:
    return {name: p for name, p in stage.named_parameters() if p.requires_grad}


class _Run:
    """The changing state of one call of `train`."""

    average: ParameterAverage
    checkpoint: Path

    def __init__(
        self,
        stage: Stage,
        config: RunConfig,
        ranks: Ranks,
        device: torch.device,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self.stage, self.config, self.ranks, self.device = stage, config, ranks, device
        self.optimizer = optimizer
        self.model: nn.Module = stage
        self.progress = Progress()

    def steps(
        self,
        run_log: RunLog,
        precision: Precision,
        max_minutes: float,
        stop_at_step: int | None,
        after_step: Callable[[int], None],
    ) -> dict[str, float]:
        """Step until the end, the deadline or a signal, then save; return the last validation."""
        config, progress, ranks = self.config, self.progress, self.ranks
        started = last_saved = time.monotonic()
        earlier_seconds = progress.seconds
        consecutive_skips = 0
        last_step = min(config.steps, config.steps if stop_at_step is None else stop_at_step)
        figures: dict[str, float] = {}
        with (
            StopRequest() as stop,
            tqdm(
                total=config.steps,
                initial=progress.step,
                desc=config.stage,
                disable=None if ranks.is_first else True,
            ) as bar,
        ):
            while progress.step < last_step:
                losses = self.step(precision)
                progress.step += 1
                progress.seconds = earlier_seconds + time.monotonic() - started
                consecutive_skips = consecutive_skips + 1 if losses is None else 0
                if consecutive_skips >= MAX_CONSECUTIVE_SKIPS:
                    raise TrainingFailed(
                        f"{consecutive_skips} batches in a row were unusable, or had a non-finite "
                        f"loss, one above {config.max_loss:g}, or non-finite gradients; lower the "
                        f"learning rate or inspect the data. {self.checkpoint} holds the last good "
                        "state."
                    )
                if losses is not None:
                    self.average.update(self.stage)
                    run_log.add(progress.step, progress.seconds, losses)
                    bar.set_postfix(loss=f"{losses['loss']:.4f}", refresh=False)
                bar.update()
                after_step(progress.step)
                if progress.step % config.validate_every == 0 or progress.step == config.steps:
                    figures = self.validate()
                    run_log.add(progress.step, progress.seconds, figures)
                    run_log.draw()
                now = time.monotonic()
                if now - last_saved > config.checkpoint_minutes * 60:
                    self.save()
                    last_saved = now
                out_of_time = now - started > max_minutes * 60
                if not all_ranks_agree(not (out_of_time or stop.requested), ranks, self.device):
                    break
        self.save()
        run_log.draw()
        return figures

    def step(self, precision: Precision) -> dict[str, float] | None:
        """Do one optimiser step; return mean losses, or None when skipped on all ranks."""
        config, progress, ranks = self.config, self.progress, self.ranks
        rate = learning_rate(
            progress.step,
            peak=config.optimizer.learning_rate,
            warmup_steps=config.optimizer.warmup_steps,
            total_steps=config.steps,
            final_fraction=config.optimizer.final_fraction,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.stage.train()
        self.optimizer.zero_grad(set_to_none=True)
        totals: dict[str, float] = {}
        batch: dict[str, Any] | None = None
        share = ranks.share(config.batch_size)
        size = len(share) // config.accumulation
        for micro in range(config.accumulation):
            is_last = micro == config.accumulation - 1
            batch = self._batch(share[micro * size : (micro + 1) * size])
            if batch is None:
                return None
            ddp = self.model if isinstance(self.model, DistributedDataParallel) else None
            with nullcontext() if is_last or ddp is None else ddp.no_sync():
                with precision.autocast(self.device):
                    losses = self.model(batch)
                loss = losses["loss"]
                good = bool(torch.isfinite(loss)) and float(loss.detach()) <= config.max_loss
                if not all_ranks_agree(good, ranks, self.device):
                    progress.skipped_batches += 1
                    log.warning(
                        "step %d: loss %g, batch skipped", progress.step, float(loss.detach())
                    )
                    return None
                (loss / config.accumulation).backward()
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + float(value.detach()) / config.accumulation
        trained = list(_trained(self.stage).values())
        norm = float(whole(nn.utils.clip_grad_norm_(trained, config.optimizer.clip_norm)))
        if not all_ranks_agree(math.isfinite(norm), ranks, self.device):
            progress.dropped_steps += 1
            log.warning("step %d: gradients are not finite, step dropped", progress.step)
            return None
        if norm > 10 * config.optimizer.clip_norm:
            log.debug("step %d: gradient norm %.1f", progress.step, norm)
        self.optimizer.step()
        if batch is not None:
            totals |= self.stage.after_step(progress.step, batch)
        totals = mean_over_ranks(totals, ranks, self.device)
        return {**totals, "gradient_norm": norm, "learning_rate": rate}

    def _batch(self, samples: range) -> dict[str, Any] | None:
        """Return a batch, or None on all ranks when one of them could not form it."""
        batch = None
        try:
            batch = self.stage.batch(self.progress.step, samples)
        except BadBatch as error:
            log.warning("step %d: batch skipped: %s", self.progress.step, error)
        if not all_ranks_agree(batch is not None, self.ranks, self.device):
            self.progress.skipped_batches += 1
            return None
        return batch

    def validate(self) -> dict[str, float]:
        """Validate with averaged parameters; sharded ones need every process for that."""
        if not self.ranks.is_first and self.config.distributed != "fsdp":
            return {}
        self.average.swap(self.stage)
        self.stage.eval()
        with torch.no_grad():
            figures = self.stage.validate()
        self.average.swap(self.stage)
        counters = {f"data/{name}": count for name, count in self.stage.data_counters().items()}
        if self.ranks.is_first and figures:
            shown = json.dumps({name: round(value, 4) for name, value in figures.items()})
            log.info("validation: %s", shown)
        return {**{f"validation/{name}": value for name, value in figures.items()}, **counters}

    def save(self) -> None:
        """Write the checkpoint; every process takes part in gathering sharded tensors."""
        state = {
            "config": dataclasses.asdict(self.config),
            "progress": dataclasses.asdict(self.progress),
            "model": {name: whole(p.detach()) for name, p in _trained(self.stage).items()},
            "ema": {"updates": self.average.updates, "shadow": whole(self.average.shadow)},
            "optimizer": whole(self.optimizer.state_dict()),
            "extra": self.stage.extra_state(),
            "random": random_states(),
        }
        if self.ranks.is_first:
            save_checkpoint(self.checkpoint, state)

    def resume(self) -> None:
        """Read the checkpoint; raises CheckpointError when it does not fit this run."""
        state = load_checkpoint(self.checkpoint, config=dataclasses.asdict(self.config))
        trained = _trained(self.stage)
        different = [
            name
            for name in sorted(trained.keys() | state["model"].keys())
            if name not in trained
            or name not in state["model"]
            or trained[name].shape != state["model"][name].shape
        ]
        if different:
            raise CheckpointError(
                f"{self.checkpoint} belongs to a model of other sizes; differing: "
                f"{', '.join(different[:5])}{' ...' if len(different) > 5 else ''}"
            )
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(placed_like(state["model"][name], parameter))
                shadow = self.average.shadow[name]
                shadow.copy_(placed_like(state["ema"]["shadow"][name], shadow))
        self.average.updates = state["ema"]["updates"]
        for entry, parameter in zip(
            state["optimizer"]["state"].values(), trained.values(), strict=False
        ):
            for key in ("exp_avg", "exp_avg_sq"):
                entry[key] = placed_like(entry[key], parameter)
        self.optimizer.load_state_dict(state["optimizer"])
        self.stage.load_extra_state(state.get("extra", {}))
        restore_random_states(state["random"])
        self.progress = Progress(**state["progress"])
