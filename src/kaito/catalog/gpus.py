# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What machines are: the GPUs of the clouds' instance types, and GPUs by their product name.

Facts only (`data/gpus/*.yaml`). Names are found whatever the case; what is not in the tables is None, since a cloud may
have types that we have not heard of.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from kaito.catalog.files import read_data
from kaito.catalog.models import Record

CLOUDS: Final = ("azure", "aws", "gcp", "arc")
"""The clouds with a table of instance types."""


class Gpus(Record):
    """The GPUs of one node."""

    count: int
    memory_gib: float
    """Of all of them together."""
    product: str = ""
    """As the maker calls it, e.g. `NVIDIA A100`."""
    compute_capability: float | None = None
    """NVIDIA's; None for other makers."""

    @property
    def memory_per_gpu_gib(self) -> float:
        """Memory of one GPU."""
        return self.memory_gib / self.count

    @property
    def is_nvidia(self) -> bool:
        """Whether the node's GPUs are asked for as `nvidia.com/gpu`."""
        return self.compute_capability is not None


class InstanceType(Record):
    """A machine type of a cloud."""

    name: str
    """In the cloud's spelling."""
    cloud: str
    gpus: Gpus
    nvme: bool = False
    """Has local NVMe disks that can hold the weights."""
    retired: bool = False
    """The cloud does not hand out new ones; manifests that name it keep working elsewhere."""


class GpuProduct(Record):
    """A GPU by its product name."""

    product: str
    memory_gib: float
    compute_capability: float | None = None


def instance_type(name: str) -> InstanceType | None:
    """The machine type of that name in any cloud's table; None if none has it."""
    return _instance_types().get(name.lower())


def instance_types(cloud: str | None = None) -> tuple[InstanceType, ...]:
    """All machine types of a cloud's table, or of all of them."""
    return tuple(found for found in _instance_types().values() if cloud in (None, found.cloud))


def gpu_product(name: str) -> GpuProduct | None:
    """The GPU that a driver or a node's label calls so, e.g. `NVIDIA L40S` or `NVIDIA-L40S`; None if unknown."""
    wanted = _normalised(name)
    for product in _gpu_products():
        if _normalised(product.product) == wanted:
            return product
    return None


def _normalised(product: str) -> str:
    return product.lower().replace("-", " ").removeprefix("nvidia ").strip()


@cache
def _instance_types() -> dict[str, InstanceType]:
    found = {}
    for cloud in CLOUDS:
        for record in read_data("gpus", f"{cloud}.yaml")["instance_types"]:
            gpus = Gpus(
                count=record["gpus"],
                memory_gib=record["memory_gib"],
                product=record["product"],
                compute_capability=record.get("compute_capability"),
            )
            for name in record["names"]:
                found[name.lower()] = InstanceType(
                    name=name,
                    cloud=cloud,
                    gpus=gpus,
                    nvme=record.get("nvme", False),
                    retired=record.get("retired", False),
                )
    return found


@cache
def _gpu_products() -> tuple[GpuProduct, ...]:
    return tuple(GpuProduct.model_validate(record) for record in read_data("gpus", "generic.yaml")["gpus"])
