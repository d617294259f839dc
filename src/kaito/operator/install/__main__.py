# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Prints what the operator needs on a cluster: `python -m kaito.operator.install`, which `kaito install` runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import get_args

import yaml

from kaito.api.crd import PlainDumper, custom_resource_definitions
from kaito.operator.install.objects import PROVISIONERS, Installation, installed
from kaito.operator.settings import CloudName


def main(arguments: Sequence[str] | None = None) -> int:
    """Print it; the exit code."""
    parser = argparse.ArgumentParser(prog="kaito install", allow_abbrev=False)
    parser.add_argument("--crds-only", action="store_true")
    defaults = Installation()
    parser.add_argument("--namespace", default=defaults.namespace)
    parser.add_argument("--provisioner", default=defaults.provisioner, choices=list(PROVISIONERS))
    parser.add_argument("--cloud", default=defaults.cloud, choices=get_args(CloudName))
    parser.add_argument("--node-class", default=defaults.node_class)
    parser.add_argument("--image", default=defaults.image)
    parser.add_argument("--runtime-image", default=defaults.runtime_image)
    parser.add_argument("--replicas", type=int, default=defaults.replicas)
    parser.add_argument("--machines-config-map", default=defaults.machines_config_map)
    given = vars(parser.parse_args(arguments))
    crds_only = given.pop("crds_only")
    manifests = list(custom_resource_definitions()) if crds_only else installed(Installation(**given))
    yaml.dump_all(manifests, sys.stdout, Dumper=PlainDumper, sort_keys=False, width=120, allow_unicode=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
