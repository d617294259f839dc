# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Volumes as folders: what each kind of volume holds, and laying it out below the pod's folder.

`contents` decides (pure: names, bytes, modes), `lay_out` writes. Files that come from the API are written the way the
kubelet does it: into a folder named by its content, with `..data` pointing at it, so an update appears all at once
and writing what is there already is free.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kaito.engine.node.environment import ConfigError, Placement, Sources, bytes_of, field, resource
from kaito.engine.node.model import all_containers
from kaito.kube.manifest import Manifest

KEY = re.compile(r"^[-._a-zA-Z0-9]+$")
FROM_API = ("configMap", "secret", "projected", "downwardAPI")
DEFAULT_MODE = 0o644


class VolumeError(Exception):
    """The volume cannot be set up now; the text names it and what is missing."""


@dataclass(frozen=True, slots=True)
class File:
    """One file of a volume."""

    data: bytes
    mode: int


Files = dict[str, File]
TokenOf = Callable[[Manifest], bytes]
"""Gives the service account token that a projected source asks for."""


def no_token(source: Manifest) -> bytes:
    """For pods without a service account token."""
    raise VolumeError("service account tokens are not available on this node")


def contents(
    pod: Manifest, volume: Manifest, sources: Sources, placement: Placement, token: TokenOf = no_token
) -> Files:
    """The files of a volume that comes from the API. Raises VolumeError."""
    try:
        if "projected" in volume:
            projected = volume["projected"]
            mode = projected.get("defaultMode") or DEFAULT_MODE
            files: Files = {}
            for source in projected.get("sources") or []:
                files |= _source(pod, source, mode, sources, placement, token)
            return files
        kind = next(kind for kind in FROM_API if kind in volume)
        mode = volume[kind].get("defaultMode") or DEFAULT_MODE
        return _source(pod, {kind: volume[kind]}, mode, sources, placement, token)
    except ConfigError as error:
        raise VolumeError(f'MountVolume.SetUp failed for volume "{volume["name"]}" : {error}') from error


def _source(
    pod: Manifest, source: Manifest, mode: int, sources: Sources, placement: Placement, token: TokenOf
) -> Files:
    namespace = pod["metadata"].get("namespace", "")
    if "configMap" in source:
        reference = source["configMap"]
        return _picked(reference, "configmap", reference.get("name", ""), sources.config_map, namespace, mode)
    if "secret" in source:
        reference = source["secret"]
        name = reference.get("secretName") or reference.get("name", "")
        return _picked(reference, "secret", name, sources.secret, namespace, mode)
    if "downwardAPI" in source:
        items = source["downwardAPI"].get("items") or []
        return {safe_path(item["path"]): _downward(pod, item, mode, placement) for item in items}
    if "serviceAccountToken" in source:
        return {safe_path(source["serviceAccountToken"]["path"]): File(token(source["serviceAccountToken"]), mode)}
    raise ConfigError(f"unsupported projected source {', '.join(source)}")


def _picked(
    reference: Manifest,
    kind: str,
    name: str,
    find: Callable[[str, str], Manifest | None],
    namespace: str,
    mode: int,
) -> Files:
    """The files of a ConfigMap or Secret, all of them or the listed items."""
    found = find(namespace, name)
    if found is None:
        if reference.get("optional"):
            return {}
        raise ConfigError(f'{kind} "{name}" not found')
    data = bytes_of(found)
    items = reference.get("items")
    if items is None:
        return {safe_key(key): File(value, mode) for key, value in data.items()}
    files = {}
    for item in items:
        if item["key"] in data:
            files[safe_path(item["path"])] = File(data[item["key"]], item.get("mode") or mode)
        elif not reference.get("optional"):
            raise ConfigError(f"references non-existent {kind} key: {item['key']}")
    return files


def _downward(pod: Manifest, item: Manifest, mode: int, placement: Placement) -> File:
    if "fieldRef" in item:
        text = field(pod, item["fieldRef"]["fieldPath"], placement)
    else:
        text = resource(pod, pod["spec"]["containers"][0], item["resourceFieldRef"], placement)
    return File(text.encode(), item.get("mode") or mode)


def safe_key(key: str) -> str:
    """The key, if it can be a file name. Raises ConfigError."""
    if not KEY.match(key) or key.startswith("..") or key == ".":
        raise ConfigError(f"key {key!r} is not a file name")
    return key


def safe_path(path: str) -> str:
    """The path, if it stays below the folder it is relative to. Raises ConfigError."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or parts[0].startswith(".."):
        raise ConfigError(f"path {path!r} must be relative and must not contain '..'")
    return path


def token_sources(pod: Manifest) -> list[Manifest]:
    """The service account tokens that the pod's projected volumes ask for."""
    projected = [volume["projected"] for volume in pod["spec"].get("volumes") or [] if "projected" in volume]
    sources = [source for item in projected for source in item.get("sources") or []]
    return [source["serviceAccountToken"] for source in sources if "serviceAccountToken" in source]


def references(pod: Manifest) -> set[tuple[str, str]]:
    """Kind and name of every ConfigMap, Secret and claim that the pod refers to."""
    found: set[tuple[str, str]] = set()
    for volume in pod["spec"].get("volumes") or []:
        found |= _refers(volume)
        for source in (volume.get("projected") or {}).get("sources") or []:
            found |= _refers(source)
    for container in all_containers(pod):
        for item in container.get("envFrom") or []:
            found |= {("ConfigMap", (item.get("configMapRef") or {}).get("name", ""))}
            found |= {("Secret", (item.get("secretRef") or {}).get("name", ""))}
        for item in container.get("env") or []:
            origin = item.get("valueFrom") or {}
            found |= {("ConfigMap", (origin.get("configMapKeyRef") or {}).get("name", ""))}
            found |= {("Secret", (origin.get("secretKeyRef") or {}).get("name", ""))}
    return {(kind, name) for kind, name in found if name}


def _refers(source: Manifest) -> set[tuple[str, str]]:
    secret = source.get("secret") or {}
    return {
        ("ConfigMap", (source.get("configMap") or {}).get("name", "")),
        ("Secret", secret.get("secretName") or secret.get("name", "")),
        ("PersistentVolumeClaim", (source.get("persistentVolumeClaim") or {}).get("claimName", "")),
    }


def lay_out(
    pod: Manifest, volume: Manifest, folder: Path, sources: Sources, placement: Placement, token: TokenOf = no_token
) -> Path:
    """Set the volume up and return where it is; repeating it brings files up to date. Raises VolumeError."""
    name: str = volume["name"]
    try:
        if any(kind in volume for kind in FROM_API):
            write_files(folder / name, contents(pod, volume, sources, placement, token))
            return folder / name
        if "hostPath" in volume:
            return host_path(name, volume["hostPath"]["path"], volume["hostPath"].get("type") or "")
        if "persistentVolumeClaim" in volume or "ephemeral" in volume:
            return _claimed(pod, volume, sources)
        if "emptyDir" in volume or len(volume) == 1:
            # A memory-backed emptyDir is a plain folder too: nothing here can give it a file system of its own.
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name).chmod(0o777)
            return folder / name
    except OSError as error:
        raise VolumeError(f'volume "{name}": {error.strerror}: {error.filename}') from error
    kinds = ", ".join(kind for kind in volume if kind != "name")
    raise VolumeError(f'volume "{name}": {kinds} volumes are not supported by the embedded engine')


def host_path(name: str, path: str, kind: str) -> Path:
    """The host's file or folder, created where its type says so. Raises VolumeError."""
    where = Path(path)
    if not where.is_absolute() or ".." in where.parts:
        raise VolumeError(f'volume "{name}": hostPath {path!r} must be absolute and must not contain ".."')
    if kind == "FileOrCreate" and not where.exists():
        where.touch(mode=0o644)
    elif kind == "DirectoryOrCreate" or (kind == "" and not where.exists()):
        where.mkdir(parents=True, exist_ok=True, mode=0o755)
    checks: dict[str, Callable[[Path], bool]] = {
        "": Path.exists,
        "Directory": Path.is_dir,
        "DirectoryOrCreate": Path.is_dir,
        "File": Path.is_file,
        "FileOrCreate": Path.is_file,
        "Socket": Path.is_socket,
        "CharDevice": Path.is_char_device,
        "BlockDevice": Path.is_block_device,
    }
    if kind not in checks:
        raise VolumeError(f'volume "{name}": unknown hostPath type {kind!r}')
    if not checks[kind](where):
        raise VolumeError(
            f'volume "{name}": hostPath type check failed: {path} is not a {kind.removesuffix("OrCreate")}'
        )
    return where


def _claimed(pod: Manifest, volume: Manifest, sources: Sources) -> Path:
    name: str = volume["name"]
    namespace = pod["metadata"].get("namespace", "")
    if "ephemeral" in volume:
        claim_name = f"{pod['metadata']['name']}-{name}"
    else:
        claim_name = volume["persistentVolumeClaim"]["claimName"]
    claim = sources.claim(namespace, claim_name)
    if claim is None:
        raise VolumeError(f'persistentvolumeclaim "{claim_name}" not found')
    bound = claim["spec"].get("volumeName")
    found = sources.volume(bound) if bound else None
    if found is None:
        raise VolumeError(f'persistentvolumeclaim "{claim_name}" is not bound to a volume yet')
    spec = found["spec"]
    if "hostPath" in spec:
        return host_path(name, spec["hostPath"]["path"], spec["hostPath"].get("type") or "DirectoryOrCreate")
    if "local" in spec:
        return host_path(name, spec["local"]["path"], "")
    raise VolumeError(
        f'persistentvolume "{bound}": only hostPath and local volumes are supported by the embedded engine'
    )


def write_files(folder: Path, files: Files) -> None:
    """Make the folder hold exactly these files, switching from the old to the new ones at once."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path}\0{files[path].mode:o}\0{len(files[path].data)}\0".encode())
        digest.update(files[path].data)
    version = f"..{digest.hexdigest()[:16]}"
    data = folder / "..data"
    if data.is_symlink() and data.readlink() == Path(version):
        return
    folder.mkdir(parents=True, exist_ok=True)
    _write_version(folder / version, files)
    switch = folder / "..data_tmp"
    switch.unlink(missing_ok=True)
    switch.symlink_to(version)
    switch.replace(data)
    _link_entries(folder, {PurePosixPath(path).parts[0] for path in files})
    for old in folder.glob("..*"):
        if old.is_dir() and not old.is_symlink() and old.name != version:
            shutil.rmtree(old, ignore_errors=True)


def _write_version(version: Path, files: Files) -> None:
    shutil.rmtree(version, ignore_errors=True)
    version.mkdir(mode=0o755)
    for path, file in files.items():
        target = version / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch(mode=0o600)
        target.write_bytes(file.data)
        target.chmod(stat.S_IMODE(file.mode))


def _link_entries(folder: Path, names: set[str]) -> None:
    for entry in folder.iterdir():
        if entry.is_symlink() and not entry.name.startswith("..") and entry.name not in names:
            entry.unlink()
    for name in names:
        with contextlib.suppress(FileExistsError):
            (folder / name).symlink_to(f"..data/{name}")
