"""What goes wrong. A fault is a function (cluster, load, rng) that does it and returns a Done."""

import dataclasses
import multiprocessing
import os
import threading
import time

import harness
from cluster import CONT, KILL, STOP, send


@dataclasses.dataclass
class Done:
    detail: str
    losses: tuple = (0, 0)  # how often the group may be lost because of it: from, to
    seconds: float = 10     # within which every stream goes on
    after: object = None    # to be called when it is over; what it returns is wrong
    outage: bool = False    # the coordinator is replaced: what is open is cut, its counters begin anew
    reads: bool = True      # weights may be read because of it


def rank_kill(cluster, _load, rng):
    victim = rng.choice(cluster.ranks())
    send(victim, KILL)
    return Done(f"SIGKILL of rank process {victim}", (1, 1), reads=False)


def rank_stop(cluster, _load, rng):
    victim = rng.choice(cluster.ranks())
    send(victim, STOP)
    return Done(f"SIGSTOP of rank process {victim}", (1, 1), reads=False)


def rank_stop_and_go(cluster, _load, rng):
    """The zombie comes back: nothing that it still does may count. Where cores are busy its agent may get to look only after
    it has come back; then nothing was lost."""
    victim, pause = rng.choice(cluster.ranks()), rng.uniform(0.001, 0.05)
    send(victim, STOP)
    time.sleep(pause)
    send(victim, CONT)
    return Done(f"SIGSTOP, {1000 * pause:.0f} ms later SIGCONT of rank process {victim}", (0, 1), reads=False)


def two_ranks(cluster, _load, rng):
    """The second one while the group comes back."""
    agents, pause = cluster.serving(), rng.uniform(0, 0.15)
    first = rng.choice(cluster.ranks(agents))
    send(first, KILL)
    time.sleep(pause)
    others = [p for p in cluster.ranks(agents) if p != first]
    if others:
        send(rng.choice(others), KILL)
    return Done(f"SIGKILL of two rank processes, {1000 * pause:.0f} ms apart", (1, 2), reads=False)


def all_ranks(cluster, _load, _rng):
    victims = cluster.ranks()
    for victim in victims:
        send(victim, KILL)
    return Done(f"SIGKILL of all {len(victims)} rank processes", (1, 1), reads=False)


def disconnect(_cluster, load, rng):
    live = load.live()
    for stream in rng.sample(live, min(len(live), 2)):
        stream.abandon = True
    return Done("two clients go away")


def _spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def slow_rank(cluster, _load, rng):
    """One rank gets a small share of one core for a second. That is no fault of the cluster's: nothing may be lost."""
    victim = rng.choice(cluster.ranks())
    cores = sorted(os.sched_getaffinity(0))
    for task in os.listdir(f"/proc/{victim}/task"):
        os.sched_setaffinity(int(task), {cores[0]})
    spinner = multiprocessing.get_context("spawn").Process(target=_spin, args=(1.0,))
    spinner.start()
    os.sched_setaffinity(spinner.pid, {cores[0]})

    def after():
        spinner.join()
        for task in os.listdir(f"/proc/{victim}/task"):
            os.sched_setaffinity(int(task), set(cores))
    return Done(f"rank process {victim} shares a core with a busy loop", seconds=30, after=after)


def _later(seconds, *call):
    """Does it in a while; returns what waits for it."""
    timer = threading.Timer(seconds, call[0], call[1:])
    timer.start()
    return timer.join


def agent_kill(cluster, _load, rng):
    victim = rng.choice(cluster.serving())
    send(victim, KILL)
    after = _later(rng.uniform(0, 1), cluster.revive, victim)
    return Done(f"SIGKILL of agent process {victim}", (1, 2), seconds=30, after=after)


def agent_and_spare_kill(cluster, _load, rng):
    """Only an agent that is started anew can take the place."""
    victim, spares = rng.choice(cluster.serving()), cluster.spares()
    for pid in [*spares, victim]:
        send(pid, KILL)
    waits = [_later(rng.uniform(0, 1), cluster.revive, pid) for pid in [*spares, victim]]
    return Done(f"SIGKILL of agent process {victim} and of {len(spares)} spare", (1, 2), seconds=30,
                after=lambda: [wait() for wait in waits] and None)


def agent_stop_and_go(cluster, _load, rng):
    """Longer than the coordinator waits: the agent that comes back has been given up, and must start afresh."""
    victim = rng.choice(cluster.serving())
    send(victim, STOP)
    return Done(f"SIGSTOP, 4 s later SIGCONT of agent process {victim}", (1, 2), seconds=30,
                after=_later(4, send, victim, CONT))


def coordinator_kill(cluster, load, _rng):
    victim = cluster.coordinator()
    load.outages.begin()
    send(victim, KILL)
    return Done(f"SIGKILL of coordinator process {victim}", (1, 1), seconds=60, outage=True, reads=False)


def coordinator_stop(cluster, load, _rng):
    """The launcher gives it up after 5 s. Until then clients wait for it."""
    victim = cluster.coordinator()
    load.outages.begin()
    send(victim, STOP)
    return Done(f"SIGSTOP of coordinator process {victim}", (1, 1), seconds=60, outage=True, reads=False)


def drain(cluster, _load, rng):
    """One agent gives its ranks to the spare, ends, and is the next spare."""
    victim = rng.choice(cluster.serving())
    found = next(a["id"] for a in cluster.server.cluster()["agents"] if a["pid"] == victim)
    command = harness.Process("drain", found, "--url", cluster.server.url)
    try:
        code = command.wait(60)
    finally:
        if command.running():
            command.kill_all()
    drained = code == 0 and "is drained" in command.output

    def after():
        ended = cluster.restart(victim)
        if not drained:
            return f"`shoal drain` ended with {code}: {command.output}"
        return f"the drained agent ended with {ended[0]}: {ended[1][-2000:]}" if ended[0] != 0 else None
    return Done(f"drain of agent process {victim}", (1, 1), seconds=60, after=after, reads=False)


def partition(cluster, _load, rng):
    """Shorter or longer than the coordinator waits. The host that comes back is used again, with what it holds."""
    host, seconds = cluster.host_of(rng.choice(cluster.serving())), rng.choice([0.5, 1.0, 4.0, 6.0])
    cluster.hosts.link(host, up=False)
    after = _later(seconds, cluster.hosts.link, host, True)
    if seconds < 3:
        after()  # nothing flows before
    return Done(f"host {host} is cut off for {seconds} s", (0 if seconds < 3 else 1, 2), seconds=60, after=after)


def _one_sided(cluster, rng, toward):
    """Where that silences the agent it is given up after three seconds: this is clearly shorter, also when TCP has to wait for
    its turn to send again (1.4 s after the first time), or longer. Then the spare
    takes the place, once, and who is heard again is the next spare. An agent that is heard, but gets no plans, would be
    given up after ten seconds: never here."""
    host, silent = cluster.host_of(rng.choice(cluster.serving())), toward in cluster.silenced_by
    seconds = rng.choice([rng.uniform(0.5, 1.2), rng.uniform(4.5, 6)]) if silent else rng.uniform(0.5, 6)
    lost = silent and seconds > 3
    cluster.hold(host, toward, True)
    after = _later(seconds, cluster.hold, host, toward, False)
    if not lost:
        after()  # nothing flows before
    return Done(f"nothing gets from host {host} to others for {seconds:.1f} s" if toward == "coordinator" else
                f"nothing gets to host {host} for {seconds:.1f} s", (1, 1) if lost else (0, 0), seconds=60, after=after)


def partition_to_agent(cluster, _load, rng):
    return _one_sided(cluster, rng, "agent")


def partition_to_coordinator(cluster, _load, rng):
    return _one_sided(cluster, rng, "coordinator")


def partition_and_rank_kill(cluster, _load, rng):
    """A group that has to be formed anew while one agent, which is heard, cannot be told. It is waited for (a join may take
    much longer), and all is as it was when it has heard. Only where ranks go on to reach each other."""
    host, seconds, pause = cluster.host_of(rng.choice(cluster.serving())), rng.uniform(1, 6), rng.uniform(0, 0.5)
    victim = rng.choice(cluster.ranks())
    cluster.hold(host, "agent", True)
    time.sleep(pause)
    send(victim, KILL)
    return Done(f"nothing gets to host {host} for {pause + seconds:.1f} s, SIGKILL of rank process {victim} after "
                f"{1000 * pause:.0f} ms", (1, 1), seconds=60, after=_later(seconds, cluster.hold, host, "agent", False),
                reads=False)


def connections_cut(cluster, _load, rng):
    """The coordinator cannot tell it from a death of the agent, and the agent not from one of the coordinator's: the group
    is formed with the spare, once, while the agent comes back."""
    host, seconds = cluster.host_of(rng.choice(cluster.serving())), rng.uniform(0.1, 1)
    cluster.controls[host].cut(True)
    return Done(f"all connections of agent {host} are reset, and refused for {1000 * seconds:.0f} ms", (1, 1), seconds=30,
                after=_later(seconds, cluster.controls[host].cut, False))


def slow_network(cluster, _load, rng):
    """Of the control plane of one agent. That is no fault: nothing may be lost."""
    host, delay, seconds = cluster.host_of(rng.choice(cluster.serving())), rng.uniform(0.01, 0.08), rng.uniform(1, 4)
    cluster.controls[host].delay(delay)
    return Done(f"what agent {host} and the coordinator say takes {1000 * delay:.0f} ms longer, for {seconds:.1f} s", seconds=30,
                after=_later(seconds, cluster.controls[host].delay, 0))


OF_RANKS = {rank_kill: 4, rank_stop: 3, rank_stop_and_go: 3, two_ranks: 2, all_ranks: 1, disconnect: 2, slow_rank: 1}
# Of what lives longer than ranks, in turn, so that a short campaign has all kinds: (every so many faults, these).
OF_OTHERS = {
    "one": (6, [coordinator_kill, agent_kill, coordinator_stop, agent_stop_and_go]),
    "two": (4, [drain, partition_to_coordinator, coordinator_kill, partition_to_agent, agent_kill, connections_cut, slow_network,
                agent_stop_and_go, partition_and_rank_kill, drain, agent_and_spare_kill, partition_to_coordinator,
                coordinator_stop, partition_to_agent, connections_cut]),
    "apart": (2, [partition, drain, partition_to_agent, coordinator_kill, partition_to_coordinator, agent_kill, partition,
                  agent_and_spare_kill, partition_to_agent, agent_stop_and_go, partition_to_coordinator, coordinator_stop]),
}


def choose(index, rng, mode, without=()):
    """The kind of the fault of this number."""
    every, others = OF_OTHERS[mode]
    others = [kind for kind in others if kind.__name__ not in without]
    if index % every == every - 1:
        return others[index // every % len(others)]
    return rng.choices(list(OF_RANKS), list(OF_RANKS.values()))[0]
