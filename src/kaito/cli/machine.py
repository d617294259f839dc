# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The local engine and the operator as processes: start them, find them, stop them.

Composes the three: the engine gets an image map that turns our runtime image into this Python, the operator gets the
local provisioner and the folders with weights. Nothing below the CLI knows both.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

from kaito.api.kinds import WORKSPACES
from kaito.cli import cluster, local, settings
from kaito.cli.failure import UserError
from kaito.cli.probe import is_free, listens
from kaito.cli.supervisor import HURRY, follow_parent
from kaito.engine.node.leftovers import end_leftovers
from kaito.kube.client import Client
from kaito.kube.config import load_kubeconfig
from kaito.kube.errors import ApiError
from kaito.kube.resource import VALIDATING_WEBHOOKS

RUNTIME_IMAGE = "ghcr.io/kaito-project/kaito-runtime"
READY_WITHIN_S = 45.0
DEFAULT_PORT = 6443
POD_GRACE_S = 10.0
"""How long a pod that no engine cares for may take to end."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked `kaito up` for."""

    data_dir: Path
    kubeconfig: Path
    weights: tuple[Path, ...] = ()
    runtime: str = "auto"
    port: int | None = None
    images: Path | None = None
    provisioner: str = "local"
    existing: cluster.Cluster | None = None
    """The cluster to work on in place of the engine."""

    @property
    def simulates_machines(self) -> bool:
        """Whether nodes are ordered, and the engine plays the machines."""
        return self.existing is None and self.provisioner == "nodeclaim"


@dataclass(frozen=True, slots=True)
class Up:
    """A running engine: what to print, and whether it was us who started it."""

    kubeconfig: Path
    server: str
    started_here: bool
    seconds: float


def start(options: Options, *, detach: bool) -> Up:
    """Start engine and operator unless they run already; returns when a Workspace can be applied.

    Raises UserError with the end of the log when they do not come up; then, and when interrupted, nothing stays.
    """
    began = time.monotonic()
    with local.alone(options.data_dir):
        state = local.running(options.data_dir)
        if state is not None:
            check_same(options, state)
            state.supervisor.send(HURRY)
            wait_until_ready(options, Path(state.kubeconfig), began, state.supervisor.is_alive)
            return Up(Path(state.kubeconfig), state.server, started_here=False, seconds=time.monotonic() - began)
        clear_strays(options.data_dir)
        if options.existing is not None:
            server = options.existing.server
            process = spawn(options, server, (), detach=detach)
        else:
            # Nobody may take the kubeconfig of an earlier engine for the one that is about to be written.
            options.kubeconfig.unlink(missing_ok=True)
            port = choose_port(options)
            server = f"https://127.0.0.1:{port}"
            process = spawn(options, server, engine_command(options, port), detach=detach)
        try:
            wait_until_ready(options, options.kubeconfig, began, lambda: process.poll() is None)
        except BaseException:
            process.terminate()
            process.wait()
            end_rest(options.data_dir)
            raise
        return Up(options.kubeconfig, server, started_here=True, seconds=time.monotonic() - began)


def check_same(options: Options, state: local.State) -> None:
    """Raises UserError when what runs already works on another cluster than the one asked for."""
    wanted = options.existing.server if options.existing else ""
    if (wanted and wanted != state.server) or (not wanted and state.engine is None):
        raise UserError(
            f"kaito is up already, for {state.server}.",
            "Stop it first with kaito down, or give this one a folder of its own with --data-dir.",
        )


def clear_strays(data_dir: Path) -> None:
    """End what a killed supervisor left behind. The engine is killed hard: then its pods go on, and are found again."""
    state = local.load(data_dir)
    if state is None:
        return
    for process in state.children():
        process.end(signal.SIGKILL, wait_s=5.0)


def choose_port(options: Options) -> int:
    """The port asked for, else the one of last time (old kubeconfigs keep working), else 6443 or the next free one."""
    if options.port is not None:
        if not is_free(options.port):
            why = "is taken, or needs root" if options.port < 1024 else "is taken"
            raise UserError(f"Port {options.port} {why}.", "Choose another with --port, or leave --port out.")
        return options.port
    remembered = options.data_dir / "port"
    last = int(remembered.read_text()) if remembered.exists() else DEFAULT_PORT
    port = next((port for port in range(last, last + 200) if is_free(port)), None)
    if port is None:
        raise UserError(f"No free port was found from {last} on.", "Choose one with --port.")
    options.data_dir.mkdir(parents=True, exist_ok=True)
    remembered.write_text(str(port))
    return port


def spawn(options: Options, server: str, engine: Sequence[str], *, detach: bool) -> subprocess.Popen[bytes]:
    """Start the supervisor in a session of its own; in the foreground it ends when we do."""
    logs = options.data_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    argv = [
        sys.executable, "-m", "kaito.cli.supervisor", "--data-dir", str(options.data_dir), "--server", server,
        "--kubeconfig", str(options.kubeconfig), *(f"--engine={part}" for part in engine),
        *(f"--operator={part}" for part in operator_command(options)),
        *(f"--provisioner={part}" for part in provisioner_command(options)),
    ]  # fmt: skip
    with (logs / "up.log").open("ab") as log:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=None if detach else partial(follow_parent, signal.SIGTERM),
        )


def engine_command(options: Options, port: int) -> list[str]:
    """The engine's command line."""
    return [
        sys.executable, "-m", "kaito.engine", "--data-dir", str(options.data_dir), "--port", str(port),
        "--images", str(write_images(options)), "--kubeconfig", str(options.kubeconfig),
        *(("--simulated-machines",) if options.simulates_machines else ()),
    ]  # fmt: skip


def provisioner_command(options: Options) -> list[str]:
    """The node provisioner's command line; none where nodes are not ordered from the engine."""
    if not options.simulates_machines:
        return []
    return [
        sys.executable, "-m", "kaito.provisioner", "--kubeconfig", str(options.kubeconfig), "--cloud", "engine",
        "--install-crds", "--settle", "5",
    ]  # fmt: skip


def operator_command(options: Options) -> list[str]:
    """The operator's command line: for the engine on this machine, or for a cluster that exists."""
    argv = [
        sys.executable, "-m", "kaito.operator", "--kubeconfig", str(options.kubeconfig),
        "--provisioner", options.provisioner,
    ]  # fmt: skip
    if options.existing is not None:
        # No webhook: the API server of another machine could not reach it. Conditions say what it would have refused.
        argv += ["--leader-elect", "--namespace", cluster.OPERATOR_NAMESPACE]
        argv += ["--install-crds"] if options.existing.may_install else []
        return argv if options.runtime == "auto" else [*argv, "--default-runtime", options.runtime]
    # One operator for one engine: nobody to elect.
    argv += [
        "--leader-elect=false", "--install-crds", "--webhook-port", "0", "--webhook-url-host", "127.0.0.1",
        "--weights-cache", str(options.data_dir / "weights"),
        "--runtime-image", RUNTIME_IMAGE, "--default-runtime", default_runtime(options.runtime),
    ]  # fmt: skip
    if options.weights:
        argv += ["--local-weights", ",".join(str(folder) for folder in options.weights)]
    return argv


def default_runtime(asked: str) -> str:
    """The model server for Workspaces that name none: vLLM where there is a GPU for it, else transformers.

    On a CPU both answer alike, and transformers starts in a third of the time.
    """
    if asked != "auto":
        return asked
    has_gpu = shutil.which("nvidia-smi") is not None and importlib.util.find_spec("vllm") is not None
    return "vllm" if has_gpu else "transformers"


def write_images(options: Options) -> Path:
    """Write the image map: our runtime image is this Python; the user's own entries come first."""
    entry = {
        "match": RUNTIME_IMAGE,
        "command": [],
        "path": [str(Path(sys.executable).parent)],
        "env": {"KAITO_HOST": "{pod_ip}", "KAITO_ROOT": "{pod_root}", "KAITO_SERVICE_PROXY": "{service_proxy}"},
    }
    file = options.data_dir / "images.json"
    options.data_dir.mkdir(parents=True, exist_ok=True)
    entries = [entry]
    if options.images is not None:
        try:
            listed = yaml.safe_load(options.images.read_text())
            entries = [*(listed["images"] if isinstance(listed, dict) else listed), entry]
        except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError) as error:
            why = error.strerror if isinstance(error, OSError) else "it holds no YAML or JSON list of entries"
            raise UserError(
                f"The image map {options.images} cannot be read: {why}.", "docs/engine.md shows the form of an entry."
            ) from error
    file.write_text(json.dumps(entries, indent=1))
    return file


def wait_until_ready(options: Options, kubeconfig: Path, began: float, is_alive: Callable[[], bool]) -> None:
    """Return when Workspaces are served and the operator is there. Raises UserError when that takes too long."""
    data_dir = options.data_dir
    what = "operator" if options.existing else "engine"
    while True:
        if not is_alive():
            raise UserError(
                f"The {what} did not start. {last_line(data_dir)}", f"Read the logs in {data_dir / 'logs'}."
            )
        if kubeconfig.exists() and asyncio.run(is_serving(kubeconfig, has_webhook=options.existing is None)):
            return
        if time.monotonic() - began > READY_WITHIN_S:
            raise UserError(
                f"The {what} is not ready after {READY_WITHIN_S:g} s. {last_line(data_dir)}",
                f"Read the logs in {data_dir / 'logs'}, then: kaito down",
            )
        time.sleep(0.1)


async def is_serving(kubeconfig: Path, *, has_webhook: bool) -> bool:
    """Whether Workspaces are served and the operator works: its admission webhook listens, or somebody has its Lease.

    The engine keeps the webhook's registration between two runs; so only an open port says that the operator is there.
    """
    try:
        async with Client(load_kubeconfig(kubeconfig)) as client:
            await client.list_objects(WORKSPACES)
            if not has_webhook:
                return bool(await cluster.leader(load_kubeconfig(kubeconfig)))
            items, _ = await client.list_objects(VALIDATING_WEBHOOKS)
    except (ApiError, ValueError, OSError):
        return False
    hooks = [hook["clientConfig"] for item in items for hook in item.get("webhooks") or []]
    return any(listens(hook["url"]) for hook in hooks if "url" in hook)


def last_line(data_dir: Path) -> str:
    """The last thing that the engine, the operator or the supervisor logged, to say why they do not come up."""
    for name in ("engine.log", "operator.log", "up.log"):
        file = data_dir / "logs" / name
        lines = file.read_text(errors="replace").strip().splitlines() if file.exists() else []
        if lines and ("rror" in lines[-1] or "cannot" in lines[-1]):
            return f"{name} ends with: {lines[-1].strip()[:300]}"
    return ""


def stop(data_dir: Path) -> bool:
    """Stop engine, operator and every pod. Returns False when nothing ran. Raises UserError when it does not end."""
    if not data_dir.is_dir():
        return False
    with local.alone(data_dir):
        state = local.load(data_dir)
        ran = False
        if state is not None:
            ran = state.supervisor.is_alive()
            if not state.supervisor.end(signal.SIGTERM, wait_s=60.0):
                raise UserError(
                    f"The supervisor (process {state.supervisor.pid}) did not stop within 60 s.",
                    "Try again: kaito down",
                )
        return end_rest(data_dir) or ran


def end_rest(data_dir: Path) -> bool:
    """End what a killed supervisor or engine left behind, pods included. Returns whether there was anything."""
    state = local.load(data_dir)
    left = state.children() if state else []
    alive = [process for process in left if process.is_alive()]
    for process in alive:
        process.end(signal.SIGKILL, wait_s=5.0)
    pods = asyncio.run(end_leftovers(data_dir, POD_GRACE_S))
    local.forget(data_dir)
    return bool(alive) or pods > 0


def options_from(
    env: settings.Settings,
    *,
    kubeconfig: Path | None = None,
    weights: Sequence[Path] = (),
    runtime: str = "auto",
    port: int | None = None,
    images: Path | None = None,
    provisioner: str | None = None,
) -> Options:
    """Options for this machine, defaults filled in; the demo model's folder is looked at after the user's own."""
    missing = [folder for folder in weights if not folder.is_dir()]
    if missing:
        raise UserError(f"The weights folder {missing[0]} does not exist.", "Lay weights out as DIR/<model id>/.")
    built_here = env.cache_dir / "models"
    built_here.mkdir(parents=True, exist_ok=True)
    chosen = (kubeconfig or env.data_dir / "kubeconfig").expanduser().absolute()
    folders = (*(folder.absolute() for folder in weights), built_here)
    return Options(env.data_dir, chosen, folders, runtime, port, images, provisioner or "local")


def options_for_cluster(
    env: settings.Settings, found: cluster.Cluster, *, runtime: str, provisioner: str | None
) -> Options:
    """Options for the operator alone, working on a cluster that exists."""
    return Options(env.data_dir, found.kubeconfig, runtime=runtime, provisioner=provisioner or "byo", existing=found)
