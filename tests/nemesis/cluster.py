"""The clusters that faults are done to: real processes, tp 2 x pp 2, in one agent or over two."""

import contextlib
import os
import pathlib
import signal
import subprocess

import harness

SHAPE = ["--tensor-parallel-size", 2, "--pipeline-parallel-size", 2, "--max-num-seqs", 16]


def command(pid):
    with contextlib.suppress(OSError):
        return pathlib.Path("/proc", str(pid), "cmdline").read_bytes().decode(errors="replace").split("\0")
    return []


def below(pid, verb):
    """Living processes below `pid` whose verb it is."""
    return [p for p in harness.descendants(pid) if command(p)[1:2] == [verb] and harness.alive(p)]


def figures(pid):
    """(file descriptors, threads, private memory in KiB) of a process."""
    status = pathlib.Path("/proc", str(pid), "status").read_text()
    values = dict(line.split(":", 1) for line in status.splitlines())
    return {"fds": len(os.listdir(f"/proc/{pid}/fd")), "threads": int(values["Threads"]),
            "memory_kib": int(values["RssAnon"].split()[0])}


class One:
    """`shoal serve` with its local agent."""
    name = "one agent"
    hosts = None

    def __init__(self, model, *args):
        self.server = harness.Server(model, *SHAPE, *args)
        self.server.wait_ready()

    def coordinator(self):
        return (below(self.server.pid, "coordinator") or [None])[0]

    def agents(self):
        return below(self.server.pid, "worker")

    def revive(self, _agent):
        """The launcher does it."""

    def ranks(self):
        return sorted(p for agent in self.agents() for p in below(agent, "rank"))

    def all_processes(self):
        return [self.server]

    def stop(self):
        """Ends everything in order; what is wrong with how it ended, or None."""
        server, *workers = self.all_processes()
        try:
            code = server.stop()
            if code != 0:
                return f"the server ended with {code}: {server.output[-2000:]}"
            for worker in workers:
                worker.stop()
        finally:
            for process in [server, *workers]:
                if process.running():
                    process.kill_all()
        return None


class Two(One):
    """A coordinator and two agents of two ranks each; `args` of the server choose the transport."""
    name = "two agents"

    def __init__(self, model, *args):
        self.port = harness.free_port()
        self.workers = [self._worker(0), self._worker(1)]
        super().__init__(model, "--workers", "external", "--master-port", self.port, *args)

    def _worker(self, _host):
        return harness.Process("worker", "--master-port", self.port, "--slots", 2)

    def agents(self):
        return [w.pid for w in self.workers if w.running()]

    def revive(self, agent):
        """As a supervisor of the host would."""
        for i, worker in enumerate(self.workers):
            if worker.pid == agent:
                worker.wait()
                self.workers[i] = self._worker(i)

    def all_processes(self):
        return [self.server, *self.workers]


class Hosts:
    """Two hosts as network namespaces on a bridge, so that each can be cut off. Needs root."""

    def __init__(self):
        self.tag = f"sh{os.getpid() % 100000}"
        self.net = f"10.213.{os.getpid() % 250}"
        self.bridge_address = f"{self.net}.1"
        self.addresses = [f"{self.net}.2", f"{self.net}.3"]
        self._ip("link", "add", self.tag, "type", "bridge")
        try:
            self._ip("addr", "add", f"{self.bridge_address}/24", "dev", self.tag)
            self._ip("link", "set", self.tag, "up")
            for i, address in enumerate(self.addresses):
                self._ip("netns", "add", self.name(i))
                self._ip("link", "add", self.name(i), "type", "veth", "peer", "name", "eth0", "netns", self.name(i))
                self._ip("link", "set", self.name(i), "master", self.tag, "up")
                self._ip("-n", self.name(i), "addr", "add", f"{address}/24", "dev", "eth0")
                self._ip("-n", self.name(i), "link", "set", "eth0", "up")
                self._ip("-n", self.name(i), "link", "set", "lo", "up")
        except Exception:
            self.close()
            raise

    @staticmethod
    def _ip(*args, check=True):
        subprocess.run(["ip", *args], check=check, capture_output=True)

    def name(self, host):
        return f"{self.tag}{'ab'[host]}"

    def inside(self, host):
        """What a command line begins with to run there."""
        return ["ip", "netns", "exec", self.name(host)]

    def link(self, host, up):
        self._ip("link", "set", self.name(host), "up" if up else "down")

    def close(self):
        for host in range(2):
            self._ip("netns", "del", self.name(host), check=False)
        self._ip("link", "del", self.tag, check=False)


class Apart(Two):
    """Two agents with addresses of their own, which speak over the network only."""
    name = "two hosts"

    def __init__(self, model, *args):
        self.hosts = Hosts()
        try:
            super().__init__(model, "--master-addr", self.hosts.bridge_address, "--insecure", "--transport", "gloo", *args)
        except BaseException:
            self.hosts.close()
            raise

    def _worker(self, host):
        return harness.Process("worker", "--master-addr", self.hosts.bridge_address, "--master-port", self.port, "--slots",
                               2, "--listen", f"{self.hosts.addresses[host]}:0", "--insecure",
                               prefix=self.hosts.inside(host))

    def stop(self):
        try:
            return super().stop()
        finally:
            self.hosts.close()


def send(pid, sig):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, sig)


KILL, STOP, CONT = signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT
