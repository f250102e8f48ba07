"""Ranks killed with -9 under a running stream: the stream pauses and continues, and no byte of it changes."""

import contextlib
import json
import os
import pathlib
import signal

import pytest

import harness

LONG = {"prompt": "The history of the lighthouse begins", "max_tokens": 300, "ignore_eos": True}
SAMPLINGS = [{"temperature": 0}, {"temperature": 0.8, "top_k": 50, "seed": 11}]


def rank_pids(server):
    """Rank processes that live, from /proc: also those that no heartbeat has told of yet."""
    found = []
    for pid in harness.descendants(server.pid):
        with contextlib.suppress(OSError):
            words = pathlib.Path("/proc", str(pid), "cmdline").read_bytes().split(b"\0")
            if b"rank" in words and harness.alive(pid):
                found.append(pid)
    return sorted(found)


def kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def stream(server, sampling, at, trouble):
    """The text of a streamed completion; `trouble` is called once, when `at` events have come."""
    text, count = "", 0
    with server.http.stream("POST", "/v1/completions", json={**LONG, **sampling, "stream": True}) as reply:
        assert reply.status_code == 200, reply.read()
        last = None
        for line in reply.iter_lines():
            if not line.startswith("data: "):
                continue
            last = line[6:]
            if last == "[DONE]":
                continue
            text += json.loads(last)["choices"][0]["text"]
            count += 1
            if count == at:
                trouble()
        assert last == "[DONE]"
    return text


@pytest.fixture(scope="module")
def server():
    with harness.serve(harness.GGUF, "--tensor-parallel-size", 2, "--pipeline-parallel-size", 2) as running:
        yield running


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "seeded"])
@pytest.mark.parametrize("victim", [0, 3])
def test_a_rank_killed_mid_stream_changes_nothing(server, sampling, victim):
    undisturbed = server.text(**LONG, **sampling)
    before = server.cluster()

    def told():
        pids = [r["pid"] for r in server.cluster()["ranks"]]
        return pids if sorted(pids) == rank_pids(server) else None
    pids = harness.until(told, 10, "a heartbeat with the present pids")
    assert stream(server, sampling, 20, lambda: kill(pids[victim])) == undisturbed
    after = server.cluster()
    assert after["groups_formed"] == before["groups_formed"] + 1 and after["epoch"] > before["epoch"]
    assert pids[victim] not in rank_pids(server)
    assert after["load_bytes_read"] == 0  # weights are owned by the agent
    # So is the KV cache: the stream went on with it, and nothing was computed again.
    assert after["resumed"] == before["resumed"] + 1
    assert after["recomputed_tokens"] == before["recomputed_tokens"]


def test_ranks_killed_again_while_they_start_are_started_again(server):
    undisturbed = server.text(**LONG, **SAMPLINGS[0])
    before = server.cluster()

    def massacre():
        """Every rank that is seen, as soon as it is seen, until three generations have gone."""
        for _ in range(3):
            for pid in (pids := harness.until(lambda: rank_pids(server), 20, "ranks")):
                kill(pid)
            harness.until(lambda: not set(pids) & set(rank_pids(server)), 20, "their end")

    assert stream(server, SAMPLINGS[0], 20, massacre) == undisturbed
    assert server.running() and server.cluster()["epoch"] > before["epoch"] + 1


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q", "-x", "-p", "no:cacheprovider"]))
