# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Runs an external conformance kit against a fresh engine: `python -m tests.conformance_kit DIR`.

DIR holds `conformance.py` and `kubectl/kubectl_check.py` (black-box scenarios recorded from Kubernetes 1.36). The
engine runs without a node, as the kit writes the status of pods itself. Fails when fewer steps pass than the marks
below, so that what was reached is not lost again.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from tests.engine_process import EngineProcess

API_AT_LEAST = 98.0
KUBECTL_AT_LEAST = 96.0
NETWORK = "10.96.0.0/16"
"""The kit knows a cluster address by its 10."""
ENGINE = ("--no-node", "--service-network", NETWORK, "--disable-admission-plugins", "ServiceAccount")
"""As the recorded server ran: without the admission plugin that gives pods a token."""


def main() -> int:
    """Run both halves; the exit status is 0 when both reach their mark."""
    kit = Path(sys.argv[1]).resolve()
    with (
        tempfile.TemporaryDirectory() as folder,
        EngineProcess(Path(folder), *ENGINE) as engine,
    ):
        config = yaml.safe_load(engine.kubeconfig.read_text())
        token = config["users"][0]["user"]["token"]
        api = subprocess.run(
            [sys.executable, "conformance.py", "check", "--server", engine.server, "--token", token,
             "--min-semantic", str(API_AT_LEAST)],
            cwd=kit, check=False,
        )  # fmt: skip
        kubectl = subprocess.run(
            [sys.executable, "kubectl/kubectl_check.py", "check", "--kubeconfig", str(engine.kubeconfig),
             "--min-semantic", str(KUBECTL_AT_LEAST)],
            cwd=kit, check=False,
        )  # fmt: skip
    return api.returncode or kubectl.returncode


if __name__ == "__main__":
    sys.exit(main())
