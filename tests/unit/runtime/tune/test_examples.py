# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What columns and rows of a data set mean."""

from __future__ import annotations

from typing import Any

import pytest

from kaito.api.names import REASON_TUNING_COLUMNS
from kaito.api.training import DatasetSection
from kaito.runtime.failure import Failed
from kaito.runtime.tune.examples import BadRow, Example, as_conversation, example_of, schema_of

USER, ASSISTANT = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
NONE = DatasetSection()


def example(row: dict[str, Any], **options: Any) -> Example:
    return example_of(row, schema_of(list(row), DatasetSection(**options), "file"))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [USER, ASSISTANT]}, Example(messages=(USER, ASSISTANT))),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
            Example(messages=(USER, ASSISTANT)),
        ),
        ({"prompt": "a", "completion": "b"}, Example(prompt="a", completion="b")),
        ({"prompt": [USER], "completion": [ASSISTANT]}, Example(messages=(USER, ASSISTANT), learn_from=1)),
        ({"instruction": "a", "input": "", "output": "b"}, Example(messages=(USER, ASSISTANT))),
        (
            {"instruction": "a", "input": "x", "output": "b"},
            Example(messages=({"role": "user", "content": "a\n\nx"}, ASSISTANT)),
        ),
        ({"text": "a"}, Example(text="a")),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, Example(prompt="q", chosen="a", rejected="b")),
    ],
)
def test_every_known_schema_becomes_an_example(row: dict[str, Any], expected: Example) -> None:
    assert example(row) == expected


OTHER = {"role": "assistant", "content": "c"}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": [USER], "chosen": [ASSISTANT], "rejected": [OTHER]}, ([USER], [ASSISTANT], [OTHER])),
        ({"chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]}, ([USER], [ASSISTANT], [OTHER])),
        ({"prompt": "a", "chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]}, ([USER], [ASSISTANT], [OTHER])),
        ({"prompt": [USER], "chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]}, ([USER], [ASSISTANT], [OTHER])),
        ({"prompt": "a", "chosen": [ASSISTANT], "rejected": [OTHER]}, ([USER], [ASSISTANT], [OTHER])),
        ({"prompt": [USER], "chosen": "b", "rejected": "c"}, ([USER], [ASSISTANT], [OTHER])),
        (
            {"chosen": "Human: a\n\nAssistant: be", "rejected": "Human: a\n\nAssistant: bad"},
            ("Human: a\n\nAssistant:", " be", " bad"),
        ),
        ({"prompt": "a ", "chosen": "a b", "rejected": "a c"}, ("a ", "a b", "a c")),
    ],
    ids=[
        "messages", "conversations", "text before conversations", "both", "text before messages",
        "messages before text", "transcripts", "texts",
    ],
)  # fmt: skip
def test_preferences_are_understood_in_every_form(row: dict[str, Any], expected: tuple[Any, Any, Any]) -> None:
    found = example(row)
    assert (found.prompt, found.chosen, found.rejected) == expected
    whole = as_conversation(found)
    assert [type(part) for part in (whole.prompt, whole.chosen, whole.rejected)] == [list, list, list]


def test_columns_can_be_named() -> None:
    row = {"q": "a", "a": "b", "talk": [USER, ASSISTANT]}
    assert example(row, context_column="q", response_column="a") == Example(prompt="a", completion="b")
    assert example(row, response_column="a") == Example(text="b")
    assert example(row, messages_column="talk") == Example(messages=(USER, ASSISTANT))


@pytest.mark.parametrize(
    ("row", "why", "is_empty"),
    [
        ({"messages": []}, "no messages", True),
        ({"messages": [USER, {"role": "assistant", "content": "  "}]}, "message 1", True),
        ({"messages": [USER]}, "assistant's", False),
        ({"messages": [{"role": "robot", "content": "x"}]}, "the role 'robot'", False),
        ({"messages": "hello"}, "no list of maps", False),
        ({"prompt": "a", "completion": None}, "completion", True),
        ({"prompt": "a", "completion": 3}, "completion is no text but a number", False),
        ({"text": " \n"}, "text", True),
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "are the same", False),
        ({"chosen": "a", "rejected": "b"}, "no prompt", False),
        ({"chosen": [USER, ASSISTANT], "rejected": [USER]}, "the beginning of the other", False),
    ],
)
def test_a_row_that_cannot_be_trained_on_says_why(row: dict[str, Any], why: str, is_empty: bool) -> None:
    with pytest.raises(BadRow, match=why) as error:
        example(row)
    assert error.value.is_empty == is_empty


def test_unknown_columns_are_refused_with_what_there_is() -> None:
    with pytest.raises(Failed, match="columns a, b") as error:
        schema_of(["a", "b"], NONE, "data.csv")
    assert error.value.failure.reason == REASON_TUNING_COLUMNS
    with pytest.raises(Failed, match="response_column names z"):
        schema_of(["a"], DatasetSection(response_column="z"), "data.csv")
