# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The AWS backend through boto3 against moto's server: EC2, EKS and SSM over HTTP. What moto does not play (capacity,
quotas, throttling, lost answers) a proxy before it answers in AWS's own form."""

from __future__ import annotations

import base64
import http.client
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import boto3
import pytest
import yaml
from moto.server import ThreadedMotoServer

from kaito.api import nodeclaims as names
from kaito.provisioner import errors
from kaito.provisioner.backends.aws import IMAGE_PARAMETER, AwsBackend, may_set
from kaito.provisioner.backends.calls import AWS, AWS_BESIDE
from kaito.provisioner.settings import Settings
from tests.unit.provisioner.orders import order

SETTINGS = Settings(cloud="aws", cluster="prod", region="us-east-1", instance_profile="nodes")
LOGIN = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
FAILED = (
    "<?xml version='1.0'?><Response><Errors><Error><Code>{code}</Code><Message>{text}</Message></Error></Errors>"
    "<RequestID>r</RequestID></Response>"
)


class Proxy:
    """Hands every request on to moto, but those that are to fail."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.failures: dict[str, list[tuple[int, str, str]]] = {}
        """By EC2 action: status, code and text of the next answers; status 0 does it and hangs up."""
        self.made: dict[str, bytes] = {}
        """Answers by client token: EC2 repeats them (API reference, "Ensuring idempotency"), moto does not."""
        owner = self

        class Requests(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                form = parse_qs(body.decode("utf-8", "replace"))
                action, token = (form.get(name, [""])[0] for name in ("Action", "ClientToken"))
                scripted = owner.failures.get(action) or [(-1, "", "")]
                status, code, text = scripted.pop(0)
                data = FAILED.format(code=code, text=text).encode()
                kind = "text/xml"
                if status <= 0 and token in owner.made:
                    status, data = 200, owner.made[token]
                elif status <= 0:
                    onward = http.client.HTTPConnection(*target, timeout=20)
                    onward.request(self.command, self.path, body, dict(self.headers))
                    answer = onward.getresponse()
                    data, kind = answer.read(), answer.headers.get("Content-Type") or kind
                    onward.close()
                    if token:
                        owner.made[token] = data
                    if status == 0:
                        self.close_connection = True
                        return
                    status = answer.status
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = _serve

            def log_message(self, *arguments: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Requests)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in LOGIN.items():
            patch.setenv(name, value)
        moto = ThreadedMotoServer("127.0.0.1", 0)
        moto.start()
        made = Proxy(moto.get_host_and_port())
        _set_up(made.url)
        yield made
        made.server.shutdown()
        made.server.server_close()
        moto.stop()


def _set_up(url: str) -> None:
    """What a cluster's owner has made: subnets with the cluster's tag, the cluster, the nodes' profile, the image."""
    ec2, eks = boto3.client("ec2", endpoint_url=url), boto3.client("eks", endpoint_url=url)
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnets = []
    for number, zone in enumerate(("us-east-1a", "us-east-1b")):
        made = ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{number}.0/24", AvailabilityZone=zone)["Subnet"][
            "SubnetId"
        ]
        ec2.create_tags(Resources=[made], Tags=[{"Key": "kubernetes.io/cluster/prod", "Value": "shared"}])
        subnets.append(made)
    role = "arn:aws:iam::123456789012:role/cluster"
    eks.create_cluster(name="prod", version="1.31", roleArn=role, resourcesVpcConfig={"subnetIds": subnets})
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    name = IMAGE_PARAMETER.format(version="1.31")
    boto3.client("ssm", endpoint_url=url).put_parameter(Name=name.removeprefix("/aws"), Value=image, Type="String")
    iam = boto3.client("iam", endpoint_url=url)
    iam.create_instance_profile(InstanceProfileName="nodes")


@pytest.fixture
def backend(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> AwsBackend:
    for name, value in LOGIN.items():
        monkeypatch.setenv(name, value)
    # moto keeps parameters below /aws to itself.
    monkeypatch.setattr("kaito.provisioner.backends.aws.IMAGE_PARAMETER", IMAGE_PARAMETER.removeprefix("/aws"))
    return AwsBackend(replace(SETTINGS, endpoint=proxy.url))


async def test_an_instance_comes_joins_and_goes(backend: AwsBackend, proxy: Proxy) -> None:
    wanted = order("ws0", "g5.xlarge", zone="us-east-1b", capacity_type="spot", disk_gib=300)
    made = await backend.create(wanted)
    assert (made.claim, made.claim_uid, made.zone) == ("ws0", "uid-ws0", "us-east-1b")
    assert made.provider_id == f"aws:///us-east-1b/{made.id}"
    (listed,) = [one for one in await backend.list() if one.claim == "ws0"]
    assert (listed.state, listed.capacity_type, listed.instance_type) == ("running", "spot", "g5.xlarge")
    assert await backend.get(listed) == listed
    ec2 = boto3.client("ec2", endpoint_url=proxy.url)
    told = ec2.describe_instance_attribute(InstanceId=made.id, Attribute="userData")["UserData"]["Value"]
    config = yaml.safe_load(base64.b64decode(told))
    assert (config["kind"], config["spec"]["cluster"]["name"]) == ("NodeConfig", "prod")
    kubelet = config["spec"]["kubelet"]
    assert {taint["key"] for taint in kubelet["config"]["registerWithTaints"]} == {"sku", names.UNREGISTERED_TAINT}
    (flag,) = kubelet["flags"]
    labels = dict(part.split("=") for part in flag.removeprefix("--node-labels=").split(","))
    assert labels[names.CLAIM_UID_LABEL] == "uid-ws0"
    assert names.ZONE_LABEL not in labels
    await backend.delete(listed)
    gone = [one.state for one in await backend.list() if one.claim == "ws0"]
    assert gone in (["gone"], ["stopping"], [])


async def test_the_same_attempt_asks_for_the_same_instance(backend: AwsBackend, proxy: Proxy) -> None:
    proxy.failures["RunInstances"] = [(0, "", "")]
    with pytest.raises(errors.Unclear):
        await backend.create(order("twice", "g5.xlarge", zone="us-east-1a"))
    made = await backend.create(order("twice", "g5.xlarge", zone="us-east-1a"))
    up = [one.id for one in await backend.list() if one.claim == "twice"]
    assert up == [made.id]
    other = await backend.create(order("twice", "g5.xlarge", zone="us-east-1a", attempt=2))
    assert other.id != made.id


async def test_instances_of_other_clusters_are_not_seen(backend: AwsBackend, proxy: Proxy) -> None:
    ec2 = boto3.client("ec2", endpoint_url=proxy.url)
    tags = [{"Key": names.CLUSTER_LABEL, "Value": "test"}, {"Key": names.CLAIM_LABEL, "Value": "theirs"}]
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    ec2.run_instances(
        ImageId=image, MinCount=1, MaxCount=1, TagSpecifications=[{"ResourceType": "instance", "Tags": tags}]
    )
    assert all(one.claim != "theirs" for one in await backend.list())


async def test_offers_are_the_catalogues_types_in_the_clusters_zones(backend: AwsBackend) -> None:
    offers = await backend.instance_types()
    assert {one.zone for one in offers} == {"us-east-1a", "us-east-1b"}
    g5 = next(one for one in offers if one.instance_type == "g5.12xlarge" and one.capacity_type == "on-demand")
    assert (g5.gpus, g5.dollars) == (4, 5.672)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (500, "InsufficientInstanceCapacity", errors.OutOfCapacity),
        (400, "Unsupported", errors.OutOfCapacity),
        (400, "VcpuLimitExceeded", errors.QuotaExceeded),
        (400, "MaxSpotInstanceCountExceeded", errors.QuotaExceeded),
        (403, "UnauthorizedOperation", errors.Unauthorised),
        (401, "AuthFailure", errors.Unauthorised),
        (503, "RequestLimitExceeded", errors.Throttled),
        (500, "InternalError", errors.Unclear),
        (400, "InvalidParameterValue", errors.Rejected),
        (400, "InvalidAMIID.NotFound", errors.Rejected),
    ],
)
async def test_what_aws_refuses_is_told_in_its_own_words(
    backend: AwsBackend, proxy: Proxy, status: int, code: str, kind: type[errors.CloudError]
) -> None:
    proxy.failures["RunInstances"] = [(status, code, "in the cloud's words")]
    with pytest.raises(kind, match=f"{code}: in the cloud's words"):
        await backend.create(order("refused", "g5.xlarge", zone="us-east-1a"))


async def test_without_credentials_it_says_so(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LOGIN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    with pytest.raises(errors.Unauthorised, match="service account a role"):
        await AwsBackend(replace(SETTINGS, endpoint=proxy.url)).list()


async def test_the_calls_made_are_those_of_the_table(backend: AwsBackend) -> None:
    recorded: dict[str, set[str]] = {}
    current = ""

    def note(model: Any, **_: Any) -> None:
        recorded.setdefault(current, set()).add(f"{model.service_model.service_name}:{model.name}")

    for client in (backend._ec2, backend._eks, backend._ssm):
        client.meta.events.register("before-call", note)
    current = "create"
    made = await backend.create(order("table", "g5.xlarge", zone="us-east-1a"))
    current = "get"
    await backend.get(made)
    current = "list"
    await backend.list()
    current = "delete"
    await backend.delete(made)
    current = "instance_types"
    backend._subnets = {}
    await backend.instance_types()
    assert recorded == {method: set(needed) for method, needed in AWS.items()}
    assert AWS_BESIDE.keys() <= {right for needed in AWS.values() for right in needed}


def test_labels_that_a_kubelet_may_not_set_are_left_out() -> None:
    assert may_set("kaito.sh/workspace")
    assert may_set("plain")
    assert may_set("node.kubernetes.io/instance-type")
    assert not may_set("topology.kubernetes.io/zone")
    assert not may_set("node-restriction.kubernetes.io/x")
