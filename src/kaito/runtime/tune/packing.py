# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Whether examples that share a row see each other: asked of the model itself, for not every architecture heeds where
one example ends (which the trainer tells by positions that begin anew)."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule

LENGTH = 8
"""Tokens of each example that is tried."""
NOISE = 0.02
"""Of the largest logit: what kernels that group tokens differently may make of the same example."""


def leaks(model: Any) -> bool:
    """Whether an example's outputs depend on the one before it in its row."""
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    first, other, second = (
        (torch.arange(LENGTH) * step + start) % vocabulary for start, step in ((1, 1), (101, 7), (31, 3))
    )
    positions = torch.arange(LENGTH).repeat(2)[None].to(model.device)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            rows = (torch.cat((before, second))[None].to(model.device) for before in (first, other))
            found = [model(input_ids=row, position_ids=positions, use_cache=False).logits[0, LENGTH:] for row in rows]
    except (TypeError, ValueError):
        return True  # It takes no positions, so that it cannot know where an example ends.
    finally:
        model.train(was_training)
        # Of divided weights some stay whole after a forward pass, and what is frozen then is not what is trained.
        for part in model.modules():
            if isinstance(part, FSDPModule):
                part.reshard()
    difference, scale = (found[0] - found[1]).abs().max(), found[0].abs().max()
    return bool(difference > NOISE * scale)
