# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What machines are: the GPUs of the clouds' instance types, and GPUs by their product name.

Facts only (`data/gpus/*.yaml`), which a user's own table may add to or correct (`Machines.extended`). Names are found
whatever the case; what is not in the tables is None, since a cloud may have types that we have not heard of. Prices
are a dated snapshot of list prices: good to compare with, not to bill by.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final, Literal

import yaml
from pydantic import Field, ValidationError

from kaito.catalog.files import read_data
from kaito.catalog.models import Record

CLOUDS: Final = ("azure", "aws", "gcp", "arc")
"""The clouds with a table of instance types."""
UNKNOWN_USABLE: Final = 0.9
"""The share of a GPU's memory that can be counted on where nobody has said how much it is."""

Link = Literal["nvlink", "pcie"]
"""How GPUs of one machine reach each other."""


class Gpus(Record):
    """The GPUs of one node."""

    count: int
    memory_gib: float
    """Of all of them together."""
    product: str = ""
    """As the maker calls it, e.g. `NVIDIA A100`."""
    compute_capability: float | None = None
    """NVIDIA's; None for other makers."""
    usable_gib: float | None = None
    """What CUDA reports of one of them, where that is known."""

    @property
    def usable_per_gpu_gib(self) -> float:
        """What an engine can take its share of, on one GPU."""
        if self.usable_gib is not None:
            return self.usable_gib
        known = gpu_of(self.product, self.memory_per_gpu_gib)
        return known.usable if known else self.memory_per_gpu_gib * UNKNOWN_USABLE

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
    usd_per_hour: float | None = None
    """List price on demand, Linux, in the region and on the day of `price`."""
    price: Price | None = None
    link: Link = "pcie"


class Price(Record):
    """Where and when a table's prices were taken down."""

    region: str
    as_of: str
    """The day, as YYYY-MM-DD."""


class GpuProduct(Record):
    """A GPU by its product name."""

    product: str
    memory_gib: float
    usable_gib: float | None = None
    compute_capability: float | None = None
    bandwidth_gbps: float | None = None
    """Of its memory, in 10^9 bytes a second."""
    link: Link = "pcie"

    @property
    def usable(self) -> float:
        """What an engine can take its share of."""
        return self.usable_gib if self.usable_gib is not None else self.memory_gib * UNKNOWN_USABLE

    def gpus(self, count: int = 1) -> Gpus:
        """So many of them in one machine."""
        return Gpus(
            count=count,
            memory_gib=self.memory_gib * count,
            product=self.product,
            compute_capability=self.compute_capability,
            usable_gib=self.usable,
        )


class BadTable(ValueError):
    """A user's table that cannot be read; the text says where it is wrong."""


class _Row(Record):
    """Instance types of a table that differ in nothing but name and price."""

    names: tuple[str, ...] = Field(min_length=1)
    gpus: int = Field(gt=0)
    memory_gib: float = Field(gt=0)
    product: str
    compute_capability: float | None = None
    nvme: bool = False
    retired: bool = False
    link: Link = "pcie"
    usd_per_hour: tuple[float | None, ...] = ()


class _Table(Record):
    """A file of `data/gpus`, or a user's own."""

    cloud: str = "own"
    prices: Price | None = None
    instance_types: tuple[_Row, ...] = ()
    gpus: tuple[GpuProduct, ...] = ()

    def types(self) -> Iterable[InstanceType]:
        """Each name of each row."""
        for row in self.instance_types:
            gpus = Gpus(
                count=row.gpus,
                memory_gib=row.memory_gib,
                product=row.product,
                compute_capability=row.compute_capability,
            )
            for index, name in enumerate(row.names):
                usd = row.usd_per_hour[index] if index < len(row.usd_per_hour) else None
                yield InstanceType(
                    name=name,
                    cloud=self.cloud,
                    gpus=gpus,
                    nvme=row.nvme,
                    retired=row.retired,
                    usd_per_hour=usd,
                    price=self.prices if usd is not None else None,
                    link=row.link,
                )


class Machines:
    """Instance types and GPUs that can be asked for by name."""

    def __init__(self, types: Mapping[str, InstanceType], products: tuple[GpuProduct, ...]) -> None:
        self._types = dict(types)
        self.products = products

    def instance_type(self, name: str) -> InstanceType | None:
        """The machine type of that name in any cloud's table; None if none has it."""
        return self._types.get(name.lower())

    def instance_types(self, cloud: str | None = None) -> tuple[InstanceType, ...]:
        """All machine types of a cloud's table, or of all of them."""
        return tuple(found for found in self._types.values() if cloud in (None, found.cloud))

    def gpu_product(self, name: str) -> GpuProduct | None:
        """The GPU that a driver or a node's label calls so, e.g. `NVIDIA L40S` or `NVIDIA-L40S`; None if unknown."""
        wanted = _words(name)
        return next((product for product in self.products if _words(product.product) == wanted), None)

    def gpus_like(self, name: str) -> tuple[GpuProduct, ...]:
        """The GPUs that a person may mean: `A100 80GB`, `h100`, `l4`. Exact names come alone; of those with as much
        memory the first stands for all."""
        exact = self.gpu_product(name)
        if exact is not None:
            return (exact,)
        wanted = set(_words(name))
        found: dict[float, GpuProduct] = {}
        for product in self.products:
            spoken = {*_words(product.product), f"{product.memory_gib:g}gb"}
            if wanted and wanted <= spoken:
                found.setdefault(product.memory_gib, product)
        return tuple(found.values())

    def extended(self, text: str) -> Machines:
        """These and those of a user's table, which win. The table is YAML with `instance_types` and `gpus`, as the
        files of `data/gpus` have them, and optionally `cloud` and `prices`. Raises BadTable."""
        table = _read_table(text)
        names = {product.product.lower() for product in table.gpus}
        kept = (product for product in self.products if product.product.lower() not in names)
        types = {one.name.lower(): one for one in table.types()}
        return Machines({**self._types, **types}, (*table.gpus, *kept))


def _read_table(text: str) -> _Table:
    try:
        read = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise BadTable(f"it is not YAML: {error}") from error
    if not isinstance(read, dict):
        raise BadTable("it is not a map with instance_types and gpus")
    try:
        return _Table.model_validate(_dated(read))
    except ValidationError as error:
        wrong = error.errors()[0]
        where = ".".join(str(part) for part in wrong["loc"])
        raise BadTable(f"{where}: {wrong['msg']}") from error


def instance_type(name: str) -> InstanceType | None:
    """The machine type of that name in any cloud's table; None if none has it."""
    return machines().instance_type(name)


def instance_types(cloud: str | None = None) -> tuple[InstanceType, ...]:
    """All machine types of a cloud's table, or of all of them."""
    return machines().instance_types(cloud)


def gpu_product(name: str) -> GpuProduct | None:
    """The GPU that a driver or a node's label calls so, e.g. `NVIDIA L40S` or `NVIDIA-L40S`; None if unknown."""
    return machines().gpu_product(name)


@cache
def gpu_of(product: str, memory_gib: float) -> GpuProduct | None:
    """The GPU of that name with so much memory, however loosely both are said; None if none is like it."""
    alike = [one for one in machines().products if set(_words(product)) <= set(_words(one.product))]
    return min(
        (one for one in alike if abs(one.memory_gib - memory_gib) <= 0.1 * memory_gib),
        key=lambda one: one.usable,
        default=None,
    )


@cache
def machines() -> Machines:
    """The tables that ship with the product, read once."""
    types: dict[str, InstanceType] = {}
    for cloud in CLOUDS:
        table = _Table.model_validate({"cloud": cloud, **_dated(read_data("gpus", f"{cloud}.yaml"))})
        types |= {one.name.lower(): one for one in table.types()}
    return Machines(types, _Table.model_validate(read_data("gpus", "generic.yaml")).gpus)


def _dated(table: dict[str, Any]) -> dict[str, Any]:
    """YAML reads a day as a date."""
    prices = table.get("prices")
    if not isinstance(prices, dict) or "as_of" not in prices:
        return table
    return {**table, "prices": {**prices, "as_of": str(prices["as_of"])}}


def _words(product: str) -> tuple[str, ...]:
    words = product.lower().replace("-", " ").split()
    return tuple(word for word in words if word not in ("nvidia", "tesla"))
