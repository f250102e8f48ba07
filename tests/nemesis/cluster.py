"""The clusters that faults are done to: real processes, tp 2 x pp 2, in one agent, or over two with a third as a spare."""

import contextlib
import os
import pathlib
import signal
import subprocess

import harness
import proxy

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

    def __init__(self, model, *args):
        self.server = harness.Server(model, *SHAPE, *args)
        self.server.wait_ready()
        # From here on the launcher starts again what dies.
        harness.until(lambda: "ready at" in self.server.output, 20, "the launcher knows that it is ready")

    def coordinator(self):
        return (below(self.server.pid, "coordinator") or [None])[0]

    def agents(self):
        return below(self.server.pid, "worker")

    def _in_state(self, state):
        return sorted(a["pid"] for a in self.server.cluster()["agents"] if a["state"] == state)

    def serving(self):
        """Agents that have ranks, as the coordinator sees it."""
        return self._in_state("serving")

    def spares(self):
        return self._in_state("spare")

    def whole(self, state):
        """Whether every agent is there, by what /v1/cluster says."""
        fit = [a["pid"] for a in state["agents"] if a["state"] in ("serving", "spare")]
        return len(self.agents()) == self.agent_count and sorted(fit) == sorted(self.agents())

    agent_count = 1

    def revive(self, _agent):
        """The launcher does it."""

    def ranks(self, agents=None):
        """Rank processes of these agents; else of those that serve: one that was given up may still end its old ranks."""
        return sorted(p for agent in (self.serving() if agents is None else agents) for p in below(agent, "rank"))

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
            self.kill()
        return None

    def kill(self):
        """Ends what still runs."""
        for process in self.all_processes():
            if process.running():
                process.kill_all()


class Control:
    """The way between the coordinator and one agent: a proxy for the calls of each to the other."""

    def __init__(self, proxies, coordinator_port):
        self.keeper, self.agent_port = proxy.reserve()
        self.to_coordinator, self.to_agent = proxies.add(coordinator_port), proxies.add(self.agent_port)

    def hold(self, toward, held):
        """Calls toward "agent" or "coordinator", and answers to what that one has called."""
        both = [self.to_agent, self.to_coordinator]
        calls, answers = both if toward == "agent" else reversed(both)
        calls.set("to_target", hold=held)
        answers.set("to_client", hold=held)

    def delay(self, seconds):
        for one in (self.to_coordinator, self.to_agent):
            for way in proxy.WAYS:
                one.set(way, delay=seconds)

    def cut(self, off):
        """The agent can be called before it can register again."""
        for one in (self.to_agent, self.to_coordinator):
            one.cut(off)


class Two(One):
    """A coordinator, two agents of two ranks each that speak over the network, and a spare agent. All that agents and the
    coordinator say to each other goes through proxies; what ranks say to each other does not."""
    agent_count = 3
    silenced_by = ("coordinator",)  # the directions without which the coordinator hears nothing of an agent

    def __init__(self, model, *args):
        self.port = harness.free_port()
        self._make_ways()
        self.workers = [self._worker(i) for i in range(self.agent_count)]
        transport = [] if "--transport" in args else ["--transport", "gloo"]
        try:
            super().__init__(model, "--workers", "external", "--master-port", self.port, *transport, *args)
            harness.until(lambda: self.whole(self.server.cluster()), 60, "all agents")
        except BaseException:
            self.kill()
            raise

    def _make_ways(self):
        self.proxies = proxy.Proxies()
        self.controls = [Control(self.proxies, self.port) for _ in range(self.agent_count)]

    def _close_ways(self):
        self.proxies.close()
        for control in self.controls:
            control.keeper.close()

    def _worker(self, host):
        control = self.controls[host]
        return harness.Process("worker", "--slots", 2, "--master-port", control.to_coordinator.port, "--listen",
                               f"127.0.0.1:{control.agent_port}", "--advertise-address", f"127.0.0.1:{control.to_agent.port}")

    def hold(self, host, toward, held):
        """A partition that lets only the other direction through."""
        self.controls[host].hold(toward, held)

    def agents(self):
        return [w.pid for w in self.workers if w.running()]

    def host_of(self, agent):
        return [w.pid for w in self.workers].index(agent)

    def revive(self, agent):
        """As a supervisor of the host would, after its death."""
        i = self.host_of(agent)
        self.workers[i].wait()
        self.workers[i] = self._worker(i)

    def restart(self, agent):
        """Stops it in order, and starts it again: how it ended, and what it had said."""
        i = self.host_of(agent)
        code, output = self.workers[i].stop(), self.workers[i].output
        self.workers[i] = self._worker(i)
        return code, output

    def all_processes(self):
        return [*([self.server] if hasattr(self, "server") else []), *self.workers]

    def kill(self):
        try:
            super().kill()
        finally:
            self._close_ways()


class NoHosts(Exception):
    """Namespaces cannot be had here."""


class Hosts:
    """Hosts as network namespaces on a bridge, so that each can be cut off. Needs root; else raises NoHosts."""
    NOBODY = "02:00:00:00:00:01"  # a hardware address that no host has

    def __init__(self, count):
        self.tag = f"sh{os.getpid() % 100000}"
        self.net = f"10.213.{os.getpid() % 250}"
        self.bridge_address = f"{self.net}.1"
        self.addresses = [f"{self.net}.{2 + i}" for i in range(count)]
        try:
            self._ip("link", "add", self.tag, "type", "bridge")
            self._ip("addr", "add", f"{self.bridge_address}/24", "dev", self.tag)
            self._ip("link", "set", self.tag, "up")
            for i, address in enumerate(self.addresses):
                self._ip("netns", "add", self.name(i))
                self._ip("link", "add", self.name(i), "type", "veth", "peer", "name", "eth0", "netns", self.name(i))
                self._ip("link", "set", self.name(i), "master", self.tag, "up")
                self._ip("-n", self.name(i), "addr", "add", f"{address}/24", "dev", "eth0")
                self._ip("-n", self.name(i), "link", "set", "eth0", "up")
                self._ip("-n", self.name(i), "link", "set", "lo", "up")
        except (OSError, subprocess.CalledProcessError) as trouble:
            self.close()
            said = getattr(trouble, "stderr", b"").decode().strip() or str(trouble)
            raise NoHosts(f"hosts of their own need root and iproute2 (network namespaces): {said}") from trouble

    @staticmethod
    def _ip(*args):
        subprocess.run(["ip", *args], check=True, capture_output=True)

    def name(self, host):
        return f"{self.tag}{'abc'[host]}"

    def inside(self, host):
        """What a command line begins with to run there."""
        return ["ip", "netns", "exec", self.name(host)]

    def link(self, host, up):
        self._ip("link", "set", self.name(host), "up" if up else "down")

    def hold(self, host, toward, held):
        """Drops without a word all that goes to this host (toward "agent"), or all that it sends (toward "coordinator")."""
        inside = [("-n", self.name(h), "eth0", address) for h, address in enumerate(self.addresses)]
        everybody = [*inside, (self.tag, self.bridge_address)]
        this, others = everybody[host], [e for i, e in enumerate(everybody) if i != host]
        for sender, receiver in [(o, this) for o in others] if toward == "agent" else [(this, o) for o in others]:
            *where, device = sender[:-1]
            if held:
                self._ip(*where, "neigh", "replace", receiver[-1], "lladdr", self.NOBODY, "dev", device, "nud", "permanent")
            else:
                self._ip(*where, "neigh", "del", receiver[-1], "dev", device)

    def close(self):
        gone = [["netns", "del", self.name(host)] for host in range(len(self.addresses))] + [["link", "del", self.tag]]
        for args in gone:
            with contextlib.suppress(OSError, subprocess.CalledProcessError):
                self._ip(*args)


class Apart(Two):
    """The agents have addresses of their own, and can be cut off, ranks and all."""
    silenced_by = ("agent", "coordinator")  # TCP sends little that is new where nothing is acknowledged

    def __init__(self, model, *args):
        self.hosts = Hosts(self.agent_count)
        super().__init__(model, "--master-addr", self.hosts.bridge_address, "--insecure", *args)

    def _make_ways(self):
        """They are there: the hosts."""

    def _close_ways(self):
        self.hosts.close()

    def hold(self, host, toward, held):
        self.hosts.hold(host, toward, held)

    def _worker(self, host):
        return harness.Process("worker", "--master-addr", self.hosts.bridge_address, "--master-port", self.port, "--slots",
                               2, "--listen", f"{self.hosts.addresses[host]}:0", "--insecure",
                               prefix=self.hosts.inside(host))


def send(pid, sig):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, sig)


KILL, STOP, CONT = signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT
