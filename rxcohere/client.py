"""`CohereClient`: where the parameters of a chat become a stream."""

from __future__ import annotations

import os
from collections.abc import Callable
from inspect import Parameter, Signature
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import aiohttp

from rxcohere.errors import ConfigurationError
from rxcohere.options import RequestOptions, Retry, Timeouts
from rxcohere.request import ChatParameters, ChatRequest
from rxcohere.response import ChatResponse
from rxcohere.stream import ChatStream, RequestStream
from rxcohere.transport import Call, EventExchange, ReplyExchange, Secret, Transport

_DEFAULT_URL = "https://api.cohere.com"
_MAX_EVENT_BYTES = 16 * 2**20


F = TypeVar("F", bound=Callable[..., Any])


def _with_signature(method: F) -> F:
    """The method, which shows the parameters of a chat one by one to ``help`` and ``inspect``."""
    keywords: list[Parameter] = []
    for name, annotation in ChatParameters.__annotations__.items():
        text = getattr(annotation, "__forward_arg__", str(annotation))
        bare = text.removeprefix("Required[")
        default, text = (None, text) if bare == text else (Parameter.empty, bare[:-1])
        keywords.append(Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=text))
    own = Parameter("self", Parameter.POSITIONAL_OR_KEYWORD)
    returns = method.__annotations__["return"]
    vars(method)["__signature__"] = Signature([own, *keywords], return_annotation=returns)
    return method


class CohereClient:
    """A client of Cohere's V2 chat API, for any number of streams at a time.

    It works on one event loop: the one that runs at its first use, else a loop in a daemon thread
    of its own; when that loop has ended, the next use binds it anew. Close it, or use it in
    ``with`` or ``async with``; what is live then ends with `StreamCancelledError`.

    Args:
        api_key: None, the default, takes ``CO_API_KEY``; "" sends no key, for private deployments.
        base_url: None, the default, takes ``CO_API_URL``, else Cohere's own. A path prefix is kept.
        client_name: the name of your project, sent as ``X-Client-Name``.
        timeouts: the limits of each stream.
        retry: how often a request is sent before its first event.
        session: an aiohttp session to use, for proxies or TLS of your own. Make the client in the
            loop of the session; closing the client leaves it open.
        max_connections: the most connections at a time; further streams wait. None for no limit.
        max_event_bytes: the most that a single event may take.

    Raises:
        ConfigurationError: there is no key, or an argument cannot be used.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        client_name: str | None = None,
        timeouts: Timeouts = Timeouts(),
        retry: Retry = Retry(),
        session: aiohttp.ClientSession | None = None,
        max_connections: int | None = None,
        max_event_bytes: int = _MAX_EVENT_BYTES,
    ) -> None:
        # An empty variable, such as a secret that is not set, is no wish to send no key.
        if api_key is None and not (api_key := os.environ.get("CO_API_KEY")):
            raise ConfigurationError(
                "there is no API key: set CO_API_KEY, or give api_key "
                '(an empty one, "", for a deployment that needs none)'
            )
        try:
            secret = Secret(api_key)
        finally:
            del api_key  # a traceback shows what a frame knows
        self._transport = Transport(
            base_url=base_url or os.environ.get("CO_API_URL") or _DEFAULT_URL,
            secret=secret,
            client_name=client_name,
            timeouts=timeouts,
            retry=retry,
            session=session,
            max_connections=max_connections,
            max_event_bytes=max_event_bytes,
        )

    def __repr__(self) -> str:
        transport = vars(self).get("_transport")  # absent if the construction failed
        return f"CohereClient(base_url={transport.base_url!r})" if transport else "CohereClient()"

    @_with_signature
    def chat_stream(self, **parameters: Unpack[ChatParameters]) -> ChatStream:
        """The events of a chat, as a cold observable; nothing is sent before somebody subscribes.

        Args:
            **parameters: those of Cohere's ``/v2/chat``, as plain dicts or as models of
                `rxcohere.request`: ``model`` and ``messages``, which are required, ``tools
                strict_tools documents citation_options response_format safety_mode max_tokens
                stop_sequences temperature seed frequency_penalty presence_penalty k p logprobs
                tool_choice thinking priority``, and ``request_options`` (see `RequestOptions`).
                None is as if left out.

        Raises:
            ConfigurationError: at the call, if a parameter is unknown, missing or of the wrong
                shape. Numeric limits and what a model supports are the server's to judge.
        """
        call = self._call(parameters, stream=True)
        return ChatStream(self._transport, lambda: EventExchange(self._transport, call))

    @_with_signature
    def chat(self, **parameters: Unpack[ChatParameters]) -> RequestStream[ChatResponse]:
        """The reply of a chat over the non-streaming call, as a cold observable of one item.

        Each subscription, or ``await``, sends a request. ``timeouts.first_event`` limits the wait
        for the reply, which comes only when it is complete.

        Args:
            **parameters: those of `chat_stream`.

        Raises:
            ConfigurationError: at the call, as with `chat_stream`.
        """
        call = self._call(parameters, stream=False)
        return RequestStream(self._transport, lambda: ReplyExchange(self._transport, call))

    def _call(self, parameters: ChatParameters, *, stream: bool) -> Call:
        given: dict[str, Any] = dict(parameters)
        options = RequestOptions.of(given.pop("request_options", None))
        return self._transport.call(ChatRequest.of(given), options, stream=stream)

    async def aclose(self) -> None:
        """Ends what is live with `StreamCancelledError` and closes the connections."""
        await self._transport.aclose()

    def close(self) -> None:
        """The same for synchronous code.

        Raises:
            BlockingCallError: an event loop is running in this thread; use `aclose` there.
        """
        self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
