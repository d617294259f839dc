# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Where the cluster is and how to log in: a kubeconfig file, or the files that every pod is given.

Reads files and returns values. Running a credential plugin, re-reading a token and TLS are `kaito.kube.auth`'s.
Finding the file (`--kubeconfig`, `KUBECONFIG`, `~/.kube/config`) is the caller's.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class ConfigError(ValueError):
    """The login cannot be used; the message names the file, the field and the next step."""


@dataclass(frozen=True, slots=True)
class ExecPlugin:
    """A program that prints credentials (client.authentication.k8s.io)."""

    api_version: str
    command: str
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    install_hint: str = ""
    provide_cluster_info: bool = False


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """A server and a login. PEM texts stand as text; paths are absolute. Secrets are kept out of `repr`."""

    server: str
    ca_pem: str | None = None
    insecure_skip_tls_verify: bool = False
    tls_server_name: str | None = None
    proxy_url: str | None = None
    token: str | None = None
    token_file: Path | None = None
    username: str | None = None
    password: str | None = None
    client_cert_pem: str | None = None
    client_key_pem: str | None = None
    exec_plugin: ExecPlugin | None = None
    namespace: str = "default"

    def __repr__(self) -> str:
        return f"ClusterConfig(server={self.server!r}, namespace={self.namespace!r})"


def load_kubeconfig(path: Path, *, context: str | None = None) -> ClusterConfig:
    """The login of a context (the current one by default) of a kubeconfig file.

    Raises ConfigError when the file cannot be read, is no kubeconfig, or names something that it does not hold.
    """
    document = _read_yaml(path)
    wanted = context or document.get("current-context")
    if not wanted:
        raise ConfigError(
            f"{path}: current-context is empty; name one of {', '.join(_names(document, 'contexts')) or 'none'}"
        )
    chosen = _entry(path, document, "contexts", wanted, "context")
    cluster = _entry(path, document, "clusters", chosen.get("cluster", ""), "cluster")
    user = _entry(path, document, "users", chosen["user"], "user") if chosen.get("user") else {}
    reader = _Fields(path)
    if not isinstance(cluster.get("server"), str) or not cluster["server"].startswith(("http://", "https://")):
        raise ConfigError(f"{path}: cluster {chosen['cluster']!r} needs a server such as https://127.0.0.1:6443")
    return ClusterConfig(
        server=cluster["server"].rstrip("/"),
        ca_pem=reader.pem(cluster, "certificate-authority"),
        insecure_skip_tls_verify=bool(cluster.get("insecure-skip-tls-verify")),
        tls_server_name=cluster.get("tls-server-name"),
        proxy_url=cluster.get("proxy-url"),
        token=user.get("token"),
        token_file=reader.path(str(user["tokenFile"])) if user.get("tokenFile") else None,
        username=user.get("username"),
        password=user.get("password"),
        client_cert_pem=reader.pem(user, "client-certificate"),
        client_key_pem=reader.pem(user, "client-key"),
        exec_plugin=_exec_plugin(path, user["exec"]) if user.get("exec") else None,
        namespace=chosen.get("namespace") or "default",
    )


def in_cluster(
    *, host: str = "kubernetes.default.svc", port: int = 443, folder: Path = SERVICE_ACCOUNT
) -> ClusterConfig:
    """The login of the pod that this process runs in.

    Raises ConfigError outside of a pod.
    """
    token_file, ca_file = folder / "token", folder / "ca.crt"
    if not token_file.is_file():
        raise ConfigError(f"{token_file} is missing: this is no pod with a service account; give a kubeconfig instead")
    namespace_file = folder / "namespace"
    return ClusterConfig(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        ca_pem=ca_file.read_text() if ca_file.is_file() else None,
        token_file=token_file,
        namespace=namespace_file.read_text().strip() if namespace_file.is_file() else "default",
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a kubeconfig") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ConfigError(f"{path}: is not YAML; give the path of a kubeconfig") from None
    if not isinstance(document, dict) or document.get("kind", "Config") != "Config":
        raise ConfigError(f"{path}: is not a kubeconfig (kind: Config); give the path of one")
    return document


def _entry(path: Path, document: dict[str, Any], section: str, name: str, field: str) -> dict[str, Any]:
    """What a named entry of a section holds under `field`."""
    entries = [entry for entry in document.get(section) or [] if isinstance(entry, dict)]
    for entry in entries:
        if entry.get("name") == name:
            content = entry.get(field) or {}
            if isinstance(content, dict):
                return content
            raise ConfigError(f"{path}: {section}[{name}].{field} must be a mapping")
    known = ", ".join(_names(document, section)) or "none"
    raise ConfigError(f"{path}: no {name!r} among its {section}; it has {known}")


def _names(document: dict[str, Any], section: str) -> list[str]:
    return sorted(str(entry.get("name")) for entry in document.get(section) or [] if isinstance(entry, dict))


def _exec_plugin(path: Path, raw: Any) -> ExecPlugin:
    if not isinstance(raw, dict) or not raw.get("command"):
        raise ConfigError(f"{path}: a user's exec needs a command")
    command = str(raw["command"])
    if "/" in command and not command.startswith("/"):
        # A relative command is relative to the kubeconfig; a bare name is looked up in PATH.
        command = str((path.parent / command).absolute())
    env = raw.get("env") or []
    if not all(isinstance(item, dict) and item.get("name") for item in env):
        raise ConfigError(f"{path}: each entry of a user's exec.env needs a name and a value")
    return ExecPlugin(
        api_version=str(raw.get("apiVersion") or "client.authentication.k8s.io/v1"),
        command=command,
        args=tuple(str(arg) for arg in raw.get("args") or []),
        env=tuple((str(item["name"]), str(item.get("value", ""))) for item in env),
        install_hint=str(raw.get("installHint") or ""),
        provide_cluster_info=bool(raw.get("provideClusterInfo")),
    )


@dataclass(frozen=True, slots=True)
class _Fields:
    """Reads fields that hold either data or a path relative to the kubeconfig."""

    kubeconfig: Path

    def path(self, text: str) -> Path:
        return (self.kubeconfig.parent / text).absolute()

    def pem(self, section: dict[str, Any], field: str) -> str | None:
        data = section.get(f"{field}-data")
        if data:
            try:
                return base64.b64decode("".join(data.split()), validate=True).decode("ascii")
            except (binascii.Error, UnicodeDecodeError, AttributeError):
                raise ConfigError(f"{self.kubeconfig}: {field}-data is not base64 of a PEM text") from None
        if not section.get(field):
            return None
        file = self.path(str(section[field]))
        try:
            return file.read_text("ascii")
        except (OSError, UnicodeDecodeError):
            raise ConfigError(f"{self.kubeconfig}: {field} {file} cannot be read as a PEM text") from None
