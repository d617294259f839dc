# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kaito tune run` and `kaito tune compare`: words into manifests, data into questions, answers into figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kaito.api.workspace import Workspace
from kaito.cli.compare import Asked, Question, as_json, as_table, questions_of, summary
from kaito.cli.failure import UserError
from kaito.cli.plot import plot
from kaito.cli.tune import shown
from kaito.cli.tunerun import Wish, manifests, wish_of

IMAGE = "registry.example.com/team/taught:1"


def wish(**changes: Any) -> Wish:
    given: dict[str, Any] = {
        "name": "taught", "model": "phi-3-mini-4k-instruct", "method": "lora", "data": ["https://example.com/a.parquet"],
        "output": IMAGE, "push_secret": "login", "is_artifact": False, "config": None,
        "instance_type": "",
    } | changes  # fmt: skip
    words = [given.pop(key) for key in ("name", "model", "method", "data", "output")]
    return wish_of(*words, **given)


def test_words_become_a_workspace_that_tunes() -> None:
    (made,) = manifests(wish(instance_type="Standard_NC24ads_A100_v4"))
    workspace = Workspace.parse({**made, "metadata": {**made["metadata"], "namespace": "default"}})
    assert workspace.resource is not None
    assert workspace.tuning is not None
    assert (workspace.resource.instance_type, workspace.tuning.output.image) == ("Standard_NC24ads_A100_v4", IMAGE)
    assert workspace.tuning.input.urls == ("https://example.com/a.parquet",)


def test_a_data_set_of_a_hub_is_named_by_its_id(capsys: pytest.CaptureFixture[str]) -> None:
    (made,) = manifests(wish(data=["org/rows@v1", "hf://datasets/org/more/data"], is_artifact=True))
    urls = made["tuning"]["input"]["urls"]
    assert urls == ["hf://datasets/org/rows@v1", "hf://datasets/org/more/data"]
    assert made["metadata"]["annotations"] == {"kaito.sh/output-format": "artifact"}
    assert "There is no folder org/rows@v1 here" in capsys.readouterr().err


def test_folders_become_volumes_and_a_configuration_a_config_map(tmp_path: Path) -> None:
    config = tmp_path / "training.yaml"
    config.write_text("training_config: {}\n")
    config_map, made = manifests(wish(data=[str(tmp_path)], output="./result", push_secret="", config=config))
    assert config_map["data"] == {"training_config.yaml": "training_config: {}\n"}
    assert made["tuning"]["config"] == config_map["metadata"]["name"]
    assert made["tuning"]["input"] == {"volumeSource": {"hostPath": {"path": str(tmp_path), "type": "Directory"}}}
    assert made["tuning"]["output"]["volumeSource"]["hostPath"]["path"] == str(Path("result").absolute())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": None}, "A name is missing"),
        ({"model": ""}, "--model is missing"),
        ({"data": None}, "--data is missing"),
        ({"output": ""}, "--output is missing"),
        ({"data": ["nowhere"]}, "--data nowhere is no folder"),
        ({"data": ["https://example.com/a", "."]}, "not all are addresses"),
        ({"data": ["hf://org/rows"]}, "must begin with hf://datasets/"),
        ({"output": "./result", "is_artifact": True}, "--artifact makes no sense with the folder"),
        ({"push_secret": ""}, "--push-secret is missing"),
        ({"config": Path("nowhere.yaml")}, "--config nowhere.yaml cannot be read"),
    ],
)
def test_what_is_missing_is_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        wish(**changes)
    assert caught.value.next_step


def test_questions_come_from_any_data_set_that_asks_something(tmp_path: Path) -> None:
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "2"},
    ]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": talk}) + "\n")
    (tmp_path / "b.jsonl").write_text(json.dumps({"prompt": "Three?", "completion": "3"}) + "\n")
    (tmp_path / "c.jsonl").write_text(json.dumps({"text": "four"}) + "\n")
    found = questions_of(tmp_path, rows=10)
    assert [(one.text, one.expected, len(one.messages)) for one in found] == [("Two?", "2", 4), ("Three?", "3", 1)]
    (tmp_path / "a.jsonl").unlink()
    (tmp_path / "b.jsonl").unlink()
    with pytest.raises(UserError, match="has a question and an answer"):
        questions_of(tmp_path, rows=10)
    with pytest.raises(UserError, match="does not exist"):
        questions_of(tmp_path / "nowhere", rows=10)


def test_answers_stand_side_by_side_with_how_near_they_come() -> None:
    asked = [
        Asked(Question(({"role": "user", "content": "[bold]Two?"},), "2"), {"phi-3": "a pair", "taught": " 2\n"}),
        Asked(Question(({"role": "user", "content": "Why?"},)), {"phi-3": "so", "taught": "because"}),
    ]
    console = Console(width=100)
    with console.capture() as shown:
        console.print(as_table(asked))
    assert all(word in shown.get() for word in ("[bold]Two?", "expected", "a pair", "taught", "because"))
    assert summary(asked) == [
        "Of 1 expected answers:",
        "  phi-3: 0 to the letter, likeness 0.00 (1: the same text)",
        "  taught: 1 to the letter, likeness 1.00 (1: the same text)",
    ]
    assert summary(asked[1:]) == []
    assert as_json(asked[1]) == {"prompt": "Why?", "answers": {"phi-3": "so", "taught": "because"}}


def test_a_fine_tuning_is_shown_with_all_its_figures_and_its_curve() -> None:
    lines = [{"phase": "Training", "step": n, "steps": 40, "loss": 9.0 - n / 10} for n in range(1, 31)]
    lines += [{"phase": "Training", "step": n, "steps": 40, "loss": 5.0, "eval_loss": 6.5} for n in (31, 32)]
    figures = {"step": 32, "totalSteps": 40, "loss": "5.0000", "evalLoss": "6.5000", "tokensPerSecond": "123",
               "eta": "1m05s", "gpuMemory": "12.3 GiB", "rows": 8, "note": "The weights are divided."}  # fmt: skip
    found = {"metadata": {"name": "taught"}, "status": {"state": "Running", "tuning": figures}}
    console = Console(width=100)
    with console.capture() as captured:
        console.print(shown(found, lines))
    text = captured.get()
    assert text.splitlines()[0] == "taught: Running, Training"
    assert text.splitlines()[2].startswith("step 32/40  loss 5.0000")
    assert all(word in " ".join(text.split()) for word in ("tokensPerSecond 123", "gpuMemory 12.3 GiB", "are divided."))
    assert "8.900 ┤" in text and "5.000 ┤" in text and text.splitlines()[-1].split() == ["step", "1", "32"]
    assert sum(line.count("o") for line in text.splitlines() if "┤" in line) == 1


def test_a_curve_goes_where_its_points_are() -> None:
    drawn = plot([(1, 3.0), (3, 1.0)], [(3, 2.0)], width=4, height=2)
    assert drawn == ["3.000 ┤⠑⢄⠀⠀", "1.000 ┤⠀⠀⠑o", "       step 1 3"]
    assert plot([(1, 3.0)]) == [] == plot([(1, 3.0), (2, float("nan"))])
    assert len(plot([(1, 2.0), (2, 2.0)], height=3)) == 4
