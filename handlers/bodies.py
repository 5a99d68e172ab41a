"""Reading a request's body and query: checked against the endpoint's declaration, refused with all that is known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from flask import Request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import RequestEntityTooLarge

from errors import BadRequest, PayloadTooLarge, UnsupportedMediaType
from handlers.endpoint import Endpoint

MAX_BODY_BYTES = 1 << 20
# Werkzeug cuts a body that comes in chunks off here without a word: by the one byte more it is known to be too long.
READ_AT_MOST_BYTES = MAX_BODY_BYTES + 1
MAX_ATTRIBUTES_BYTES = 16 << 10

# msgspec says "Expected `int` >= 0 - at `$.items[0].quantity`", and names a field only in the sentence's middle.
_PLACE = re.compile(r" - at `\$(?P<place>.*)`$")
_FIELD = re.compile(r"(?:required|unknown) field `(?P<field>.*)`")
_STEP = re.compile(r"\.?(?P<name>[^.\[\]]+)|\[(?P<index>\d+)\]")


class BodyReader:
    """Decodes one endpoint's bodies."""

    def __init__(self, declared: Endpoint) -> None:
        self._type = declared.body
        self._optional = declared.body_optional
        self._decoder = msgspec.json.Decoder(declared.body) if declared.body is not None else None

    def __call__(self, request: Request) -> Any:
        """The body's Struct, or None where the endpoint takes none.

        Raises `PayloadTooLarge`, `UnsupportedMediaType`, `BadRequest`.
        """
        if self._decoder is None or self._type is None:
            return None
        raw = _read(request)
        if not raw and self._optional:
            return self._type()
        if request.mimetype != "application/json":
            raise UnsupportedMediaType("The body must be JSON: Content-Type: application/json")
        try:
            body = self._decode(raw)
            _check_attributes(body)
        except msgspec.ValidationError as error:
            raise _invalid("The body is not what this takes.", str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise BadRequest(
                "The body is not JSON.", errors=[{"path": "", "message": f"Malformed JSON: {reason}"}]
            ) from None
        return body

    def _decode(self, raw: bytes) -> Any:
        """The body, with 12.0 read as 12: to JSON Schema, and so to the document, both are integers."""
        assert self._decoder is not None
        try:
            return self._decoder.decode(raw)
        except msgspec.ValidationError as error:
            if "got `float`" not in str(error):
                raise
            return msgspec.convert(_whole(msgspec.json.decode(raw)), self._type)


class QueryReader:
    """Checks one endpoint's query parameters."""

    def __init__(self, declared: type[msgspec.Struct] | None) -> None:
        self._type = declared
        self._names = frozenset(declared.__struct_fields__) if declared is not None else frozenset()

    def __call__(self, arguments: Mapping[str, str]) -> Any:
        """The query's Struct. Parameters that are not declared are passed over. Raises `BadRequest`."""
        if self._type is None:
            return None
        given = {name: value for name, value in arguments.items() if name in self._names}
        try:
            query = msgspec.convert(given, self._type, strict=False)
        except msgspec.ValidationError as error:
            raise _invalid("The query is not what this takes.", str(error)) from None
        for name in given:
            if getattr(query, name) is None:  # what msgspec takes the text "null" for
                raise _invalid("The query is not what this takes.", f"Unexpected `null` - at `$.{name}`")
        return query


def _read(request: Request) -> bytes:
    """The body's bytes. Raises `PayloadTooLarge`, and `BadRequest` where they do not come as they should."""
    try:
        raw = request.get_data(cache=False)
    except RequestEntityTooLarge:
        raw = None
    except (ParseException, OSError):  # gunicorn reads the chunks only now
        problem = {"path": "", "message": "It ends, or is cut into chunks, in the wrong place."}
        raise BadRequest("The body could not be read.", errors=[problem]) from None
    if raw is None or len(raw) > MAX_BODY_BYTES:
        raise PayloadTooLarge(f"A body has at most {MAX_BODY_BYTES} bytes.")
    return raw


def _whole(value: object) -> object:
    """The value with every whole float as an int, but in `attributes`, which are kept as they are."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_whole(inner) for inner in value]
        case dict():
            return {name: inner if name == "attributes" else _whole(inner) for name, inner in value.items()}
    return value


def _check_attributes(body: msgspec.Struct) -> None:
    attributes = getattr(body, "attributes", None)
    if not isinstance(attributes, dict):
        return
    encoded = msgspec.json.encode(attributes)
    if len(encoded) > MAX_ATTRIBUTES_BYTES:
        message = f"At most {MAX_ATTRIBUTES_BYTES} bytes of JSON."
    elif b"\\u0000" in encoded and _holds_nul(attributes):
        message = "U+0000 cannot be kept."
    else:
        return
    raise BadRequest("The body is not what this takes.", errors=[{"path": "/attributes", "message": message}])


def _holds_nul(value: object) -> bool:
    match value:
        case str():
            return "\0" in value
        case dict():
            return any("\0" in name or _holds_nul(inner) for name, inner in value.items())
        case list():
            return any(map(_holds_nul, value))
    return False


def _invalid(detail: str, sentence: str) -> BadRequest:
    """msgspec's sentence as `errors`: the place as a JSON pointer (RFC 6901), the rest as the message."""
    place, field = _PLACE.search(sentence), _FIELD.search(sentence)
    # "[...]" stands for whichever value of an object: the place is no more exact than the object.
    known = place["place"].partition("[...]")[0] if place else ""
    steps = [step["name"] or step["index"] for step in _STEP.finditer(known)]
    if field:
        steps.append(field["field"].replace("~", "~0").replace("/", "~1"))
    message = sentence[: place.start()] if place else sentence
    return BadRequest(detail, errors=[{"path": "".join(f"/{step}" for step in steps), "message": message}])
