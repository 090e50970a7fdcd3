"""What openapi.json says of a form sent as JSON: the fields of the multipart form, pictures as base64 text."""

from __future__ import annotations

from typing import Any, Final

from fastapi import params
from fastapi.routing import APIRoute
from pydantic import BaseModel

from app.routes.json_form import JSON_FIELDS

# `format: byte` is the older word for contentEncoding; many generators of clients know only that.
_PICTURE: Final[dict[str, Any]] = {
    "type": "string",
    "format": "byte",
    "contentEncoding": "base64",
    "examples": ["iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg=="],
}
_HOW: Final = " As base64 text, also in a `data:` URL, or as an http(s) URL of a host in `SEGGPT_URL_HOSTS`."


def json_body(route: APIRoute, pictures: frozenset[str]) -> dict[str, Any]:
    """The additions to a route's operation: its form's fields as `application/json`; none if it has no form.

    Args:
        route: what it takes is known already.
        pictures: the fields that are base64 text.
    """
    field = route.body_field
    if field is None or not isinstance(field.field_info, params.Form):
        return {}
    model = field.field_info.annotation
    assert isinstance(model, type)
    assert issubclass(model, BaseModel)
    schema = model.model_json_schema()
    for name, described in schema["properties"].items():
        if name in pictures:
            _describe_picture(described)
        elif name in JSON_FIELDS:
            described["anyOf"] = [*_kinds(described), {"type": "array", "items": {"type": ["string", "object"]}}]
    schema["title"] = f"{schema['title']}_json"  # generators name the class by it
    return {"requestBody": {"content": {"application/json": {"schema": schema}}}}


def _describe_picture(described: dict[str, Any]) -> None:
    """Turn the schema of a file, or of a list of files, into base64 text; in place."""
    described["description"] = described.get("description", "") + _HOW
    for place in (described, *described.get("anyOf", ())):
        if place.get("type") == "array":
            place["items"] = dict(_PICTURE)
        elif place.get("type") == "string":
            for word in ("format", "contentMediaType", "examples"):
                place.pop(word, None)
            place.update(_PICTURE)


def _kinds(described: dict[str, Any]) -> list[dict[str, Any]]:
    """The alternatives of a field that is text or may be text; taken out of its schema."""
    alternatives: list[dict[str, Any]] = described.pop("anyOf", None) or [{"type": described.pop("type", "string")}]
    return alternatives
