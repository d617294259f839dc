# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Logging in over TLS: the cluster's CA, and a client certificate from the kubeconfig or from a plugin."""

from __future__ import annotations

import json
import ssl
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kaito.kube import errors
from kaito.kube.auth import load_key_pair
from kaito.kube.certificates import KeyPair, new_authority, serving_pair
from kaito.kube.client import Client
from kaito.kube.config import ClusterConfig, ExecPlugin
from tests.unit.kube.apiserver import QUICK

NOW = datetime.now(UTC)
CA = new_authority("test CA", NOW)


def client_pair(name: str) -> KeyPair:
    key = ec.generate_private_key(ec.SECP256R1())
    signer = serialization.load_pem_private_key(CA.key_pem.encode(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.load_pem_x509_certificate(CA.cert_pem.encode()).subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(hours=1))
        .not_valid_after(NOW + timedelta(hours=1))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key_pem = key.private_bytes(pem, pkcs8, serialization.NoEncryption()).decode()
    return KeyPair(certificate.public_bytes(pem).decode(), key_pem)


@pytest.fixture
async def server() -> AsyncIterator[str]:
    """Answers with the common name of the client's certificate, without which nobody gets in."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=CA.cert_pem)
    context.verify_mode = ssl.CERT_REQUIRED
    pair = serving_pair(CA, ["api.example"], NOW)
    load_key_pair(context, pair.cert_pem, pair.key_pem)

    async def who(request: web.Request) -> web.Response:
        assert request.transport is not None
        subject = request.transport.get_extra_info("ssl_object").getpeercert()["subject"]
        return web.Response(text=dict(part[0] for part in subject)["commonName"])

    app = web.Application()
    app.router.add_get("/whoami", who)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def whoami(config: ClusterConfig) -> str:
    async with Client(config, timeouts=QUICK) as client:
        return (await client.raw("GET", "/whoami")).body.decode()


async def test_a_client_certificate_logs_in(server: str) -> None:
    pair = client_pair("ann")
    config = ClusterConfig(
        server,
        ca_pem=CA.cert_pem,
        tls_server_name="api.example",
        client_cert_pem=pair.cert_pem,
        client_key_pem=pair.key_pem,
    )
    assert await whoami(config) == "ann"


async def test_a_client_certificate_may_come_from_a_plugin(server: str, tmp_path: Path) -> None:
    pair = client_pair("ben")
    credential = tmp_path / "credential.json"
    status = {"clientCertificateData": pair.cert_pem, "clientKeyData": pair.key_pem}
    credential.write_text(json.dumps({"kind": "ExecCredential", "status": status}))
    plugin = ExecPlugin(
        "client.authentication.k8s.io/v1",
        sys.executable,
        ("-c", f"print(open({str(credential)!r}).read())"),
    )
    config = ClusterConfig(server, ca_pem=CA.cert_pem, tls_server_name="api.example", exec_plugin=plugin)
    assert await whoami(config) == "ben"


async def test_an_unknown_authority_is_told_unless_it_is_to_be_ignored(server: str) -> None:
    pair = client_pair("eve")
    config = ClusterConfig(server, client_cert_pem=pair.cert_pem, client_key_pem=pair.key_pem)
    with pytest.raises(errors.Unavailable, match="its certificate is not trusted; check the login's CA"):
        await whoami(config)
    unchecked = ClusterConfig(
        server, insecure_skip_tls_verify=True, client_cert_pem=pair.cert_pem, client_key_pem=pair.key_pem
    )
    assert await whoami(unchecked) == "eve"


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (ClusterConfig("https://x", ca_pem="nonsense"), "the CA certificate for https://x is not a valid PEM"),
        (ClusterConfig("https://x", client_cert_pem="a", client_key_pem="b"), "are not a valid PEM pair"),
    ],
)
async def test_a_pem_text_that_is_none_is_told_in_one_sentence(config: ClusterConfig, complaint: str) -> None:
    with pytest.raises(errors.Unauthorized, match=complaint):
        await whoami(config)
