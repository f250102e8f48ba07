"""What the nemesis would miss: answers that are wrong must be found, and each kind of fault must come."""

import json
import os
import random
import subprocess
import sys
import pathlib

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "e2e"))

import faults  # noqa: E402
import load  # noqa: E402
import nemesis  # noqa: E402

TEXT = "one two three"
EXPECTED = [load.Choice(TEXT, "length")]
AWAY = load.Outages()
AWAY.spans = [[10.0, 20.0]]


def stream(began, ended, text="one two", error="cut: reset", reason=None, **more):
    return load.Stream({}, 0, began=began, ended=ended, choices=[load.Choice(text, reason)], error=error, **more)


def keyed(failures=(), bodies=(b"{}", b"{}"), text=TEXT, reason="length", replayed=True, **more):
    return load.Keyed({}, 0, began=1.0, ended=30.0, choices=[load.Choice(text, reason)], failures=list(failures),
                      bodies=list(bodies), replayed=replayed, **more)


@pytest.mark.parametrize("request_, wrong", [
    (stream(5, 11), None),                                      # open when the coordinator went
    (stream(12, 13, "", "refused: no connection"), None),       # asked when there was none
    (stream(12, 21, ""), None),                                 # let in by one that stood still
    (stream(5, 9), "cut"),                                      # over before
    (stream(21, 22), "cut"),                                    # the next one serves
    (stream(21, 22, "", "refused: 503"), "lost"),
    (stream(5, 11, error='{"message": "no group"}'), "lost"),   # cut must be cut, not told
    (stream(5, 11, "one too"), "differs"),
    (stream(5, 11, TEXT, done=1), "differs"),            # cut after its end
    (stream(5, 11, TEXT, None, reason="length", done=1), None),
    (stream(5, 11, TEXT, None, reason="length"), "lost"),
    (stream(5, 11, TEXT * 2, None, reason="length", done=1), "doubled"),
    (stream(5, 11, "one two", None, reason="length", done=1), "differs"),
    (stream(5, 11, "one two", None, abandon=True), None),
    (stream(5, 11, "two", None, abandon=True), "differs"),
])
def test_streams(request_, wrong):
    found = load.judge_stream(request_, EXPECTED, AWAY)
    assert (found.split(":")[0] if found else None) == wrong, found


def test_choices_and_logprobs_are_judged_one_by_one():
    said = [("one", -0.5, {"one": -0.5}), (" two", -1.0, {" two": -1.0})]
    expected = [load.Choice("one two", "length", said), load.Choice("three", "stop")]

    def judged(*choices, **more):
        found = load.judge_stream(load.Stream({"n": 2}, 0, began=5, ended=9, choices=list(choices), **more), expected, AWAY)
        return found.split(":")[0] if found else None

    whole = {"done": 1}
    assert judged(load.Choice("one two", "length", list(said)), load.Choice("three", "stop"), **whole) is None
    assert judged(load.Choice("one two", "length", list(said)), load.Choice("three"), **whole) == "lost"
    assert judged(load.Choice("one two", "length", list(said)), load.Choice("threethree", "stop"), **whole) == "doubled"
    assert judged(load.Choice("one two", "length", list(said)), load.Choice("four", "stop"), **whole) == "differs"
    off = [said[0], (" two", -1.0000001, {" two": -1.0})]
    assert judged(load.Choice("one two", "length", off), load.Choice("three", "stop"), **whole) == "differs"
    assert judged(load.Choice("one", None, said[:1]), load.Choice(), abandon=True) is None
    assert judged(load.Choice("one", None, off[1:]), load.Choice(), abandon=True) == "differs"


@pytest.mark.parametrize("request_, wrong", [
    (keyed(), None),
    (keyed([(10.5, "cut: reset"), (19, "503"), (20.1, "503")]), None),
    (keyed([(9, "cut: reset")]), "lost"),                       # a fault of ranks is nothing to a client
    (keyed([(10.5, "cut: reset"), (21, "503"), (21.2, "503")]), "lost"),
    (keyed(error="422 reused"), "lost"),
    (keyed(bodies=(b"1", b"2")), "doubled"),                    # executed twice
    (keyed(replayed=False), "doubled"),
    (keyed(text="one two"), "differs"),
    (keyed(reason="stop"), "differs"),
])
def test_keyed_requests(request_, wrong):
    found = load.judge_keyed(request_, EXPECTED, AWAY)
    assert (found.split(":")[0] if found else None) == wrong, found


class Replies:
    """In place of an HTTP client: gives one reply after the other, and keeps what was asked."""

    def __init__(self, *replies):
        self.replies, self.keys = list(replies), []

    def post(self, _path, json, headers):  # pylint: disable=redefined-outer-name
        assert json == {"prompt": "x"}
        self.keys.append(headers["Idempotency-Key"])
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply


def reply(status, text="one", **headers):
    body = {"choices": [{"index": 0, "text": text, "finish_reason": "stop"}]}
    return load.httpx.Response(status, content=json.dumps(body).encode(), headers=headers)


def test_a_keyed_request_is_asked_until_it_is_answered_and_once_more(monkeypatch):
    monkeypatch.setattr(load, "RETRY_SECONDS", 0)
    again = {"idempotent-replayed": "true"}
    http = Replies(load.httpx.ReadError("reset"), reply(503), reply(200, **again), load.httpx.ConnectError("refused"),
                   reply(200, **again))
    request = load.Keyed({"prompt": "x"}, 0)
    load.ask(http, request)
    assert request.error is None and request.choices == [load.Choice("one", "stop")] and request.replayed
    assert len(request.failures) == 3 and len(http.keys) == 5 and set(http.keys) == {request.key}

    refused = load.Keyed({"prompt": "x"}, 0)
    load.ask(Replies(reply(422)), refused)
    assert refused.error.startswith("422") and refused.ended is not None


@pytest.mark.parametrize("mode, count, others", [("one", 36, 6), ("two", 24, 6), ("apart", 30, 15)])
def test_which_faults_come(mode, count, others):
    def chosen(*without):
        return [faults.choose(i, random.Random(i), mode, without) for i in range(count)]
    rare = [kind for kind in chosen() if kind not in faults.OF_RANKS]
    assert len(rare) == others
    assert {faults.coordinator_kill, faults.agent_kill} <= set(rare)
    assert (faults.drain in rare) == (mode != "one") and (faults.partition in rare) == (mode == "apart")
    one_sided = {faults.partition_to_agent, faults.partition_to_coordinator}
    assert one_sided & set(rare) == (one_sided if mode != "one" else set())
    assert (faults.connections_cut in rare) == (mode == "two")
    assert set(chosen()) >= {faults.rank_kill, faults.rank_stop, faults.rank_stop_and_go}
    kept = chosen("coordinator_kill", "coordinator_stop")
    assert not {faults.coordinator_kill, faults.coordinator_stop} & set(kept)


class Hub:
    """In place of a cluster: keeps what is done to its control plane."""

    def __init__(self, silenced_by):
        self.silenced_by, self.done, self.controls = silenced_by, [], [self]

    def serving(self):
        return [7]

    def ranks(self):
        return [9]

    def host_of(self, agent):
        assert agent == 7
        return 0

    def hold(self, *what):
        self.done.append(what)

    def cut(self, off):
        self.done.append(off)

    def delay(self, seconds):
        self.done.append(seconds)


@pytest.mark.parametrize("toward, silenced_by, losses", [
    ("agent", ["coordinator"], {(0, 0)}),                # it is heard all the time
    ("coordinator", ["coordinator"], {(0, 0), (1, 1)}),  # by how long it lasts
    ("agent", ["agent"], {(0, 0), (1, 1)}),
])
def test_a_direction_is_held_and_released(monkeypatch, toward, silenced_by, losses):
    waits = []
    monkeypatch.setattr(faults, "_later", lambda seconds, *call: waits.append(seconds) or (lambda: call[0](*call[1:])))
    found = set()
    for seed in range(30):
        hub = Hub(silenced_by)
        done = getattr(faults, f"partition_to_{toward}")(hub, None, random.Random(seed))
        released = [(0, toward, True), (0, toward, False)]
        assert hub.done == (released[:1] if done.losses[0] else released)
        if silenced_by == [toward]:
            assert waits[-1] > 4 if done.losses == (1, 1) else waits[-1] < 2
        found.add(done.losses)
        done.after()
        assert hub.done[:2] == released
    assert found == losses and 0.5 <= min(waits) and max(waits) <= 6


def test_a_rank_is_killed_behind_a_partition(monkeypatch):
    hub = Hub([])
    monkeypatch.setattr(faults, "_later", lambda seconds, *call: lambda: call[0](*call[1:]))
    monkeypatch.setattr(faults, "send", lambda *what: hub.done.append(what))
    done = faults.partition_and_rank_kill(hub, None, random.Random(1))
    assert hub.done == [(0, "agent", True), (9, faults.KILL)] and done.losses == (1, 1) and not done.reads
    done.after()
    assert hub.done[2:] == [(0, "agent", False)]


@pytest.mark.parametrize("fault, losses", [(faults.connections_cut, (1, 1)), (faults.slow_network, (0, 0))])
def test_what_is_done_to_connections_is_undone(monkeypatch, fault, losses):
    monkeypatch.setattr(faults, "_later", lambda seconds, *call: lambda: call[0](*call[1:]))
    hub = Hub([])
    done = fault(hub, None, random.Random(1))
    assert done.losses == losses and len(hub.done) == 1 and hub.done[0]
    done.after()
    assert len(hub.done) == 2 and not hub.done[1]


def test_the_table_has_a_row_for_each_commit_cluster_and_kind():
    row = {"commit": "c", "mode": "two", "kind": "drain", "recovery_s": 0.5, "live": 5, "keyed": 3, "cut": 0, "recomputed": 7}
    rows = [row, {**row, "recovery_s": 1.5}, {**row, "kind": "coordinator_kill", "cut": 4}, {**row, "mode": "apart"}]
    lines = nemesis.table(rows).splitlines()[2:]
    assert lines == ["| c | two | drain | 2 | 1.00 | 1.50 | 1.50 | 10 | 0 | 6 | 14 |",
                     "| c | two | coordinator_kill | 1 | 0.50 | 0.50 | 0.50 | 5 | 4 | 3 | 7 |",
                     "| c | apart | drain | 1 | 0.50 | 0.50 | 0.50 | 5 | 0 | 3 | 7 |"]


def test_where_hosts_of_their_own_cannot_be_had_it_says_so(tmp_path):
    ip = tmp_path / "ip"
    ip.write_text("#!/bin/sh\necho Operation not permitted >&2\nexit 1\n")
    ip.chmod(0o755)
    script = pathlib.Path(__file__).parent / "nemesis.py"
    ended = subprocess.run([sys.executable, script, "--mode", "apart", "--faults", "1"], capture_output=True, text=True,
                           env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": ":".join(sys.path)},
                           timeout=60, check=False)
    assert ended.returncode == nemesis.NOT_HERE, ended
    assert "--mode apart cannot be had here: hosts of their own need root and iproute2 (network namespaces): " \
           "Operation not permitted" in ended.stdout, ended


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q", "-x", "-p", "no:cacheprovider"]))
