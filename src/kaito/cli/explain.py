# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Any failure that a user can cause, as a sentence and a next step: the server's refusals, bad logins, bad files."""

from __future__ import annotations

from kaito.cli.failure import UserError
from kaito.kube.config import ConfigError
from kaito.kube.errors import ApiError

NEXT_STEPS = {
    0: "Is that cluster running? kaito up --detach starts one here; --kubeconfig chooses another one.",
    400: "Correct the manifest and apply again; nothing was changed.",
    401: "The kubeconfig's credentials are not accepted; are they of an older engine? Run: kaito up --detach",
    403: "Ask for the permission, or use another kubeconfig.",
    404: "List what is there with: kaito get --all-namespaces",
    409: "Somebody else changed it meanwhile; try again.",
    422: "Correct the field and apply again; nothing was changed.",
    429: "The cluster is busy; try again in a few seconds.",
}
"""By HTTP status; 0 stands for no answer at all."""
NOT_INSTALLED = "Is kaito installed there? On this machine: kaito up --detach. On a cluster: docs/install.md"
BROKEN = "The cluster could not answer; try again, and read its logs when this stays."


def explain(error: ApiError | ValueError | OSError | UserError) -> UserError:
    """What to tell the user."""
    match error:
        case UserError():
            return error
        case ApiError():
            if error.status == 404 and not (error.details or {}).get("name"):
                return UserError("The cluster does not know Workspaces.", NOT_INSTALLED)
            step = NEXT_STEPS.get(error.status, BROKEN if error.status >= 500 else "")
            return UserError(error.message.rstrip(".") + ".", step)
        case ConfigError():
            return UserError(
                f"{error}.", "KUBECONFIG or --kubeconfig names it; without both, the engine of kaito up is used."
            )
        case UnicodeDecodeError():
            return UserError("A file is not text in UTF-8.", "Check the path given with -f.")
        case OSError(filename=str() as path, strerror=str() as why):
            return UserError(f"{path}: {why}.", "Choose another path, or correct the permissions of this one.")
    return UserError(f"{error}".rstrip(".") + ".")
