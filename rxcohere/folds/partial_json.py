"""What a JSON text says so far, while it still arrives in fragments.

Tool-call arguments are streamed as pieces of one JSON text. `PartialJSON` reads each character
once, as it comes, and can tell at any moment what value the text has spelled out: no fragment is
parsed again when the next one comes.

The unfinished end of a text counts as far as it is certain. A string has its beginning, without an
escape that is not whole; a number counts where it could end (``-`` and ``1.`` could not); a half
``tru``, a half key and a key without a value do not show.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from rxcohere.folds.fold import TextBuffer

MAX_DEPTH: Final = 200
"""How many arrays and objects may be open at once: each read copies those that are."""

MAX_NUMBER_LENGTH: Final = 4300
"""How many characters a number may have: Python's default limit for the digits of an integer."""

_TOKEN = re.compile(r"[^ \t\n\r]")
_STRING_STOP = re.compile(r'["\\\x00-\x1f]')
_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{0,4})')
_ESCAPED = {"\\" + escape: char for escape, char in zip('"\\/bfnrt', '"\\/\b\f\n\r\t', strict=True)}

_DIGITS = "0123456789"
_WHOLE = {"0": "zero", **dict.fromkeys(_DIGITS[1:], "whole")}
_EXPONENT = dict.fromkeys("eE", "exponent")
# The grammar of numbers and literals: from each part, where each character leads.
_WORD: dict[str, dict[str, str]] = {
    "": {"-": "sign", **_WHOLE, "t": "t", "f": "f", "n": "n"},
    "sign": _WHOLE,
    "zero": {".": "point", **_EXPONENT},
    "whole": {".": "point", **_EXPONENT, **dict.fromkeys(_DIGITS, "whole")},
    "point": dict.fromkeys(_DIGITS, "fraction"),
    "fraction": {**_EXPONENT, **dict.fromkeys(_DIGITS, "fraction")},
    "exponent": {**dict.fromkeys("+-", "power sign"), **dict.fromkeys(_DIGITS, "power")},
    "power sign": dict.fromkeys(_DIGITS, "power"),
    "power": dict.fromkeys(_DIGITS, "power"),
    **{
        word[:i]: dict.fromkeys(word[i : i + 1], word[: i + 1])
        for word in ("true", "false", "null")
        for i in range(1, len(word) + 1)
    },
}
# The parts where one may end, and what its text is worth then.
_WORD_ENDS: dict[str, Callable[[str], object]] = {
    **{"zero": int, "whole": int, "fraction": float, "power": float},
    **{"true": lambda _: True, "false": lambda _: False, "null": lambda _: None},
}

_NOTHING: Final = object()  # no value yet; None is JSON's null
_WRONG: Final = -1  # instead of a position: the text cannot be JSON


class _String:
    """A string or key under way."""

    __slots__ = ("_escape", "_high", "_text", "ended")

    def __init__(self) -> None:
        self._text = TextBuffer()
        self._escape = ""
        self._high = 0  # a high surrogate that waits for its low half
        self.ended = False

    def read(self) -> str:
        return self._text.read()

    def scan(self, text: str, start: int) -> int:
        if self._escape:
            return self._scan_escape(text, start)
        stop = _STRING_STOP.search(text, start)
        end = stop.start() if stop else len(text)
        if end > start:
            self._add(text[start:end])
        if stop is None:
            return end
        if text[end] == "\\":
            self._escape = "\\"
        elif text[end] == '"':
            self._add("")
            self.ended = True
        else:
            return _WRONG  # a control character
        return end + 1

    def _scan_escape(self, text: str, start: int) -> int:
        known = len(self._escape)
        candidate = self._escape + text[start : start + len("\\uXXXX") - known]
        match = _ESCAPE.match(candidate)
        escape = match.group() if match else ""
        self._escape = ""
        if escape in _ESCAPED:
            self._add(_ESCAPED[escape])
        elif len(escape) == len("\\uXXXX"):
            self._add_code_unit(int(escape[2:], 16))
        elif escape == candidate:
            self._escape = escape
        else:
            return _WRONG
        return start + len(escape) - known

    def _add_code_unit(self, unit: int) -> None:
        if self._high and 0xDC00 <= unit <= 0xDFFF:
            unit += 0x10000 - 0xDC00 + ((self._high - 0xD800) << 10)
            self._high = 0
        if 0xD800 <= unit <= 0xDBFF:
            self._add("")
            self._high = unit
        else:
            self._add(chr(unit))

    def _add(self, text: str) -> None:
        """Adds text, after a high surrogate whose low half did not follow."""
        if self._high:
            self._text.append(chr(self._high))
            self._high = 0
        if text:
            self._text.append(text)


class _Word:
    """A number or literal under way. It is short, so its text is simply joined."""

    __slots__ = ("_part", "_text", "ended")

    def __init__(self, first: str) -> None:
        self._text = first
        self._part = _WORD[""][first]
        self.ended = False

    def read(self) -> object:
        return _WORD_ENDS[self._part](self._text) if self.may_end else _NOTHING

    @property
    def may_end(self) -> bool:
        return self._part in _WORD_ENDS

    def scan(self, text: str, start: int) -> int:
        limit = min(sys.get_int_max_str_digits() or MAX_NUMBER_LENGTH, MAX_NUMBER_LENGTH)
        end, stop = start, min(len(text), start + limit - len(self._text))
        while end < stop and (part := _WORD[self._part].get(text[end])):
            self._part = part
            end += 1
        self._text += text[start:end]
        if end < len(text):
            if not self.may_end:
                return _WRONG
            self.ended = True  # beyond the limit, too: a further digit cannot follow a value
        return end


class _Expect(Enum):
    """What may come next, outside strings, numbers and literals."""

    VALUE = auto()
    FIRST_ITEM = auto()
    FIRST_KEY = auto()
    KEY = auto()
    COLON = auto()
    AFTER_VALUE = auto()


_BEFORE_VALUE = (_Expect.VALUE, _Expect.FIRST_ITEM)
_BEFORE_KEY = (_Expect.KEY, _Expect.FIRST_KEY)
_BEFORE_CLOSE = (_Expect.AFTER_VALUE, _Expect.FIRST_ITEM, _Expect.FIRST_KEY)


class PartialJSON:
    """The value of a JSON text that arrives in fragments; the same however the text is cut.

    `value` is what pydantic's ``from_json(text, allow_partial="trailing-strings")`` makes of the
    same text; a complete text is one that ``json.loads`` accepts, with the same value. NaN and
    Infinity are not JSON. A lone surrogate escape is kept, as ``json.loads`` does and pydantic does
    not: one bad character must not freeze the view of the rest, and the finished call has it too.

    Text that cannot be JSON raises nothing, for this is a view of a call under way and not its
    verdict: `broken` becomes true and `value` stays as it was before the first wrong character. The
    same happens beyond `MAX_DEPTH` and `MAX_NUMBER_LENGTH`.
    """

    __slots__ = ("_broken", "_expect", "_keys", "_open", "_root", "_scalar", "_snapshot")

    def __init__(self) -> None:
        self._broken = False
        self._expect = _Expect.VALUE
        # Open containers from the outside in; beside each, the key that its next value goes to. A
        # container enters its parent when it closes, and never changes afterwards.
        self._open: list[list[object] | dict[str, object]] = []
        self._keys: list[str] = []
        self._scalar: _String | _Word | None = None
        self._root: object = _NOTHING
        self._snapshot: object = _NOTHING

    @property
    def value(self) -> object:
        """The value so far: dict, list, str, int, float, bool or None.

        None also while there is no value to tell; `started` and `complete` tell the cases apart.
        Later fragments do not change what was returned. Finished parts are shared with later
        values, so do not change it either. Without a fragment in between, the same object comes
        again. After one, a read costs as much as the open containers are wide: an open array of n
        items is copied. A string only grows, if the earlier value was dropped.
        """
        if self._snapshot is _NOTHING:
            self._snapshot = self._take_snapshot()
        return None if self._snapshot is _NOTHING else self._snapshot

    @property
    def started(self) -> bool:
        """Whether the first character of a value has come."""
        return self._expect is not _Expect.VALUE or bool(self._open) or self._scalar is not None

    @property
    def complete(self) -> bool:
        """Whether the text so far is whole JSON; a bare number is, and may still go on."""
        if self._broken or self._open:
            return False
        if isinstance(self._scalar, _Word):
            return self._scalar.may_end
        return self._expect is _Expect.AFTER_VALUE

    @property
    def broken(self) -> bool:
        """Whether the text cannot be JSON, whatever follows."""
        return self._broken

    def feed(self, fragment: str) -> None:
        """Takes the next fragment of the text, of any length; once `broken`, ignores it."""
        if self._broken or not fragment:
            return
        # The snapshot is dropped and not just marked stale: a long string grows in place, without
        # a copy at each read, only while nothing but its buffer refers to it.
        self._snapshot = _NOTHING
        position = 0
        while _WRONG < position < len(fragment):
            if self._scalar is not None:
                position = self._scalar.scan(fragment, position)
                if self._scalar.ended:
                    self._end_scalar(self._scalar)
            elif token := _TOKEN.search(fragment, position):
                position = token.end() if self._take(token.group()) else _WRONG
            else:
                break
        self._broken = position == _WRONG

    def _take(self, char: str) -> bool:
        """Takes a character outside scalars and white space; False if it cannot stand here."""
        expect = self._expect
        in_object = bool(self._open) and isinstance(self._open[-1], dict)
        if char == '"' and (expect in _BEFORE_VALUE or expect in _BEFORE_KEY):
            self._scalar = _String()
        elif expect in _BEFORE_VALUE and char in _WORD[""]:
            self._scalar = _Word(char)
        elif expect in _BEFORE_VALUE and char in "{[" and len(self._open) < MAX_DEPTH:
            self._open.append({} if char == "{" else [])
            self._keys.append("")
            self._expect = _Expect.FIRST_KEY if char == "{" else _Expect.FIRST_ITEM
        elif expect is _Expect.COLON and char == ":":
            self._expect = _Expect.VALUE
        elif expect is _Expect.AFTER_VALUE and char == "," and self._open:
            self._expect = _Expect.KEY if in_object else _Expect.VALUE
        elif expect in _BEFORE_CLOSE and char == ("}" if in_object else "]") and self._open:
            self._keys.pop()
            self._place(self._open.pop())
        else:
            return False
        return True

    def _end_scalar(self, scalar: _String | _Word) -> None:
        self._scalar = None
        if isinstance(scalar, _String) and self._expect in _BEFORE_KEY:
            self._keys[-1] = scalar.read()
            self._expect = _Expect.COLON
        else:
            self._place(scalar.read())

    def _place(self, value: object) -> None:
        self._expect = _Expect.AFTER_VALUE
        if self._open:
            _put(self._open[-1], self._keys[-1], value)
        else:
            self._root = value

    def _take_snapshot(self) -> object:
        value = self._root
        if self._scalar is not None and self._expect not in _BEFORE_KEY:
            value = self._scalar.read()
        for container, key in zip(reversed(self._open), reversed(self._keys), strict=True):
            copied = container.copy()
            if value is not _NOTHING:
                _put(copied, key, value)
            value = copied
        return value


def _put(container: list[object] | dict[str, object], key: str, value: object) -> None:
    if isinstance(container, dict):
        container[key] = value
    else:
        container.append(value)
