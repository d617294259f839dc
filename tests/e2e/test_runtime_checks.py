# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What `kaito-runtime serve` finds wrong before it starts an engine: within seconds, in one line, no traceback."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.runtime_process import serve_config


def run(config: Path, folder: Path, **environment: str) -> tuple[int, str, float]:
    """Exit code, output and seconds of a server that does not come up."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "kaito.runtime", "serve", "--config", str(config)],
        env={
            "PATH": "/usr/bin:/bin",
            "KAITO_HOST": "127.0.0.1",
            "KAITO_TERMINATION_LOG": str(folder / "termination-log"),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr, time.monotonic() - started


def last_words(folder: Path) -> dict[str, str]:
    """The failure that was left."""
    words: dict[str, str] = json.loads((folder / "termination-log").read_text())
    return words


@pytest.mark.parametrize("offline", [True, False])
def test_missing_weights_are_told_within_seconds(tmp_path: Path, offline: bool) -> None:
    config = serve_config(
        tmp_path, "vllm", id="microsoft/Phi-3-mini-4k-instruct", offline=offline, local_dirs=["/nowhere"]
    )
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        hub = f"http://127.0.0.1:{closed.getsockname()[1]}"
        code, output, seconds = run(config, tmp_path, HF_ENDPOINT=hub, HF_TOKEN="hf_secretsecret")
    assert code == 1
    assert seconds < 10
    assert "Traceback" not in output and "hf_secret" not in output
    words = last_words(tmp_path)
    assert words["reason"] == "ModelWeightsNotFound"
    assert words["message"].startswith("No weights of microsoft/Phi-3-mini-4k-instruct on this machine")
    assert "kaito up --weights DIR" in words["next_step"]
    assert output.splitlines()[-1].startswith("kaito-runtime: ModelWeightsNotFound: ")


def test_damaged_weights_are_told_before_an_engine_is_started(tmp_path: Path) -> None:
    folder = tmp_path / "models/kaito/demo-phi-3"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"garbage that is no tensor")
    code, output, _ = run(serve_config(tmp_path, "transformers", local_dirs=[str(tmp_path / "models")]), tmp_path)
    assert code == 1 and "Traceback" not in output and "starting" not in output
    words = last_words(tmp_path)
    assert words["reason"] == "ModelWeightsNotFound"
    assert "model.safetensors is no safetensors file" in words["message"] and words["next_step"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"engine": "tgi"}, "engine"),
        ({"port": "many"}, "port"),
        ({"colour": "blue"}, "colour"),
        ({"model": {}}, "model.id"),
    ],
)
def test_a_wrong_config_names_its_field(tmp_path: Path, change: dict[str, object], word: str) -> None:
    config = serve_config(tmp_path, "vllm")
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    code, output, _ = run(config, tmp_path)
    assert code == 1 and "Traceback" not in output
    assert word in last_words(tmp_path)["message"]


def test_an_unknown_option_is_named_with_its_config_map_before_anything_starts(tmp_path: Path) -> None:
    config = serve_config(tmp_path, "vllm", local_dirs=["/nowhere"])
    user = tmp_path / "inference_config.yaml"
    user.write_text("vllm:\n  max-model-lem: 2048\n")
    given = {**json.loads(config.read_text()), "user_config": str(user), "user_config_name": "mine"}
    config.write_text(json.dumps(given))
    code, output, seconds = run(config, tmp_path)
    assert code == 1 and seconds < 10 and "Traceback" not in output and "starting" not in output
    words = last_words(tmp_path)
    assert words["reason"] == "UnknownEngineOption"
    assert words["message"] == (
        "Key inference_config.yaml of ConfigMap mine: vllm has no option max-model-lem; did you mean max-model-len?"
    )


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    config = serve_config(tmp_path, "vllm")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", json.loads(config.read_text())["port"]))
        taken.listen()
        code, output, _ = run(config, tmp_path)
    assert code == 1 and "Traceback" not in output
    assert "cannot be listened on" in last_words(tmp_path)["message"]


def test_paths_are_taken_below_the_pods_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc" / "kaito").mkdir(parents=True)
    incomplete = root / "mnt" / "weights" / "kaito" / "demo-phi-3"
    incomplete.mkdir(parents=True)
    written = serve_config(tmp_path, "transformers", local_dirs=["/mnt/weights"])
    written.rename(root / "etc" / "kaito" / "serve.json")
    (root / "dev").mkdir()
    (root / "dev" / "termination-log").touch()
    code, _, _ = run(
        Path("/etc/kaito/serve.json"), tmp_path, KAITO_ROOT=str(root), KAITO_TERMINATION_LOG="/dev/termination-log"
    )
    assert code == 1
    words = json.loads((root / "dev" / "termination-log").read_text())
    assert f"{incomplete} lacks" in words["message"]
