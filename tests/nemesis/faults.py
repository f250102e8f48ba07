"""What goes wrong. A fault is a function (cluster, load, rng) that does it and returns a Done."""

import dataclasses
import multiprocessing
import os
import threading
import time

from cluster import CONT, KILL, STOP, send


@dataclasses.dataclass
class Done:
    detail: str
    losses: tuple = (0, 0)  # how often the group may be lost because of it: from, to
    seconds: float = 10     # within which every stream goes on
    after: object = None    # to be called when it is over


def rank_kill(cluster, _load, rng):
    victim = rng.choice(cluster.ranks())
    send(victim, KILL)
    return Done(f"SIGKILL of rank process {victim}", (1, 1))


def rank_stop(cluster, _load, rng):
    victim = rng.choice(cluster.ranks())
    send(victim, STOP)
    return Done(f"SIGSTOP of rank process {victim}", (1, 1))


def rank_stop_and_go(cluster, _load, rng):
    """The zombie comes back: nothing that it still does may count."""
    victim, pause = rng.choice(cluster.ranks()), rng.uniform(0.001, 0.05)
    send(victim, STOP)
    time.sleep(pause)
    send(victim, CONT)
    return Done(f"SIGSTOP, {1000 * pause:.0f} ms later SIGCONT of rank process {victim}", (1, 1))


def two_ranks(cluster, _load, rng):
    """The second one while the group comes back."""
    first, pause = rng.choice(cluster.ranks()), rng.uniform(0, 0.15)
    send(first, KILL)
    time.sleep(pause)
    others = [p for p in cluster.ranks() if p != first]
    if others:
        send(rng.choice(others), KILL)
    return Done(f"SIGKILL of two rank processes, {1000 * pause:.0f} ms apart", (1, 2))


def all_ranks(cluster, _load, _rng):
    victims = cluster.ranks()
    for victim in victims:
        send(victim, KILL)
    return Done(f"SIGKILL of all {len(victims)} rank processes", (1, 1))


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


def agent_kill(cluster, _load, rng):
    victim = rng.choice(cluster.agents())
    send(victim, KILL)
    threading.Timer(rng.uniform(0, 1), cluster.revive, [victim]).start()
    return Done(f"SIGKILL of agent process {victim}", (1, 2), seconds=30)


def agent_stop_and_go(cluster, _load, rng):
    """Longer than the coordinator waits: the agent that comes back has been given up, and must start afresh."""
    victim = rng.choice(cluster.agents())
    send(victim, STOP)
    threading.Timer(4, send, [victim, CONT]).start()
    return Done(f"SIGSTOP, 4 s later SIGCONT of agent process {victim}", (1, 2), seconds=30)


def partition(cluster, _load, rng):
    """Shorter or longer than the coordinator waits. The host that comes back is used again, with what it holds."""
    host, seconds = rng.randrange(2), rng.choice([0.5, 1.0, 4.0, 6.0])
    cluster.hosts.link(host, up=False)
    threading.Timer(seconds, cluster.hosts.link, [host, True]).start()
    return Done(f"host {host} is cut off for {seconds} s", (0 if seconds < 3 else 1, 2), seconds=60)


OF_RANKS = {rank_kill: 4, rank_stop: 3, rank_stop_and_go: 3, two_ranks: 2, all_ranks: 1, disconnect: 2, slow_rank: 1}
OF_AGENTS = {agent_kill: 2, agent_stop_and_go: 1}


def choose(index, rng, cluster):
    """Every sixth fault is one of an agent or its host."""
    kinds = OF_RANKS
    if index % 6 == 5:
        kinds = {**OF_AGENTS, partition: 3} if cluster.hosts is not None else OF_AGENTS
    return rng.choices(list(kinds), list(kinds.values()))[0]
