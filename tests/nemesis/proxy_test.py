"""The fault proxy on real sockets: what each mode does in each direction, and that bytes arrive whole and in order."""

import hashlib
import pathlib
import random
import select
import socket
import subprocess
import sys
import threading
import time

import pytest

import proxy

PATIENCE = 30  # seconds; ends a broken test, decides nothing


class Ends:
    """A listener, the relay to it, and the two ends of a connection through it."""

    def __init__(self, proxies):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(PATIENCE)
        self.proxy = proxies.add(self.listener.getsockname()[1])
        self.opened = [self.listener]

    def dial(self):
        client = socket.create_connection(("127.0.0.1", self.proxy.port), timeout=PATIENCE)
        self.opened.append(client)
        return client

    def accept(self):
        target = self.listener.accept()[0]
        target.settimeout(PATIENCE)
        self.opened.append(target)
        return target

    def pair(self):
        client = self.dial()
        return client, self.accept()

    def along(self, way):
        """A connection as (who sends, who receives) in this direction."""
        client, target = self.pair()
        return (client, target) if way == "to_target" else (target, client)


@pytest.fixture(name="proxies", scope="module")
def _proxies():
    with proxy.Proxies() as made:
        yield made


@pytest.fixture(name="ends")
def _ends(proxies):
    made = Ends(proxies)
    yield made
    made.proxy.cut(True)
    for opened in made.opened:
        opened.close()


def take(sock, count):
    data = bytearray()
    while len(data) < count:
        data += (more := sock.recv(count - len(data)))
        assert more, f"ended after {len(data)} of {count} bytes"
    return bytes(data)


def silent(sock):
    """Whether it has nothing to read. What a relay lets through is there within microseconds of what came after it."""
    return not select.select([sock], [], [], 0)[0]


def until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


both_ways = pytest.mark.parametrize("way", proxy.WAYS)


@both_ways
def test_bytes_pass_whole_and_in_order(ends, way):
    sender, receiver = ends.along(way)
    data = random.Random(way).randbytes(3 << 20)
    thread = threading.Thread(target=lambda: (sender.sendall(data), sender.shutdown(socket.SHUT_WR)))
    thread.start()
    assert hashlib.sha256(take(receiver, len(data))).digest() == hashlib.sha256(data).digest()
    assert receiver.recv(1) == b""
    thread.join()
    receiver.sendall(b"half closed")
    assert take(sender, 11) == b"half closed"


@both_ways
def test_a_held_direction_keeps_what_comes_and_the_other_one_goes_on(ends, way):
    sender, receiver = ends.along(way)
    sender.sendall(b"before ")
    assert take(receiver, 7) == b"before "
    ends.proxy.set(way, hold=True)
    sender.sendall(b"one ")
    for word in (b"there", b"and", b"there"):  # longer than one word takes
        receiver.sendall(word)
        assert take(sender, len(word)) == word
    sender.sendall(b"two")
    sender.shutdown(socket.SHUT_WR)
    assert silent(receiver)
    ends.proxy.set(way, hold=False)
    assert take(receiver, 7) == b"one two"
    assert receiver.recv(1) == b""


@both_ways
def test_a_held_direction_keeps_little_and_makes_its_sender_wait(proxies, ends, way):
    def peak():
        lines = pathlib.Path(f"/proc/{proxies.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) << 10
    sender, receiver = ends.along(way)
    data = random.Random(way).randbytes(24 << 20)  # twice what all buffers on the way hold
    sent = [0]

    def send():
        while sent[0] < len(data):
            sent[0] += sender.send(data[sent[0]:sent[0] + (64 << 10)])
    before = peak()
    ends.proxy.set(way, hold=True)
    thread = threading.Thread(target=send)
    thread.start()
    last = [-1, time.monotonic()]

    def stands():
        if sent[0] != last[0]:
            last[:] = sent[0], time.monotonic()
        return sent[0] > 0 and time.monotonic() - last[1] > 0.3
    until(stands)
    assert sent[0] < len(data) and thread.is_alive() and silent(receiver)
    ends.proxy.set(way, hold=False)
    assert hashlib.sha256(take(receiver, len(data))).digest() == hashlib.sha256(data).digest()
    thread.join()
    assert peak() - before < 8 * proxy.KEPT


@both_ways
def test_delay_is_of_every_byte_and_keeps_the_order(ends, way):
    sender, receiver = ends.along(way)
    ends.proxy.set(way, delay=0.2)
    since = time.monotonic()
    sender.sendall(b"late")
    receiver.sendall(b"at once")
    assert take(sender, 7) == b"at once" and silent(receiver)
    ends.proxy.set(way, delay=0)
    sender.sendall(b" later")
    assert take(receiver, 10) == b"late later" and time.monotonic() - since >= 0.2


@both_ways
def test_ends_and_resets_wait_like_bytes(ends, way):
    sender, receiver = ends.along(way)
    sender.sendall(b"last words")
    assert take(receiver, 10) == b"last words"
    other = ends.along(way)
    ends.proxy.set(way, hold=True)
    proxy.reset_on_close(sender)
    sender.close()
    answer, question = other
    question.sendall(b"?")  # the relay has seen the reset when this has come through
    assert take(answer, 1) == b"?" and silent(receiver)
    ends.proxy.set(way, hold=False)
    with pytest.raises(ConnectionResetError):
        receiver.recv(1)
    until(lambda: ends.proxy.connections() == 1)


def test_a_new_connection_waits_for_the_way_to_the_target(ends):
    ends.proxy.set("to_target", hold=True)
    client = ends.dial()
    client.sendall(b"hello")
    until(lambda: ends.proxy.connections() == 1)
    assert silent(ends.listener)
    ends.proxy.set("to_target", hold=False)
    assert take(ends.accept(), 5) == b"hello"


def test_cut_resets_what_is_open_and_refuses_what_comes(ends):
    pairs = [ends.pair() for _ in range(3)]
    ends.proxy.set("to_target", hold=True)
    pairs[0][0].sendall(b"lost")
    ends.proxy.cut(True)
    for sock in [s for pair in pairs for s in pair]:
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            ends.dial()
    assert ends.proxy.connections() == 0 and silent(ends.listener)
    ends.proxy.set("to_target", hold=False)
    ends.proxy.cut(False)
    client, target = ends.pair()
    client.sendall(b"again")
    assert take(target, 5) == b"again"


def test_without_a_target_connections_are_reset(ends):
    ends.listener.close()
    with pytest.raises(ConnectionResetError):
        ends.dial().recv(1)
    until(lambda: ends.proxy.connections() == 0)


def test_the_relays_end_with_their_owner(tmp_path):
    script = tmp_path / "owner.py"
    script.write_text("import os, proxy\nmade = proxy.Proxies()\nprint(made.pid, made.add(1).port, flush=True)\nos._exit(0)\n")
    ended = subprocess.run([sys.executable, script], env={"PYTHONPATH": str(pathlib.Path(__file__).parent)}, timeout=PATIENCE,
                           stdout=subprocess.PIPE, text=True, check=True)
    pid, port = map(int, ended.stdout.split())
    until(lambda: not pathlib.Path(f"/proc/{pid}/fd/0").exists())
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


def test_what_cannot_be_done_is_said(proxies):
    with pytest.raises(OSError, match="IndexError"):
        proxies.call("connections", 1000)
    with pytest.raises(OSError, match="KeyError"):
        proxies.add(1).set("sideways", hold=True)
    with proxy.Proxies() as ended:
        made = ended.add(1)
    with pytest.raises((OSError, ValueError)):
        made.connections()


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q", "-x", "-p", "no:cacheprovider"]))
