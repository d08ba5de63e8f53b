"""Validate manifests against the schemas of the Kubernetes API server (launch/schemas/README.md)."""

import gzip
import json
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

from trireme.config.suggest import to_yaml
from trireme.errors import Violation


def check_manifest(document: Mapping[str, Any]) -> Iterator[Violation]:
    """Report what the API server would reject in a job, or drop silently because its schema does not know it.

    Rules in CEL (x-kubernetes-validations) are not checked.

    Args:
        document: a resource of a kind that has a schema here.
    """
    kind = document["kind"]
    reported = set()
    errors = _Validator(_load_schema(kind)).iter_errors(document)
    for error in sorted(errors, key=lambda error: error.json_path):  # the library goes through sets
        rule, fix = _explain(error)
        value = to_yaml(error.instance)
        if (value, rule) not in reported:  # all replicas are alike
            reported.add((value, rule))
            yield Violation(path=kind + error.json_path.removeprefix("$"), value=value, message=rule, fix=fix)


def _explain(error: ValidationError) -> tuple[str, str]:
    is_quantity = error.validator == "pattern" and error.schema.get("x-kubernetes-int-or-string")
    if is_quantity:
        return "must be a Kubernetes quantity", "Use a number with or without a unit, such as 96, 500m or 900Gi."
    rule = f"does not match the schema of the resource: {error.message}"
    return rule, "Correct the setting of cluster.kubernetes that it comes from."


def _check_keys(validator: Any, keys: list[str], instance: Any, schema: Mapping[str, Any]) -> Iterator[ValidationError]:
    """Check that the items of a list that is a map have unique keys, such as the names of variables."""
    seen = []
    for item in instance if isinstance(instance, list) else ():
        key = {name: item.get(name) for name in keys}
        if key in seen:
            yield ValidationError(f"{to_yaml(key)} is repeated")
        seen.append(key)


_Validator = extend(Draft202012Validator, {"x-kubernetes-list-map-keys": _check_keys})


def _load_schema(kind: str) -> dict[str, Any]:
    packed = resources.files("launch").joinpath("schemas", f"{kind}.json.gz").read_bytes()
    schema: dict[str, Any] = json.loads(gzip.decompress(packed))
    _close(schema)
    # The API server has its own schema for metadata.
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def _close(schema: dict[str, Any]) -> None:
    """Refuse fields that a structural schema does not name: the API server would drop them."""
    if schema.get("type") == "object" and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    inner = [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]
    for each in inner:
        if isinstance(each, dict):
            _close(each)
