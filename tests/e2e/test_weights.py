# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Weights that a Workspace takes from an object store: a wrong address in the Secret, the right one, an answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.e2e.machine import Machine, eventually

pytestmark = pytest.mark.slow
NAME = "from-a-bucket"
MANIFEST = f"""
apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata:
  name: {NAME}
  annotations:
    kaito.sh/weights-uri: s3://served-models/team/phi
    kaito.sh/weights-uri-secret: bucket
resource:
  labelSelector:
    matchLabels: {{apps: bucket}}
inference:
  preset:
    name: phi-3.5-mini-instruct
"""


@pytest.fixture(scope="module")
def bucket(weights: Path) -> Iterator[str]:
    """An S3 server with the demo model in it, under a name of its own: servers of one process share what they hold."""
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    login = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
    s3 = boto3.client("s3", endpoint_url=f"http://{host}:{port}", **login)
    s3.create_bucket(Bucket="served-models")
    for file in next(weights.glob("*/*")).iterdir():
        s3.upload_file(str(file), "served-models", f"team/phi/{file.name}")
    yield f"http://{host}:{port}"
    server.stop()


def test_weights_come_from_a_bucket(machine: Machine, bucket: str) -> None:
    keys = ("--from-literal=AWS_ACCESS_KEY_ID=k", "--from-literal=AWS_SECRET_ACCESS_KEY=s")
    machine.kubectl("create", "secret", "generic", "bucket", *keys, f"--from-literal=AWS_ENDPOINT_URL={bucket}/nowhere")
    machine.run("kubectl", "apply", "-f", "-", input=MANIFEST)
    eventually(
        lambda: machine.condition(NAME, "InferenceReady").get("reason") == "ArtifactNotFound",
        within=60,
        what="the store's answer in a condition",
    )
    assert "s3://served-models/team/phi" in machine.condition(NAME, "InferenceReady")["message"]
    machine.kubectl("patch", "secret", "bucket", "-p", f'{{"stringData": {{"AWS_ENDPOINT_URL": "{bucket}"}}}}')
    machine.kubectl("delete", "pod", f"{NAME}-0")
    machine.wait_ready(NAME)
    assert "kubernetes" in machine.kaito("chat", NAME, "What is kaito?").stdout.lower()
    machine.kubectl("delete", "workspace", NAME)
    machine.kubectl("delete", "secret", "bucket")
