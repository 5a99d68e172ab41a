"""A page as an answer: `{data, next_cursor}`, and `Link` to the next one."""

from __future__ import annotations

from urllib.parse import urlencode

from flask import request

from handlers.call import Answer, Call
from operations.pages import Page


def page_answer(call: Call, page: Page) -> Answer:
    """The page's documents as they are, with the cursor beside them and in `Link` (RFC 8288)."""
    if page.next_cursor is None:
        return Answer(f'{{"data":[{page.documents}],"next_cursor":null}}'.encode())
    given = {name: getattr(call.query, name) for name in call.query.__struct_fields__}
    parameters = {name: value for name, value in given.items() if value is not None}
    parameters["cursor"] = page.next_cursor
    return Answer(
        # A cursor is base64url: nothing in it needs escaping.
        f'{{"data":[{page.documents}],"next_cursor":"{page.next_cursor}"}}'.encode(),
        headers={"Link": f'<{request.base_url}?{urlencode(parameters)}>; rel="next"'},
    )
