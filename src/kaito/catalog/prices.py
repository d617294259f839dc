# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What machines cost: on-demand list prices, by cloud and instance type (`data/prices.yaml` says where they are from).

Good for two things: which of several machines is the cheapest, and an upper bound of what one costs. A spot machine
costs at most what the same machine costs on demand.
"""

from __future__ import annotations

from functools import cache

from kaito.catalog.models import read_data


def dollars_per_hour(cloud: str, instance_type: str) -> float | None:
    """The list price of a machine in US dollars; None where none is known."""
    return _prices().get(cloud, {}).get(instance_type.lower())


@cache
def _prices() -> dict[str, dict[str, float]]:
    return {
        cloud: {name.lower(): float(price) for name, price in prices.items()}
        for cloud, prices in read_data("prices.yaml").items()
    }
