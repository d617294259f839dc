# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import logging
import sys

from kaito.operator.logs import JsonLines


def test_a_line_is_one_object_with_what_went_wrong() -> None:
    try:
        raise ValueError("no\nsuch thing")
    except ValueError:
        record = logging.LogRecord("kaito.kube", logging.ERROR, "f.py", 1, "%s: a defect", ("a/b",), sys.exc_info())
    text = JsonLines().format(record)
    assert "\n" not in text
    line = json.loads(text)
    assert (line["level"], line["logger"], line["message"]) == ("error", "kaito.kube", "a/b: a defect")
    assert line["time"].endswith("+00:00")
    assert "no\nsuch thing" in line["error"]
