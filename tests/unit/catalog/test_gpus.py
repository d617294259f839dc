# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Machine types and GPUs by name."""

from __future__ import annotations

import pytest

from kaito.catalog.gpus import gpu_product, instance_type, instance_types


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
    azure = instance_types("azure")
    assert len([found for found in azure if not found.retired]) == 14
    assert {found.name for found in azure if found.retired} == {
        "Standard_NC6s_v3",
        "Standard_NC12s_v3",
        "Standard_NC24s_v3",
        "Standard_NC24rs_v3",
    }
    assert len(instance_types("aws")) == 35
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
