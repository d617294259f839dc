# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a cloud can answer instead of what was asked, named by what follows from it. `str()` is the cloud's own text.

CloudError
├── Refused              the request made nothing, and never will as it stands
│   ├── OutOfCapacity    no such machine free there: try the next zone, capacity type or instance type
│   ├── QuotaExceeded    the account may not have more: somebody has to raise a quota
│   ├── Unauthorised     the identity may not do this: somebody has to grant a right
│   ├── NameTaken        something of somebody else has the name
│   └── Rejected         a parameter is wrong: somebody has to change the claim or the settings
├── Throttled            made nothing, because of too many requests or another operation under way: later
├── NotFound             what was asked about is not there
└── Unclear              no answer, or one that does not say: it may have been done
"""

from __future__ import annotations


class CloudError(Exception):
    """A call that did not do what was asked."""


class Refused(CloudError):
    """Nothing was made."""


class OutOfCapacity(Refused):
    """The cloud has no such machine free there now."""


class QuotaExceeded(Refused):
    """The account's limit is reached."""


class Unauthorised(Refused):
    """The identity is missing or may not do this."""


class NameTaken(Refused):
    """A machine or pool of another owner has the name that ours would have."""


class Rejected(Refused):
    """The request is wrong."""


class Throttled(CloudError):
    """Nothing was made: the cloud asks to come back later."""

    def __init__(self, text: str, retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s
        """What the cloud named, if it did."""


class NotFound(CloudError):
    """It is not there."""


class Unclear(CloudError):
    """Whether it was done is not known."""
