"""What a message is: a frozen, validated record.

A subclass of `Message` reads and type-checks like a frozen dataclass, and its annotations are also its schema: the
constructor checks every field against them, so that a message of the wrong shape cannot exist on either side. It is not made
by `dataclasses`, because importing that takes the forkserver longer than starting Python does.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar, NoReturn, dataclass_transform
else:

    def dataclass_transform(**_options):
        return lambda cls: cls


Descriptor = int
"""The annotation of a field that travels as a file descriptor (SCM_RIGHTS), not as JSON."""

MANY = "tuple[Descriptor, ...]"
"""The annotation of a field that takes all the descriptors that are left; it can only be the last one."""

LARGEST_INT = 2**64 - 1


def _is_int(value: object) -> bool:
    return type(value) is int and -LARGEST_INT <= value <= LARGEST_INT


def _is_str(value: object) -> bool:
    return type(value) is str


def _tuple_of(check: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: type(value) is tuple and all(map(check, value))


_STRINGS = frozenset((str,))


def _are_strings(value: object) -> bool:
    return type(value) is tuple and _STRINGS.issuperset(map(type, value))


def _optional(check: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or check(value)


_CHECKS: dict[str, Callable[[object], bool]] = {
    "bool": lambda value: type(value) is bool,
    "int": _is_int,
    "int | None": _optional(_is_int),
    "str": _is_str,
    "str | None": _optional(_is_str),
    "tuple[int, ...]": _tuple_of(_is_int),
    "tuple[int, ...] | None": _optional(_tuple_of(_is_int)),
    "tuple[str, ...]": _are_strings,
    "Descriptor": _is_int,
    MANY: _tuple_of(_is_int),
}


@dataclass_transform(frozen_default=True)
class Message:
    """The base of everything that is sent. A field with a value in the class may be left out, unless it is a descriptor.

    The descriptors in a message belong to whoever holds the message. Those of a request are lent: the receiver closes its
    copies once it has answered, and the sender keeps its own. Those of a reply are given: the sender closes its copies once
    they are sent.
    """

    fields: ClassVar[dict[str, str]] = {}
    descriptor_fields: ClassVar[tuple[str, ...]] = ()
    _checks: ClassVar[tuple[tuple[str, Callable[[object], bool]], ...]] = ()
    _defaults: ClassVar[dict[str, object]] = {}

    def __init_subclass__(cls) -> None:
        cls.fields = dict(cls.__annotations__)
        cls.descriptor_fields = tuple(name for name, kind in cls.fields.items() if "Descriptor" in kind)
        unknown = set(cls.fields.values()) - set(_CHECKS)
        if unknown:
            raise TypeError(f"{cls.__name__}: no check for fields of type {unknown}")
        cls._checks = tuple((name, _CHECKS[kind]) for name, kind in cls.fields.items())
        cls._defaults = {name: vars(cls)[name] for name in cls.fields if name in vars(cls)}
        if not cls._defaults.keys().isdisjoint(cls.descriptor_fields):
            raise TypeError(f"{cls.__name__}: a descriptor without a value would be one of the receiver's own")

    def __init__(self, *values: Any, **named: Any) -> None:
        cls = type(self)
        by_place = dict(zip(cls.fields, values, strict=False))
        given = cls._defaults | by_place | named
        if given.keys() != cls.fields.keys() or len(by_place) < len(values) or not by_place.keys().isdisjoint(named):
            raise TypeError(f"{cls.__name__} takes exactly {', '.join(cls.fields) or 'no fields'}")
        for name, check in cls._checks:
            value = self.__dict__[name] = given[name]
            if not check(value):
                raise TypeError(f"{cls.__name__}.{name}: {value!r:.80} is no {cls.fields[name]}")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items())})"

    def descriptors(self) -> list[int]:
        """Return the descriptors of this message, in the order in which they travel."""
        found: list[int] = []
        for name in self.descriptor_fields:
            value = self.__dict__[name]
            found += value if type(value) is tuple else [value]
        return found
