# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The engine's own certificate authority, serving certificate, administrator's token and signing key, on disk.

Everything is made once in the data directory and used again; the serving certificate is renewed when it nears its end.
Files are readable by their owner only.
"""

from __future__ import annotations

import base64
import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from kaito.kube.certificates import KeyPair, new_authority, serving_pair

SERVING_LIFE = timedelta(days=365)
"""Longer than a webhook's: an engine renews it only when it starts."""
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
    authority = _authority(directory, now)
    certificate, key = directory / "server.crt", directory / "server.key"
    if not _is_fresh(certificate, authority, hosts, now):
        serving = serving_pair(authority, hosts, now, life=SERVING_LIFE)
        write_private(key, serving.key_pem.encode())
        write_private(certificate, serving.cert_pem.encode())
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


def _authority(directory: Path, now: datetime) -> KeyPair:
    certificate, key = directory / "ca.crt", directory / "ca.key"
    if certificate.exists() and key.exists():
        return KeyPair(certificate.read_text(), key.read_text())
    authority = new_authority("kaito-engine-ca", now)
    write_private(key, authority.key_pem.encode())
    write_private(certificate, authority.cert_pem.encode())
    return authority


def _is_fresh(path: Path, authority: KeyPair, hosts: tuple[str, ...], now: datetime) -> bool:
    if not path.exists():
        return False
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    ca = x509.load_pem_x509_certificate(authority.cert_pem.encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    known = {str(name.value) for name in names}
    lasts = certificate.not_valid_after_utc > now.astimezone(UTC) + timedelta(days=RENEW_BEFORE_DAYS)
    return lasts and certificate.issuer == ca.subject and set(hosts) <= known
