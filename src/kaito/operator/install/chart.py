# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The parts of the Helm chart that follow from the code: `python -m kaito.operator.install.chart rbac|webhook`.

They are templates around what `objects.py` says; the namespace and the labels are the chart's.
"""

from __future__ import annotations

import sys

import yaml

from kaito.api.crd import PlainDumper
from kaito.kube.manifest import Manifest
from kaito.operator.install.access import cluster_rules, namespace_rules
from kaito.operator.install.objects import NAME, PROVISIONERS, Installation, operator_objects

_HEAD = "{{/* Generated from the code: make generate */}}\n"
_META = """metadata:
  name: {name}
  labels:
    {{{{- include "kaito.labels" . | nindent 4 }}}}
"""
_WITHIN = "  namespace: {{ .Release.Namespace }}\n"


def rbac() -> str:
    """templates/rbac.yaml."""
    parts = []
    rules = [
        f'{{{{- if eq (include "kaito.provisioner" .) "{name}" }}}}\n{_yaml(cluster_rules(source))}{{{{- end }}}}\n'
        for name, source in PROVISIONERS.items()
    ]
    for kind, text in (("ClusterRole", "".join(rules)), ("Role", _yaml(namespace_rules()))):
        meta = _META.format(name=NAME) + (_WITHIN if kind == "Role" else "")
        head = "apiVersion: rbac.authorization.k8s.io/v1\nkind: "
        parts.append(f"{head}{kind}\n{meta}rules:\n{text}")
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": NAME}
        subject = f"subjects:\n- kind: ServiceAccount\n  name: {NAME}\n{_WITHIN}"
        parts.append(f"{head}{kind}Binding\n{meta}{_yaml({'roleRef': reference})}{subject}")
    return _HEAD + "---\n".join(parts)


def webhook() -> str:
    """templates/webhook.yaml."""
    configuration = next(obj for obj in operator_objects(Installation()) if "webhooks" in obj)
    [hook] = configuration["webhooks"]
    hook["clientConfig"]["service"]["namespace"] = "NAMESPACE"
    meta = _META.format(name=configuration["metadata"]["name"])
    head = f"apiVersion: {configuration['apiVersion']}\nkind: {configuration['kind']}\n{meta}"
    return f"{_HEAD}{head}{_yaml({'webhooks': [hook]})}".replace("NAMESPACE", "{{ .Release.Namespace }}")


def _yaml(content: Manifest | list[Manifest]) -> str:
    return yaml.dump(content, Dumper=PlainDumper, sort_keys=False, width=10_000)


if __name__ == "__main__":
    sys.stdout.write({"rbac": rbac, "webhook": webhook}[sys.argv[1]]())
