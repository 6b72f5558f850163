"""What type checkers infer for everything public. It is never run, only checked.

``assert_type`` fails where a checker infers anything else. Each line with an ignore comment is
wrong on purpose: both checkers are told to complain when such a comment is no longer needed, so the
error has to stay an error.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

import math
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, Literal, assert_type

import aiohttp
import reactivex
import reactivex.operators as ops
from pydantic import TypeAdapter
from reactivex import Observable, abc
from reactivex.scheduler.eventloop import AsyncIOScheduler
from reactivex.subject import Subject

import rxcohere
from rxcohere import (
    ApiError,
    AssistantMessage,
    AsyncSubscription,
    BlockingCallError,
    ChatEvent,
    ChatRequest,
    ChatResponse,
    ChatStream,
    Citation,
    CitationEnd,
    CitationGeneration,
    CitationOptions,
    CitationStart,
    CitedText,
    CohereClient,
    Compactor,
    ConfigurationError,
    ContentDelta,
    ContentEnd,
    ContentStart,
    Debug,
    Document,
    EventDecodeError,
    GenerationError,
    LogprobItem,
    MessageEnd,
    MessageStart,
    ObservableIterator,
    RequestOptions,
    RequestStream,
    ResponseFormat,
    Retry,
    RxCohereError,
    Segment,
    ServerSentEvent,
    Source,
    SSEDecoder,
    StreamError,
    StreamTimeoutError,
    SystemMessage,
    Thinking,
    Timeouts,
    Tool,
    ToolArgumentsError,
    ToolCall,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallFunction,
    ToolCallProgress,
    ToolCallStart,
    ToolFunction,
    ToolMessage,
    ToolPlanDelta,
    TooManyRequestsError,
    UnexpectedContentError,
    UnknownEvent,
    Usage,
    UserMessage,
    compact,
    merge_events,
    parse_event,
    subscribe_async,
    to_async_iterator,
)
from rxcohere import operators as rxc
from rxcohere.operators import Operator
from rxcohere.response import BilledUnits, TokenCounts


def shout(text: str) -> str:
    return text.upper()


def length(text: str) -> int:
    return len(text)


# Operators ---------------------------------------------------------------------------------------


def operators_alone() -> None:
    assert_type(rxc.events_of(ContentDelta), Operator[ChatEvent, ContentDelta])
    assert_type(rxc.text_deltas(), Operator[ChatEvent, str])
    assert_type(rxc.text_deltas(1), Operator[ChatEvent, str])
    assert_type(rxc.text_deltas(index=None), Operator[ChatEvent, str])
    assert_type(rxc.thinking_deltas(), Operator[ChatEvent, str])
    assert_type(rxc.tool_plan_deltas(), Operator[ChatEvent, str])
    assert_type(rxc.citations(), Operator[ChatEvent, Citation])
    assert_type(rxc.accumulate_text(), Operator[ChatEvent, str])
    assert_type(rxc.collect_text(), Operator[ChatEvent, str])
    assert_type(rxc.assemble_tool_calls(), Operator[ChatEvent, ToolCall])
    assert_type(rxc.track_tool_calls(), Operator[ChatEvent, ToolCallProgress])
    assert_type(rxc.attach_citations(), Operator[ChatEvent, CitedText])
    assert_type(rxc.collect_cited_text(), Operator[ChatEvent, CitedText])
    assert_type(rxc.accumulate_response(), Operator[ChatEvent, ChatResponse])
    assert_type(rxc.collect_response(), Operator[ChatEvent, ChatResponse])
    assert_type(rxc.coalesce_deltas(0.05), Operator[ChatEvent, ChatEvent])
    assert_type(rxc.coalesce_deltas(1, max_chars=80), Operator[ChatEvent, ChatEvent])
    # An operator is a plain function of observables; nothing else has to be imported to name it.
    plain: Callable[[Observable[ChatEvent]], Observable[str]] = rxc.text_deltas()
    assert_type(plain(reactivex.empty()), Observable[str])


def operators_in_a_pipe(source: Observable[ChatEvent]) -> None:
    assert_type(source.pipe(rxc.events_of(MessageEnd)), Observable[MessageEnd])
    assert_type(source.pipe(rxc.text_deltas()), Observable[str])
    assert_type(source.pipe(rxc.thinking_deltas()), Observable[str])
    assert_type(source.pipe(rxc.tool_plan_deltas()), Observable[str])
    assert_type(source.pipe(rxc.citations()), Observable[Citation])
    assert_type(source.pipe(rxc.accumulate_text()), Observable[str])
    assert_type(source.pipe(rxc.collect_text()), Observable[str])
    assert_type(source.pipe(rxc.assemble_tool_calls()), Observable[ToolCall])
    assert_type(source.pipe(rxc.track_tool_calls()), Observable[ToolCallProgress])
    assert_type(source.pipe(rxc.attach_citations()), Observable[CitedText])
    assert_type(source.pipe(rxc.collect_cited_text()), Observable[CitedText])
    assert_type(source.pipe(rxc.accumulate_response()), Observable[ChatResponse])
    assert_type(source.pipe(rxc.collect_response()), Observable[ChatResponse])
    assert_type(source.pipe(rxc.coalesce_deltas(0.05)), Observable[ChatEvent])


def types_of_events(source: Observable[ChatEvent]) -> None:
    assert_type(
        source.pipe(rxc.events_of(ContentDelta, ToolPlanDelta)),
        Observable[ContentDelta | ToolPlanDelta],
    )
    assert_type(
        source.pipe(rxc.events_of(MessageStart, CitationStart, MessageEnd)),
        Observable[MessageStart | CitationStart | MessageEnd],
    )
    assert_type(
        source.pipe(rxc.events_of(ToolCallStart, ToolCallDelta, ToolCallEnd, UnknownEvent)),
        Observable[ToolCallStart | ToolCallDelta | ToolCallEnd | UnknownEvent],
    )
    # Beyond four the types are no longer known, but it still works.
    assert_type(
        source.pipe(rxc.events_of(MessageStart, MessageEnd, Debug, ContentStart, ContentEnd)),
        Observable[Any],
    )


def text_of(delta: ContentDelta) -> str:
    return delta.text


def is_known(event: ChatEvent) -> bool:
    return not isinstance(event, UnknownEvent)


def chains(source: Observable[ChatEvent], scheduler: AsyncIOScheduler) -> None:
    assert_type(source.pipe(rxc.events_of(ContentDelta), ops.map(text_of)), Observable[str])
    assert_type(source.pipe(rxc.text_deltas(), ops.map(shout), ops.map(length)), Observable[int])
    assert_type(source.pipe(rxc.text_deltas(), ops.to_list()), Observable[list[str]])
    assert_type(source.pipe(rxc.text_deltas(), ops.map(length), ops.sum()), Observable[float])
    assert_type(source.pipe(ops.take(3), rxc.collect_text(), ops.map(shout)), Observable[str])
    assert_type(source.pipe(rxc.text_deltas()).map(lambda text: len(text)), Observable[int])
    assert_type(
        source.pipe(
            rxc.coalesce_deltas(0.05, 80, scheduler=scheduler),
            ops.take_while(is_known),
            rxc.attach_citations(),
            ops.take_last(1),
        ),
        Observable[CitedText],
    )
    assert_type(
        source.pipe(rxc.coalesce_deltas(0.05), rxc.accumulate_response(), ops.to_list()),
        Observable[list[ChatResponse]],
    )
    # Sources of the subtypes will do as well.
    deltas = Subject[ContentDelta]()
    assert_type(deltas.pipe(rxc.text_deltas()), Observable[str])


def wrong_operators(source: Observable[ChatEvent], numbers: Observable[int]) -> None:
    numbers.pipe(rxc.text_deltas())  # type: ignore[arg-type]
    numbers.pipe(rxc.coalesce_deltas(1))  # type: ignore[arg-type]
    source.pipe(rxc.text_deltas(), rxc.citations())  # type: ignore[misc]
    source.pipe(rxc.citations(), ops.map(shout))  # type: ignore[misc]
    rxc.text_deltas("0")  # type: ignore[arg-type]
    rxc.events_of("content-delta")  # type: ignore[call-overload]
    rxc.coalesce_deltas()  # type: ignore[call-arg]
    rxc.coalesce_deltas("0.05")  # type: ignore[arg-type]
    rxc.coalesce_deltas(0.05, None, None)  # type: ignore[call-arg]
    rxc.coalesce_deltas(0.05, scheduler=math)  # type: ignore[arg-type]
    rxc.collect_text(1)  # type: ignore[call-arg]


# The stream --------------------------------------------------------------------------------------


def shortcuts(stream: ChatStream) -> None:
    assert_type(stream.text(), RequestStream[str])
    assert_type(stream.thinking(), RequestStream[str])
    assert_type(stream.tool_calls(), RequestStream[ToolCall])
    assert_type(stream.citations(), RequestStream[Citation])
    assert_type(stream.cited_text(), RequestStream[CitedText])
    assert_type(stream.response(), RequestStream[ChatResponse])
    source: Observable[ChatEvent] = stream
    assert_type(source.pipe(rxc.text_deltas()), Observable[str])
    assert_type(stream.pipe(rxc.events_of(CitationStart), ops.take(1)), Observable[CitationStart])
    subscription = stream.subscribe(print, on_completed=print)
    assert_type(subscription, abc.DisposableBase)
    stream.text().subscribe(print, lambda error: print(error))


async def awaited(stream: ChatStream) -> None:
    assert_type(await stream.response(), ChatResponse)
    assert_type(await stream.text(), str)
    assert_type(await stream.cited_text(), CitedText)
    assert_type(await stream.pipe(rxc.collect_text()), str)
    assert_type(await stream.pipe(rxc.text_deltas(), ops.to_list()), list[str])
    assert_type(await stream, ChatEvent)


async def pulled(stream: ChatStream) -> None:
    assert_type(stream.__aiter__(), AsyncGenerator[ChatEvent, None])
    async for event in stream:
        assert_type(event, ChatEvent)
        if isinstance(event, ContentDelta):
            assert_type(event.text, str)


def pulled_by_a_thread(stream: ChatStream) -> None:
    assert_type(iter(stream), Generator[ChatEvent, None, None])
    for event in stream:
        assert_type(event, ChatEvent)
    assert_type(list(stream), list[ChatEvent])
    assert_type(stream.run(), ChatEvent)
    assert_type(stream.response().run(), ChatResponse)
    assert_type("event" in stream, bool)


def wrong_use_of_a_stream(stream: ChatStream) -> None:
    stream.text().subscribe(lambda text: text.parsed)  # type: ignore[attr-defined]
    stream.text(0)  # type: ignore[call-arg]
    wrong: Observable[str] = stream  # type: ignore[assignment]
    print(wrong)


# The client --------------------------------------------------------------------------------------


async def clients(session: aiohttp.ClientSession) -> None:
    CohereClient()
    CohereClient("key", base_url="https://llm.example.com/cohere", client_name="mine")
    CohereClient(
        api_key="",
        timeouts=Timeouts(connect=5, first_event=30.5, idle=None, total=600),
        retry=Retry(attempts=5, max_wait=20),
        session=session,
        max_connections=10,
        max_event_bytes=2**20,
    )
    async with CohereClient("key") as co:
        assert_type(co, CohereClient)
    assert_type(await co.aclose(), None)


def clients_of_threads() -> None:
    with CohereClient("key") as co:
        assert_type(co, CohereClient)
    assert_type(co.close(), None)


def chats_with_dicts(co: CohereClient) -> None:
    stream = co.chat_stream(
        model="command-a-03-2025",
        messages=[{"role": "user", "content": "Hi"}],
        tools=[{"type": "function", "function": {"name": "look_up"}}],
        strict_tools=True,
        documents=["penguins are birds", {"id": "a", "data": {"title": "Birds"}}],
        citation_options={"mode": "FAST"},
        response_format={"type": "text"},
        safety_mode="STRICT",
        max_tokens=100,
        stop_sequences=["END"],
        temperature=0.3,
        seed=7,
        frequency_penalty=0,
        presence_penalty=0.5,
        k=10,
        p=0.9,
        logprobs=False,
        tool_choice="REQUIRED",
        thinking={"type": "disabled"},
        priority=1,
        request_options={"timeout_in_seconds": 20},
    )
    assert_type(stream, ChatStream)


def chats_with_models(co: CohereClient, reply: ChatResponse) -> None:
    stream = co.chat_stream(
        model="command-a-03-2025",
        messages=[
            SystemMessage(content="Be brief."),
            UserMessage(content="Hi"),
            reply.message,
            ToolMessage(tool_call_id="look_up_0", content="7 °C"),
            {"role": "user", "content": "And now?"},
        ],
        tools=[Tool(function=ToolFunction(name="look_up", parameters={"type": "object"}))],
        documents=[Document(data="penguins are birds"), Document(data={"a": "b"}, id="a"), "text"],
        citation_options=CitationOptions(mode="ACCURATE"),
        response_format=ResponseFormat(type="json_object", json_schema={"type": "object"}),
        thinking=Thinking(type="enabled", token_budget=500),
        request_options=RequestOptions(max_retries=0, timeouts=Timeouts(idle=5)),
    )
    assert_type(stream, ChatStream)


def chats_with_what_a_program_has(
    co: CohereClient, history: list[UserMessage], turns: list[dict[str, str]], tools: list[Tool]
) -> None:
    co.chat_stream(model="m", messages=history, tools=tools)
    co.chat_stream(model="m", messages=turns, tools=None, temperature=None)
    co.chat_stream(model="m", messages=(*history, *turns))


async def chats_at_once(co: CohereClient) -> None:
    reply = co.chat(model="m", messages=[UserMessage(content="Hi")], max_tokens=5)
    assert_type(reply, RequestStream[ChatResponse])
    assert_type(await reply, ChatResponse)
    assert_type(reply.run(), ChatResponse)


def wrong_chats(co: CohereClient) -> None:
    hello = [UserMessage(content="Hi")]
    co.chat_stream(model="m")  # type: ignore[call-arg]
    co.chat_stream(messages=hello)  # type: ignore[call-arg]
    co.chat_stream("m", hello)  # type: ignore  # mypy names the error differently with and without its cache
    co.chat_stream(model="m", messages="Hi")  # type: ignore[arg-type]
    co.chat_stream(model="m", messages=["Hi"])  # type: ignore[list-item]
    co.chat_stream(model="m", messages=hello, temprature=1)  # type: ignore[call-arg]
    co.chat_stream(model="m", messages=hello, k="5")  # type: ignore[arg-type]
    co.chat_stream(model="m", messages=hello, safety_mode="LAX")  # type: ignore[arg-type]
    co.chat_stream(model="m", messages=hello, tool_choice="AUTO")  # type: ignore[arg-type]
    co.chat(model="m", messages=hello, stream=True)  # type: ignore[call-arg]
    CohereClient("key", "https://llm.example.com")  # type: ignore[call-arg]
    CohereClient(timeouts=5)  # type: ignore[arg-type]


def options(settings: RequestOptions, limits: Timeouts, retry: Retry) -> None:
    assert_type(settings.timeouts, Timeouts | None)
    assert_type(settings.timeout_in_seconds, float | None)
    assert_type(settings.max_retries, int | None)
    assert_type(limits.idle, float | None)
    assert_type(retry.attempts, int)
    assert_type(retry.max_wait, float)
    RequestOptions(20)  # type: ignore[call-arg]
    limits.idle = 5  # type: ignore[misc]
    assert_type(ChatRequest.of({"model": "m", "messages": []}), ChatRequest)


# Events ------------------------------------------------------------------------------------------


def events(data: bytes, text: str, decoded: dict[str, Any]) -> None:
    assert_type(parse_event(data), ChatEvent)
    assert_type(parse_event(text), ChatEvent)
    assert_type(parse_event(decoded), ChatEvent)
    adapter: TypeAdapter[ChatEvent] = TypeAdapter(ChatEvent)
    assert_type(adapter.validate_json(data), ChatEvent)
    parse_event(None)  # type: ignore[arg-type]


def what_events_say(event: ChatEvent) -> None:
    assert_type(event.type, str)
    match event:
        case MessageStart():
            assert_type(event.type, Literal["message-start"])
            assert_type(event.id, str | None)
        case ContentStart() | ContentEnd() | CitationEnd() | ToolCallEnd():
            assert_type(event.index, int)
        case ContentDelta():
            assert_type(event.text, str)
            assert_type(event.thinking, str)
            assert_type(event.index, int)
            assert_type(event.logprobs, LogprobItem | None)
            if event.delta and event.delta.message and event.delta.message.content:
                assert_type(event.delta.message.content.text, str | None)
        case ToolPlanDelta():
            assert_type(event.text, str)
        case ToolCallStart():
            assert_type(event.tool_call, ToolCall | None)
        case ToolCallDelta():
            assert_type(event.arguments, str)
        case CitationStart():
            assert_type(event.citation, Citation | None)
        case CitationGeneration():
            assert_type(event.citations, list[Citation] | None)
        case MessageEnd():
            assert_type(event.finish_reason, str | None)
            assert_type(event.usage, Usage | None)
            assert_type(event.error, str | None)
            assert_type(event.error_type, str | None)
            assert_type(event.response, ChatResponse | None)
        case Debug():
            assert_type(event.prompt, str | None)
        case UnknownEvent():  # and no other: the match is exhaustive
            assert_type(event.raw, dict[str, Any])


def kind_of(event: ChatEvent) -> str:
    """Narrowing by the tag works too, and tells what cannot be."""
    if not isinstance(event, UnknownEvent) and event.type == "content-delta":
        assert_type(event, ContentDelta)
        print(event.citation)  # type: ignore[attr-defined]
    return event.type


def algebra(first: ChatEvent, second: ChatEvent) -> None:
    assert_type(merge_events(first, second), ChatEvent | None)
    assert_type(compact([first, second]), list[ChatEvent])
    compactor = Compactor()
    assert_type(compactor.push(first), int | None)
    assert_type(compactor.events(), list[ChatEvent])
    assert_type(Compactor([first]).drain(), list[ChatEvent])
    merge_events(first)  # type: ignore[call-arg]
    compact(first)  # type: ignore[arg-type]


def frames(decoder: SSEDecoder) -> None:
    for frame in decoder.feed(b"data: {}\n\n"):
        assert_type(frame, ServerSentEvent)
        assert_type(frame.data, bytes)
    decoder.feed("data: {}\n\n")  # type: ignore[arg-type]


# Many subscribers, and slow ones ------------------------------------------------------------------


def shared(stream: ChatStream, events: Observable[ChatEvent]) -> None:
    assert_type(stream.share_response(), Observable[ChatEvent])
    assert_type(stream.share_response(linger=math.inf), Observable[ChatEvent])
    assert_type(events.pipe(rxc.share_response(0.2)), Observable[ChatEvent])
    assert_type(stream.share_response().pipe(rxc.text_deltas()), Observable[str])
    stream.text().pipe(rxc.share_response())  # type: ignore[arg-type]
    rxc.share_response("for ever")  # type: ignore[arg-type]


async def iterated(stream: ChatStream, texts: Observable[str]) -> None:
    values = to_async_iterator(texts, max_pending=8, overflow="drop_oldest")
    assert_type(values, ObservableIterator[str])
    assert_type(values.dropped, int)
    async for text in values:
        assert_type(text, str)
    async for event in to_async_iterator(stream):
        assert_type(event, ChatEvent)
    await values.aclose()
    to_async_iterator(texts, overflow="forget")  # type: ignore[arg-type]


async def subscribed_to_asynchronously(texts: Observable[str]) -> None:
    async def send(text: str) -> int:
        return len(text)

    async def send_number(number: int) -> None:
        print(number)

    subscription = subscribe_async(texts, send, print, lambda: None, overflow="error")
    assert_type(subscription, AsyncSubscription)
    assert_type(subscription.dropped, int)
    assert_type(subscription.dispose(), None)
    subscribe_async(texts, send_number)  # type: ignore[arg-type]
    subscribe_async(texts, print)  # type: ignore[arg-type]


# What is put together ----------------------------------------------------------------------------


def replies(reply: ChatResponse) -> None:
    assert_type(reply.id, str | None)
    assert_type(reply.text, str)
    assert_type(reply.thinking, str)
    assert_type(reply.tool_calls, list[ToolCall])
    assert_type(reply.citations, list[Citation])
    assert_type(reply.message, AssistantMessage)
    assert_type(reply.finish_reason, str | None)
    assert_type(reply.logprobs, list[LogprobItem] | None)
    assert_type(reply.normalized(), ChatResponse)
    if reply.usage:
        assert_type(reply.usage.billed_units, BilledUnits | None)
        assert_type(reply.usage.tokens, TokenCounts | None)


def calls(call: ToolCall, progress: ToolCallProgress) -> None:
    assert_type(call.id, str | None)
    assert_type(call.name, str)
    assert_type(call.arguments, str)
    assert_type(call.parsed, dict[str, Any])
    assert_type(call.function, ToolCallFunction | None)
    assert_type(call.normalized(), ToolCall)
    assert_type(progress.index, int)
    assert_type(progress.id, str | None)
    assert_type(progress.name, str)
    assert_type(progress.delta, str)
    assert_type(progress.length, int)
    assert_type(progress.arguments, str)
    assert_type(progress.parsed, dict[str, Any])
    progress.delta = ""  # type: ignore[misc]


def cited(text: CitedText, citation: Citation) -> None:
    assert_type(text.delta, str)
    assert_type(text.citation, Citation | None)
    assert_type(text.text, str)
    assert_type(text.citations, list[Citation])
    assert_type(text.sources, list[Source])
    for segment in text.segments():
        assert_type(segment, Segment)
        assert_type(segment.text, str)
        assert_type(segment.citations, tuple[Citation, ...])
    assert_type(citation.start, int | None)
    assert_type(citation.text, str | None)
    assert_type(citation.sources, list[Source] | None)
    assert_type(citation.utf16_range(text.text), tuple[int, int])
    citation.utf16_range()  # type: ignore[call-arg]


# Errors ------------------------------------------------------------------------------------------


def errors(co: CohereClient) -> None:
    try:
        co.chat_stream(model="m", messages=[]).run()
    except TooManyRequestsError as error:
        assert_type(error.retry_after, float | None)
        same: ApiError = error
        print(same)
    except ApiError as error:
        assert_type(error.status_code, int)
        assert_type(error.body, object)
        assert_type(error.headers, dict[str, str])
        assert_type(error.request_id, str | None)
    except StreamTimeoutError as error:
        assert_type(error.phase, Literal["connect", "first_event", "idle", "total"])
        builtin: TimeoutError = error
        print(builtin)
    except GenerationError as error:
        assert_type(error.finish_reason, str)
        assert_type(error.error, str | None)
        assert_type(error.error_type, str | None)
        assert_type(error.partial, ChatResponse | None)
    except EventDecodeError as error:
        assert_type(error.raw, bytes)
    except UnexpectedContentError as error:
        assert_type(error.content_type, str)
        assert_type(error.body, str)
    except StreamError as error:
        assert_type(error.partial, ChatResponse | None)
        print(error.status_code)  # type: ignore[attr-defined]
    except ToolArgumentsError as error:
        assert_type(error.raw, str)
    except (ConfigurationError, BlockingCallError) as error:
        wide: RxCohereError = error
        print(wide)


def streams_of_requests(stream: ChatStream, replies: RequestStream[ChatResponse]) -> None:
    events: RequestStream[ChatEvent] = stream
    assert_type(iter(replies), Generator[ChatResponse, None, None])
    print(events)
    assert_type(rxcohere.__version__, str)
