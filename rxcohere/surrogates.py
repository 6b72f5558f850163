"""Lone surrogates: halves of characters, which JSON can say and no text may have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_LONE = re.compile("[\ud800-\udfff]")


def has_lone_surrogates(data: object) -> bool:
    """Whether any string in the object, as JSON is parsed to, has some; keys included."""
    todo: list[Any] = [data]
    # Whoever made it may have put one object in many places. Those that were seen are kept, for a
    # mapping may make its values anew, and what nobody keeps leaves its id to the next.
    seen: dict[int, object] = {}
    while todo:
        each: Any = todo.pop()
        if isinstance(each, str):
            if not each.isascii() and _LONE.search(each):
                return True
            continue
        where = id(each)
        if isinstance(each, (Mapping, list, tuple)) and where not in seen:
            seen[where] = each
            todo += each
            if isinstance(each, Mapping):
                todo += each.values()
    return False


def replace_lone_surrogates(text: str) -> str:
    """The text with U+FFFD for each."""
    return _LONE.sub("\ufffd", text)


def escape_lone_surrogates(json_text: str) -> str:
    """The JSON text with its escape for each."""
    return _LONE.sub(lambda lone: f"\\u{ord(lone[0]):x}", json_text)
