"""Operators that put the pieces together: texts, tool calls, cited text, the whole response.

``verb_object`` keeps state and emits on the way; ``collect_object`` gives one value at completion,
and only then: an error passes at once, and what was received is in its ``.partial``.
"""

from __future__ import annotations

from rxcohere.events import ChatEvent
from rxcohere.folds import (
    AccumulatedTextFold,
    CitedText,
    CitedTextFold,
    CollectedTextFold,
    LiveCitedTextFold,
    LiveResponseFold,
    ResponseFold,
    ToolCallFold,
    ToolCallProgress,
    ToolCallProgressFold,
)
from rxcohere.operators._lift import Operator, lift
from rxcohere.response import ChatResponse, ToolCall


def accumulate_text() -> Operator[ChatEvent, str]:
    """The answer's text so far, each time it grows.

    ::

        ---S--t(The)--t( pen)--C--t(guins)-----E--|
        [           accumulate_text()             ]
        ------The-----The pen-----The penguins----|

    A text that nobody keeps grows in place, as strings do on CPython, and costs only its new part;
    who keeps the last one, as ``async for`` and ``ops.sample`` do, has each copied. Other events
    are left out; completion and errors pass.
    """
    return lift(AccumulatedTextFold)


def collect_text() -> Operator[ChatEvent, str]:
    """The answer's whole text, once, at completion; "" if there was none.

    ::

        ---S--t(a)--t(b)--t(c)--(End,|)
        [       collect_text()        ]
        ------------------------(abc,|)

    Nothing comes before; an error passes at once.
    """
    return lift(CollectedTextFold)


def assemble_tool_calls() -> Operator[ChatEvent, ToolCall]:
    """The tool calls, each when it is complete.

    ::

        ---S--c0--a0--a0--e0--c1--a1--e1--E--|
        [       assemble_tool_calls()        ]
        ------------------C0----------C1-----|

    Fragments are told apart by ``index``, in any interleaving. ``ToolCall.arguments`` is the text
    as streamed, ``ToolCall.parsed`` the object. Where a stream leaves an end out, the call comes at
    ``message-end`` or at completion, unless the reply was cut off (MAX_TOKENS, ERROR, TIMEOUT):
    half a call is no call. Other events are left out; completion and errors pass.
    """
    return lift(ToolCallFold)


def track_tool_calls() -> Operator[ChatEvent, ToolCallProgress]:
    """The progress of each tool call, after every fragment of its arguments.

    ::

        ---S--c0--a({"a":)--a( 1)--e0--E--|
        [       track_tool_calls()        ]
        ----------{}--------{a:1}---------|

    ``ToolCallProgress.arguments`` is the text so far and ``.parsed`` the object so far, with
    unfinished strings as far as they go; nothing is parsed twice. A call without arguments makes no
    progress. Other events are left out; completion and errors pass.
    """
    return lift(ToolCallProgressFold)


def attach_citations() -> Operator[ChatEvent, CitedText]:
    """The answer so far with its citations, after each fragment of text and each citation.

    ::

        ---S--t(a)--t(b)---C----t(c)---E--|
        [       attach_citations()        ]
        ------a-----ab-----abC--abcC------|

    ``CitedText.delta`` or ``.citation`` is what is new, ``.text``, ``.citations``, ``.sources`` and
    ``.segments()`` are all there is. A late citation finds its place in the earlier text. Each
    costs nothing until it is read. Other events are left out; completion and errors pass.
    """
    return lift(LiveCitedTextFold)


def collect_cited_text() -> Operator[ChatEvent, CitedText]:
    """The whole answer with all its citations, once, at completion.

    ::

        ---S--t(a)--C--t(b)--(End,|)
        [   collect_cited_text()   ]
        ---------------------(abC,|)

    Nothing comes before; an error passes at once.
    """
    return lift(CitedTextFold)


def accumulate_response() -> Operator[ChatEvent, ChatResponse]:
    """The response as far as it came, after each event that adds to it.

    ::

        ---S---t---t---C---e--E--|
        [ accumulate_response()  ]
        ---r---r---r---r------r--|

    The last one is what `collect_response` gives. Events that say nothing about the response, such
    as ``content-end``, bring none out. Other events are left out; completion and errors pass.
    """
    return lift(LiveResponseFold)


def collect_response() -> Operator[ChatEvent, ChatResponse]:
    """The response that the non-streaming call would have given, once, at completion.

    ::

        ---S---t---t---C---(E,|)
        [  collect_response()  ]
        -------------------(r,|)

    Only tool arguments differ: they stay as streamed, `ChatResponse.normalized` rewrites them. A
    source without any event of a message gives nothing. An error passes at once; `GenerationError`
    and the like carry the response as far as it came.
    """
    return lift(ResponseFold)
