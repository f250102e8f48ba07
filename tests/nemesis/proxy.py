"""A TCP proxy that does to connections what a bad network does: each direction by itself can be held, delayed, or cut.

    with Proxies() as proxies:
        proxy = proxies.add(port)                    # forwards 127.0.0.1:proxy.port to 127.0.0.1:port
        proxy.set("to_target", hold=True)            # what comes from now on is kept
        proxy.set("to_target", hold=False)           # and goes on, whole and in order
        proxy.set("to_client", delay=0.05)           # every byte 50 ms later
        proxy.cut(True)                              # connections are reset, new ones refused, until cut(False)

The relays run in a process of their own, so that whoever is busy in this one does not slow them down. It ends with the object,
or with this process. A held direction is like a network that loses packets, which TCP sends again later: ends and resets of a
connection wait like its bytes, and a new connection gets to the target only when that direction is open. Each direction of a
connection keeps at most KEPT bytes beside the kernel's buffers; then its sender has to wait.
"""

import asyncio
import contextlib
import json
import socket
import struct
import subprocess
import sys
import threading

WAYS = ("to_target", "to_client")
CHUNK = 16 << 10
CHUNKS = 32       # in a queue, which one chunk goes into and one comes out of
KEPT = 1 << 20    # the queue, the 256 KiB that asyncio reads at once, and what it reads and writes ahead
RESET = object()  # in place of a chunk; b"" is the end


def reserve(host="127.0.0.1"):
    """A socket that keeps a free port from others, for a listener with SO_REUSEADDR; the port."""
    keeper = socket.socket()
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    keeper.bind((host, 0))
    return keeper, keeper.getsockname()[1]


class Proxy:
    """One relay, as its owner sees it. Calls return when it is done; thread-safe."""

    def __init__(self, proxies, index, port):
        self._proxies, self._index, self.port = proxies, index, port

    def set(self, way, hold=None, delay=None):
        """Of all connections, those to come included; None: as it is. `delay`: seconds, of bytes that come from now on."""
        self._proxies.call("set", self._index, way, hold, delay)

    def cut(self, off):
        """True: resets all connections and refuses new ones; what was under way is lost."""
        self._proxies.call("cut", self._index, off)

    def connections(self):
        """How many there are."""
        return self._proxies.call("connections", self._index)


class Proxies:
    def __init__(self):
        self._lock = threading.Lock()
        self._process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                         start_new_session=True)
        self.pid = self._process.pid

    def add(self, target, host="127.0.0.1"):
        """`target`: a port of `host`."""
        return Proxy(self, *self.call("add", host, target))

    def call(self, *words):
        with self._lock:
            self._process.stdin.write(json.dumps(words) + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline() or '{"error": "the proxy has ended"}')
        if "error" in answer:
            raise OSError(answer["error"])
        return answer["result"]

    def close(self):
        with self._lock:
            self._process.stdin.close()
            try:
                self._process.wait(10)
            finally:
                self._process.kill()
                self._process.wait()
                self._process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def reset_on_close(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _reset(writer):
    with contextlib.suppress(OSError):
        reset_on_close(writer.get_extra_info("socket"))
    writer.transport.abort()


class _Way:
    """One direction of a relay."""

    def __init__(self):
        self.open, self.delay = asyncio.Event(), 0.0
        self.open.set()

    async def carry(self, reader, writer):
        """All bytes of a connection in this direction, then its end."""
        queue = asyncio.Queue(CHUNKS)
        taking = asyncio.create_task(self._take(reader, queue))
        try:
            await self._give(queue, writer)
        finally:
            taking.cancel()

    async def _take(self, reader, queue):
        chunk = None
        while chunk not in (b"", RESET):
            try:
                chunk = await reader.read(CHUNK)
            except OSError:
                chunk = RESET
            await queue.put((asyncio.get_running_loop().time() + self.delay, chunk))

    async def _give(self, queue, writer):
        broken = False  # the receiver is gone: what still comes is for nobody
        while True:
            due, chunk = await queue.get()
            await asyncio.sleep(max(0, due - asyncio.get_running_loop().time()))
            await self.open.wait()
            if chunk is RESET:
                return _reset(writer)
            try:
                if chunk == b"" and not broken:
                    writer.write_eof()
                elif not broken:
                    writer.write(chunk)
                    await writer.drain()
            except OSError:
                broken = True
            if chunk == b"":
                return None


class _Relay:
    def __init__(self, host, target):
        self.host, self.target = host, target
        self.keeper, self.port = reserve(host)
        self.ways = {way: _Way() for way in WAYS}
        self.connections = set()  # tasks
        self.server = None

    async def listen(self):
        self.server = await asyncio.start_server(self._accepted, self.host, self.port, limit=CHUNK, reuse_address=True)

    async def _accepted(self, reader, writer):
        if self.server is None:  # cut since
            return _reset(writer)
        task = asyncio.current_task()
        self.connections.add(task)
        writers = [writer]
        try:
            way = self.ways["to_target"]
            await asyncio.sleep(way.delay)
            await way.open.wait()
            target_reader, target_writer = await asyncio.open_connection(self.host, self.target, limit=CHUNK)
            writers.append(target_writer)
            for w in writers:
                w.transport.set_write_buffer_limits(high=CHUNK)
            await asyncio.gather(way.carry(reader, target_writer), self.ways["to_client"].carry(target_reader, writer))
            for w in writers:
                w.close()
        except OSError:  # nobody listens there
            _reset(writer)
        except asyncio.CancelledError:
            for w in writers:
                _reset(w)
        finally:
            self.connections.discard(task)

    async def cut(self, off):
        if off and self.server is not None:
            self.server.close()
            self.server = None
            tasks = list(self.connections)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if not off and self.server is None:
            await self.listen()


class _Relays:
    """Carries out what its owner says, a line at a time."""

    def __init__(self):
        self.relays = []

    async def do_add(self, host, target):
        relay = _Relay(host, target)
        await relay.listen()
        self.relays.append(relay)
        return len(self.relays) - 1, relay.port

    async def do_set(self, index, way, hold, delay):
        chosen = self.relays[index].ways[way]
        if hold is not None:
            (chosen.open.clear if hold else chosen.open.set)()
        if delay is not None:
            chosen.delay = delay

    async def do_cut(self, index, off):
        await self.relays[index].cut(off)

    async def do_connections(self, index):
        return len(self.relays[index].connections)

    async def run(self):
        commands = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
        while line := await commands.readline():
            name, *words = json.loads(line)
            try:
                answer = {"result": await getattr(self, f"do_{name}")(*words)}
            except Exception as trouble:  # noqa: BLE001: its owner is told
                answer = {"error": repr(trouble)}
            print(json.dumps(answer), flush=True)
        for relay in self.relays:
            await relay.cut(True)


if __name__ == "__main__":
    asyncio.run(_Relays().run())
