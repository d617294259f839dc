# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Small parts of a tuning: checkpoints, layers to adapt, estimates, the curve, progress lines, addresses."""

from __future__ import annotations

import io
from pathlib import Path
from xml.etree import ElementTree

import pytest

from kaito.api.contracts import TuneProgress
from kaito.api.names import REASON_TUNING_ADDRESS
from kaito.api.training import progress_of
from kaito.runtime.artifacts.addresses import is_public
from kaito.runtime.artifacts.transport import Transport
from kaito.runtime.failure import Failed
from kaito.runtime.tune.checkpoints import mark_whole, newest, remove_all
from kaito.runtime.tune.curve import svg
from kaito.runtime.tune.estimate import Shape, Tokens, memory_gib, micro_batch, padding_share
from kaito.runtime.tune.job import Point
from kaito.runtime.tune.progress import Teller
from kaito.runtime.tune.targets import NoSuchLayer, derive, named


def test_only_a_checkpoint_that_is_whole_counts(tmp_path: Path) -> None:
    for step in (2, 10, 9):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "optimizer.pt").write_bytes(b"x")
    mark_whole(tmp_path / "checkpoint-2")
    mark_whole(tmp_path / "checkpoint-9")
    assert newest(tmp_path) == tmp_path / "checkpoint-9"
    assert not (tmp_path / "checkpoint-10").exists(), "what is half written is nobody's checkpoint"
    remove_all(tmp_path)
    assert newest(tmp_path) is None


def test_every_linear_layer_of_the_decoder_is_adapted() -> None:
    layers = {
        "model.embed_tokens": "Embedding",
        "model.layers.0.self_attn.qkv_proj": "Linear4bit",
        "model.layers.0.mlp.down_proj": "Linear",
        "model.layers.0.mlp.gate": "Linear",
        "model.vision_tower.blocks.0.fc1": "Linear",
        "lm_head": "Linear",
    }
    assert derive(layers, "lm_head") == {"qkv_proj", "down_proj"}


LAYERS = ("model.layers.0.self_attn.qkv_proj", "model.layers.0.self_attn.o_proj", "model.layers.0.mlp.gate_up_proj")


def test_layers_that_a_model_has_as_one_are_found_by_the_names_of_their_parts() -> None:
    assert named(["o_proj", "self_attn.qkv_proj"], LAYERS) == (["o_proj", "self_attn.qkv_proj"], "")
    found, said = named(["q_proj", "k_proj", "v_proj", "o_proj", "up_proj"], LAYERS)
    assert found == ["qkv_proj", "o_proj", "gate_up_proj"]
    assert (
        "q_proj, k_proj, v_proj: this model has them as qkv_proj; up_proj: this model has them as gate_up_proj" in said
    )
    with pytest.raises(NoSuchLayer, match="w1"):
        named(["o_proj", "w1"], LAYERS)


def test_estimates_grow_with_what_they_are_of() -> None:
    phi = Shape(3_800_000_000, 12_000_000, 3072, 32, 32064, weight_bytes=0.56)
    assert 2.5 < memory_gib(phi, batch=1, length=1024) < 8
    assert memory_gib(phi, batch=4, length=1024) > memory_gib(phi, batch=1, length=1024)
    tokens = Tokens((10, 20, 2000), rows=300, limit=1000)
    assert (tokens.total, round(tokens.truncated, 2)) == (103_000, 0.33)
    assert sum(count for _, count in tokens.histogram()) == 3
    assert padding_share((10, 90), 2, None) == pytest.approx(1 - 100 / 180)


def test_as_many_rows_at_once_as_fit_and_divide_the_batch() -> None:
    phi = Shape(3_800_000_000, 12_000_000, 3072, 32, 32064, weight_bytes=0.56)
    room = memory_gib(phi, batch=5, length=1024)
    assert [micro_batch(phi, batch=batch, length=1024, free_gib=room) for batch in (4, 8, 12, 7, 1)] == [4, 4, 4, 1, 1]
    assert micro_batch(phi, batch=8, length=1024, free_gib=1) == 1


def test_the_curve_is_a_drawing() -> None:
    drawn = svg([Point(step=1, loss=3.0), Point(step=2, loss=1.0), Point(step=2, eval_loss=1.5)])
    root = ElementTree.fromstring(drawn)
    assert len([node for node in root if node.tag.endswith("polyline")]) == 2
    ElementTree.fromstring(svg([]))


def test_progress_is_told_at_a_measured_pace() -> None:
    times = iter((0.0, 0.1, 2.0, 2.0))
    stream = io.StringIO()
    teller = Teller(stream, lambda: next(times))
    for step in (1, 2, 3):
        teller.tell(TuneProgress(phase="Training", step=step))
    teller.tell(TuneProgress(phase="Saving", step=3))
    told = [progress_of(line) for line in stream.getvalue().splitlines()]
    assert [(one.phase, one.step) for one in told if one] == [("Training", 1), ("Training", 3), ("Saving", 3)]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("::1", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("2002:a00:1::", False),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
    ],
)
def test_private_addresses_are_known(address: str, public: bool) -> None:
    assert is_public(address) == public


def test_an_address_of_this_machine_is_refused_without_its_secrets() -> None:
    with pytest.raises(Failed) as error:
        Transport(public_only=True).send("GET", "http://localhost:1/a?token=secret", headers={})
    assert error.value.failure.reason == REASON_TUNING_ADDRESS
    assert "secret" not in error.value.failure.message
