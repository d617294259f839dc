# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from kaito.kube.config import ClusterConfig, ConfigError, in_cluster, load_kubeconfig


def kubeconfig(folder: Path, *, cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None) -> Path:
    path = folder / "config"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [
            {"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "team"}},
            {"name": "there", "context": {"cluster": "d"}},
            {"name": "broken", "context": {"cluster": "c", "user": "nobody"}},
        ],
        "clusters": [
            {"name": "c", "cluster": {"server": "https://one:6443/", **(cluster or {})}},
            {"name": "d", "cluster": {"server": "http://two"}},
        ],
        "users": [{"name": "u", "user": user or {}}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_the_current_context_is_taken_unless_one_is_named(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, user={"token": "s3cret"})
    here = load_kubeconfig(path)
    assert (here.server, here.namespace, here.token) == ("https://one:6443", "team", "s3cret")
    there = load_kubeconfig(path, context="there")
    assert (there.server, there.namespace, there.token) == ("http://two", "default", None)


def test_certificates_come_as_data_or_as_files_beside_the_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("CA")
    (tmp_path / "key.pem").write_text("KEY")
    path = kubeconfig(
        tmp_path,
        cluster={"certificate-authority": "ca.crt", "tls-server-name": "kubernetes", "proxy-url": "http://proxy:1"},
        user={"client-certificate-data": b64("CERT"), "client-key": "key.pem", "tokenFile": "token"},
    )
    config = load_kubeconfig(path)
    assert (config.ca_pem, config.client_cert_pem, config.client_key_pem) == ("CA", "CERT", "KEY")
    assert config.token_file == tmp_path / "token"
    assert (config.tls_server_name, config.proxy_url) == ("kubernetes", "http://proxy:1")


def test_a_credential_plugin_beside_the_kubeconfig_is_found(tmp_path: Path) -> None:
    user = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1beta1",
            "command": "./login",
            "args": ["--cluster", 7],
            "env": [{"name": "A", "value": "b"}],
            "installHint": "install it",
        }
    }
    plugin = load_kubeconfig(kubeconfig(tmp_path, user=user)).exec_plugin
    assert plugin is not None
    assert (plugin.command, plugin.args, plugin.env) == (str(tmp_path / "login"), ("--cluster", "7"), (("A", "b"),))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "is not YAML"),
        ("[]", "is not a kubeconfig"),
        ("kind: Pod", "is not a kubeconfig"),
        ("kind: Config", "current-context is empty; name one of none"),
        ("current-context: x", "no 'x' among its contexts; it has none"),
        (
            "{current-context: x, contexts: [{name: x, context: {cluster: c}}], clusters: [{name: c, cluster: {}}]}",
            "cluster 'c' needs a server",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_what_is_wrong(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_kubeconfig(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert complaint in str(caught.value)


def test_what_a_kubeconfig_names_but_does_not_hold_is_told(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path)
    with pytest.raises(ConfigError, match="no 'nobody' among its users; it has u"):
        load_kubeconfig(path, context="broken")
    with pytest.raises(ConfigError, match="no 'other' among its contexts; it has broken, here, there"):
        load_kubeconfig(path, context="other")
    with pytest.raises(ConfigError, match=r"cannot be read \(No such file"):
        load_kubeconfig(tmp_path / "absent")
    with pytest.raises(ConfigError, match="certificate-authority-data is not base64"):
        load_kubeconfig(kubeconfig(tmp_path, cluster={"certificate-authority-data": "%"}))
    with pytest.raises(ConfigError, match="exec needs a command"):
        load_kubeconfig(kubeconfig(tmp_path, user={"exec": "login"}))
    with pytest.raises(ConfigError, match=r"exec\.env needs a name"):
        load_kubeconfig(kubeconfig(tmp_path, user={"exec": {"command": "login", "env": [{"value": "x"}]}}))
    with pytest.raises(ConfigError, match=r"client-key .* cannot be read"):
        load_kubeconfig(kubeconfig(tmp_path, user={"client-key": "absent.pem"}))


def test_a_pod_logs_in_with_its_service_account(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this is no pod"):
        in_cluster(folder=tmp_path)
    for name in ("token", "ca.crt", "namespace"):
        (tmp_path / name).write_text(f"{name}\n")
    config = in_cluster(folder=tmp_path, host="fd00::1", port=6443)
    assert (config.server, config.namespace, config.ca_pem) == ("https://[fd00::1]:6443", "namespace", "ca.crt\n")
    assert config.token_file == tmp_path / "token"


def test_no_secret_is_shown() -> None:
    config = ClusterConfig(server="https://x", token="s3cret", client_key_pem="s3cret", password="s3cret")
    assert "s3cret" not in f"{config!r} {config}"
