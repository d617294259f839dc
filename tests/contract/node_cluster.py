# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A real engine with its node, driven by the real kubectl; what it started ends with it."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.engine_process import EngineProcess

Object = dict[str, Any]


class NodeCluster(EngineProcess):
    """An engine that runs pods."""

    @property
    def env(self) -> dict[str, str]:
        """The environment of a kubectl that talks to it."""
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig)}

    def kubectl(
        self, *arguments: str, input: bytes | None = None, check: bool = True, timeout: float = 30
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl without a terminal; its output as text."""
        raw = subprocess.run(
            ["kubectl", *arguments], env=self.env, input=input or b"", capture_output=True, timeout=timeout
        )
        done = subprocess.CompletedProcess(
            raw.args, raw.returncode, raw.stdout.decode(errors="replace"), raw.stderr.decode(errors="replace")
        )
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def on_terminal(self, *arguments: str, keys: bytes = b"", timeout: float = 30) -> tuple[int, str]:
        """Run kubectl on a terminal of its own and type `keys` once it has written something: exit code and screen."""
        pid, fd = pty.fork()
        if pid == 0:
            os.execvpe("kubectl", ["kubectl", *arguments], self.env)
        screen, deadline = b"", time.monotonic() + timeout
        while True:
            assert time.monotonic() < deadline, f"kubectl {' '.join(arguments)} does not end: {screen!r}"
            if not select.select([fd], [], [], 0.2)[0]:
                continue
            try:
                data = os.read(fd, 65536)
            except OSError:
                break
            if not data:
                break
            screen += data
            if keys:
                os.write(fd, keys)
                keys = b""
        os.close(fd)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), screen.decode(errors="replace")

    def apply(self, *objects: Object) -> None:
        """kubectl apply."""
        self.kubectl("apply", "-f", "-", input="\n".join(json.dumps(item) for item in objects).encode())

    def get(self, *what: str) -> Object:
        """kubectl get as JSON."""
        found: Object = json.loads(self.kubectl("get", *what, "-o", "json").stdout)
        return found

    def phase(self, name: str) -> str:
        """The pod's phase."""
        return str(self.get("pod", name)["status"].get("phase", ""))

    def ready(self, name: str, *, timeout: float = 15) -> None:
        """Wait until the pod is ready."""
        self.kubectl("wait", "--for=condition=Ready", f"pod/{name}", f"--timeout={timeout:g}s")

    def container(self, pod: str, index: int = 0) -> Object:
        """The status of one of the pod's containers."""
        found: list[Object] = self.get("pod", pod)["status"].get("containerStatuses") or []
        return found[index] if found else {"state": {}, "ready": False, "restartCount": 0}

    def events(self, pod: str) -> list[tuple[str, str, int]]:
        """Reason, message and count of the pod's events from the node, oldest first."""
        items = self.get("events", f"--field-selector=involvedObject.name={pod}")["items"]
        items.sort(key=lambda item: (item["firstTimestamp"] or "", int(item["metadata"]["resourceVersion"])))
        own = [item for item in items if item["source"].get("component") == "kaito-node"]
        return [(item["reason"], item["message"], item["count"]) for item in own]

    def end(self) -> None:
        """SIGQUIT: the engine and its pods end."""
        assert self.process is not None
        if self.process.poll() is None:
            self.signal(signal.SIGQUIT)
            self.process.wait(40)


def pod(name: str, *argv: str, image: str = "busybox", container: Object | None = None, **spec: Any) -> Object:
    """A pod with one container named `main`, that stops quickly."""
    main = {"name": "main", "image": image, **({"command": list(argv)} if argv else {}), **(container or {})}
    labels = {"app": name}
    whole = {"containers": [main], "terminationGracePeriodSeconds": 2, **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": whole}


def shell(name: str, script: str, **more: Any) -> Object:
    """A pod that runs a shell script."""
    return pod(name, "sh", "-c", script, **more)


def eventually(check: Callable[[], bool], what: str, *, within: float = 60) -> None:
    """Wait until the check holds."""
    deadline = time.monotonic() + within
    while not check():
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        time.sleep(0.05)


def processes_with(text: str) -> list[int]:
    """The processes whose command line or environment holds the text, this one left out."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if text.encode() in words and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


@contextmanager
def cluster(folder: Path, *arguments: str) -> Iterator[NodeCluster]:
    """A running engine; nothing of it is left at the end."""
    folder.mkdir(exist_ok=True)
    found = NodeCluster(folder, *arguments)
    found.start()
    try:
        eventually(lambda: "Ready" in found.kubectl("get", "nodes", check=False).stdout, "the node is there")
        yield found
    finally:
        found.end()
    eventually(lambda: not processes_with(str(folder / "data")), "every process has ended", within=20)
