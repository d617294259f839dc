# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The training itself, through TRL's trainers: resumed where it was, told as it goes, stopped in order.

What is trained on comes from `prepare.py`, what the libraries are told from `arguments.py`; the result is written by
`save.py`.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from peft import LoraConfig, prepare_model_for_kbit_training
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from trl import DPOTrainer, SFTTrainer

from kaito.api.contracts import TuneProgress
from kaito.api.names import REASON_TUNING_DIVERGED
from kaito.api.training import TrainingOptions
from kaito.runtime.failure import Failed
from kaito.runtime.tune.arguments import Arguments, first_line, lora_config
from kaito.runtime.tune.checkpoints import mark_whole
from kaito.runtime.tune.job import Job, Point
from kaito.runtime.tune.options import bad
from kaito.runtime.tune.prepare import Split
from kaito.runtime.tune.progress import Teller, say
from kaito.runtime.tune.targets import NoSuchLayer, derive, named
from kaito.runtime.tune.together import agreed, collect_random_state, shared_checkpoint

GIB = 1024**3
MOVING = 0.1
"""Weight of the newest step in the mean speed that the remaining time is told from."""


class Stopped(Exception):
    """The training was asked to stop, and a checkpoint was written."""


@dataclass(slots=True)
class Watcher(TrainerCallback):  # type: ignore[misc]
    """Tells how far the training is, has checkpoints written in time, and stops it when asked."""

    teller: Teller
    checkpoint_s: float
    rows: int
    notes: list[str] = field(default_factory=list)
    patience: tuple[int, float] | None = None
    """How many evaluations in a row may show no improvement, and of how much."""
    points: list[Point] = field(default_factory=list)
    stop: bool = False
    tokens_per_second: float | None = None
    _loss: float | None = None
    _eval_loss: float | None = None
    _saved_at: float = field(default_factory=time.monotonic)
    _step_at: float = field(default_factory=time.monotonic)
    _step_s: float | None = None
    _tokens: float = 0.0
    _began: tuple[float, float] | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Take over what earlier runs logged, so that the curve is whole."""
        self._saved_at = self._step_at = time.monotonic()
        self.points = [
            Point(step=int(entry["step"]), loss=entry.get("loss"), eval_loss=entry.get("eval_loss"))
            for entry in state.log_history
            if "loss" in entry or "eval_loss" in entry
        ]
        for point in self.points:
            self._loss = self._loss if point.loss is None else point.loss
            self._eval_loss = self._eval_loss if point.eval_loss is None else point.eval_loss
        self._tell(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Measure the step, and ask for a checkpoint when it is due."""
        now = time.monotonic()
        took, self._step_at = now - self._step_at, now
        self._step_s = took if self._step_s is None else (1 - MOVING) * self._step_s + MOVING * took
        is_last = state.global_step >= state.max_steps
        is_due = state.is_world_process_zero and now - self._saved_at >= self.checkpoint_s and not is_last
        self.stop, is_due = agreed(self.stop, is_due)
        if self.stop or is_due:
            control.should_save = True
        if self.stop and not is_last:
            control.should_training_stop = True
        self._tell(state)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
        logs: Mapping[str, Any] | None = None, **_: Any,
    ) -> None:  # fmt: skip
        """Note losses; a loss that is no number ends the training."""
        logs = logs or {}
        if "loss" in logs or "eval_loss" in logs:
            self._loss = logs.get("loss", self._loss)
            self._eval_loss = logs.get("eval_loss", self._eval_loss)
            self.points.append(Point(step=state.global_step, loss=logs.get("loss"), eval_loss=logs.get("eval_loss")))
        self._note_speed(logs)
        loss = logs.get("loss")
        if isinstance(loss, float) and not math.isfinite(loss):
            what = f"The loss is {loss} at step {state.global_step}."
            step = "Lower TrainingArguments.learning_rate, or set max_grad_norm."
            raise Failed(REASON_TUNING_DIVERGED, what, step)
        self._tell(state)

    def _note_speed(self, logs: Mapping[str, Any]) -> None:
        tokens, now = logs.get("num_tokens"), time.monotonic()
        if tokens is None:
            return
        if self._began is None:
            self._began = (float(tokens), now)
        elif now > self._began[1]:
            self.tokens_per_second = (float(tokens) - self._began[0]) / (now - self._began[1])

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Say that the checkpoint is whole."""
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        collect_random_state(checkpoint, on_first_node=is_on_first_node(args))
        if state.is_world_process_zero:
            mark_whole(checkpoint)
        self._saved_at = self._step_at = time.monotonic()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """An evaluation is no part of the next step's time; it may be the last."""
        self._step_at = time.monotonic()
        losses = [point.eval_loss for point in self.points if point.eval_loss is not None]
        if self.patience is not None and is_enough(losses, *self.patience):
            control.should_training_stop = True

    def _tell(self, state: TrainerState) -> None:
        if not state.is_world_process_zero:
            return
        left = state.max_steps - state.global_step
        peak = torch.cuda.max_memory_allocated() / GIB if torch.cuda.is_available() else None
        progress = TuneProgress(
            phase="Training",
            step=state.global_step,
            steps=state.max_steps,
            epoch=round(state.epoch, 3) if state.epoch is not None else None,
            loss=self._loss,
            eval_loss=self._eval_loss,
            tokens_per_second=round(self.tokens_per_second, 1) if self.tokens_per_second else None,
            eta_s=round(left * self._step_s) if self._step_s is not None else None,
            gpu_memory_gib=round(peak, 2) if peak is not None else None,
            rows=self.rows,
            note=" ".join(self.notes),
        )
        self.teller.tell(progress, now=left == 0)

    @property
    def losses(self) -> tuple[float | None, float | None]:
        """The last loss and the last loss of the evaluation."""
        return self._loss, self._eval_loss

    def heed_signals(self) -> None:
        """SIGTERM (a pod that is deleted, a spot machine that is taken back) writes a checkpoint and ends."""

        def asked(number: int, frame: FrameType | None) -> None:
            self.stop = True

        signal.signal(signal.SIGTERM, asked)


def is_enough(losses: Sequence[float], patience: int, threshold: float) -> bool:
    """Whether so many evaluations in a row have not improved on the best before them by more than the threshold."""
    best, since = math.inf, 0
    for loss in losses:
        since = 0 if loss < best - threshold else since + 1
        best = min(best, loss)
    return since >= patience


def build(
    model: Any,
    tokenizer: Any,
    arguments: Arguments,
    *,
    job: Job,
    options: TrainingOptions,
    data: Split,
    notes: list[str],
) -> SFTTrainer | DPOTrainer:
    """The trainer, with the adapter on the model where one is trained. Raises Failed (TuningConfigInvalid) when the
    configuration names layers that the model has not."""
    if options.is_quantized:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=arguments.gradient_checkpointing)
    adapter = None
    if job.method != "full":
        adapter = adapter_for(model, options, notes)
    kind = PreferenceTrainer if hasattr(arguments, "beta") else AnswerTrainer
    wanted = arguments.save_strategy
    if getattr(model, "is_distributed_loading_by_transformers", False):
        # The library saves no optimizer for weights that it has divided itself, and refuses to try. That of an adapter
        # is whole in every process, and saved like any other: so it is told afterwards.
        arguments.save_strategy = SaveStrategy.NO
    try:
        trainer = kind(
            model=model,
            args=arguments,
            train_dataset=data.train,
            eval_dataset=data.evaluation,
            processing_class=tokenizer,
            peft_config=adapter,
        )
    except ValueError as error:
        # Settings that contradict each other, or the model, are found by the libraries as they put it together.
        raise bad(f"The training cannot be set up: {first_line(error)}.") from error
    arguments.save_strategy = wanted
    return trainer


def adapter_for(model: Any, options: TrainingOptions, notes: list[str]) -> LoraConfig:
    """The adapter's shape, on layers that the model has."""
    layers = {name: type(module).__name__ for name, module in model.named_modules()}
    output = next((n for n, m in model.named_modules() if m is model.get_output_embeddings()), None)
    derived = derive(layers, output)
    wanted = options.lora.get("target_modules")
    if not isinstance(wanted, list | tuple) or not wanted:
        return lora_config(options, derived)
    try:
        found, said = named([str(name) for name in wanted], layers)
    except NoSuchLayer as error:
        what = f"LoraConfig.target_modules names {error}, and the model has no such layer."
        raise bad(what, f"Leave it out, or name some of {', '.join(sorted(derived))}.") from None
    notes += [said] if said else []
    return lora_config(replace(options, lora={**options.lora, "target_modules": found}), derived)


class Whole:
    """A trainer whose adapter is saved without the base model's weights, which PEFT would gather from all processes."""

    model: Any
    args: Any
    processing_class: Any
    state: TrainerState
    _load_from_checkpoint: Any

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the adapter, or the model, and its tokenizer."""
        if not getattr(self.model, "is_distributed_loading_by_transformers", False):
            super().save_model(output_dir, _internal_call)  # type: ignore[misc]
            return
        if self.args.should_save:
            adapter = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
            self.model.save_pretrained(output_dir, state_dict=adapter)
            self.processing_class.save_pretrained(output_dir)

    def take_end(self, checkpoint: Path) -> bool:
        """Take over the weights of a checkpoint that is the training's end; False where there is more to train. The
        library would train one step more than there are."""
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        if state.global_step < state.max_steps:
            return False
        best = Path(state.best_model_checkpoint or "")
        is_best = self.args.load_best_model_at_end and state.best_model_checkpoint and best.is_dir()
        self._load_from_checkpoint(str(best if is_best else checkpoint))
        self.state = state
        return True


class AnswerTrainer(Whole, SFTTrainer):  # type: ignore[misc]
    """Of answers to learn."""


class PreferenceTrainer(Whole, DPOTrainer):  # type: ignore[misc]
    """Of preferences."""


def is_on_first_node(args: TrainingArguments) -> bool:
    """Whether rank 0 runs on this node."""
    return int(args.process_index) == int(args.local_process_index)


def run(trainer: Any, watcher: Watcher, output_dir: Path) -> None:
    """Train to the end, from the newest checkpoint if there is one; raises Stopped when asked to stop before."""
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(watcher)
    begun = shared_checkpoint(
        output_dir,
        on_first_node=is_on_first_node(trainer.args),
        is_first_of_node=trainer.args.local_process_index == 0,
    )
    if begun is not None:
        say(f"goes on from {begun.name}")
    if begun is None or not trainer.take_end(begun):
        trainer.train(resume_from_checkpoint=str(begun) if begun is not None else None)
    else:
        watcher.on_train_begin(trainer.args, trainer.state, trainer.control)
        is_evaluated = any(point.step == trainer.state.global_step for point in watcher.points if point.eval_loss)
        if trainer.args.eval_strategy == IntervalStrategy.EPOCH and not is_evaluated:
            trainer.evaluate()
    if watcher.stop and trainer.state.global_step < trainer.state.max_steps:
        raise Stopped
    if trainer.state.global_step < trainer.state.max_steps:
        where = f"{trainer.state.global_step} of {trainer.state.max_steps}"
        watcher.notes.append(f"It ended early, after step {where}: the evaluation improved no more.")
    if trainer.eval_dataset is not None and watcher.losses[1] is None:
        trainer.evaluate()
