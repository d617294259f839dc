# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A real `kaito-runtime serve` process for tests: its config, its log, its answers, and what it leaves behind."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from tests.engine_process import free_port

ENGINES = ("transformers", "vllm")
READY_WITHIN_S = 400


def demo_weights(request: pytest.FixtureRequest) -> str:
    """The folder that holds the demo model: KAITO_TEST_WEIGHTS, or the one that all end-to-end tests share."""
    given = os.environ.get("KAITO_TEST_WEIGHTS")
    return given or str(request.getfixturevalue("cache") / "kaito" / "models")


def serve_config(folder: Path, engine: str, **model: Any) -> Path:
    """Write a config that serves the demo model; `model` overrides fields of its source."""
    source = {"id": "kaito/demo-phi-3", "download_dir": str(folder / "weights"), "offline": True, **model}
    config = {
        "workspace": "demo",
        "namespace": "default",
        "engine": engine,
        "device": "cpu",
        "model": source,
        "served_model_name": "demo-phi-3",
        "port": free_port(),
    }
    path = folder / "serve.json"
    path.write_text(json.dumps(config))
    return path


class RuntimeProcess:
    """The process, as a context manager that ends it with SIGTERM."""

    def __init__(self, config: Path, folder: Path, **environment: str) -> None:
        settings = json.loads(config.read_text())
        self.engine: str = settings["engine"]
        self.host = environment.get("KAITO_HOST", "127.0.0.1")
        self.port: int = settings["port"]
        self.log = folder / "log"
        self.last_words = folder / "termination-log"
        self._seen: dict[int, float] = {}
        self._out = self.log.open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kaito.runtime", "serve", "--config", str(config)],
            env={
                **os.environ,
                "KAITO_HOST": self.host,
                "KAITO_TERMINATION_LOG": str(self.last_words),
                **environment,
            },
            stdout=self._out,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self) -> RuntimeProcess:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.request("GET", "/health")
                return self
            except OSError:
                time.sleep(0.1)
        self.process.kill()
        raise AssertionError("the front does not listen:\n" + self.log.read_text())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.tree()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        self._out.close()
        if error is not None:
            print(self.log.read_text(errors="replace")[-4000:])

    def request(
        self, method: str, path: str, body: Any = None, *, content_type: str | None = "application/json"
    ) -> tuple[int, bytes]:
        """Status and body of one request."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            headers = {"Content-Type": content_type or "application/x-www-form-urlencoded"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def ask(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        """Status and JSON value of one request."""
        status, text = self.request(method, path, body, **options)
        return status, json.loads(text)

    def events(self, path: str, body: Any) -> list[str]:
        """The data of a stream's events."""
        status, text = self.request("POST", path, body)
        assert status == 200, text
        return [line[6:] for line in text.decode().splitlines() if line.startswith("data: ")]

    def wait_ready(self) -> float:
        """Seconds until the engine answers; its log when it does not."""
        started = time.monotonic()
        while time.monotonic() - started < READY_WITHIN_S and self.process.poll() is None:
            if self.request("GET", "/health")[0] == 200:
                self.tree()
                return time.monotonic() - started
            time.sleep(0.2)
        raise AssertionError("not ready:\n" + self.log.read_text()[-4000:])

    def logs(self) -> list[Path]:
        """The file that the front and its engine write to."""
        return [self.log]

    def tree(self) -> list[psutil.Process]:
        """The processes below the front, remembered for `survivors`."""
        try:
            below: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self._seen.update({process.pid: process.create_time() for process in below})
        return below

    def survivors(self, within_s: float = 15) -> list[int]:
        """Those of the remembered processes that still run after this time."""
        deadline = time.monotonic() + within_s
        while True:
            alive = [pid for pid, born in self._seen.items() if is_running(pid, born)]
            if not alive or time.monotonic() > deadline:
                return alive
            time.sleep(0.1)


def is_running(pid: int, born: float) -> bool:
    """This very process runs (a zombie does not)."""
    try:
        process = psutil.Process(pid)
        return bool(process.create_time() == born and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
