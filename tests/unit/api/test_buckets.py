# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from kaito.api.buckets import Folder, parse

AZURE = Folder("az", "models", "team/phi", "account1")


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        ("s3://models/team/phi/", Folder("s3", "models", "team/phi")),
        ("https://models.s3.eu-west-1.amazonaws.com/team/phi", Folder("s3", "models", "team/phi")),
        ("https://s3.eu-west-1.amazonaws.com/models/team/phi", Folder("s3", "models", "team/phi")),
        ("gs://models", Folder("gs", "models", "")),
        ("https://storage.googleapis.com/models/team", Folder("gs", "models", "team")),
        ("az://account1/models/team/phi", AZURE),
        ("abfss://models@account1.dfs.core.windows.net/team/phi", AZURE),
        ("https://account1.blob.core.windows.net/models/team/phi", AZURE),
    ],
)
def test_an_address_is_read_in_the_forms_that_users_paste(uri: str, folder: Folder) -> None:
    assert parse(uri) == folder
    assert parse(str(folder)) == folder


@pytest.mark.parametrize(
    "uri",
    ["", "models/phi", "ftp://models/phi", "s3://", "s3:///phi", "s3://models/../phi", "s3://models/a//phi", "az://account1",
     "https://example.com/models", "abfss://models@example.com/phi"],
)  # fmt: skip
def test_what_is_no_address_says_what_one_looks_like(uri: str) -> None:
    with pytest.raises(ValueError, match="write s3://bucket/folder"):
        parse(uri)


def test_a_token_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="belong into a Secret") as caught:
        parse("https://account1.blob.core.windows.net/models/phi?sv=1&sig=hush")
    assert "hush" not in str(caught.value)
