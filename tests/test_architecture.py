"""The house rules a machine can hold: who imports whom, how long things are, what is public."""

import ast
import builtins
import importlib
import inspect
import sys
from collections.abc import Iterator
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

import rxcohere
from rxcohere import errors, events
from rxcohere.response import WireModel

PACKAGE = Path(rxcohere.__file__).parent

ORDER = (
    "errors",
    "sse",
    "surrogates",
    "response",
    "deltas",
    "events",
    "folds",
    "runtime",
    "batches",
    "delivery",
    "pausing",
    "operators",
    "options",
    "request",
    "transport",
    "subscription",
    "stream",
    "client",
    "bridges",
    "testing",
    "cli",
    "__main__",
)
"""A module imports only from those before it, and from within its own package."""

FORBIDDEN = {"testing": {"runtime", "transport", "subscription", "stream", "client"}}
"""What a module may not import although it comes earlier: the server side knows no client side."""

THIRD_PARTY = {
    "errors": set[str](),
    "sse": set[str](),
    "surrogates": set[str](),
    "response": {"pydantic", "pydantic_core"},
    "deltas": {"pydantic", "pydantic_core"},
    "events": {"pydantic", "pydantic_core"},
    "folds": {"pydantic", "pydantic_core"},
    "runtime": set(),
    "batches": set(),
    "delivery": {"reactivex"},
    "pausing": set(),
    "operators": {"reactivex"},
    "options": {"pydantic", "pydantic_core"},
    "request": {"pydantic", "pydantic_core"},
    "transport": {"aiohttp", "multidict", "yarl", "tenacity", "pydantic"},
    "subscription": {"reactivex"},
    "stream": {"reactivex"},
    "client": {"aiohttp"},
    "bridges": {"aiohttp", "reactivex"},
    "testing": {"aiohttp", "multidict", "yarl", "reactivex"},
    "cli": set[str](),
    "__main__": set[str](),
}
"""The libraries outside the standard one that each module may import."""

MOST_LINES = 320
MOST_LINES_OF_A_FUNCTION = 75

SOURCES = sorted(PACKAGE.rglob("*.py"))
MODULES = [path for path in SOURCES if path != PACKAGE / "__init__.py"]


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def section_of(path: Path) -> str:
    """The module, or the package, that the file belongs to: the name in `ORDER`."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def is_type_checking(node: ast.AST) -> bool:
    match node:
        case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
            return True
        case _:
            return False


def running_code(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below, without what only a type checker sees."""
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            assert isinstance(child, ast.If)
            for otherwise in child.orelse:
                yield from (otherwise, *running_code(otherwise))
        else:
            yield from (child, *running_code(child))


def imported(tree: ast.Module) -> set[str]:
    """The full names of all that the running code imports, wherever in the module it does so."""
    names: set[str] = set()
    for node in running_code(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import in line {node.lineno}"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def own_sections(tree: ast.Module) -> set[str]:
    """The sections of this package that the running code imports from."""
    own = {name for name in imported(tree) if name.split(".")[0] == "rxcohere"}
    return {name.split(".")[1] if "." in name else name for name in own - {"rxcohere.__version__"}}


every_module = pytest.mark.parametrize("path", MODULES, ids=name_of)
every_source = pytest.mark.parametrize("path", SOURCES, ids=name_of)


def test_the_reader_of_imports() -> None:
    """The reader finds imports of every form at any depth, and leaves out those for checkers."""
    tree = ast.parse(
        "import a.b, c\n"
        "from rxcohere import operators as rxc, __version__\n"
        "if TYPE_CHECKING:\n    import hidden\nelse:\n    import otherwise\n"
        "def f():\n    if typing.TYPE_CHECKING:\n        from hidden import h\n"
        "    from rxcohere.folds.text import TextDeltaFold\n"
    )
    assert imported(tree) == {
        "a.b",
        "c",
        "rxcohere.operators",
        "rxcohere.__version__",
        "otherwise",
        "rxcohere.folds.text.TextDeltaFold",
    }
    assert own_sections(tree) == {"operators", "folds"}


def test_every_module_has_its_place() -> None:
    """No module stands outside the order, and each of them may import a known set of libraries."""
    assert {section_of(path) for path in MODULES} <= set(ORDER)
    assert set(THIRD_PARTY) == set(ORDER)


@every_module
def test_imports_go_one_way(path: Path) -> None:
    """A module imports only from modules before it, and never from the package as a whole."""
    section = section_of(path)
    allowed = {*ORDER[: ORDER.index(section)], section} - FORBIDDEN.get(section, set())
    assert own_sections(parse(path)) <= allowed


@pytest.mark.parametrize("section", sorted({section_of(path) for path in MODULES}))
def test_no_imports_in_circles(section: str) -> None:
    """Within a package too, the modules can be put in an order."""
    below = [path for path in MODULES if section_of(path) == section]
    dotted = {
        ".".join(("rxcohere", *path.relative_to(PACKAGE).with_suffix("").parts)): path
        for path in below
    }
    graph = {
        name: {
            other
            for other in dotted
            for each in imported(parse(path))
            if f"{each}.".startswith(f"{other}.")
        }
        for name, path in dotted.items()
    }
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"imports in a circle: {error.args[1]}")
    assert set(order) == set(dotted)


@every_module
def test_libraries_stay_where_they_belong(path: Path) -> None:
    """Each module imports, besides the standard library, only what its subject needs."""
    roots = {name.split(".")[0] for name in imported(parse(path))}
    outside = roots - sys.stdlib_module_names - {"rxcohere"}
    # Redis is an extra, and one file knows it.
    allowed = THIRD_PARTY[section_of(path)] | ({"redis"} if path.stem == "redis" else set())
    assert outside <= allowed


@every_source
def test_nothing_internal_of_reactivex(path: Path) -> None:
    """The library's internals are no public API; not even a type checker is shown them."""
    for node in ast.walk(parse(path)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        assert not [name for name in names if name.startswith("reactivex.internal")]


@every_source
def test_modules_are_short(path: Path) -> None:
    """A module can be read in one go."""
    assert len(path.read_text("utf-8").splitlines()) <= MOST_LINES


@every_source
def test_functions_are_short(path: Path) -> None:
    """A function can be seen at once."""
    for node in ast.walk(parse(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            assert node.end_lineno is not None
            lines = node.end_lineno - first + 1
            assert lines <= MOST_LINES_OF_A_FUNCTION, f"{node.name} has {lines} lines"


@every_source
def test_modules_say_what_they_are(path: Path) -> None:
    """Every module begins with a docstring, and none has a name that says nothing."""
    assert (ast.get_docstring(parse(path)) or "").strip()
    assert path.stem not in {"utils", "helpers", "types", "base", "core", "common", "misc"}


# What is public ----------------------------------------------------------------------------------


def with_declared_names() -> list[ModuleType]:
    """The package and its modules that list their public names."""
    modules = [rxcohere]
    for path in MODULES:
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(("rxcohere", *parts)).removesuffix(".__init__")
        if not name.endswith("__main__"):
            modules.append(importlib.import_module(name))
    return [module for module in modules if hasattr(module, "__all__")]


@pytest.mark.parametrize("module", with_declared_names(), ids=lambda module: module.__name__)
def test_declared_names(module: ModuleType) -> None:
    """Every name in ``__all__`` is there, and once."""
    names: list[str] = module.__all__
    assert sorted(names) == sorted(set(names))
    assert [name for name in names if not hasattr(module, name)] == []


def test_the_names_of_the_package_are_in_order() -> None:
    """The list of public names is sorted, so that a name can be found and a double one seen."""
    assert rxcohere.__all__ == sorted(rxcohere.__all__)


def test_the_package_declares_all_it_exports() -> None:
    """What ``__init__`` imports from its modules is public; submodules are so only by intent."""
    imports = imported(parse(PACKAGE / "__init__.py"))
    exported = {name.rsplit(".", 1)[1] for name in imports if name.startswith("rxcohere.")}
    assert set(rxcohere.__all__) == exported | {"__version__"}


def test_no_public_name_shadows_a_builtin() -> None:
    """A star import of the package changes the meaning of no builtin."""
    assert not set(rxcohere.__all__) & set(dir(builtins)) - {"__version__"}


def defined_in(module: ModuleType, kind: type) -> dict[str, type]:
    """The public classes of a kind that a module defines itself."""
    members = inspect.getmembers(module, inspect.isclass)
    own = {name: each for name, each in members if each.__module__ == module.__name__}
    return {n: each for n, each in own.items() if issubclass(each, kind) and not n.startswith("_")}


def test_every_error_is_public() -> None:
    """Whatever a user may want to catch is in the package, but for the one name of a builtin."""
    names = set(defined_in(errors, errors.RxCohereError))
    assert len(names) > 20
    assert names - set(rxcohere.__all__) == {"NotImplementedError"}
    assert all(
        getattr(rxcohere, name) is getattr(errors, name) for name in names & set(rxcohere.__all__)
    )


def test_every_event_is_public() -> None:
    """Whatever may come out of a stream can be imported from the package."""
    names = set(defined_in(events, WireModel))
    assert {"MessageStart", "CitationGeneration", "UnknownEvent", "Debug"} <= names
    assert names <= set(rxcohere.__all__)
    assert {"ChatEvent", "parse_event"} <= set(rxcohere.__all__)


def public_functions(module: ModuleType) -> Iterator[tuple[str, object]]:
    """The module's public classes and functions, and their public methods and properties."""
    for name in module.__all__:
        member = getattr(module, name)
        if not (inspect.isclass(member) or inspect.isfunction(member)):
            continue
        yield f"{module.__name__}.{name}", member
        for attribute, value in vars(member).items():
            described = isinstance(value, (FunctionType, property, cached_property, classmethod))
            if described and not attribute.startswith("_"):
                yield f"{module.__name__}.{name}.{attribute}", value


DOCUMENTED = dict(
    item for module in (rxcohere, rxcohere.operators) for item in public_functions(module)
)


@pytest.mark.parametrize("name", sorted(DOCUMENTED))
def test_public_names_are_documented(name: str) -> None:
    """Every public class, function, method and property says what it is in a sentence."""
    first_line = (getattr(DOCUMENTED[name], "__doc__", None) or "").strip().split("\n")[0]
    assert first_line
    # What a dataclass writes for itself is only its signature.
    assert not first_line.startswith(name.rsplit(".", 1)[1] + "(")
