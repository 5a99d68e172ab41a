"""The document that is written from the endpoints' declarations."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

import app  # noqa: F401 - declares the endpoints
from errors import InsufficientStock, PreconditionFailed, UnknownProduct
from handlers import schemas
from handlers.call import Answer, Call
from handlers.endpoint import ENDPOINTS as DECLARED
from handlers.endpoint import Endpoint
from handlers.openapi import body_example, document
from handlers.openapi_problems import PROBLEMS, problem_kinds


def create_product(call: Call, store_id: str) -> Answer:
    """Put a product on sale.

    It is found by search
    at once.
    """
    raise NotImplementedError


def list_orders(call: Call, store_id: str) -> Answer:
    """Orders, newest first."""
    raise NotImplementedError


def place_order(call: Call, store_id: str) -> Answer:
    """Place an order."""
    raise NotImplementedError


def get_store(call: Call, store_id: str) -> Answer:
    """A store."""
    raise NotImplementedError


def set_flag(call: Call, name: str) -> Answer:
    """Switch a layer."""
    raise NotImplementedError


ENDPOINTS = [
    Endpoint(
        method="POST",
        path="/v1/stores/{store_id}/products",
        handler=create_product,
        who=frozenset({"merchant"}),
        body=schemas.NewProduct,
        status=201,
        answer=schemas.Product,
        answer_headers=("Location", "ETag"),
    ),
    Endpoint(
        method="GET",
        path="/v1/stores/{store_id}/orders",
        handler=list_orders,
        who=frozenset({"merchant", "session"}),
        query=schemas.OrderPage,
        answer=schemas.OrderList,
        answer_headers=("Link",),
    ),
    Endpoint(
        method="POST",
        path="/v1/stores/{store_id}/orders",
        handler=place_order,
        who=frozenset({"merchant", "session"}),
        body=schemas.NewOrder,
        body_optional=True,
        request_headers=("Idempotency-Key",),
        status=201,
        answer=schemas.Order,
        errors=(InsufficientStock, UnknownProduct),
    ),
    Endpoint(
        method="GET",
        path="/v1/stores/{store_id}",
        handler=get_store,
        who=frozenset({"anyone"}),
        answer=schemas.Store,
        other_statuses=(304,),
        errors=(PreconditionFailed,),
    ),
    Endpoint(
        method="PUT",
        path="/v1/admin/flags/{name}",
        handler=set_flag,
        who=frozenset({"operator"}),
        body=schemas.FlagChange,
        answer=schemas.FlagSet,
    ),
]


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    # Through JSON, as a client gets it.
    decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(document(ENDPOINTS)))
    return decoded


def test_it_is_valid_openapi(written: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(written).validate()


def test_an_operation_is_named_and_described_by_its_handler(written: dict[str, Any]) -> None:
    operation = written["paths"]["/v1/stores/{store_id}/products"]["post"]
    assert operation["operationId"] == "create_product"
    assert operation["summary"] == "Put a product on sale"
    assert operation["description"] == "It is found by search at once."
    assert operation["tags"] == ["products"]


def test_who_may_call_an_operation_is_its_security(written: dict[str, Any]) -> None:
    def security(path: str, method: str) -> list[dict[str, list[str]]]:
        found: list[dict[str, list[str]]] = written["paths"][path][method]["security"]
        return found

    assert security("/v1/stores/{store_id}/products", "post") == [{"merchant": []}]
    assert security("/v1/stores/{store_id}/orders", "get") == [{"merchant": []}, {"session": []}]
    assert security("/v1/stores/{store_id}", "get") == []
    assert security("/v1/admin/flags/{name}", "put") == [{"operator": []}]


def test_a_query_is_spelled_out_as_parameters_without_null(written: dict[str, Any]) -> None:
    parameters = written["paths"]["/v1/stores/{store_id}/orders"]["get"]["parameters"]
    query = {parameter["name"]: parameter for parameter in parameters if parameter.get("in") == "query"}
    assert query["limit"] == {
        "name": "limit",
        "in": "query",
        "required": False,
        "description": "Things a page.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
    }
    assert query["status"]["schema"] == {"enum": ["cancelled", "fulfilled", "paid", "pending"]}
    assert "OrderPage" not in written["components"]["schemas"]


def test_every_problem_an_endpoint_declares_is_an_answer_with_its_types(written: dict[str, Any]) -> None:
    responses = written["paths"]["/v1/stores/{store_id}/orders"]["post"]["responses"]
    assert set(responses) == {"201", "400", "401", "403", "404", "409", "413", "415", "429", "503"}
    for type_ in ("insufficient-stock", "unknown-product"):
        assert f"`{type_}`: {PROBLEMS[type_]}" in responses["409"]["description"]
    for status in ("400", "401", "403", "404", "409", "413", "415", "429", "503"):
        assert list(responses[status]["content"]) == ["application/problem+json"]
    assert {"Retry-After", "RateLimit", "RateLimit-Policy"} < set(responses["429"]["headers"])


def test_an_endpoint_open_to_anyone_answers_no_401(written: dict[str, Any]) -> None:
    responses = written["paths"]["/v1/stores/{store_id}"]["get"]["responses"]
    assert not {"401", "403"} & set(responses)
    assert "content" not in responses["304"]


def test_a_body_that_may_be_left_out_is_not_required(written: dict[str, Any]) -> None:
    paths = written["paths"]
    assert not paths["/v1/stores/{store_id}/orders"]["post"]["requestBody"]["required"]
    assert paths["/v1/stores/{store_id}/products"]["post"]["requestBody"]["required"]


def test_no_schema_is_written_that_nothing_refers_to(written: dict[str, Any]) -> None:
    text = msgspec.json.encode(written).decode()
    for name in written["components"]["schemas"]:
        assert f"#/components/schemas/{name}" in text, name


def test_every_problem_type_of_the_service_is_explained() -> None:
    assert problem_kinds().keys() == PROBLEMS.keys()


BODIES = dict.fromkeys(declared.body for declared in DECLARED if declared.body is not None)


@pytest.mark.parametrize("body", BODIES)
def test_every_body_of_the_service_has_an_example_that_it_accepts(body: type[msgspec.Struct]) -> None:
    msgspec.convert(body_example(body), body)
