"""Requests by kind, as shops and shoppers would name them."""

from __future__ import annotations

from typing import Any

from metrics.totals import Sample, Totals

_STORE = "/v1/stores/{store_id}"
_KINDS = {
    ("GET", f"{_STORE}/products"): "list products",
    ("GET", f"{_STORE}/products/{{product_id}}"): "read product",
    ("POST", f"{_STORE}/products"): "write product",
    ("PATCH", f"{_STORE}/products/{{product_id}}"): "write product",
    ("DELETE", f"{_STORE}/products/{{product_id}}"): "write product",
    ("POST", f"{_STORE}/orders"): "place order",
    ("GET", f"{_STORE}/orders"): "read order",
    ("GET", f"{_STORE}/orders/{{order_id}}"): "read order",
    ("GET", f"{_STORE}/cart"): "read cart",
    ("PUT", f"{_STORE}/cart/items/{{product_id}}"): "write cart",
    ("DELETE", f"{_STORE}/cart"): "write cart",
}
KINDS = (*dict.fromkeys(_KINDS.values()), "other")


def kind_of(sample: Sample) -> str | None:
    """The kind a series belongs to; None for what is not the marketplace's: figures, health, the page itself."""
    route = sample.labels.get("route", "")
    if route != "unmatched" and not route.startswith("/v1/"):
        return None
    return _KINDS.get((sample.labels.get("method", ""), route), "other")


def traffic(totals: Totals) -> dict[str, Any]:
    """The part `traffic` of the document: answers and their durations since the service began."""
    kinds = {
        kind: {
            "kind": kind,
            "answered_total": 0.0,
            "errors_total": 0.0,
            "refused_total": 0.0,
            "seconds_total": 0.0,
        }
        for kind in KINDS
    }
    buckets: dict[str, dict[str, float]] = {kind: {} for kind in KINDS}
    for sample in totals["http_requests_total"]:
        if kind := kind_of(sample):
            row, status = kinds[kind], sample.labels.get("status", "")
            row["answered_total"] += sample.value  # type: ignore[operator]
            if status.startswith("5"):
                row["errors_total"] += sample.value  # type: ignore[operator]
            elif status == "429":
                row["refused_total"] += sample.value  # type: ignore[operator]
    for sample in totals["http_request_duration_seconds_sum"]:
        if kind := kind_of(sample):
            kinds[kind]["seconds_total"] += sample.value  # type: ignore[operator]
    bounds: set[str] = set()
    for sample in totals["http_request_duration_seconds_bucket"]:
        if kind := kind_of(sample):
            bound = sample.labels["le"]
            bounds.add(bound)
            buckets[kind][bound] = buckets[kind].get(bound, 0.0) + sample.value
    ordered = sorted(bounds, key=float)
    return {
        "le": [bound if bound == "+Inf" else float(bound) for bound in ordered],
        "kinds": [
            {**row, "buckets_total": [buckets[kind].get(bound, 0.0) for bound in ordered]}
            for kind, row in kinds.items()
        ],
    }
