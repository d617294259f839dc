# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The operator's settings from its command line, its environment and a file: the flag wins, then the variable.

Every setting has a flag (`--webhook-port`), a variable (`KAITO_WEBHOOK_PORT`) and a key of the file (`webhook-port`),
all made from the fields of `Settings`. The flags and variables of KAITO v0.12 that mean the same are understood too;
those that mean nothing here are accepted and named in `Given.notes`.
"""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from kaito.operator.features import BadGate, parse_gates, without_effect
from kaito.operator.settings import ORDERING, BadSettings, CloudName, Settings

KAITO_PROVISIONERS = {"azure-gpu-provisioner": "nodeclaim"}
"""What KAITO v0.12 calls a provisioner, and what it is called here."""
ALIASES = {
    "node-provisioner": "provisioner",
    "default-node-image-family": "node-image-family",
}
"""Flags of KAITO v0.12 by the setting that they mean."""
ADDRESSES = {"metrics-bind-address": "metrics", "health-probe-bind-address": "health"}
"""Flags of KAITO v0.12 that give a host and a port, by the beginning of the two settings' names."""
WITHOUT_EFFECT = {
    "kube-client-qps": "the API server's own flow control limits the operator",
    "kube-client-burst": "the API server's own flow control limits the operator",
    "karpenter-node-class-version": "node classes are named, not written",
    "karpenter-node-class-resource-name": "node classes are named, not written",
    "default-model-mirror-storage-class": "ModelMirrors are not part of this operator yet",
    "default-streaming-service-account": "streaming of weights is not part of this operator yet",
    "model-mirror-download-cpu": "ModelMirrors are not part of this operator yet",
    "model-mirror-download-memory": "ModelMirrors are not part of this operator yet",
    "v": "give --log-level",
    "zap-devel": "give --log-format",
    "zap-log-level": "give --log-level",
    "zap-encoder": "give --log-format",
}
"""Flags of KAITO v0.12 that change nothing here, and why."""
NODE_CLASS = ("karpenter-node-class-group", "karpenter-node-class-kind", "karpenter-node-classes")
"""KAITO's flags that say together which node class the NodePools have: group, kind, and a JSON list of classes of which
one is the default. KAITO makes those classes; here they are named only."""
VARIABLES = {
    "POD_NAMESPACE": "namespace",
    "SYSTEM_NAMESPACE": "namespace",
    "WEBHOOK_SERVICE": "webhook-service",
    "WEBHOOK_PORT": "webhook-port",
}
"""Variables beside KAITO_...; the first one that is set wins."""
DEFAULT_WEBHOOK_PORT = 9443


@dataclass(frozen=True, slots=True)
class Given:
    """The settings, and what of the request could not be followed."""

    settings: Settings
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Value:
    """A value as it was written, and where."""

    raw: object
    where: str


def read(arguments: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """The settings that command line, environment and file ask for. Raises as `given` does."""
    return given(arguments, environ).settings


def given(arguments: Sequence[str], environ: Mapping[str, str]) -> Given:
    """The settings, and notes about what was asked for without effect.

    Raises BadSettings for values and flags that cannot be used. Exits on --help and --version.
    """
    flags = _flags(arguments)
    notes = [f"--{name} has no effect: {WITHOUT_EFFECT[name]}." for name in WITHOUT_EFFECT if name in flags]
    file = flags.pop("config", None) or _variable(environ, "KAITO_CONFIG")
    values = {**_file_values(file), **_environment_values(environ), **_flag_values(flags)}
    gates = _gates(values)
    _apply_gates(values, gates)
    _named_cloud(values, environ)
    settings = _settings(values)
    _check_paths(settings, values)
    return Given(settings, (*notes, *without_effect(gates)))


def parser() -> argparse.ArgumentParser:
    """What `--help` is made from: a flag for each setting, with the field's text."""
    made = _Parser(
        prog="kaito-operator",
        description="Reconciles kaito Workspaces. Every flag can also be given as a variable (KAITO_WEBHOOK_PORT for "
        "--webhook-port) or as a key of the file that --config names (webhook-port); the flag wins, then the variable.",
        epilog="Flags of KAITO v0.12 that mean the same are understood too.",
        allow_abbrev=False,
    )
    made.add_argument("--config", metavar="FILE", help="A YAML file with settings, keys as the flags' names.")
    for name, field in Settings.model_fields.items():
        flag, text = _flag(name), (field.description or "").replace("%", "%%")
        if field.annotation is bool or field.annotation == bool | None:
            made.add_argument(f"--{flag}", nargs="?", const="true", metavar="true|false", help=text)
        elif field.annotation == tuple[str, ...]:
            made.add_argument(f"--{flag}", action="append", metavar="DIR[,DIR]", help=text)
        else:
            made.add_argument(f"--{flag}", metavar=_metavar(field.annotation), help=text)
    made.add_argument("--webhook", nargs="?", const="true", help=argparse.SUPPRESS)
    for name in (*ALIASES, *ADDRESSES, *NODE_CLASS, *WITHOUT_EFFECT):
        made.add_argument(f"--{name}", nargs="?", const="true", help=argparse.SUPPRESS)
    return made


class _Parser(argparse.ArgumentParser):
    """Complains by BadSettings, and names the flag that was meant."""

    def error(self, message: str) -> Any:
        raise BadSettings(f"{message}. kaito-operator --help lists all flags.")

    def known(self) -> list[str]:
        """Every flag, the hidden ones too."""
        return [option for action in self._actions for option in action.option_strings if option.startswith("--")]


def _flags(arguments: Sequence[str]) -> dict[str, Any]:
    """The flags that were given, by name. Go's way of writing them with one dash is understood."""
    made = parser()
    assert isinstance(made, _Parser)
    known = set(made.known())
    written = [_two_dashes(argument, known) for argument in arguments]
    found, unknown = made.parse_known_args(written)
    if unknown:
        name = unknown[0].split("=")[0]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "kaito-operator --help lists all flags."
        raise BadSettings(f"{name} is no flag of the operator: {hint}")
    return {name.replace("_", "-"): value for name, value in vars(found).items() if value is not None}


def _two_dashes(argument: str, known: set[str]) -> str:
    name = f"-{argument.split('=')[0]}"
    return f"-{argument}" if not argument.startswith("--") and name in known else argument


def _flag_values(flags: Mapping[str, Any]) -> dict[str, _Value]:
    found: dict[str, _Value] = {}
    for name, value in flags.items():
        if name in WITHOUT_EFFECT or name in NODE_CLASS:
            continue
        if name in ADDRESSES:
            found |= _address(name, str(value))
        elif name == "webhook":
            found |= _webhook(str(value), flags)
        else:
            found[ALIASES.get(name, name)] = _Value(value, f"--{name}")
    given_class = _node_class(flags)
    if given_class is not None:
        found.setdefault("node-class", given_class)
    return found


def _node_class(flags: Mapping[str, Any]) -> _Value | None:
    """The node class that KAITO's flags name, as group/Kind/name; None where none of them is given."""
    if not any(flags.get(name) for name in NODE_CLASS):
        return None
    default = str(Settings.model_fields["node_class"].default).split("/")
    group, kind, classes = (flags.get(name) or "" for name in NODE_CLASS)
    name = _default_class(str(classes)) if classes else default[2]
    where = f"--{NODE_CLASS[2] if classes else NODE_CLASS[0] if group else NODE_CLASS[1]}"
    return _Value(f"{group or default[0]}/{kind or default[1]}/{name}", where)


def _default_class(text: str) -> str:
    """The name of the class that is the default. Raises BadSettings."""
    try:
        classes = json.loads(text)
        names = [str(one["name"]) for one in classes if one.get("default")]
    except (ValueError, TypeError, KeyError, AttributeError):
        shown = '[{"name": "image-family-ubuntu", "default": true}]'
        raise BadSettings(f"--{NODE_CLASS[2]} cannot be read: write a JSON list such as {shown}.") from None
    if len(names) != 1:
        raise BadSettings(f"--{NODE_CLASS[2]} has {len(names)} default classes: give one of them default: true.")
    return names[0]


def _address(flag: str, text: str) -> dict[str, _Value]:
    """Go's `host:port`, `:port` and `0`, which turns the server off."""
    if text == "0":
        return {f"{ADDRESSES[flag]}-port": _Value(None, f"--{flag}")}
    host, colon, port = text.rpartition(":")
    if not colon:
        raise BadSettings(f"--{flag} is {text}: write it as host:port or :port, or 0 for none.")
    prefix = ADDRESSES[flag]
    where = f"--{flag}"
    return {f"{prefix}-host": _Value(host or "0.0.0.0", where), f"{prefix}-port": _Value(port, where)}


def _webhook(text: str, flags: Mapping[str, Any]) -> dict[str, _Value]:
    if text.lower() not in ("true", "false"):
        raise BadSettings(f"--webhook is {text}: write true or false.")
    if text.lower() == "false":
        return {"webhook-port": _Value(None, "--webhook")}
    return {} if "webhook-port" in flags else {"webhook-port": _Value(DEFAULT_WEBHOOK_PORT, "--webhook")}


def _environment_values(environ: Mapping[str, str]) -> dict[str, _Value]:
    found = {}
    for name in Settings.model_fields:
        variable = f"KAITO_{name.upper()}"
        if environ.get(variable):
            found[_flag(name)] = _Value(environ[variable], variable)
    for variable, flag in VARIABLES.items():
        if environ.get(variable) and flag not in found:
            found[flag] = _Value(environ[variable], variable)
    return found


def _variable(environ: Mapping[str, str], name: str) -> str | None:
    return environ.get(name) or None


def _file_values(file: str | None) -> dict[str, _Value]:
    if file is None:
        return {}
    try:
        content = yaml.safe_load(Path(file).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(f"--config names {file}, which cannot be read: {error}.") from None
    except yaml.YAMLError as error:
        raise BadSettings(f"--config names {file}, which is not YAML: {str(error).splitlines()[0]}.") from None
    if not isinstance(content, dict):
        raise BadSettings(f"--config names {file}, which is no map: write a setting a line, such as workers: 8.")
    known = {_flag(name) for name in Settings.model_fields}
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            raise BadSettings(f"{file}: {key} is no setting" + (f": did you mean {near[0]}?" if near else "."))
    return {key: _Value(value, f"{file}: {key}") for key, value in content.items()}


def _gates(values: dict[str, _Value]) -> dict[str, bool]:
    written = values.get("feature-gates")
    if written is None:
        return {}
    text = written.raw
    if isinstance(text, dict):
        text = ",".join(f"{name}={str(value).lower()}" for name, value in text.items())
    try:
        gates = parse_gates(str(text))
    except BadGate as error:
        raise BadSettings(f"{written.where}: {error}") from None
    values["feature-gates"] = _Value(gates, written.where)
    return gates


def _apply_gates(values: dict[str, _Value], gates: Mapping[str, bool]) -> None:
    if gates.get("vLLM") is False:
        values.setdefault("default-runtime", _Value("transformers", "--feature-gates"))
    if gates.get("disableNodeAutoProvisioning"):
        values.setdefault("provisioner", _Value("byo", "--feature-gates"))


def _named_cloud(values: dict[str, _Value], environ: Mapping[str, str]) -> None:
    """KAITO's CLOUD_PROVIDER; one that we do not know matters only where nodes are ordered."""
    provisioner = values.get("provisioner")
    if provisioner is not None:
        name = str(provisioner.raw)
        values["provisioner"] = _Value(KAITO_PROVISIONERS.get(name, name), provisioner.where)
    named = environ.get("CLOUD_PROVIDER", "").lower()
    if not named or "cloud" in values:
        return
    if named in get_args(CloudName):
        values["cloud"] = _Value(named, "CLOUD_PROVIDER")
    elif "provisioner" in values and values["provisioner"].raw in ORDERING:
        known = ", ".join(get_args(CloudName))
        raise BadSettings(f"CLOUD_PROVIDER is {named}, where nodes cannot be ordered: set it to {known}.")


def _settings(values: Mapping[str, _Value]) -> Settings:
    fields = {flag.replace("-", "_"): value.raw for flag, value in values.items()}
    for name in ("local_weights",):
        if name in fields:
            fields[name] = tuple(str(Path(folder).absolute()) for folder in _split(fields[name]))
    if fields.get("weights_cache"):
        fields["weights_cache"] = str(Path(str(fields["weights_cache"])).absolute())
    try:
        return Settings.model_validate(fields)
    except ValidationError as error:
        raise BadSettings("; ".join(_complaints(error, values)) + ".") from None


def _split(value: object) -> list[str]:
    parts = value if isinstance(value, list) else [value]
    return [folder for part in parts for folder in str(part).split(",") if folder]


def _complaints(error: ValidationError, values: Mapping[str, _Value]) -> Iterable[str]:
    for problem in error.errors():
        flag = _flag(str(problem["loc"][0]))
        value = values.get(flag, _Value("", f"--{flag}"))
        said = problem["msg"].replace("Input", "it")
        if flag == "node-class":
            said = "write it as group/Kind/name"
        yield f"{value.where} is {value.raw}: {said[:1].lower()}{said[1:]}"


def _check_paths(settings: Settings, values: Mapping[str, _Value]) -> None:
    # On a cluster the folders are the nodes', which the operator does not see.
    for folder in settings.local_weights if settings.provisioner == "local" else ():
        if not Path(folder).is_dir():
            where = values["local-weights"].where
            raise BadSettings(f"{where} names {folder}, which is not a folder: create it or leave it out.")
    if settings.kubeconfig is not None and not settings.kubeconfig.is_file():
        where = values["kubeconfig"].where
        raise BadSettings(f"{where} names {settings.kubeconfig}, which does not exist: give a kubeconfig file.")


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _metavar(annotation: Any) -> str:
    choices = [choice for choice in get_args(annotation) if isinstance(choice, str)]
    if choices:
        return "|".join(choices)
    if annotation in (int, float) or int in get_args(annotation):
        return "N"
    return "FILE" if Path in get_args(annotation) else "TEXT"
