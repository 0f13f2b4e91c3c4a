"""The run spec as a JSON schema, with which editors complete and check TOML files."""

from pathlib import Path
from typing import Any, get_args, get_origin

import attrs
from attrs import AttrsInstance

from renaissance.plugins.registry import Registry
from renaissance.spec.choice import Choice, shared_keys
from renaissance.spec.describe import (
    Annotation,
    Field,
    alternatives,
    default_of,
    is_literal,
    is_mapping,
    is_sequence,
    is_union,
)
from renaissance.spec.sections import RunSpec

DRAFT = "http://json-schema.org/draft-07/schema#"
REQUIRES_TYPE = {"required": ["type"]}
PLAIN: dict[Any, dict[str, Any]] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    Path: {"type": "string"},
    Any: {},
}


def run_schema(registry: Registry | None = None) -> dict[str, Any]:
    """Return the JSON schema of a run spec.

    Args:
        registry: The components whose names and options it lists; None to allow any.
    """
    schema = _Schema(registry)
    run = schema.table(RunSpec)
    # Not a key of RunSpec: it is gone once the files are merged.
    run["properties"]["extends"] = {"type": "array", "items": {"type": "string"}}
    return {"$schema": DRAFT, "title": "Renaissance run spec", **run}


class _Schema:
    def __init__(self, registry: Registry | None) -> None:
        self._registrations = [] if registry is None else list(registry)

    def table(self, section: type[AttrsInstance]) -> dict[str, Any]:
        """Return the schema of a table that an attrs class describes."""
        fields = attrs.fields(attrs.resolve_types(section))
        return {
            "type": "object",
            # A layer need not be complete, so no key is required.
            "properties": {field.name: self._key(field) for field in fields},
            "additionalProperties": False,
        }

    def _key(self, field: Field) -> dict[str, Any]:
        schema = self._of(field.type)
        if field.metadata.get("help"):
            schema["description"] = field.metadata["help"]
        default = default_of(field)
        if isinstance(default, (bool, int, float, str)):
            schema["default"] = default
        return schema

    def _of(self, annotation: Annotation) -> dict[str, Any]:
        if annotation in PLAIN:
            return dict(PLAIN[annotation])
        if is_union(annotation):
            members = [self._of(member) for member in alternatives(annotation)]
            return members[0] if len(members) == 1 else {"anyOf": members}
        if is_literal(annotation):
            return {"enum": list(get_args(annotation))}
        if is_sequence(annotation):
            return self._array(annotation)
        if isinstance(annotation, type) and issubclass(annotation, Choice):
            return self._choice(annotation)
        if isinstance(annotation, type) and attrs.has(annotation):
            return self.table(annotation)
        if is_mapping(annotation):
            return {"type": "object"}
        return {}

    def _array(self, annotation: Annotation) -> dict[str, Any]:
        arguments = get_args(annotation)
        schema: dict[str, Any] = {"type": "array", "items": self._of(arguments[0])}
        if get_origin(annotation) is tuple and arguments[-1] is not Ellipsis:
            schema |= {"minItems": len(arguments), "maxItems": len(arguments)}
        return schema

    def _choice(self, choice: type[Choice]) -> dict[str, Any]:
        fields = attrs.fields(attrs.resolve_types(choice))
        keys = {f.name: self._key(f) for f in fields if f.name in shared_keys(choice)}
        kind = [r for r in self._registrations if r.kind == choice.kind]
        name: dict[str, Any] = {
            "type": "string",
            "description": f"Registered name of the {choice.kind}.",
        }
        if choice.default_type is not None:
            name["default"] = choice.default_type
        if not kind:
            return {"type": "object", "properties": {"type": name, **keys}}
        name["enum"] = [registration.name for registration in kind]
        return {
            "type": "object",
            "properties": {"type": name, **keys},
            "allOf": [
                {
                    "if": {
                        "properties": {"type": {"const": registration.name}},
                        # An absent type stands for the default one.
                        **({} if registration.name == choice.default_type else REQUIRES_TYPE),
                    },
                    "then": {
                        "properties": {
                            **dict.fromkeys(("type", *keys), True),
                            **self.table(registration.component.Options)["properties"],
                        },
                        "additionalProperties": False,
                    },
                }
                for registration in kind
            ],
        }
