# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Machine types and GPUs by name."""

from __future__ import annotations

import pytest

from kaito.catalog.gpus import BadTable, Gpus, gpu_product, instance_type, instance_types, machines


@pytest.mark.parametrize(
    ("name", "cloud", "count", "memory_gib", "product", "nvme"),
    [
        ("Standard_NC24ads_A100_v4", "azure", 1, 80, "NVIDIA A100", True),
        ("standard_nc80adis_h100_V5", "azure", 2, 188, "NVIDIA H100", True),
        ("Standard_ND96asr_A100_v4", "azure", 8, 320, "NVIDIA A100", False),
        ("Standard_NC6s_v3", "azure", 1, 16, "NVIDIA V100", False),
        ("Standard_NC12s_v3", "azure", 2, 32, "NVIDIA V100", False),
        ("Standard_NC24s_v3", "azure", 4, 64, "NVIDIA V100", False),
        ("G5.48XLARGE", "aws", 8, 192, "NVIDIA A10G", True),
        ("gr6.8xlarge", "aws", 1, 24, "NVIDIA L4", True),
        ("inf2.48xlarge", "aws", 12, 384, "AWS Inferentia2", False),
        ("a2-ultragpu-4g", "gcp", 4, 320, "NVIDIA A100", True),
        ("Standard_NC16_A2", "arc", 2, 32, "NVIDIA A2", False),
    ],
)
def test_a_machine_type_is_found_whatever_its_case(
    name: str, cloud: str, count: int, memory_gib: int, product: str, nvme: bool
) -> None:
    found = instance_type(name)
    assert found is not None
    assert (found.cloud, found.gpus.count, found.gpus.memory_gib) == (cloud, count, memory_gib)
    assert (found.gpus.product, found.nvme) == (product, nvme)


def test_a_machine_type_of_which_nothing_is_known_is_none() -> None:
    assert instance_type("Standard_Abacus") is None
    assert instance_type("") is None


def test_the_tables_hold_what_the_clouds_sell_and_what_they_once_sold() -> None:
    """KAITO's types, and those with a T4 or an L40S, which it does not have."""
    azure = instance_types("azure")
    assert len([found for found in azure if not found.retired]) == 14 + 4
    assert {found.name for found in azure if found.retired} == {
        "Standard_NC6s_v3",
        "Standard_NC12s_v3",
        "Standard_NC24s_v3",
        "Standard_NC24rs_v3",
    }
    assert len(instance_types("aws")) == 35 + 14
    assert len(instance_types("arc")) == 8
    assert len(instance_types()) == sum(len(instance_types(cloud)) for cloud in ("azure", "aws", "gcp", "arc"))


def test_only_nvidia_gpus_have_a_compute_capability() -> None:
    for found in instance_types():
        assert found.gpus.is_nvidia == found.gpus.product.startswith("NVIDIA"), found.name


@pytest.mark.parametrize("name", ["NVIDIA L40S", "NVIDIA-L40S", "nvidia l40s", "L40S"])
def test_a_gpu_is_found_as_drivers_and_labels_write_it(name: str) -> None:
    found = gpu_product(name)
    assert found is not None
    assert (found.memory_gib, found.compute_capability) == (48, 8.9)


def test_a_gpu_of_which_nothing_is_known_is_none() -> None:
    assert gpu_product("Abacus") is None


@pytest.mark.parametrize(
    ("name", "usd"),
    [("Standard_NC24ads_A100_v4", 3.673), ("g5.12xlarge", 5.672), ("a2-ultragpu-1g", 5.0688), ("a4-highgpu-8g", None)],
)
def test_a_price_says_where_and_when_it_was_taken_down(name: str, usd: float | None) -> None:
    found = instance_type(name)
    assert found is not None
    assert found.usd_per_hour == usd
    assert (found.price is None) == (usd is None)
    if found.price is not None:
        assert found.price.as_of == "2025-07-01"


def test_more_gpus_never_cost_less() -> None:
    for cloud in ("aws", "azure", "gcp"):
        for one in instance_types(cloud):
            for other in instance_types(cloud):
                alike = one.gpus.product == other.gpus.product and one.usd_per_hour and other.usd_per_hour
                same_memory = one.gpus.memory_per_gpu_gib == other.gpus.memory_per_gpu_gib
                if alike and same_memory and one.gpus.count >= 2 * other.gpus.count:
                    # The one with many CPUs may cost more than the one with few and another GPU.
                    cheapest = min(
                        same.usd_per_hour
                        for same in instance_types(cloud)
                        if same.usd_per_hour and same.gpus == other.gpus
                    )
                    assert one.usd_per_hour > cheapest, (one.name, other.name)


@pytest.mark.parametrize(
    ("said", "products"),
    [
        ("A100 80GB", ["NVIDIA A100-SXM4-80GB"]),
        ("a100", ["NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-80GB"]),
        ("t4", ["Tesla T4"]),
        ("NVIDIA-L40S", ["NVIDIA L40S"]),
        ("H100 NVL", ["NVIDIA H100 NVL"]),
        ("Abacus", []),
        ("", []),
    ],
)
def test_a_gpu_is_found_as_people_say_it(said: str, products: list[str]) -> None:
    assert [found.product for found in machines().gpus_like(said)] == products


def test_what_an_engine_can_use_is_less_than_the_label_says() -> None:
    a100 = instance_type("Standard_NC24ads_A100_v4")
    a10 = instance_type("g5.xlarge")
    assert a100 is not None
    assert a10 is not None
    assert (a100.gpus.usable_per_gpu_gib, a10.gpus.usable_per_gpu_gib) == (79.14, 22.06)
    assert Gpus(count=2, memory_gib=20, product="Abacus").usable_per_gpu_gib == 9
    for found in instance_types():
        assert 0.8 * found.gpus.memory_per_gpu_gib < found.gpus.usable_per_gpu_gib < found.gpus.memory_per_gpu_gib


OWN = """
cloud: ours
prices: {region: basement, as_of: 2026-01-02}
instance_types:
  - names: [rack-a, Standard_NC24ads_A100_v4]
    gpus: 2
    memory_gib: 96
    product: NVIDIA L40S
    compute_capability: 8.9
    usd_per_hour: [1.5]
gpus:
  - {product: NVIDIA L40S, memory_gib: 48, usable_gib: 40, compute_capability: 8.9}
  - {product: Abacus, memory_gib: 1}
"""


def test_a_table_of_ones_own_adds_and_corrects() -> None:
    own = machines().extended(OWN)
    rack, corrected = own.instance_type("RACK-A"), own.instance_type("standard_nc24ads_a100_v4")
    assert rack is not None
    assert corrected is not None
    assert (rack.cloud, rack.gpus.count, rack.usd_per_hour, rack.price and rack.price.as_of) == (
        "ours", 2, 1.5, "2026-01-02",
    )  # fmt: skip
    assert (corrected.cloud, corrected.usd_per_hour) == ("ours", None)
    assert [product.usable for product in own.gpus_like("L40S")] == [40]
    assert own.gpu_product("abacus") is not None
    assert own.instance_type("g5.xlarge") == instance_type("g5.xlarge")
    assert machines().instance_type("rack-a") is None
    assert machines().extended("").instance_types() == instance_types()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "it is not YAML"),
        ("- a", "it is not a map"),
        (
            "instance_types: [{names: [a], gpus: 0, memory_gib: 1, product: X}]",
            "instance_types.0.gpus: Input",
        ),
        ("gpus: [{product: X}]", "gpus.0.memory_gib: Field required"),
        ("types: []", "types: Extra inputs are not permitted"),
    ],
)
def test_a_table_that_cannot_be_read_says_where(text: str, said: str) -> None:
    with pytest.raises(BadTable, match=said):
        machines().extended(text)
