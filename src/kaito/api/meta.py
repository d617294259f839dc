# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What all our kinds share: the base of their models, and how a wrong field is named.

A kind's fields live in its own module (`kaito.api.workspace`); this one knows only the parts that Kubernetes itself
prescribes (conditions, label selectors). `kaito.api.crd` turns the models into CustomResourceDefinitions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from kaito.api.kinds import WORKSPACES as WORKSPACES
from kaito.api.kinds import WORKSPACES_V1ALPHA1 as WORKSPACES_V1ALPHA1


@dataclass(frozen=True, slots=True)
class FieldError:
    """One wrong field of an object a user wrote."""

    path: str
    """As in a manifest: `inference.adapters[0].strength`."""
    value: Any
    """What stands there; None when nothing does."""
    message: str
    """What is wrong with it and, where it is not plain, what to write instead."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class InvalidObject(ValueError):
    """An object whose fields cannot be read as its kind's; `errors` names each of them."""

    def __init__(self, errors: Iterable[FieldError]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(str(error) for error in self.errors))


class ApiModel(BaseModel):
    """A part of a manifest: frozen, camelCase outside, unknown fields ignored, the docstrings are the CRD's text.

    A null is an absent field, as Kubernetes has it. An empty string, list or map stands for an absent one.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
        # Many programs only need a kind's name: its validator is made with the first object.
        defer_build=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: Any) -> Any:
        if isinstance(value, dict) and None in value.values():
            return {key: field for key, field in value.items() if field is not None}
        return value


class LabelSelectorRequirement(ApiModel):
    """One term of a label selector; all terms must hold."""

    key: str
    """The label key that the term is about."""
    operator: str
    """How the label relates to the values: In, NotIn, Exists or DoesNotExist."""
    values: tuple[str, ...] = ()
    """For In and NotIn: the values, at least one. For Exists and DoesNotExist: empty."""


class LabelSelector(ApiModel):
    """Which objects are meant, by their labels; `matchLabels` and `matchExpressions` must both hold."""

    match_expressions: tuple[LabelSelectorRequirement, ...] = ()
    """Terms that must all hold."""
    match_labels: dict[str, str] = Field(default_factory=dict)
    """Labels that must all be present with these values."""


class Condition(ApiModel):
    """One aspect of an object's state, in the form that Kubernetes tools read (metav1.Condition)."""

    last_transition_time: str = Field(json_schema_extra={"format": "date-time"})
    """When the status last changed from one value to another."""
    message: str = Field(json_schema_extra={"maxLength": 32768})
    """What is the matter and what to do about it, for people."""
    observed_generation: StrictInt | None = Field(default=None, json_schema_extra={"format": "int64", "minimum": 0})
    """The generation of the object that the condition was computed for."""
    reason: str = Field(
        json_schema_extra={
            "maxLength": 1024,
            "minLength": 1,
            "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
        }
    )
    """A word for programs that says why the condition has its status."""
    status: str = Field(json_schema_extra={"enum": ["True", "False", "Unknown"]})
    """True, False or Unknown."""
    type: str = Field(
        json_schema_extra={
            "maxLength": 316,
            "pattern": "^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?"
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
        }
    )
    """Which aspect it is, e.g. InferenceReady."""


def field_errors(error: ValidationError) -> tuple[FieldError, ...]:
    """What pydantic found, with the paths that a manifest's author knows."""
    found = []
    for detail in error.errors(include_url=False, include_context=False):
        missing = detail["type"] == "missing"
        message = "is required" if missing else _message(detail["msg"])
        found.append(FieldError(field_path(detail["loc"]), None if missing else detail["input"], message))
    return tuple(found)


def _message(text: str) -> str:
    # A manifest has lists and maps, whatever they are in Python.
    for ours, theirs in (("Input should be", "must be"), ("a valid tuple", "a list"), ("a valid dictionary", "a map")):
        text = text.replace(ours, theirs, 1)
    return text


def field_path(parts: Iterable[str | int]) -> str:
    """`("adapters", 0, "source")` as `adapters[0].source`."""
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path
