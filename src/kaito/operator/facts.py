# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What is known of the model that a preset names. Today that is the catalogue; a hub's answer comes in here later.

Answers at once, from what is at hand: planning never waits for a network.
"""

from __future__ import annotations

from kaito.catalog.models import ModelFacts, UnknownModel, catalogue
from kaito.operator.workspace.observe import UnknownPreset


def catalogue_lookup(preset: str) -> ModelFacts | UnknownPreset:
    """The catalogue's record of a preset, a record without facts for another hub id, or why it names no model."""
    try:
        return catalogue().find(preset)
    except UnknownModel as error:
        text = str(error)
        return UnknownPreset(text[:1].upper() + text[1:])
