# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The engine's own certificate authority, serving certificate, administrator's token and signing key, on disk.

Everything is made once in the data directory and used again; the serving certificate is renewed when it nears its end.
Files are readable by their owner only.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_DAYS = 3650
SERVING_DAYS = 365
RENEW_BEFORE_DAYS = 30


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the server needs to listen and to know its administrator."""

    ca_file: Path
    certificate_file: Path
    key_file: Path
    token: str
    signing_key: bytes

    @property
    def ca_data(self) -> str:
        """The CA certificate as a kubeconfig holds it."""
        return base64.b64encode(self.ca_file.read_bytes()).decode()


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read, so that readers see the old or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
    temporary.replace(path)


def load_credentials(directory: Path, hosts: tuple[str, ...], now: datetime) -> Credentials:
    """The credentials in `directory`, made or renewed as needed."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca, ca_key = _authority(directory, now)
    certificate, key = directory / "server.crt", directory / "server.key"
    if not _is_fresh(certificate, ca, hosts, now):
        _make_serving(certificate, key, ca, ca_key, hosts, now=now)
    return Credentials(
        directory / "ca.crt",
        certificate,
        key,
        _secret(directory / "token").decode().strip(),
        _secret(directory / "signing.key"),
    )


def _secret(path: Path) -> bytes:
    if not path.exists():
        write_private(path, secrets.token_urlsafe(32).encode())
    return path.read_bytes()


def _authority(directory: Path, now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate_file, key_file = directory / "ca.crt", directory / "ca.key"
    if certificate_file.exists() and key_file.exists():
        key = serialization.load_pem_private_key(key_file.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return x509.load_pem_x509_certificate(certificate_file.read_bytes()), key
    new_key = ec.generate_private_key(ec.SECP256R1())
    name = _name("kaito-engine-ca")
    certificate = (
        x509.CertificateBuilder(name, name, new_key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(new_key.public_key()), critical=False)
        .add_extension(_key_usage(signs=True), critical=True)
        .sign(new_key, hashes.SHA256())
    )
    write_private(key_file, _pem(new_key))
    write_private(certificate_file, certificate.public_bytes(serialization.Encoding.PEM))
    return certificate, new_key


def _is_fresh(path: Path, ca: x509.Certificate, hosts: tuple[str, ...], now: datetime) -> bool:
    if not path.exists():
        return False
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    known = {str(name.value) for name in names}
    lasts = certificate.not_valid_after_utc > now.astimezone(UTC) + timedelta(days=RENEW_BEFORE_DAYS)
    return lasts and certificate.issuer == ca.subject and set(hosts) <= known


def _make_serving(
    path: Path,
    key_path: Path,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    hosts: tuple[str, ...],
    *,
    now: datetime,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder(ca.subject, _name("kaito-engine"), key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=SERVING_DAYS))
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()),
            critical=False,
        )
        .add_extension(_key_usage(signs=False), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    write_private(key_path, _pem(key))
    write_private(path, certificate.public_bytes(serialization.Encoding.PEM))


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
