"""What one side writes down the other reads back, over a real socket; what is no message is refused."""

from __future__ import annotations

import json
import os
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aions._errors import ProtocolError
from aions._wire import codec, fdsocket
from aions._wire.codec import MAX_DESCRIPTORS, DescriptorsLost, decode, encode
from aions._wire.fdsocket import INLINE_LIMIT, Packet, close_all
from aions._wire.message import LARGEST_INT, MANY, Message
from aions._wire.messages import (
    REPLIES,
    REQUESTS,
    CallFunction,
    Done,
    Failed,
    Fork,
    Identified,
    Opened,
    Rejected,
    SetNamespace,
    Spawn,
    Started,
)

ALL = [*REQUESTS.values(), *REPLIES.values()]
KNOWN: dict[str, type[Message]] = {**REQUESTS, **REPLIES}

Pair = tuple[socket.socket, socket.socket]

integers = st.integers(-LARGEST_INT, LARGEST_INT)
texts = st.binary(max_size=20).map(lambda data: data.decode("utf-8", "surrogateescape")) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=20
)

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "int": integers,
    "int | None": st.none() | integers,
    "str": texts,
    "str | None": st.none() | texts,
    "tuple[int, ...]": st.lists(integers, max_size=5).map(tuple),
    "tuple[int, ...] | None": st.none() | st.lists(integers, max_size=5).map(tuple),
    "tuple[str, ...]": st.lists(texts, max_size=5).map(tuple),
    "Descriptor": st.just(0),
    MANY: st.integers(0, 5).map(lambda count: (0,) * count),
}

FORK = {"in_advance": False, "process_group": 7, "session": 8}
"""What a Fork has besides its descriptors."""


def messages(cls: type[Message]) -> st.SearchStrategy[Message]:
    """Make valid messages of a class, with 0 for each descriptor."""
    make: Callable[..., Message] = cls
    return st.builds(make, **{name: VALUES[kind] for name, kind in cls.fields.items()})


@contextmanager
def with_descriptors(message: Message) -> Iterator[Message]:
    """Give a message that has 0 for each descriptor files of its own instead."""
    files: list[int] = []

    def open_file() -> int:
        files.append(os.memfd_create("test"))
        return files[-1]

    values = dict(message.__dict__)
    for name in message.descriptor_fields:
        value = values[name]
        values[name] = tuple(open_file() for _ in value) if isinstance(value, tuple) else open_file()
    try:
        yield type(message)(**values)
    finally:
        close_all(files)


@contextmanager
def sent_and_received(request_id: int, message: Message) -> Iterator[tuple[int, Message]]:
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with sender, receiver:
        fdsocket.send(sender, encode(request_id, message), message.descriptors())
        packet = fdsocket.receive(receiver)
    assert packet is not None
    try:
        yield decode(packet, KNOWN)
    finally:
        close_all(packet.descriptors)


def without_descriptors(message: Message) -> dict[str, object]:
    return {name: value for name, value in message.__dict__.items() if name not in message.descriptor_fields}


def inodes(message: Message) -> list[int]:
    return [os.fstat(descriptor).st_ino for descriptor in message.descriptors()]


def packet(name: object, request_id: object, body: object, descriptors: list[int] | None = None) -> Packet:
    return Packet(json.dumps([name, request_id, body]).encode(), descriptors or [])


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_every_message_comes_back_as_it_went(cls: type[Message]) -> None:
    @settings(max_examples=40, deadline=None, database=None)
    @given(messages(cls), integers)
    def check(plain: Message, request_id: int) -> None:
        with with_descriptors(plain) as message, sent_and_received(request_id, message) as (received_id, received):
            assert type(received) is cls
            assert received_id == request_id
            assert without_descriptors(received) == without_descriptors(message)
            assert inodes(received) == inodes(message)
            assert not set(received.descriptors()) & set(message.descriptors())
            assert not any(map(os.get_inheritable, received.descriptors()))

    check()


def test_a_message_longer_than_a_packet_comes_back_as_it_went() -> None:
    long = tuple(random.Random(1).choices(["é", "\udc80", "x" * 1000, ""], k=30_000))
    with with_descriptors(CallFunction(long, None, "", (0,))) as message, sent_and_received(1, message) as (_id, received):
        assert len(encode(1, message)) > 5 * 2**20
        assert without_descriptors(received) == without_descriptors(message)
        assert inodes(received) == inodes(message)


def spawn(passed: int, argument: str = "") -> Spawn:
    return Spawn(
        arguments=(argument,),
        environment=(),
        process_group=0,
        session=0,
        exit=0,
        stdin=0,
        stdout=0,
        stderr=0,
        passed=(0,) * passed,
    )


@pytest.mark.parametrize("argument", ["", "x" * (INLINE_LIMIT + 1)], ids=["inline", "in a memfd"])
def test_as_many_descriptors_as_the_kernel_takes_come_back(argument: str) -> None:
    with with_descriptors(spawn(MAX_DESCRIPTORS - 4, argument)) as message, sent_and_received(1, message) as (_, received):
        assert len(received.descriptors()) == MAX_DESCRIPTORS
        assert inodes(received) == inodes(message)


def test_more_descriptors_than_the_kernel_takes_are_refused_when_written_down() -> None:
    with pytest.raises(ProtocolError, match=f"{MAX_DESCRIPTORS + 1} descriptors") as caught:
        encode(17, spawn(MAX_DESCRIPTORS - 3))
    assert caught.value.request_id == 17


def test_descriptors_are_not_written_down() -> None:
    assert encode(1, SetNamespace(2, False, 99)) == b'["SetNamespace",1,{"namespaces":2,"preserve_credentials":false}]'
    assert encode(2, Started(3, 98)) == b'["Started",2,{"pid":3}]'


def test_what_is_written_down_is_ascii() -> None:
    assert encode(1, Rejected("é\udcff")).isascii()


NO_MESSAGES: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"{",
    "binary": bytes(range(256)),
    "bad UTF-8": b'["Rejected",1,{"reason":"\xff"}]',
    "no list": b"{}",
    "a number": b"1",
    "null": b"null",
    "a string of three": b'"abc"',
    "too short": b'["Done",1]',
    "too long": b'["Done",1,{},{}]',
    "deep": b"[" * 60_000,
    "deep inside": b'["Rejected",1,' + b'{"a":' * 10_000,
    "endless number": b'["Done",1,' + b"1" * 60_000 + b"]",
    "unknown": b'["Undone",1,{}]',
    "a class that is no message": b'["Message",1,{}]',
    "name is no string": b'[["Done"],1,{}]',
    "body is a list": b'["Done",1,[]]',
    "body is null": b'["Done",1,null]',
    "id is text": b'["Done","1",{}]',
    "id is true": b'["Done",true,{}]',
    "id is a float": b'["Done",1.0,{}]',
    "id is null": b'["Done",null,{}]',
    "id is a list": b'["Done",[1],{}]',
    "field missing": b'["Identified",1,{"device":1,"inode":2}]',
    "field unknown": b'["Done",1,{"reason":""}]',
    "field named self": b'["Done",1,{"self":1}]',
    "field of another type": b'["Identified",1,{"device":"1","inode":2,"id":3}]',
    "float": b'["Identified",1,{"device":1.0,"inode":2,"id":3}]',
    "NaN": b'["Identified",1,{"device":NaN,"inode":2,"id":3}]',
    "true for a number": b'["Identified",1,{"device":true,"inode":2,"id":3}]',
    "number too large": b'["Identified",1,{"device":18446744073709551616,"inode":2,"id":3}]',
    "a list of lists": b'["CallFunction",1,{"path":[["a"]],"main":null}]',
    "said to be in a memfd": b"memfd",
}


@pytest.mark.parametrize("name", NO_MESSAGES)
def test_what_is_no_message_is_refused(name: str) -> None:
    with pytest.raises(ProtocolError, match="no message") as caught:
        decode(Packet(NO_MESSAGES[name], []), KNOWN)
    assert len(str(caught.value)) < 1000


def test_a_message_of_the_other_side_is_refused() -> None:
    with pytest.raises(ProtocolError):
        decode(Packet(encode(1, Done()), []), REQUESTS)
    with pytest.raises(ProtocolError):
        decode(packet("Unshare", 1, {"namespaces": 1}), REPLIES)


def test_the_error_names_the_request_where_that_could_be_read() -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(packet("Undone", 42, {}), KNOWN)
    assert caught.value.request_id == 42


def test_the_error_names_request_0_where_it_could_not_be_read() -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(packet("Done", "42", {}), KNOWN)
    assert caught.value.request_id == 0


@pytest.mark.parametrize(
    ("name", "body", "count"),
    [
        ("Done", {}, 1),
        ("Opened", {}, 0),
        ("Opened", {}, 2),
        ("Started", {"pid": 1}, 0),
        ("Fork", FORK, 1),
        ("Fork", FORK, 3),
    ],
)
def test_descriptors_too_many_or_too_few_are_refused_and_remain_the_packets(
    name: str, body: dict[str, object], count: int
) -> None:
    received = packet(name, 1, body, list(range(100, 100 + count)))
    with pytest.raises(ProtocolError):
        decode(received, KNOWN)
    assert received.descriptors == list(range(100, 100 + count))


@pytest.mark.parametrize("descriptors", [[], [100]])
@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("Opened", {"descriptor": 0}),
        ("Started", {"pid": 1, "pidfd": 0}),
        ("Called", {"outcome": 0}),
        ("Fork", {**FORK, "socket": 0, "exit": 1}),
        ("Fork", {**FORK, "exit": 1}),
    ],
)
def test_a_descriptor_cannot_be_named_by_its_number(name: str, body: dict[str, object], descriptors: list[int]) -> None:
    # A worker could otherwise have the app use, and close, any descriptor of the app's own.
    with pytest.raises(ProtocolError):
        decode(packet(name, 1, body, descriptors), KNOWN)


def test_descriptors_fill_the_fields_in_order() -> None:
    assert decode(packet("Fork", 1, FORK, [100, 101]), REQUESTS) == (1, Fork(False, 7, 8, 100, 101))
    assert decode(packet("Opened", 1, {}, [100]), REPLIES) == (1, Opened(100))


def test_lost_descriptors_are_an_error_of_their_own_that_names_the_request() -> None:
    lost = Packet(encode(42, Started(1, 0)), [], intact=False)
    with pytest.raises(DescriptorsLost, match="RLIMIT_NOFILE") as caught:
        decode(lost, KNOWN)
    assert caught.value.request_id == 42


def test_a_long_message_whose_memfd_was_lost_is_one_of_lost_descriptors() -> None:
    with pytest.raises(DescriptorsLost):
        decode(Packet(b"memfd", [], intact=False), KNOWN)


def lying_numbers() -> st.SearchStrategy[object]:
    return st.none() | st.booleans() | st.integers(-3, 3) | st.integers() | st.floats() | st.text(max_size=3)


json_values = st.recursive(
    lying_numbers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def nearly_messages(draw: st.DrawFn) -> Packet:
    """Make packets that are messages but for a field or two."""
    cls = draw(st.sampled_from(ALL))
    valid = draw(messages(cls))
    body: dict[str, object] = dict(valid.__dict__)
    for name in cls.descriptor_fields:
        if draw(st.integers(0, 3)):
            del body[name]
    for _ in range(draw(st.integers(0, 2))):
        body[draw(st.sampled_from([*cls.fields, "other"]))] = draw(json_values)
    count = draw(st.just(len(valid.descriptors())) | st.integers(0, 4))
    request_id = draw(st.integers(-1, 5) | json_values)
    return packet(draw(st.just(cls.__name__) | st.text(max_size=5)), request_id, body, list(range(1000, 1000 + count)))


def check_that_it_is_decoded_soundly(received: Packet, known: dict[str, type[Any]]) -> bool:
    """Decode a packet: a message that is accepted must be a sound one, with the descriptors that came and no others."""
    descriptors = list(received.descriptors)
    try:
        request_id, message = decode(received, known)
    except ProtocolError:
        assert received.descriptors == descriptors
        return False
    assert message.descriptors() == descriptors
    assert decode(Packet(encode(request_id, message), descriptors), known) == (request_id, message)
    return True


@settings(max_examples=300, deadline=None, database=None)
@given(nearly_messages())
def test_nearly_messages_are_refused_or_sound(received: Packet) -> None:
    check_that_it_is_decoded_soundly(received, KNOWN)


@settings(max_examples=300, deadline=None, database=None)
@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_garbage_is_refused(data: bytes) -> None:
    assert not check_that_it_is_decoded_soundly(Packet(data, []), KNOWN)


def samples() -> list[Message]:
    """Return one message of each kind that is worth mutating, with 0 for each descriptor."""
    return [
        spawn(3, "argument"),
        Fork(False, 0, 0, 0, 0),
        SetNamespace(0x40000000, False, 0),
        CallFunction(("/usr/lib", "/usr/lib/python3"), None, "", (0,)),
        Done(),
        Started(4711, 0),
        Identified(4, 4026531840, 1),
        Opened(0),
        Failed(1, "unshare(CLONE_NEWUSER)", None, "hint"),
        Rejected("because"),
    ]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Change, insert, remove or repeat a few bytes."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at = rng.randrange(len(changed) + 1)
        action = rng.randrange(4)
        if action == 0:
            changed[at : at + 1] = bytes([rng.randrange(256)])
        elif action == 1:
            changed[at:at] = rng.choice([b'"', b"[", b"{", b"]", b"}", b",", b"0", b"-", b"null", b"\x00", b"memfd", b"1e9"])
        elif action == 2:
            del changed[at : at + rng.randrange(1, 8)]
        else:
            changed[at:at] = changed[at : at + rng.randrange(1, 30)]
    return bytes(changed)


@pytest.mark.parametrize("known", [REQUESTS, REPLIES], ids=["requests", "replies"])
def test_packets_that_were_tampered_with_are_refused_or_sound_and_leak_nothing(pair: Pair, known: dict[str, type[Any]]) -> None:
    rng = random.Random(20_000)
    file = os.memfd_create("test")
    originals = [message for message in samples() if type(message).__name__ in known]
    packets = [(codec.encode(rng.randrange(100), message), len(message.descriptors())) for message in originals]
    outcomes = {True: 0, False: 0}
    for _ in range(10_000):
        data, count = rng.choice(packets)
        count = rng.choice([count, count, count, 0, count + 1])
        fdsocket.send(pair[0], mutated(data, rng) or b" ", [file] * count)
        try:
            received = fdsocket.receive(pair[1])
        except ProtocolError:
            continue
        assert received is not None
        outcomes[check_that_it_is_decoded_soundly(received, known)] += 1
        close_all(received.descriptors)
    os.close(file)
    assert outcomes[True] > 100
    assert outcomes[False] > 1000


@pytest.mark.parametrize("log", [[], ["unshare(1) = 0"], ["a", "ü\n"]])
def test_a_log_travels_with_a_message(log: list[str]) -> None:
    packet = Packet(encode(7, Done(), log), [])
    assert decode(packet, REPLIES) == (7, Done())
    assert packet.log == log


def test_without_a_log_there_is_none() -> None:
    packet = Packet(encode(7, Done()), [])
    assert decode(packet, REPLIES) == (7, Done())
    assert packet.log is None


@pytest.mark.parametrize("log", [b"7", b"null", b'"line"', b"[1]", b'["line",null]', b"{}", b"[],[]"])
def test_what_is_no_log_is_refused(log: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(Packet(b'["Done",7,{},%b]' % log, []), REPLIES)
    assert caught.value.request_id == 7
