# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a conversion webhook is asked, and whether its answer is one: ConversionReview, v1 and v1beta1.

Rules and words are those of apiextensions-apiserver's conversion package. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from kaito.kube.manifest import Manifest

GROUP: Final = "apiextensions.k8s.io"
KNOWN: Final = ("v1", "v1beta1")
_KEPT: Final = ("name", "namespace", "uid")


class ConversionFailed(Exception):
    """The webhook's answer cannot be used. `is_verb`: the text goes on after the webhook's name by itself."""

    def __init__(self, text: str, *, is_verb: bool = False) -> None:
        super().__init__(text)
        self.is_verb = is_verb


def review_of(objects: Sequence[Manifest], api_version: str, versions: Sequence[str], *, uid: str) -> Manifest:
    """The review that asks for these objects in `api_version`, in the first review version that is known."""
    version = next((name for name in versions if name in KNOWN), KNOWN[0])
    request = {"uid": uid, "desiredAPIVersion": api_version, "objects": list(objects)}
    return {"kind": "ConversionReview", "apiVersion": f"{GROUP}/{version}", "request": request}


def converted_objects(review: Manifest, answer: Any) -> list[Manifest]:
    """The objects of the answer, with the metadata that a conversion may not touch as it was.

    Raises ConversionFailed.
    """
    request = review["request"]
    found, originals = _objects(review, answer), request["objects"]
    if len(found) != len(originals):
        raise ConversionFailed(f"returned {len(found)} objects, expected {len(originals)}", is_verb=True)
    return [
        _checked(original, obj, request["desiredAPIVersion"], index)
        for index, (original, obj) in enumerate(zip(originals, found, strict=True))
    ]


def _objects(review: Manifest, answer: Any) -> list[Any]:
    if not isinstance(answer, dict):
        raise ConversionFailed("the answer is not a ConversionReview")
    wanted, version = review["apiVersion"], answer.get("apiVersion")
    strict = wanted.endswith("/v1")
    if strict and (version != wanted or answer.get("kind") != "ConversionReview"):
        got = f"{version or ''}, Kind={answer.get('kind') or ''}"
        raise ConversionFailed(f"expected webhook response of {wanted}, Kind=ConversionReview, got {got}")
    response = answer.get("response")
    if not isinstance(response, dict):
        raise ConversionFailed("no response provided")
    uid, expected = response.get("uid") or "", review["request"]["uid"]
    if strict and uid != expected:
        raise ConversionFailed(f'expected response.uid="{expected}", got "{uid}"')
    result = response.get("result") or {}
    if result.get("status") != "Success":
        text = result.get("message")
        raise ConversionFailed(
            str(text) if text else "response.result.status was '%s', not 'Success'" % (result.get("status") or "")
        )
    return list(response.get("convertedObjects") or [])


def _checked(original: Manifest, obj: Any, api_version: str, index: int) -> Manifest:
    where = f"returned invalid converted object at index {index}: "
    if not isinstance(obj, dict):
        raise ConversionFailed(f"{where}not an object", is_verb=True)
    if obj.get("apiVersion") != api_version:
        text = f"invalid groupVersion (expected {api_version}, received {obj.get('apiVersion') or ''})"
        raise ConversionFailed(where + text, is_verb=True)
    if obj.get("kind") != original["kind"]:
        text = f"invalid kind (expected {original['kind']}, received {obj.get('kind') or ''})"
        raise ConversionFailed(where + text, is_verb=True)
    meta = obj.get("metadata")
    if not isinstance(meta, dict):
        text = f"returned invalid metadata in object at index {index}: missing metadata in converted object"
        raise ConversionFailed(text, is_verb=True)
    before = original["metadata"]
    for name in _KEPT:
        if (meta.get(name) or "") != (before.get(name) or ""):
            shown = "UID" if name == "uid" else name
            text = f"must have the same {shown}: {before.get(name) or ''} != {meta.get(name) or ''}"
            raise ConversionFailed(where + text, is_verb=True)
    return {**obj, "metadata": _metadata(before, meta, index)}


def _metadata(before: Manifest, after: Manifest, index: int) -> Manifest:
    """The metadata as it was, but for labels and annotations, which a conversion may change."""
    merged = {key: value for key, value in before.items() if key not in ("labels", "annotations")}
    for name in ("labels", "annotations"):
        values = after.get(name)
        if values is None:
            continue
        if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
            text = f"returned invalid metadata in object at index {index}: invalid metadata.{name}: not a map of texts"
            raise ConversionFailed(text, is_verb=True)
        if values:
            merged[name] = values
    return merged
