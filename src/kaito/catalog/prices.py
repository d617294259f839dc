# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What machines cost and how many GPUs they have: all that ordering one needs to know, from `data/`.

Prices are list prices on demand. They are good for two things: which of several machines is the cheapest, and an upper
bound of what one costs; a spot machine costs at most as much. Unlike `gpus.py` this loads no more than YAML.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from kaito.catalog.files import read_data

CLOUDS = ("azure", "aws", "gcp")


class Machine(NamedTuple):
    """A machine type that a cloud sells."""

    name: str
    cloud: str
    nvidia_gpus: int
    """How many `nvidia.com/gpu` its node shows; 0 for other makers' accelerators."""
    dollars_per_hour: float | None
    """The list price; None where none is known."""


@cache
def machines(cloud: str) -> tuple[Machine, ...]:
    """The machine types of a cloud that are not retired. Raises KeyError for a cloud without a table."""
    prices = {name.lower(): float(price) for name, price in read_data("prices.yaml")[cloud].items()}
    return tuple(
        Machine(name, cloud, record["gpus"] if record.get("compute_capability") else 0, prices.get(name.lower()))
        for record in read_data("gpus", f"{cloud}.yaml")["instance_types"]
        if not record.get("retired")
        for name in record["names"]
    )
