"""`record`: what passes is written down, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reactivex as rx
from reactivex import Observable
from reactivex import operators as ops
from reactivex.subject import Subject
from reactivex.testing import ReactiveTest, TestScheduler

from rxcohere.events import ChatEvent, parse_event
from rxcohere.testing import DONE, Transcript, encode_event, record, transcript_names

on_next, on_completed, on_error = (
    ReactiveTest.on_next,
    ReactiveTest.on_completed,
    ReactiveTest.on_error,
)
EVENTS = Transcript.load("rag").events


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answer.sse"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The files that `record` opens, so that a test can see them closed."""
    files: list[Any] = []

    def spy(*args: Any, **kwargs: Any) -> Any:
        files.append(open(*args, **kwargs))  # noqa: SIM115
        return files[-1]

    monkeypatch.setattr("rxcohere.testing.recording.open", spy, raising=False)
    return files


@pytest.mark.parametrize("name", transcript_names())
def test_the_file_is_a_transcript_of_the_stream(name: str, path: Path) -> None:
    """Events pass through as they are, and the file holds each of them, then [DONE]."""
    events = Transcript.load(name).events
    seen: list[ChatEvent] = []
    rx.from_iterable(events).pipe(record(path)).subscribe(seen.append)
    assert all(a is b for a, b in zip(seen, events, strict=True))
    written = Transcript.load(path)
    assert written.frames == (*map(encode_event, events), DONE)
    assert written.events == events
    assert written.reply() == Transcript.load(name).reply()


def test_the_file_is_complete_when_the_subscriber_hears_of_it(path: Path) -> None:
    """On completion the file can be read at once."""
    bodies: list[bytes] = []
    rx.from_iterable(EVENTS).pipe(record(path)).subscribe(
        on_completed=lambda: bodies.append(path.read_bytes())
    )
    assert bodies == [Transcript.of(EVENTS).body]


def test_timing(path: Path) -> None:
    """Nothing is delayed, and the source is subscribed to until it completes."""
    scheduler = TestScheduler()
    first, second = EVENTS[:2]
    source = scheduler.create_hot_observable(
        on_next(210, first), on_next(220, second), on_completed(230)
    )
    result = scheduler.start(lambda: source.pipe(record(path)))
    assert result.messages == [on_next(210, first), on_next(220, second), on_completed(230)]
    assert [(s.subscribe, s.unsubscribe) for s in source.subscriptions] == [(200, 230)]


def test_never(path: Path, opened: list[Any]) -> None:
    """A silent source gives an empty file, closed on disposal."""
    scheduler = TestScheduler()
    result = scheduler.start(lambda: rx.never().pipe(record(path)))
    assert result.messages == []
    assert path.read_bytes() == b""
    assert [file.closed for file in opened] == [True]


def test_empty(path: Path) -> None:
    """A source without events gives [DONE] alone."""
    rx.empty().pipe(record(path)).subscribe()
    assert path.read_bytes() == DONE


def test_error(path: Path, opened: list[Any]) -> None:
    """An error passes through, after the file is closed; it holds the events so far, no [DONE]."""
    error = ValueError("boom")
    seen: list[Any] = []
    source = rx.concat(rx.from_iterable(EVENTS[:3]), rx.throw(error))
    source.pipe(record(path)).subscribe(
        on_error=lambda e: seen.append((e, opened[0].closed, path.read_bytes()))
    )
    assert seen == [(error, True, b"".join(map(encode_event, EVENTS[:3])))]


def test_disposal(path: Path, opened: list[Any]) -> None:
    """Disposal closes the file with the events so far, and lets the source go."""
    scheduler = TestScheduler()
    source = scheduler.create_hot_observable(
        on_next(210, EVENTS[0]), on_next(220, EVENTS[1]), on_next(230, EVENTS[2])
    )
    scheduler.start(lambda: source.pipe(record(path)), disposed=225)
    assert [(s.subscribe, s.unsubscribe) for s in source.subscriptions] == [(200, 225)]
    assert path.read_bytes() == b"".join(map(encode_event, EVENTS[:2]))
    assert [file.closed for file in opened] == [True]


def test_disposal_inside_on_next(path: Path, opened: list[Any]) -> None:
    """A subscriber that takes one event records one event."""
    source = Subject[ChatEvent]()
    source.pipe(record(path), ops.take(1)).subscribe()
    source.on_next(EVENTS[0])
    source.on_next(EVENTS[1])
    assert path.read_bytes() == encode_event(EVENTS[0])
    assert [file.closed for file in opened] == [True]


def test_each_subscription_writes_anew(path: Path, opened: list[Any]) -> None:
    """Nothing is opened before a subscription; a second one overwrites the file."""
    scheduler = TestScheduler()
    counts = iter((3, 1))
    recorded: Observable[ChatEvent] = rx.defer(
        lambda _: rx.from_iterable(EVENTS[: next(counts)])
    ).pipe(record(path))
    assert not opened
    assert not path.exists()
    recorded.subscribe(scheduler=scheduler)
    scheduler.start()
    recorded.subscribe()
    assert Transcript.load(path).frames == (encode_event(EVENTS[0]), DONE)
    assert [file.closed for file in opened] == [True, True]


def test_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    """A file that cannot be opened is an error of the stream; the source is not subscribed to."""
    errors: list[Exception] = []
    source = TestScheduler().create_hot_observable(on_next(210, EVENTS[0]))
    source.pipe(record(tmp_path / "no" / "such" / "folder.sse")).subscribe(on_error=errors.append)
    assert [type(error) for error in errors] == [FileNotFoundError]
    assert source.subscriptions == []


def test_an_event_that_cannot_be_written(path: Path, opened: list[Any]) -> None:
    """What has no JSON form ends the stream with an error, and the file is closed."""
    errors: list[Exception] = []
    seen: list[Any] = []
    source: Observable[Any] = rx.of(EVENTS[0], object(), EVENTS[1])
    source.pipe(record(path)).subscribe(seen.append, errors.append)
    assert [type(error) for error in errors] == [AttributeError]
    assert seen == EVENTS[:1]
    assert [file.closed for file in opened] == [True]


def test_unknown_events(path: Path) -> None:
    """Events of tomorrow are recorded with all their keys."""
    event = parse_event({"type": "tomorrow", "deep": {"a": [1]}})
    rx.of(event).pipe(record(path)).subscribe()
    assert Transcript.load(path).events == [event]


def test_events_are_unchanged(path: Path) -> None:
    """Recording does not touch the events."""
    before = [event.model_dump_json() for event in EVENTS]
    rx.from_iterable(EVENTS).pipe(record(path)).subscribe()
    assert [event.model_dump_json() for event in EVENTS] == before


def test_a_raising_subscriber(path: Path, opened: list[Any]) -> None:
    """A subscriber's error reaches the source's caller, and disposing closes the file."""
    source = Subject[ChatEvent]()
    fail: Callable[[ChatEvent], None] = lambda event: [][0]  # noqa: E731
    subscription = source.pipe(record(path)).subscribe(fail)
    with pytest.raises(IndexError):
        source.on_next(EVENTS[0])
    subscription.dispose()
    assert path.read_bytes() == encode_event(EVENTS[0])
    assert [file.closed for file in opened] == [True]
