"""Whom a request is counted for, and what it is told of its quotas.

Every request to an endpoint of the API counts, whatever its answer: for the session or the merchant key that it
carries, or else for its address; and, where its path names a store, for that store. The operator's do not, who has to
get through to switch this off; nor do health, figures and documents, which are no endpoints.

A session token and a merchant key are signed, so that they cannot be made up; that a key was revoked, or that a store
is another than the credential's, does not matter here. What is not signed here, or has expired, is no credential.

Source of the headers: draft-ietf-httpapi-ratelimit-headers-11, sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

import metrics
from config import Settings, parse_networks, parse_quota
from ephemeral.limiter import Decision, Limit, Limiter, Policy
from ephemeral.round_trip import Reply
from errors import TooManyRequests
from operations.credentials import Credential

Address = IPv4Address | IPv6Address

# A network that gives out IPv6 gives each of its customers this much at least (RFC 6177): counted one by one, nobody
# would ever be limited.
_IPV6_PREFIX = 64


class Limits:
    """Counts requests by the policies of the settings."""

    def __init__(self, settings: Settings, limiter: Limiter) -> None:
        self._limiter = limiter
        self._proxies = parse_networks("TRUSTED_PROXIES", settings.trusted_proxies)
        self._policies = {
            "session": _policy("session", settings.rate_limit_session),
            "merchant": _policy("key", settings.rate_limit_key),
            "address": _policy("address", settings.rate_limit_address),
            "store": _policy("store", settings.rate_limit_store),
        }

    def admission(
        self, credential: Credential | None, environ: Mapping[str, Any], store_id: str | None
    ) -> Admission | None:
        """For one request, in the WSGI server's `environ`; None where it does not count."""
        if credential is not None and credential.kind == "operator":
            return None
        if credential is not None:
            limits = [Limit(self._policies[credential.kind], str(credential.id))]
        else:
            limits = [Limit(self._policies["address"], client_address(environ, self._proxies))]
        if store_id is not None:
            limits.append(Limit(self._policies["store"], store_id))
        return Admission(self._limiter, limits)


class Admission:
    """One request's: counted once it is asked, in all of its limits or in none. As `routing.scope.Admission`."""

    def __init__(self, limiter: Limiter, limits: Sequence[Limit]) -> None:
        self._limiter = limiter
        self._limits = limits
        self.question = limiter.question(limits)
        self.decision: Decision | None = None

    def settle(self) -> None:
        self._decided(self._limiter.decide(self._limits))

    def hear(self, reply: Reply | None) -> None:
        self._decided(self._limiter.hear(self._limits, reply))

    def _decided(self, decision: Decision) -> None:
        self.decision = decision
        if not decision.shared:
            metrics.count_limiter("unavailable")
        else:
            metrics.count_limiter("allowed" if decision.admitted else "limited")
        if not decision.admitted:
            raise refusal(decision)


def _policy(name: str, text: str) -> Policy:
    return Policy(name, *parse_quota(f"RATE_LIMIT_{name.upper()}", text))


def limit_headers(decision: Decision) -> dict[str, str]:
    """What every answer to a request that was counted says. The policy to heed comes first in `RateLimit`."""
    tightest = decision.tightest
    standings = (tightest, *(each for each in decision.standings if each is not tightest))
    return {
        "RateLimit-Policy": ", ".join(
            f'"{each.policy.name}";q={each.policy.quota};w={each.policy.window_seconds}'
            for each in decision.standings
        ),
        "RateLimit": ", ".join(
            f'"{each.policy.name}";r={each.remaining};t={each.wait_seconds}' for each in standings
        ),
    }


def refusal(decision: Decision) -> TooManyRequests:
    """The error for a request that was not admitted."""
    violated = [each.policy for each in decision.standings if each.refused]
    said = "; ".join(
        f"{policy.quota} requests in {policy.window_seconds} s are the most for one {policy.name}"
        for policy in violated
    )
    members: dict[str, Any] = {"violated-policies": [policy.name for policy in violated]}
    return TooManyRequests(
        f"Too many requests: {said}.", retry_after_seconds=decision.tightest.wait_seconds, **members
    )


def client_address(environ: Mapping[str, Any], proxies: Sequence[IPv4Network | IPv6Network]) -> str:
    """Who asks: the nearest address on the request's way that is no trusted proxy; of IPv6 its network.

    Each proxy adds, at the end of `X-Forwarded-For`, whom it was asked by. What stands before the word of one that is
    not trusted may be made up. Where something else than an address stands, the proxy that wrote it is all that is
    known.
    """
    found = _parse(environ.get("REMOTE_ADDR", ""))
    if found is None:
        return "local"  # a Unix socket's peer has none
    for told in reversed(environ.get("HTTP_X_FORWARDED_FOR", "").split(",")):
        if not any(found in network for network in proxies):
            break
        before = _parse(told)
        if before is None:
            break
        found = before
    if found.version == 4:  # noqa: PLR2004
        return str(found)
    return str(ip_network((found, _IPV6_PREFIX), strict=False))


def _parse(text: str) -> Address | None:
    """An address, as proxies write it: bare, [in brackets], with a port."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
