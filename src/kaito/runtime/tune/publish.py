# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The result into a registry: asked for permission before anything is spent, and tried again until it is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from kaito.api import names
from kaito.api.contracts import ResultFormat, TuneConfig, TuneTarget
from kaito.api.names import (
    REASON_ARTIFACT_UNAUTHORIZED,
    REASON_ARTIFACT_UNAVAILABLE,
    REASON_INVALID_SPEC,
    REASON_PUSH_UNAUTHORIZED,
)
from kaito.api.references import mirrored, parse
from kaito.runtime.artifacts.credentials import logins
from kaito.runtime.artifacts.pack import files_of
from kaito.runtime.artifacts.push import Pushed, Target, push_image, push_model
from kaito.runtime.artifacts.registry import Registry
from kaito.runtime.artifacts.transport import Transport
from kaito.runtime.failure import Failed
from kaito.runtime.settings import Settings
from kaito.runtime.tune.job import Summary

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "README.md", "loss.svg")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 60.0
STEP = "Give tuning.output.imagePushSecret a Docker login that may push to the repository."


def target_of(config: TuneConfig, output: TuneTarget, settings: Settings) -> Target:
    """Where the result goes."""
    return Target(
        output.image,
        credentials=tuple(settings.path(path) for path in output.credentials),
        ca_file=settings.path(config.ca_file) if config.ca_file else None,
        mirrors=config.registry_mirrors,
    )


def check_permission(target: Target) -> None:
    """Begin an upload and give it up again; raises Failed (PushUnauthorized) when the registry does not allow it."""
    try:
        reference = mirrored(parse(target.reference), target.mirrors)
    except ValueError as error:
        raise Failed(REASON_INVALID_SPEC, str(error), "Write registry/name:tag in tuning.output.image.") from None
    transport = Transport(target.ca_file, target.patience)
    try:
        registry = Registry(transport, reference, logins(target.credentials, reference), writes=True)
        registry.connect()
        response = registry.send("POST", "blobs/uploads/")
        location = response.headers.get("Location")
        transport.done(response)
        if location:
            transport.done(registry.send("DELETE", registry.absolute(location)))
    except Failed as error:
        raise told(error) from None
    finally:
        transport.close()


def told(error: Failed) -> Failed:
    """A refused push under its own reason."""
    if error.failure.reason != REASON_ARTIFACT_UNAUTHORIZED:
        return error
    return Failed(REASON_PUSH_UNAUTHORIZED, error.failure.message, STEP)


def result_files(folder: Path) -> dict[str, Path]:
    """What of the output folder is pushed: an adapter in KAITO's layout, or a whole model."""
    if (folder / ADAPTER_FILES[0]).is_file():
        return {name: folder / name for name in ADAPTER_FILES if (folder / name).is_file()}
    return {name: path for name, path in files_of(folder).items() if not name.startswith("checkpoint-")}


def pauses() -> Iterator[float]:
    """How long to wait before each further try, for ever."""
    pause = FIRST_PAUSE_S
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE_S)


def described(config: TuneConfig, output: TuneTarget, summary: Summary | None) -> dict[str, str]:
    """The annotations of the result. An image has KAITO's alone; an artifact says what it is without being fetched."""
    if output.format == "image":
        return dict(output.annotations)
    known = {
        names.BASE_MODEL_ANNOTATION: config.model.id,
        names.BASE_REVISION_ANNOTATION: config.model.revision,
        names.TUNING_METHOD_ANNOTATION: config.method,
    }
    if summary is not None:
        losses = {names.LOSS_ANNOTATION: summary.loss, names.EVAL_LOSS_ANNOTATION: summary.eval_loss}
        known |= {name: f"{loss:.4f}" for name, loss in losses.items() if loss is not None}
        known[names.DATA_HASH_ANNOTATION] = summary.data_sha256
    return {**output.annotations, **{name: value for name, value in known.items() if value}}


def publish(
    folder: Path,
    target: Target,
    annotations: dict[str, str],
    wait: Callable[[float, str], None],
    *,
    format_: ResultFormat = "image",
) -> Pushed:
    """Push the result. While the registry does not answer, `wait` is called with a time and why, and it is tried again:
    what was trained is not given up. Raises Failed when the registry refuses."""
    files = result_files(folder)
    for pause in pauses():
        try:
            if format_ == "artifact":
                return push_model(files, target, annotations=annotations)
            return push_image(files, target, annotations=annotations)
        except Failed as error:
            if error.failure.reason != REASON_ARTIFACT_UNAVAILABLE:
                raise told(error) from None
            wait(pause, error.failure.message)
    raise AssertionError("unreachable")
