"""The rules of the house. Each is a function from one module, or from all of them, to its breaches."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "twofold"


@dataclass(frozen=True)
class Source:
    """One module: where it is in the package (`domain/events.py`) and what it says."""

    path: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @property
    def package(self) -> list[str]:
        """The dotted parts of the package this module is in, for relative imports."""
        return ["twofold", *self.path.split("/")[:-1]]


def sources() -> list[Source]:
    """Every module of the package."""
    return [
        Source(path.relative_to(PACKAGE).as_posix(), path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    ]


# --------------------------------------------------------------------------------------------------------- what is read


Import = ast.Import | ast.ImportFrom


def imported(source: Source, node: Import) -> Iterator[tuple[str, str]]:
    """The (local name, dotted name) pairs that an import statement brings in."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield (alias.asname or alias.name.split(".")[0]), alias.name
    else:
        above = source.package[: len(source.package) - node.level + 1] if node.level else []
        module = ".".join([*above, *([node.module] if node.module else [])])
        for alias in node.names:
            yield (alias.asname or alias.name), f"{module}.{alias.name}"


def imports(source: Source) -> list[tuple[int, str]]:
    """Every import of a module, wherever it stands, as (line, dotted name)."""
    statements = [node for node in ast.walk(source.tree) if isinstance(node, Import)]
    return [(each.lineno, name) for each in statements for _, name in imported(source, each)]


def dotted(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := dotted(node.value)):
        return f"{owner}.{node.attr}"
    return None


def uses(source: Source) -> list[tuple[int, str]]:
    """Every name that is read, under the name it was imported from, as (line, dotted name)."""
    tree = source.tree
    pairs = [pair for node in ast.walk(tree) if isinstance(node, Import) for pair in imported(source, node)]
    # `import os.path` binds `os`, under its own name; every other form binds the local name to the whole dotted one.
    known = {local: local if name.startswith(f"{local}.") else name for local, name in pairs}
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and (name := dotted(node)):
            first, _, rest = name.partition(".")
            full = known.get(first, first)
            found.append((node.lineno, f"{full}.{rest}" if rest else full))
    return found


def is_or_is_in(name: str, modules: frozenset[str]) -> bool:
    return any(name == module or name.startswith(module + ".") for module in modules)


# ----------------------------------------------------------------------------------------------------------------- size

LONGEST_FILE = 400
LONGEST_FUNCTION = 60
MOST_METHODS_OF_A_PORT = 6

Function = ast.FunctionDef | ast.AsyncFunctionDef


def files_too_long(source: Source) -> list[str]:
    lines = len(source.text.splitlines())
    return [f"{source.path}: {lines} lines"] if lines > LONGEST_FILE else []


def functions_too_long(source: Source) -> list[str]:
    """Lines are counted after the docstring: explaining is not what makes a function long."""
    breaches: list[str] = []
    for node in ast.walk(source.tree):
        if isinstance(node, Function):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lines = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
            if lines > LONGEST_FUNCTION:
                breaches.append(f"{source.path}:{node.lineno} {node.name}: {lines} lines")
    return breaches


def ports_too_wide(source: Source) -> list[str]:
    breaches: list[str] = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(base) for base in node.bases):
            methods = sum(isinstance(each, Function) for each in node.body)
            if methods > MOST_METHODS_OF_A_PORT:
                breaches.append(f"{source.path}:{node.lineno} {node.name}: {methods} methods")
    return breaches


# --------------------------------------------------------------------------------------------------------------- naming

NAMES_THAT_SAY_NOTHING = frozenset(
    "util utils helper helpers base bases common manager managers core misc shared".split()
)


def names_that_say_nothing(source: Source) -> list[str]:
    parts = source.path.removesuffix(".py").split("/")
    return [f"{source.path}: {part}" for part in parts if part.strip("_") in NAMES_THAT_SAY_NOTHING]


def modules_without_a_first_sentence(source: Source) -> list[str]:
    return [] if (ast.get_docstring(source.tree) or "").strip() else [source.path]


def module_docstrings_that_say_in_charge_of(source: Source) -> list[str]:
    docstring = ast.get_docstring(source.tree) or ""
    return [source.path] if docstring.lower().startswith("in charge of") else []


Sources = list[Source]

ADAPTERS = re.compile(r"(write_store|read_store)/([^/]+/|memory\.py|port\.py)")


def _protocols(sources: Sources) -> frozenset[str]:
    return frozenset(
        node.name
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(base) for base in node.bases)
    )


def class_names_that_stand_twice(sources: Sources) -> list[str]:
    """A class name has one meaning in the package. An implementation may have the name of its port."""
    places: dict[str, list[str]] = {}
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name.lstrip("_"), []).append(source.path)
    ports = _protocols(sources)
    return [f"{name}: {', '.join(paths)}" for name, paths in places.items() if len(paths) > 1 and name not in ports]


def module_names_that_stand_twice(sources: Sources) -> list[str]:
    """A module name says what is in it, once. The adapters of the stores are all built on one plan."""
    places: dict[str, list[str]] = {}
    for source in sources:
        name = source.path.rpartition("/")[2]
        if name != "__init__.py" and not ADAPTERS.match(source.path):
            places.setdefault(name, []).append(source.path)
    return [f"{name}: {', '.join(paths)}" for name, paths in places.items() if len(paths) > 1]


# ------------------------------------------------------------------------------------------------------------ arguments

MOST_POSITIONAL_ARGUMENTS = 7
MOST_CONSTRUCTOR_ARGUMENTS = 6
DRIVE_THE_FOLLOWERS = frozenset({"Supervisor", "Worker", "Projector", "Reactor"})


def calls_with_too_many_positional_arguments(source: Source) -> list[str]:
    """A reader cannot tell the eighth of a row of values."""
    return [
        f"{source.path}:{node.lineno} {ast.unparse(node.func)}: {len(node.args)} arguments"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and len(node.args) > MOST_POSITIONAL_ARGUMENTS
    ]


def constructors_with_too_many_arguments(source: Source) -> list[str]:
    """What drives the followers stays easy to build: six arguments at most."""
    return [
        f"{source.path}:{function.lineno} {drives.name}: {count} arguments"
        for drives in ast.walk(source.tree)
        if isinstance(drives, ast.ClassDef) and drives.name in DRIVE_THE_FOLLOWERS
        for function in drives.body
        if isinstance(function, ast.FunctionDef) and function.name == "__init__"
        if (count := len(function.args.args) + len(function.args.kwonlyargs) - 1) > MOST_CONSTRUCTOR_ARGUMENTS
    ]


# ---------------------------------------------------------------------------------------------------------------- words

# Each has a plainer word; docs/glossary.md has most of them.
QUAINT = (
    "all well|anew|broken off|cannot be had|held against|holds? against|in charge of|in vain|make good|makes good|"
    "made good|mended|mends?|parted|passe[sd] over|sets? aside|signs? of life|stands? still|taken for dead|"
    "takes up|to and fro|told|visitors?|whoever|whomever|wish(?:es|ed)?"
)
# Two words are two words also where a line ends between them, in a comment or a quotation too.
QUAINT_WORDS = re.compile(r"\b(?:" + QUAINT.replace(" ", r"[\s#>]+") + r")\b", re.IGNORECASE)


def quaint_words(path: str, text: str) -> list[str]:
    """What users and readers read is plain technical English."""
    return [
        f"{path}:{text.count(chr(10), 0, words.start()) + 1}: {' '.join(words.group().split())}"
        for words in QUAINT_WORDS.finditer(text)
    ]


# --------------------------------------------------------------------------------------------------------------- purity

ALLOWED_IN_DOMAIN = frozenset(
    # datetime, uuid and hashlib for their types and pure functions; to ask the clock or chance breaks the next rule.
    "__future__ abc collections dataclasses datetime decimal enum functools hashlib inspect itertools keyword math "
    "operator re string types typing uuid msgspec twofold.domain twofold.errors".split()
)
ASYNC = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)


def impurities_of_the_domain(source: Source) -> list[str]:
    if not source.path.startswith("domain/"):
        return []
    return [
        *(
            f"{source.path}:{line} imports {name}"
            for line, name in imports(source)
            if not is_or_is_in(name, ALLOWED_IN_DOMAIN)
        ),
        *(f"{source.path}:{node.lineno} async" for node in ast.walk(source.tree) if isinstance(node, ASYNC)),
        *(f"{source.path}:{line} {name}" for line, name in uses(source) if name in {"open", "print", "input"}),
    ]


WORLDLY_MODULES = frozenset({"random", "secrets"})
WORLDLY_CALLS = frozenset(
    "time.time time.time_ns time.monotonic time.monotonic_ns time.perf_counter time.perf_counter_ns time.sleep "
    "time.localtime time.gmtime asyncio.sleep "
    "datetime.datetime.now datetime.datetime.utcnow datetime.datetime.today datetime.date.today "
    "uuid.uuid1 uuid.uuid4 uuid.uuid6 uuid.uuid7 os.urandom".split()
)


def questions_to_the_world(source: Source) -> list[str]:
    """Clock, ids, randomness and waiting are asked for in `world.py` alone, so that a test can own them."""
    if source.path == "world.py":
        return []
    return [
        *(
            f"{source.path}:{line} imports {name}"
            for line, name in imports(source)
            if is_or_is_in(name, WORLDLY_MODULES)
        ),
        *(f"{source.path}:{line} {name}" for line, name in [*uses(source), *imports(source)] if name in WORLDLY_CALLS),
    ]


# --------------------------------------------------------------------------------------------------------------- danger

DANGEROUS_MODULES = frozenset({"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"})
DANGEROUS_CALLS = frozenset(
    "eval exec compile __import__ yaml.load yaml.load_all yaml.unsafe_load yaml.full_load os.system".split()
)


def dangers(source: Source) -> list[str]:
    """What would run bytes that somebody stored or sent."""
    return [
        *(
            f"{source.path}:{line} imports {name}"
            for line, name in imports(source)
            if is_or_is_in(name, DANGEROUS_MODULES)
        ),
        *(
            f"{source.path}:{line} {name}"
            for line, name in [*uses(source), *imports(source)]
            if name in DANGEROUS_CALLS
        ),
    ]


# -------------------------------------------------------------------------------------------------------------- imports

STORES = ("write_store", "read_store")
MAY_CHOOSE_AN_ADAPTER = ("app.py",)


def imports_inside_functions(source: Source) -> list[str]:
    if source.path == "app.py":
        return []
    return [
        f"{source.path}:{inner.lineno} {name}"
        for node in ast.walk(source.tree)
        if isinstance(node, Function)
        for inner in ast.walk(node)
        if isinstance(inner, Import)
        for _, name in imported(source, inner)
    ]


def hints_that_hide(source: Source) -> list[str]:
    """Hints are read at run time, so none may be there for the type checker alone."""
    return [f"{source.path}:{line}" for line, name in uses(source) if name == "typing.TYPE_CHECKING"]


def imports_by_the_front_door(source: Source) -> list[str]:
    """`twofold/__init__.py` is for users: a part that goes through it would reach everything, above it too."""
    children = {path.stem for path in PACKAGE.iterdir()}
    return [
        f"{source.path}:{line} {name}"
        for line, name in imports(source)
        if name == "twofold" or (name.count(".") == 1 and name.startswith("twofold.") and name[8:] not in children)
    ]


# What works on any store through its port.
BESIDE_THE_PORT = frozenset(
    "port partition parked_summary inventory inline_state log_secret migration chain history verification log_check "
    "damage log_content log_copier current_log distant_log distant_read_store reserving".split()
)


def adapters_imported_elsewhere(source: Source) -> list[str]:
    """`app.py` chooses the adapter; everybody else knows the port only. (The test kit ships the in-memory ones.)"""
    if source.path in MAY_CHOOSE_AN_ADAPTER:
        return []
    breaches: list[str] = []
    for line, name in imports(source):
        parts = name.split(".")
        if len(parts) < 3 or parts[0] != "twofold" or parts[1] not in STORES or source.path.startswith(parts[1] + "/"):
            continue
        if parts[2] not in {*BESIDE_THE_PORT, *(["memory"] if source.path.startswith("testing/") else [])}:
            breaches.append(f"{source.path}:{line} {name}")
    return breaches


# -------------------------------------------------------------------------------------------------------- the file plan

FILES_OF_A_READ_STORE = frozenset(
    "address connection errors schema rows finds saving checkpoints snapshot inspection".split()
)


def files_beside_the_plan(source: Source) -> list[str]:
    """The same job is in a file of the same name in every read store; `schema_names.py` holds a part of `schema.py`."""
    folder, _, name = source.path.removesuffix(".py").rpartition("/")
    parts = folder.split("/")
    if parts[0] != "read_store" or len(parts) < 2:
        return []
    in_plan = name == "__init__" or name.partition("_")[0] in FILES_OF_A_READ_STORE
    return [] if in_plan and len(parts) == 2 else [source.path]


# ---------------------------------------------------------------------------------------------------------------- files

# Written so that these patterns do not find themselves.
REGISTRY = re.compile(r"\b(?:pypi|pythonhosted|npmjs|crates|proxy\.golang|anaconda)\.(?:org|com|io)\b", re.IGNORECASE)
MACHINE_PATH = re.compile(r"(?<![\w./\-}])/(?:work|root|Users|home)/\w+")
ADDRESS = re.compile(r"://|--(?:extra-)?index-url|--find-links|--trusted-host")


def registries_and_machine_paths(path: str, text: str) -> list[str]:
    return [
        f"{path}:{number}: {found.group()}"
        for number, line in enumerate(text.splitlines(), 1)
        for pattern in (REGISTRY, MACHINE_PATH)
        if (found := pattern.search(line))
    ]


def addresses(path: str, text: str) -> list[str]:
    return [f"{path}:{number}: {line}" for number, line in enumerate(text.splitlines(), 1) if ADDRESS.search(line)]
