"""Lone surrogates: halves of characters, which JSON can say and no text may have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_LONE = re.compile("[\ud800-\udfff]")


def has_lone_surrogates(data: object) -> bool:
    """Whether a string has some, somewhere in an object as JSON is parsed to."""
    todo: list[Any] = [data]
    seen: set[int] = set()  # for whoever made it may have put one object in many places
    while todo:
        each: Any = todo.pop()
        if isinstance(each, str):
            if not each.isascii() and _LONE.search(each):
                return True
            continue
        content = each
        if isinstance(each, (Mapping, list, tuple)) and id(content) not in seen:
            seen.add(id(content))
            todo += content
            if isinstance(each, Mapping):
                todo += content.values()
    return False


def replace_lone_surrogates(text: str) -> str:
    """The text with U+FFFD for each."""
    return _LONE.sub("\ufffd", text)


def escape_lone_surrogates(json_text: str) -> str:
    """The JSON text with its escape for each."""
    return _LONE.sub(lambda lone: f"\\u{ord(lone[0]):x}", json_text)
