# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a request needs to be let in: the Authorization header and the TLS context, kept fresh.

Tokens in files are read again every minute, credential plugins run again before what they printed expires, and both
after a 401. Secrets are held in memory only; a client key passes through a private temporary file, since OpenSSL's
Python binding loads keys from files alone.
"""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from kaito.kube.clock import Clock
from kaito.kube.config import ClusterConfig, ConfigError, ExecPlugin
from kaito.kube.manifest import parse_time

TOKEN_FILE_TTL_S = 60.0
_EARLY = timedelta(seconds=10)
_PLUGIN_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class PluginCredential:
    """What a credential plugin printed."""

    token: str | None
    cert_pem: str | None
    key_pem: str | None
    expires: datetime | None


class Login:
    """Answers, for each request, with which header and which TLS context to send it."""

    def __init__(self, config: ClusterConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._lock = asyncio.Lock()
        self._plugin: PluginCredential | None = None
        self._file_token: tuple[str, float] | None = None
        self._context: ssl.SSLContext | None = None

    @property
    def is_renewable(self) -> bool:
        """Whether a 401 is worth a second try."""
        return self._config.exec_plugin is not None or self._config.token_file is not None

    def forget(self) -> None:
        """The server did not accept what we have: get new credentials for the next request."""
        self._plugin = None
        self._file_token = None
        if self._config.exec_plugin is not None:
            self._context = None

    async def headers(self) -> dict[str, str]:
        """The Authorization header, if the login has one. Raises ConfigError when a plugin or file fails."""
        config = self._config
        if config.token_file is not None:
            return {"Authorization": f"Bearer {self._token_from_file(config.token_file)}"}
        if config.token:
            return {"Authorization": f"Bearer {config.token}"}
        if config.exec_plugin is not None:
            credential = await self._plugin_credential(config.exec_plugin)
            return {"Authorization": f"Bearer {credential.token}"} if credential.token else {}
        if config.username:
            pair = f"{config.username}:{config.password or ''}".encode()
            return {"Authorization": f"Basic {base64.b64encode(pair).decode('ascii')}"}
        return {}

    async def tls(self) -> ssl.SSLContext:
        """The context for https connections. The same one until the client certificate changes."""
        if self._context is None:
            cert, key = self._config.client_cert_pem, self._config.client_key_pem
            if self._config.exec_plugin is not None and not cert:
                credential = await self._plugin_credential(self._config.exec_plugin)
                cert, key = credential.cert_pem, credential.key_pem
            self._context = tls_context(self._config, cert, key)
        return self._context

    def _token_from_file(self, path: Path) -> str:
        now = self._clock.monotonic()
        if self._file_token is None or now - self._file_token[1] > TOKEN_FILE_TTL_S:
            try:
                self._file_token = (path.read_text().strip(), now)
            except OSError as error:
                raise ConfigError(f"{path}: the token cannot be read ({error.strerror})") from None
        return self._file_token[0]

    async def _plugin_credential(self, plugin: ExecPlugin) -> PluginCredential:
        async with self._lock:
            current = self._plugin
            if current is None or (current.expires is not None and current.expires - _EARLY <= self._clock.now()):
                output = await run_plugin(plugin, self._config)
                current = parse_credential(plugin, output)
                if self._plugin is not None and current.cert_pem != self._plugin.cert_pem:
                    self._context = None
                self._plugin = current
            return current


def tls_context(config: ClusterConfig, cert_pem: str | None, key_pem: str | None) -> ssl.SSLContext:
    """A client context that trusts the cluster's CA. Raises ConfigError when a PEM text is not one."""
    try:
        context = ssl.create_default_context(cadata=config.ca_pem)
    except ssl.SSLError:
        raise ConfigError(f"the CA certificate for {config.server} is not a valid PEM certificate") from None
    if config.insecure_skip_tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert_pem and key_pem:
        load_key_pair(context, cert_pem, key_pem)
    return context


def load_key_pair(context: ssl.SSLContext, cert_pem: str, key_pem: str) -> None:
    """Give a context a certificate and its key. Raises ConfigError when they are not a pair."""
    with tempfile.TemporaryDirectory(prefix="kaito-tls-") as folder:
        cert_file, key_file = Path(folder, "tls.crt"), Path(folder, "tls.key")
        cert_file.write_text(cert_pem)
        key_file.touch(mode=0o600)
        key_file.write_text(key_pem)
        try:
            context.load_cert_chain(cert_file, key_file)
        except (ssl.SSLError, ValueError):
            raise ConfigError("the client certificate and client key are not a valid PEM pair") from None


async def run_plugin(plugin: ExecPlugin, config: ClusterConfig) -> bytes:
    """What the credential plugin prints. Raises ConfigError when it cannot run or fails."""
    # The plugin gets our environment as kubectl would give it; no value of it is read here.
    environment = dict(os.environ)  # noqa: TID251
    environment |= dict(plugin.env)
    environment["KUBERNETES_EXEC_INFO"] = msgspec.json.encode(exec_info(plugin, config)).decode()
    try:
        process = await asyncio.create_subprocess_exec(
            plugin.command,
            *plugin.args,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        hint = f"; {plugin.install_hint.strip()}" if plugin.install_hint else ""
        raise ConfigError(f"the credential plugin {plugin.command!r} cannot start ({error.strerror}){hint}") from None
    try:
        async with asyncio.timeout(_PLUGIN_TIMEOUT_S):
            output, complaint = await process.communicate()
    except TimeoutError:
        raise ConfigError(f"the credential plugin {plugin.command!r} did not answer in time") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        words = complaint.decode("utf-8", "replace").strip().splitlines()
        why = words[-1] if words else f"exit code {process.returncode}"
        raise ConfigError(f"the credential plugin {plugin.command!r} failed: {why}")
    return output


def exec_info(plugin: ExecPlugin, config: ClusterConfig) -> dict[str, Any]:
    """The ExecCredential that a plugin is handed in KUBERNETES_EXEC_INFO."""
    spec: dict[str, Any] = {"interactive": False}
    if plugin.provide_cluster_info:
        cluster: dict[str, Any] = {"server": config.server}
        if config.ca_pem:
            cluster["certificate-authority-data"] = base64.b64encode(config.ca_pem.encode()).decode()
        if config.tls_server_name:
            cluster["tls-server-name"] = config.tls_server_name
        if config.insecure_skip_tls_verify:
            cluster["insecure-skip-tls-verify"] = True
        spec["cluster"] = cluster
    return {"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec}


def parse_credential(plugin: ExecPlugin, output: bytes) -> PluginCredential:
    """The credential in a plugin's output. Raises ConfigError when there is none (the output is never shown)."""
    try:
        status = msgspec.json.decode(output)["status"]
        token = status.get("token")
        cert, key = status.get("clientCertificateData"), status.get("clientKeyData")
        text = status.get("expirationTimestamp")
        expires = parse_time(text) if text else None
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError, ValueError):
        raise ConfigError(f"the credential plugin {plugin.command!r} did not print an ExecCredential") from None
    if not token and not (cert and key):
        raise ConfigError(f"the credential plugin {plugin.command!r} printed neither a token nor a certificate")
    if expires is not None and expires.tzinfo is None:
        expires = expires.replace(tzinfo=UTC)
    return PluginCredential(token, cert, key, expires)
