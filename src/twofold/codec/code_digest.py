"""A digest of code: of a class or function, and of everything of the application that it reaches.

Reached is what the compiled code names (globals, closures, constants, defaults), what type hints name, and all methods
of classes. Of Python, msgspec and Twofold only names and versions count. What code does not show, such as an
object with a state of its own, raises UnknownCode: then an equal digest would prove nothing.
"""

import builtins
import dis
import functools
import hashlib
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, EnumMeta
from fractions import Fraction
from re import Pattern
from typing import Annotated, Any, cast
from uuid import UUID

import msgspec

from twofold.domain.type_hints import hints_of, without_alias
from twofold.errors import WiringError

_LIBRARY = str(typing.__file__).removesuffix("typing.py")
_VALUES = (str, bytes, bool, int, float, complex, type(None), type(...), range, slice)
_LIBRARY_VALUES = (Decimal, Fraction, date, datetime, time, timedelta, timezone, UUID)
_DYNAMIC = frozenset("eval exec compile globals locals vars open input __import__ breakpoint".split())
_COMPILED = (
    types.BuiltinFunctionType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
)
_NO_PART_OF_A_CLASS = frozenset(
    "__dict__ __weakref__ __module__ __doc__ __annotations__ __annotate__ __annotate_func__ __annotations_cache__ "
    "__dataclass_fields__ __dataclass_params__ __firstlineno__ __static_attributes__ __orig_bases__ __parameters__ "
    "__abstractmethods__ __field_defaults__ __conditional_annotations__ _abc_impl".split()
)
_GENERATED = "<string>"
"""The file name of methods that dataclasses and named tuples write themselves, from their fields."""


class UnknownCode(Exception):
    """What is reached, and code does not show, in words."""


def code_digest(*things: object) -> str:
    """The digest of these classes, functions, hints and values, and of what they reach. UnknownCode."""
    walk = _CodeWalk()
    versions = sys.implementation.cache_tag, ".".join(map(str, sys.version_info[:3])), msgspec.__version__
    walk.add((*versions, *things))
    return walk.digest()


class _CodeWalk:
    def __init__(self, seen: Mapping[int, object] = types.MappingProxyType({})) -> None:
        self._digest = hashlib.sha256()
        self._seen = dict(seen)
        """What was reached, by id. It is kept, so that no id is used again."""
        self._modules: set[tuple[int, frozenset[str]]] = set()

    def digest(self) -> str:
        return self._digest.hexdigest()

    def add(self, thing: Any) -> None:
        """Add a value, and what it reaches."""
        kind = cast("Any", type(thing))
        if kind in _VALUES or kind in _LIBRARY_VALUES:
            self._write(kind.__name__, repr(thing))
        elif kind in (tuple, list):
            self._all(kind.__name__, thing)
        elif kind in (dict, types.MappingProxyType):
            self._all("dict", [pair for item in thing.items() for pair in item])
        elif kind in (set, frozenset):
            self._all("set", sorted(self._apart(item) for item in thing))
        elif kind is Pattern:
            self._all("pattern", (thing.pattern, thing.flags))
        elif isinstance(thing, type):
            self._class(thing)
        elif not self._add_callable(thing):
            self._add_instance(thing)

    def _add_callable(self, thing: Any) -> bool:
        kind = cast("Any", type(thing))
        if kind is types.FunctionType:
            self._function(thing)
        elif kind is types.MethodType:
            self._all("method", (thing.__func__, thing.__self__))
        elif kind in (staticmethod, classmethod):
            self._all(kind.__name__, (thing.__func__,))
        elif kind is property:
            self._all("property", (thing.fget, thing.fset, thing.fdel))
        elif kind is functools.cached_property:
            self._all("cached_property", (thing.func,))
        elif kind is functools.partial:
            self._all("partial", (thing.func, thing.args, thing.keywords))
        elif kind.__name__ == "_lru_cache_wrapper":
            self._all("cache", (thing.__wrapped__,))
        elif kind in _COMPILED:
            self._compiled(thing)
        else:
            return False
        return True

    def _add_instance(self, thing: Any) -> None:
        cls = cast("Any", type(thing))
        if isinstance(thing, Enum):
            self._all("member", (cls, thing.name))
        elif isinstance(thing, types.ModuleType):
            self._module(thing, frozenset())
        elif cls.__module__ in ("typing", "types", "typing_extensions"):
            self._hint(thing)
        elif cls.__module__.startswith("twofold.") or (cls.__module__, cls.__name__) in (
            ("msgspec", "Meta"),
            ("logging", "Logger"),
        ):
            text = repr(thing)
            if " at 0x" in text:
                raise UnknownCode(f"a {cls.__qualname__}")
            self._write(cls.__name__, text)
        elif isinstance(thing, msgspec.Struct) or (is_dataclass(cls) or hasattr(cls, "_fields")):
            names = _field_names(cls)
            self._all("record", (cls, *(getattr(thing, name) for name in names)))
        else:
            raise UnknownCode(f"an object of {cls.__module__}.{cls.__qualname__}")

    def _again(self, thing: Any, name: str) -> bool:
        """Whether this was reached before. From the second time on only its name counts."""
        again = id(thing) in self._seen
        self._seen[id(thing)] = thing
        self._write("again" if again else "first", name)
        return again

    def _function(self, function: types.FunctionType) -> None:
        module = str(function.__globals__.get("__name__"))
        name = f"{module}.{function.__qualname__}"
        if self._again(function, name) or _is_known(module):
            return
        self._all("defaults", (function.__defaults__, function.__kwdefaults__))
        for cell in function.__closure__ or ():
            try:
                content = cell.cell_contents
            except ValueError as error:
                raise UnknownCode(f"an empty cell of {name}") from error
            self.add(content)
        self.add({key: value for key, value in vars(function).items() if key != "__wrapped__"})
        self._hints(function, name)
        self._code(function.__code__, function.__globals__, name)

    def _code(self, code: types.CodeType, namespace: Mapping[str, Any], name: str) -> None:
        self._write("code", code.co_code.hex())
        self._all("names", (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, code.co_flags))
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._code(constant, namespace, name)
            else:
                self.add(constant)
        instructions = list(dis.get_instructions(code))
        if any(instruction.opname == "IMPORT_NAME" for instruction in instructions):
            raise UnknownCode(f"an import inside {name}")
        names = frozenset(code.co_names)
        for used in dict.fromkeys(str(each.argval) for each in instructions if each.opname in _LOADS):
            self._global(used, namespace, names, name)

    def _global(self, used: str, namespace: Mapping[str, Any], names: frozenset[str], name: str) -> None:
        self._write("global", used)
        if used in namespace:
            value = namespace[used]
            if isinstance(value, types.ModuleType):
                self._module(value, names)
            else:
                self.add(value)
        elif used in _DYNAMIC:
            raise UnknownCode(f"`{used}` in {name}")
        elif not hasattr(builtins, used):
            self._write("missing", used)

    def _module(self, module: types.ModuleType, names: frozenset[str]) -> None:
        """What code that uses these names may use of a module."""
        self._write("module", module.__name__)
        if _is_known(module.__name__):
            return
        if "getattr" in names or not names:
            raise UnknownCode(f"the whole module {module.__name__}")
        if (key := (id(module), names)) in self._modules:
            return
        self._modules.add(key)
        for name in sorted(names & vars(module).keys()):
            self._global(name, vars(module), names, module.__name__)

    def _compiled(self, thing: Any) -> None:
        owner = getattr(thing, "__objclass__", None) or getattr(thing, "__self__", None)
        module = getattr(thing, "__module__", None) or getattr(owner, "__module__", None) or "builtins"
        if isinstance(thing, types.MemberDescriptorType):
            self._write("field", thing.__name__)
        elif not _is_known(str(module)):
            raise UnknownCode(f"the compiled {module}.{thing.__qualname__}")
        else:
            self._write("compiled", f"{module}.{thing.__qualname__}")
            if owner is not None and not isinstance(owner, type | types.ModuleType):
                self.add(owner)

    def _class(self, cls: Any) -> None:
        name = f"{cls.__module__}.{cls.__qualname__}"
        if self._again(cls, name) or _is_known(cls.__module__):
            return
        self._all("bases", (*cls.__bases__, *getattr(cls, "__orig_bases__", ()), type(cls)))
        self._hints(cls, name)
        if isinstance(cls, type(msgspec.Struct)):
            config = {key: getattr(cls.__struct_config__, key) for key in _CONFIG}
            self._all("struct", (config, cls.__struct_fields__, cls.__struct_encode_fields__, *_defaults(cls)))
        elif hasattr(cls, "__dataclass_fields__"):
            self._write("dataclass", repr(cls.__dataclass_params__))
            for field in fields(cls):
                self._all("field", (field.name, field.init, field.compare, field.kw_only))
                self.add(None if field.default is MISSING else field.default)
                self.add(None if field.default_factory is MISSING else field.default_factory)
        for key, value in _parts(cls):
            self._write("attribute", key)
            self.add(value)

    def _hints(self, thing: Any, name: str) -> None:
        try:
            hints = hints_of(thing, name)
        except WiringError as error:
            raise UnknownCode(f"the type hints of {name}") from error
        for key, hint in hints.items():
            self._write("hint", key)
            self._hint(hint)

    def _hint(self, hint: Any) -> None:
        hint = without_alias(hint)
        if isinstance(hint, str | typing.ForwardRef):
            raise UnknownCode(f"the type hint {hint!r}")
        arguments = typing.get_args(hint)
        if isinstance(hint, typing.TypeVar):
            self._all("variable", (hint.__name__, hint.__bound__, *hint.__constraints__))
        elif not arguments or isinstance(hint, type):
            # list[int] is no type, but an alias.
            self._class(hint) if isinstance(hint, type) and not arguments else self._write("hint", repr(hint))
            self._each(arguments)
        elif typing.get_origin(hint) is Annotated:
            self._hint(arguments[0])
            self._all("annotated", arguments[1:])
        else:
            self._write("origin", repr(typing.get_origin(hint)))
            self._each(arguments)

    def _each(self, arguments: tuple[Any, ...]) -> None:
        for argument in arguments:
            if isinstance(argument, list):
                self._each(tuple(cast("Any", argument)))
            elif isinstance(argument, _VALUES):
                self.add(argument)
            else:
                self._hint(argument)

    def _all(self, what: str, things: Any) -> None:
        self._write(what, str(len(things)))
        for thing in things:
            self.add(thing)

    def _apart(self, thing: object) -> str:
        walk = _CodeWalk(self._seen)
        walk.add(thing)
        return walk.digest()

    def _write(self, what: str, text: str) -> None:
        raw = text.encode(errors="surrogatepass")
        self._digest.update(b"%b %d %b;" % (what.encode(), len(raw), raw))


_LOADS = frozenset(("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"))
_CONFIG = ("frozen", "eq", "order", "array_like", "tag", "tag_field", "omit_defaults", "forbid_unknown_fields")


def _is_known(module: str) -> bool:
    """Whether its version is in the digest: then its names are enough."""
    name = module.partition(".")[0]
    if name not in sys.stdlib_module_names:
        return name in ("builtins", "msgspec", "twofold")
    # An application may have a module of the same name.
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is None or (file.startswith(_LIBRARY) and "site-packages" not in file)


def _field_names(cls: Any) -> tuple[str, ...]:
    if issubclass(cls, msgspec.Struct):
        return tuple(cls.__struct_fields__)
    return tuple(field.name for field in fields(cls)) if is_dataclass(cls) else tuple(cls._fields)


def _defaults(cls: Any) -> Iterator[object]:
    for default in cls.__struct_defaults__:
        factory: Callable[[], object] | None = getattr(default, "factory", None)
        yield ("none" if default is msgspec.NODEFAULT else default) if factory is None else ("factory", factory)


def _parts(cls: Any) -> Iterator[tuple[str, object]]:
    """What a class defines, by name, without what follows from its fields."""
    generated = frozenset[str](_field_names(cls)) if hasattr(cls, "_fields") else frozenset[str]()
    attributes = dict(cast("Mapping[str, object]", vars(cls)))
    is_enum = isinstance(cls, EnumMeta)
    if is_enum:
        members = cast("Mapping[str, Any]", cls.__members__)
        yield from ((name, member.value) for name, member in members.items())
        generated = frozenset[str](members)
    for key, value in sorted(attributes.items()):
        if key in _NO_PART_OF_A_CLASS or key in generated or key.startswith(("__struct", "__msgspec")):
            continue
        if is_enum and key.startswith("_") and not isinstance(value, types.FunctionType | classmethod | staticmethod):
            continue
        if isinstance(value, types.FunctionType) and value.__code__.co_filename == _GENERATED:
            continue
        yield key, value
