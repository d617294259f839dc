# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Built-in kinds: decoding, defaults, validation, and their OpenAPI documents."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from kaito.engine.schema import builtin, openapi
from kaito.engine.schema.decode import DecodeError, decode, decode_metadata
from kaito.engine.schema.defaults import apply_defaults
from kaito.engine.schema.field import aggregate
from kaito.engine.schema.prepare import prepare_create, qos_class
from kaito.engine.schema.quantity import QuantityError, canonical
from kaito.engine.schema.validation import validate_create, validate_update
from kaito.kube.manifest import Manifest

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def made(kind: str, api_version: str = "v1", /, name: str = "a", **rest: Any) -> Manifest:
    """A decoded and defaulted object."""
    obj = {"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": "default"}, **rest}
    decode(obj, api_version, kind)
    apply_defaults(obj)
    return obj


def pod(*containers: Manifest, **spec: Any) -> Manifest:
    return made("Pod", spec={"containers": list(containers), **spec})


def errors_of(obj: Manifest) -> list[str]:
    return [str(error) for error in validate_create(obj)]


def test_unknown_fields_are_named_with_their_place() -> None:
    obj = {"metadata": {"labls": {}}, "spec": {"containers": [{"imagePulPolicy": "x"}], "restartPolcy": "x"}}
    assert decode(obj, "v1", "Pod") == ["metadata.labls", "spec.containers[0].imagePulPolicy", "spec.restartPolcy"]
    assert obj == {"metadata": {}, "spec": {"containers": [{"resources": {}}]}}


@pytest.mark.parametrize(
    ("kind", "api_version", "obj", "message"),
    [
        (
            "ConfigMap",
            "v1",
            {"data": {"k": 5}},
            "json: cannot unmarshal number into Go struct field ConfigMap.data of type string",
        ),
        (
            "ConfigMap",
            "v1",
            {"data": ["a"]},
            "json: cannot unmarshal array into Go struct field ConfigMap.data of type map[string]string",
        ),
        (
            "Deployment",
            "apps/v1",
            {"spec": {"replicas": "3"}},
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        ("Secret", "v1", {"data": {"k": "not base64!"}}, "illegal base64 data at input byte 3"),
        (
            "Pod",
            "v1",
            {"spec": {"containers": "x"}},
            "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
    ],
)
def test_a_wrong_type_is_refused_as_go_refuses_it(kind: str, api_version: str, obj: Manifest, message: str) -> None:
    with pytest.raises(DecodeError) as raised:
        decode(obj, api_version, kind)
    assert str(raised.value) == message


def test_metadata_of_custom_resources_is_decoded_alone() -> None:
    with pytest.raises(DecodeError, match=r"Go struct field ObjectMeta\.labels of type string"):
        decode_metadata({"labels": {"a": 5}})
    assert decode_metadata({"labls": {}}) == ["metadata.labls"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1000m", "1"),
        ("0.5", "500m"),
        (2, "2"),
        ("1024Mi", "1Gi"),
        ("1.5Gi", "1536Mi"),
        ("1e3", "1e3"),
        ("0", "0"),
        ("100Ki", "100Ki"),
    ],
)
def test_quantities_are_written_canonically(text: str | int, expected: str) -> None:
    assert canonical(text) == expected


@pytest.mark.parametrize("text", ["lots", "1x", "", "1 Gi"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(QuantityError):
        canonical(text)


def test_a_pod_gets_the_defaults_of_kubernetes() -> None:
    found = pod({"name": "m", "image": "i:1", "ports": [{"containerPort": 80}]})
    container = found["spec"]["containers"][0]
    assert container["imagePullPolicy"] == "IfNotPresent"
    assert container["ports"][0]["protocol"] == "TCP"
    assert found["spec"]["restartPolicy"] == "Always"
    prepare_create(found, NOW)
    assert found["status"]["qosClass"] == "BestEffort"
    assert len(found["spec"]["tolerations"]) == 2


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("i", "Always"),
        ("i:latest", "Always"),
        ("host:5000/i", "Always"),
        ("i:1", "IfNotPresent"),
        ("i@sha256:ab", "IfNotPresent"),
    ],
)
def test_an_image_without_a_fixed_tag_is_always_pulled(image: str, policy: str) -> None:
    assert pod({"name": "m", "image": image})["spec"]["containers"][0]["imagePullPolicy"] == policy


def test_the_qos_class_follows_limits_and_requests() -> None:
    full = {"cpu": "1", "memory": "1Gi"}
    assert qos_class({"containers": [{"resources": {"limits": full, "requests": full}}]}) == "Guaranteed"
    assert qos_class({"containers": [{"resources": {"requests": full}}]}) == "Burstable"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"containers": []}, ["spec.containers: Required value"]),
        ({"containers": [{"name": "x"}]}, ["spec.containers[0].image: Required value"]),
        (
            {"containers": [{"name": "x", "image": "i"}, {"name": "x", "image": "i"}]},
            ['spec.containers[1].name: Duplicate value: "x"'],
        ),
        (
            {"containers": [{"name": "x", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]},
            ['spec.containers[0].volumeMounts[0].name: Not found: "v"'],
        ),
        (
            {"containers": [{"name": "x", "image": "i", "ports": [{"containerPort": 70000}]}]},
            ["spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"],
        ),
        (
            {
                "containers": [
                    {"name": "x", "image": "i", "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}}
                ]
            },
            ['spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1'],
        ),
        (
            {"containers": [{"name": "x", "image": "i"}], "restartPolicy": "Maybe"},
            ['spec.restartPolicy: Unsupported value: "Maybe": supported values: "Always", "OnFailure", "Never"'],
        ),
    ],
)
def test_a_bad_pod_is_refused(spec: Manifest, expected: list[str]) -> None:
    assert errors_of(made("Pod", spec=spec)) == expected


TEMPLATE = {"metadata": {"labels": {"app": "y"}}, "spec": {"containers": [{"name": "m", "image": "i"}]}}


def test_a_selector_must_match_the_template() -> None:
    obj = made("Deployment", "apps/v1", spec={"selector": {"matchLabels": {"app": "x"}}, "template": TEMPLATE})
    assert [error.field for error in validate_create(obj)] == ["spec.template.metadata.labels"]


def test_a_job_never_restarts_always() -> None:
    obj = made("Job", "batch/v1", spec={"template": TEMPLATE})
    assert [error.field for error in validate_create(obj)] == ["spec.template.spec.restartPolicy"]


def test_a_stateful_set_changes_only_where_it_may() -> None:
    spec = {"selector": {"matchLabels": {"app": "y"}}, "template": TEMPLATE, "serviceName": "s"}
    old = made("StatefulSet", "apps/v1", spec=spec)
    assert validate_update({**old, "spec": {**old["spec"], "replicas": 3}}, old) == []
    found = validate_update({**old, "spec": {**old["spec"], "serviceName": "t"}}, old)
    assert [error.field for error in found] == ["spec"]
    assert found[0].message.startswith("Forbidden: updates to statefulset spec for fields other than 'replicas'")


def test_a_pod_changes_only_where_it_may() -> None:
    old = pod({"name": "m", "image": "i:1"})
    image = {**old, "spec": {**old["spec"], "containers": [{**old["spec"]["containers"][0], "image": "i:2"}]}}
    assert validate_update(image, old) == []
    policy = {**old, "spec": {**old["spec"], "restartPolicy": "Never"}}
    assert [(error.field, error.reason) for error in validate_update(policy, old)] == [("spec", "FieldValueForbidden")]


def test_an_immutable_config_map_stays() -> None:
    old = made("ConfigMap", data={"k": "1"}, immutable=True)
    assert validate_update(old, old) == []
    assert [error.field for error in validate_update({**old, "data": {"k": "2"}}, old)] == ["data"]


def test_a_secret_takes_plain_text_and_keeps_its_type() -> None:
    obj = made("Secret", stringData={"k": "v"})
    assert (obj["type"], obj["data"]) == ("Opaque", {"k": "dg=="})
    assert [error.field for error in validate_update({**obj, "type": "other"}, obj)] == ["type"]
    assert (
        "secret contents redacted"
        in errors_of(made("Secret", stringData={".dockerconfigjson": "nope"}, type="kubernetes.io/dockerconfigjson"))[0]
    )


@pytest.mark.parametrize(
    ("kind", "name", "part"),
    [
        ("ConfigMap", "Not_Valid", "RFC 1123 subdomain"),
        ("Namespace", "a.b", "RFC 1123 label"),
        ("Service", "1a", "DNS-1035 label"),
    ],
)
def test_names_follow_the_rule_of_their_kind(kind: str, name: str, part: str) -> None:
    obj = made(kind, name=name, spec={"ports": [{"port": 80}]}) if kind == "Service" else made(kind, name=name)
    assert any(
        error.startswith(f'metadata.name: Invalid value: "{name}"') and part in error for error in errors_of(obj)
    )


def test_several_errors_are_joined_in_brackets() -> None:
    errors = validate_create(made("ConfigMap", data={"a b": "1", "c d": "1"}))
    assert aggregate(errors).startswith("[data[a b]: Invalid value: ")
    assert aggregate(errors[:1]).startswith("data[a b]: ")


def test_webhook_configurations_are_checked() -> None:
    hook = {
        "name": "short",
        "clientConfig": {"url": "http://x"},
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 31,
    }
    obj = made("ValidatingWebhookConfiguration", "admissionregistration.k8s.io/v1", webhooks=[hook])
    assert {error.field for error in validate_create(obj)} == {
        "webhooks[0].name",
        "webhooks[0].clientConfig.url",
        "webhooks[0].sideEffects",
        "webhooks[0].timeoutSeconds",
    }


def test_the_openapi_document_offers_server_side_validation() -> None:
    kind = openapi.ServedKind("", "v1", "ConfigMap", "configmaps", True, frozenset({"get", "list", "create", "patch"}))
    document = openapi.document([kind], release=builtin.RELEASE)
    patch = document["paths"]["/api/v1/namespaces/{namespace}/configmaps/{name}"]["patch"]
    assert "fieldValidation" in {parameter["name"] for parameter in patch["parameters"]}
    assert patch["x-kubernetes-group-version-kind"] == kind.gvk
    schemas = document["components"]["schemas"]
    assert schemas[kind.definition]["properties"]["data"]["type"] == "object"
    assert "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta" in schemas


def test_a_custom_kind_stands_in_the_document_beside_the_others() -> None:
    schema = {"type": "object", "properties": {"spec": {"type": "object"}}}
    kind = openapi.ServedKind("x.io", "v1", "W", "ws", True, frozenset({"get", "list"}), schema)
    document = openapi.document([kind], release=builtin.RELEASE)
    assert set(document["components"]["schemas"]["io.x.v1.W"]["properties"]) == {
        "apiVersion",
        "kind",
        "metadata",
        "spec",
    }
    assert openapi.index({"apis/x.io/v1": b"{}"})["paths"]["apis/x.io/v1"]["serverRelativeURL"].startswith(
        "/openapi/v3/apis/x.io/v1?hash="
    )
