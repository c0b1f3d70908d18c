"""A message to bytes and descriptors, and back.

A packet is the JSON list `[name, request id, {field: value, …}]`. Descriptors are not in it: they take their places by order.
A fourth element, a list of strings, is a log of system calls: in a reply what there is of it, in a request the wish for it.
JSON and never pickle or marshal, because a worker in somebody else's namespaces is trusted less than the app is.
"""

from __future__ import annotations

from _json import encode_basestring_ascii, make_encoder, make_scanner  # the core of `json`, which imports `re`

from aions._errors import ProtocolError
from aions._wire.fdsocket import Packet
from aions._wire.message import MANY, Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any, NoReturn, TypeVar

    M = TypeVar("M", bound=Message)

MAX_DESCRIPTORS = 252
"""The kernel takes 253 in one message (SCM_MAX_FD); the last is kept for the memfd of a long packet."""


MANY_BRACKETS = 64 * 1024
"""More than any reply has, those in the strings of its log included.

SECURITY: lists in lists take the longest to read, and to look through for garbage.
"""


class _Context:
    """What `json` tells the scanner by default."""

    strict = True
    object_hook = object_pairs_hook = parse_constant = None
    parse_float = float
    parse_int = int


def _refuse(value: object) -> NoReturn:
    raise TypeError(f"{value!r:.80} has no place in JSON")


_scan = make_scanner(_Context)  # type: ignore[arg-type]
_chunks = make_encoder(None, _refuse, encode_basestring_ascii, None, ":", ",", False, False, False)


def _load(text: str) -> Any:
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        raise ValueError("no JSON") from None
    if end != len(text):
        raise ValueError("more than JSON")
    return value


def encode(request_id: int, message: Message, log: list[str] | None = None) -> bytes:
    """Write a message down, but for its descriptors."""
    cls = type(message)
    body = message.__dict__
    if cls.descriptor_fields:
        count = len(message.descriptors())
        if count > MAX_DESCRIPTORS:
            raise ProtocolError(f"{count} descriptors are more than one message can carry ({MAX_DESCRIPTORS})", request_id)
        body = {name: value for name, value in body.items() if name not in cls.descriptor_fields}
    envelope = [cls.__name__, request_id, body] if log is None else [cls.__name__, request_id, body, log]
    return "".join(_chunks(envelope, 0)).encode()


def encode_steps(steps: Iterable[Message]) -> tuple[str, ...]:
    """Write down the steps of a `Prepare`, which carry no descriptors."""
    return tuple([encode(0, step).decode() for step in steps])


class DescriptorsLost(ProtocolError):
    """Descriptors did not arrive: the receiver's table was full."""


def decode_reply(packet: Packet, known: Mapping[str, type[M]]) -> tuple[int, M]:
    """Read a message from a worker, which may lie. Raises what `decode` does."""
    data = packet.data
    if len(data) > MANY_BRACKETS and data.count(b"[") + data.count(b"{") > MANY_BRACKETS:
        raise ProtocolError(f"no message: too many lists in {data[:80]!r}")
    return decode(packet, known)


def decode(packet: Packet, known: Mapping[str, type[M]]) -> tuple[int, M]:
    """Read a message and the id of its request; if there is a log, it becomes the packet's.

    Raises:
        DescriptorsLost: it had descriptors that could not be received.
        ProtocolError: it is none of the known messages.
    In both cases what descriptors there are remain the packet's.
    """
    request_id = 0
    if not packet.intact and not packet.data.startswith(b"["):
        raise DescriptorsLost("a long message was lost with its descriptor: the table is full (RLIMIT_NOFILE)")
    try:
        name, claimed_id, body, *logs = _load(packet.data.decode())
        if type(claimed_id) is not int:
            raise TypeError("the request id is no int")
        request_id = claimed_id
        if logs:
            packet.log = _checked_log(*logs)
        if not packet.intact:
            raise DescriptorsLost("the descriptors of a message were lost: the table is full (RLIMIT_NOFILE)", request_id)
        cls = known[name]
        if not body.keys().isdisjoint(cls.descriptor_fields):
            raise ValueError("a descriptor came as a number")  # SECURITY: it would be one of the receiver's own
        for field, value in body.items():
            if type(value) is list:
                body[field] = tuple(value)
        return request_id, cls(**body, **_placed(cls, packet.descriptors))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ProtocolError(f"no message: {error!r:.200} in {packet.data[:80]!r}", request_id) from None


def _checked_log(log: object) -> list[str]:
    if type(log) is not list or not all(type(line) is str for line in log):
        raise TypeError("the log is no list of strings")
    return log


def _placed(cls: type[Message], descriptors: Sequence[int]) -> dict[str, object]:
    """Give each descriptor its field."""
    placed: dict[str, object] = {}
    left = list(descriptors)
    for name in cls.descriptor_fields:
        if cls.fields[name] == MANY:
            placed[name], left = tuple(left), []
        elif left:
            placed[name] = left.pop(0)
    if left:
        raise ValueError(f"{len(left)} descriptors too many")
    return placed
