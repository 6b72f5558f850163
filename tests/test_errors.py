"""The error tree: its shape, what each error says, and that nothing of one is lost on the way."""

import builtins
import copy
import pickle
import re

import pytest

from rxcohere import errors
from rxcohere.errors import (
    ApiError,
    BlockingCallError,
    BufferOverflowError,
    ConfigurationError,
    ConnectionFailedError,
    EventDecodeError,
    GenerationError,
    JournalError,
    RxCohereError,
    StreamAbandonedError,
    StreamCancelledError,
    StreamError,
    StreamExistsError,
    StreamNotFoundError,
    StreamTimeoutError,
    StreamTruncatedError,
    ToolArgumentsError,
    TooManyRequestsError,
    UnexpectedContentError,
    api_error,
)
from rxcohere.response import AssistantMessage, ChatResponse, TextContent

BY_STATUS = {
    400: "BadRequestError",
    401: "UnauthorizedError",
    402: "PaymentRequiredError",
    403: "ForbiddenError",
    404: "NotFoundError",
    422: "UnprocessableEntityError",
    429: "TooManyRequestsError",
    498: "InvalidTokenError",
    499: "ClientClosedRequestError",
    500: "InternalServerError",
    501: "NotImplementedError",
    503: "ServiceUnavailableError",
    504: "GatewayTimeoutError",
}

STREAM_ERRORS = (
    ConnectionFailedError,
    UnexpectedContentError,
    EventDecodeError,
    StreamTruncatedError,
    StreamTimeoutError,
    GenerationError,
    JournalError,
    StreamCancelledError,
    StreamAbandonedError,
    BufferOverflowError,
)

HEADERS = {"X-Debug-Trace-Id": "trace-9", "Content-Type": "application/json"}

SAMPLES: list[RxCohereError] = [
    RxCohereError("something"),
    ConfigurationError("model: a string is needed"),
    BlockingCallError("a loop is running here"),
    ToolArgumentsError("these are not JSON", '{"a":'),
    api_error(429, {"message": "slow down"}, HEADERS, 1.5),
    api_error(418, "I am a teapot", {}, None),
    ConnectionFailedError("no route"),
    UnexpectedContentError("HTML came", "text/html", "<html>"),
    EventDecodeError("not JSON", b'{"type":'),
    StreamTruncatedError("the body ended"),
    StreamTimeoutError("nothing came for 120 s", "idle"),
    GenerationError("ERROR", "no tool fits", "HALLUCINATED_ALL_TOOL_CALLS"),
    GenerationError("TIMEOUT"),
    StreamCancelledError("the client was closed"),
    BufferOverflowError("256 events wait"),
    StreamAbandonedError("the producer died"),
    JournalError("no route"),
    StreamExistsError("there is one already"),
    StreamNotFoundError("there is none"),
]


def all_errors() -> dict[str, type[RxCohereError]]:
    return {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, RxCohereError)
    }


def test_docstring_draws_the_whole_tree() -> None:
    """The tree in the module's docstring names every class that there is, and no other."""
    tree = (errors.__doc__ or "").partition("\n\n`ConfigurationError`")[0]
    drawn = set(re.findall(r"(?:[├└]── |^ +)(\w+Error)\b", tree, re.MULTILINE))
    assert drawn == set(all_errors())


def test_every_stream_error_is_one() -> None:
    """What ends a stream early is a `StreamError`, and nothing else is."""
    found = {e for e in all_errors().values() if issubclass(e, StreamError)} - {StreamError}
    assert found == set(STREAM_ERRORS)


def test_every_status_error_is_an_api_error() -> None:
    """The classes under `ApiError` are those of the documented statuses."""
    found = {e.__name__ for e in all_errors().values() if issubclass(e, ApiError)} - {"ApiError"}
    assert found == set(BY_STATUS.values())


@pytest.mark.parametrize(
    ("ours", "builtin"),
    [
        (ConfigurationError, ValueError),
        (ToolArgumentsError, ValueError),
        (BlockingCallError, RuntimeError),
        (StreamTimeoutError, TimeoutError),
    ],
)
def test_builtin_bases(ours: type[RxCohereError], builtin: type[Exception]) -> None:
    """An error that has a builtin meaning is caught by the builtin's name too."""
    assert issubclass(ours, builtin)
    assert issubclass(ours, RxCohereError)


def test_not_implemented_error_is_not_the_builtin() -> None:
    """The SDK's name for status 501 is an `ApiError` and leaves the builtin alone."""
    assert issubclass(errors.NotImplementedError, ApiError)
    assert not issubclass(errors.NotImplementedError, builtins.NotImplementedError)


def test_package_does_not_hide_the_builtin() -> None:
    """A star import of the package does not replace `NotImplementedError`."""
    import rxcohere

    assert "NotImplementedError" not in rxcohere.__all__


@pytest.mark.parametrize(("status", "name"), BY_STATUS.items())
def test_api_error_has_the_class_of_its_status(status: int, name: str) -> None:
    """Each documented status has the class that the SDK's users know."""
    error = api_error(status, {"message": "no"}, HEADERS, 2.0)
    assert type(error) is getattr(errors, name)
    assert (error.status_code, error.body, error.retry_after) == (status, {"message": "no"}, 2.0)


@pytest.mark.parametrize("status", [302, 405, 408, 409, 418, 502, 529])
def test_other_statuses_are_plain_api_errors(status: int) -> None:
    """A status without a class of its own is an `ApiError`, not a guess."""
    error = api_error(status)
    assert type(error) is ApiError
    assert error.status_code == status


def test_api_error_headers_are_in_lower_case() -> None:
    """Header names are lower case however they came; the request id is read from them."""
    error = api_error(500, None, HEADERS)
    assert error.headers == {"x-debug-trace-id": "trace-9", "content-type": "application/json"}
    assert error.request_id == "trace-9"
    assert api_error(500).request_id is None


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"message": "model 'm' not found"}, "model 'm' not found"),
        ({"id": "1", "data": "the other key"}, "the other key"),
        ("<html>\n  bad   gateway</html>", "<html> bad gateway</html>"),
    ],
)
def test_api_error_says_what_the_server_said(body: object, said: str) -> None:
    """The text names the status, the server's message and the request id."""
    text = str(api_error(404, body, HEADERS))
    assert "404" in text
    assert said in text
    assert "trace-9" in text


def test_api_error_cuts_a_long_page() -> None:
    """A gateway's whole HTML page does not end up in the error's text."""
    assert len(str(api_error(502, "x" * 100_000))) < 300


@pytest.mark.parametrize("body", [None, "", {}, [], {"message": None}, {"message": ""}, 7, "  \n"])
def test_api_error_without_a_message_still_says_something(body: object) -> None:
    """A body that explains nothing leaves a text with the status in it."""
    assert "503" in str(api_error(503, body))


@pytest.mark.parametrize("error", SAMPLES, ids=lambda e: type(e).__name__)
def test_text_is_never_empty(error: RxCohereError) -> None:
    """Each error says in words what happened, and its text is not the repr of a tuple."""
    assert str(error).strip()
    assert not str(error).startswith("(")


@pytest.mark.parametrize("status", BY_STATUS)
def test_status_errors_say_something(status: int) -> None:
    """Each status error says its status even if nothing else is known."""
    assert str(status) in str(api_error(status))


def test_generation_error_says_reason_and_type() -> None:
    """The text has the finish reason, the server's error type and its explanation."""
    text = str(GenerationError("ERROR", "no tool fits", "INVALID_TOOL_GENERATION"))
    for part in ("ERROR", "no tool fits", "INVALID_TOOL_GENERATION"):
        assert part in text


def copies(error: RxCohereError) -> list[RxCohereError]:
    pickled = [
        pickle.loads(pickle.dumps(error, protocol))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    ]
    return [*pickled, copy.copy(error), copy.deepcopy(error)]


@pytest.mark.parametrize("error", SAMPLES, ids=lambda e: type(e).__name__)
def test_copies_keep_everything(error: RxCohereError) -> None:
    """A pickled or copied error has the type, the text and all fields of the first."""
    for again in copies(error):
        assert again is not error
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert again.args == error.args
        assert vars(again) == vars(error)


@pytest.mark.parametrize("kind", STREAM_ERRORS, ids=lambda e: e.__name__)
def test_partial_survives_copies(kind: type[StreamError]) -> None:
    """The partial response is None at first, belongs to one error alone, and travels with it."""
    error = kind("what happened")
    assert error.partial is None
    text = TextContent(type="text", text="so far")
    error.partial = ChatResponse(id="r", message=AssistantMessage(content=[text]))
    for again in copies(error):
        assert isinstance(again, kind)
        assert again.partial == error.partial
        assert again.partial is not None
        assert again.partial.text == "so far"
    assert kind("another").partial is None


def test_fields_of_a_timeout() -> None:
    """A timeout tells its phase, and being an OSError too does not turn the text into an errno."""
    error = StreamTimeoutError("nothing came for 120 s", "idle")
    assert error.phase == "idle"
    assert str(error) == "nothing came for 120 s"


def test_fields_of_the_others() -> None:
    """What an error was made with can be read from it."""
    decode = EventDecodeError("not JSON", b"\xff")
    assert (str(decode), decode.raw) == ("not JSON", b"\xff")
    content = UnexpectedContentError("HTML came", "text/html", "<html>")
    assert (str(content), content.content_type, content.body) == (
        "HTML came",
        "text/html",
        "<html>",
    )
    arguments = ToolArgumentsError("not an object", "[]")
    assert (str(arguments), arguments.raw) == ("not an object", "[]")
    failed = GenerationError("ERROR", "why", "KIND")
    assert (failed.finish_reason, failed.error, failed.error_type) == ("ERROR", "why", "KIND")


def test_api_error_does_not_hold_the_callers_headers() -> None:
    """Changing the headers that an error was made with does not change the error."""
    headers = {"A": "1"}
    error = TooManyRequestsError(429, None, headers)
    headers["A"] = "2"
    assert error.headers == {"a": "1"}
