# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The training configuration in a pod: `kaito.api.training`, whose complaints end the container."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kaito.api import training
from kaito.api.names import REASON_TUNING_CONFIG
from kaito.api.training import BadTraining, TrainingOptions
from kaito.runtime.failure import Failed

STEP = "Correct the key training_config.yaml of the ConfigMap that tuning.config names."


def bad(message: str, step: str = STEP) -> Failed:
    """A training configuration that cannot be used."""
    return Failed(REASON_TUNING_CONFIG, message, step)


def unknown_key(key: object, section: str, known: Iterable[str]) -> Failed:
    """A key that the section has not, with the nearest that it has."""
    return bad(training.unknown_key(key, section, known))


def read_options(path: Path, method: str) -> TrainingOptions:
    """The options of a file, fit for the method; raises Failed (TuningConfigInvalid)."""
    try:
        options = training.parse_options(path.read_bytes().decode("utf-8"))
        training.check_method(method, options)
    except OSError as error:
        raise bad(f"The training configuration {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise bad("The training configuration is not UTF-8 text.") from None
    except BadTraining as error:
        raise bad(str(error)) from None
    return options
