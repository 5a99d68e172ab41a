"""A page as an answer: `{data, next_cursor}`, and `Link` to the next one."""

from __future__ import annotations

from urllib.parse import urlencode

from flask import request

from handlers.call import Answer, Call
from operations.pages import Page


def page_answer(call: Call, page: Page) -> Answer:
    """The page's documents as they are, with the cursor beside them and in `Link`."""
    return Answer(page.document(), headers=link_to(call, page.next_cursor))


def link_to(call: Call, next_cursor: str | None) -> dict[str, str]:
    """`Link` to the next page (RFC 8288), if there is one."""
    if next_cursor is None:
        return {}
    given = {name: getattr(call.query, name) for name in call.query.__struct_fields__}
    parameters = {name: value for name, value in given.items() if value is not None}
    parameters["cursor"] = next_cursor
    return {"Link": f'<{request.base_url}?{urlencode(parameters)}>; rel="next"'}
