"""Agents that go: drained while streams run, killed with a spare there, killed with none. And a server that is told to
stop while streams run. No answer changes."""

import contextlib
import json
import os
import signal
import threading

import httpx
import pytest

import harness

PROMPTS = ["The history of the lighthouse begins", "In the middle of the forest", "A good recipe for bread",
           "The engineer looked at the bridge"]
SAMPLINGS = [{"temperature": 0}, {"temperature": 0.8, "top_k": 50, "seed": 11}, {"temperature": 0},
             {"temperature": 0.7, "seed": 5}]
LONG = {"max_tokens": 300, "ignore_eos": True}
MODEL = harness.GGUF


class Streams:
    """Four streams at once; `middle` is set when each of them has had its tenth event."""

    def __init__(self, server, **more):
        self.more = {**LONG, **more, "stream": True, "stream_options": {"include_usage": True}}
        self.server, self.texts, self.errors, self.fingerprints = server, [""] * 4, [], [[] for _ in range(4)]
        self.counts, self.middle, self.lock = [0] * 4, threading.Event(), threading.Lock()
        self.tokens = [0] * 4
        self.threads = [threading.Thread(target=self._run, args=(i,)) for i in range(4)]
        for thread in self.threads:
            thread.start()

    def _run(self, i):
        try:
            self._read(i)
        except Exception as error:  # pylint: disable=broad-except
            self.errors.append(repr(error))

    def _read(self, i):
        body = {"prompt": PROMPTS[i], **SAMPLINGS[i], **self.more}
        last = None
        with httpx.stream("POST", self.server.url + "/v1/completions", json=body, timeout=300) as reply:
            assert reply.status_code == 200, reply.read()
            for line in reply.iter_lines():
                if not line.startswith("data: "):
                    continue
                last = line[6:]
                if last == "[DONE]":
                    continue
                event = json.loads(last)
                if not event["choices"]:
                    self.tokens[i] = event["usage"]["completion_tokens"]
                    continue
                self.texts[i] += event["choices"][0]["text"]
                if event["system_fingerprint"] not in self.fingerprints[i][-1:]:
                    self.fingerprints[i].append(event["system_fingerprint"])
                with self.lock:
                    self.counts[i] += 1
                    if min(self.counts) >= 10:
                        self.middle.set()
        assert last == "[DONE]", last

    def wait_middle(self):
        assert self.middle.wait(120), self.errors
        assert all(thread.is_alive() for thread in self.threads), "a stream ended too early for this test"

    def finish(self):
        for thread in self.threads:
            thread.join(240)
        assert not self.errors, self.errors
        assert self.tokens == [self.more["max_tokens"]] * 4
        return self.texts


@contextlib.contextmanager
def cluster(slots, *args):
    """A server without agents of its own, and one agent for each count of slots: (server, agents). All must end with 0,
    but for those that the test has killed."""
    port = harness.free_port()
    server = harness.Server(MODEL, "--workers", "external", "--master-port", port, "--nnodes", 2, *args)
    if "--api-key" in args:
        server.http.headers["Authorization"] = f"Bearer {args[args.index('--api-key') + 1]}"
    workers = []
    try:
        harness.until(lambda: "waiting for agents" in server.output or not server.running(), 60, "the server waits")
        for n in slots:
            workers.append(harness.Process("worker", "--master-port", port, "--slots", n, "--threads", 1,
                                           "--device", "null" if "null" in args else "cpu"))
            seen = len(workers)
            harness.until(lambda: len(server.cluster()["agents"]) == seen, 30, "an agent")  # pylint: disable=W0640
        server.wait_ready()
        yield server, workers
        assert server.stop() == 0, server.output
        for worker in workers:
            assert not worker.running() or worker.stop() == 0, worker.output
    finally:
        for process in [server, *workers]:
            if process.running():
                process.kill_all()


def agent_of(server, worker):
    return next(a for a in server.cluster()["agents"] if a["pid"] == worker.pid)


def test_a_drained_agent_is_missed_by_nobody():
    with cluster([1, 1, 1], "--tensor-parallel-size", 2) as (server, (_, victim, spare)):
        expected = Streams(server).finish()  # undisturbed
        before = server.cluster()
        agent = agent_of(server, victim)
        assert agent["state"] == "serving" and agent_of(server, spare)["state"] == "spare"
        streams = Streams(server)
        streams.wait_middle()
        code, output = harness.run("drain", agent["id"][:8], "--url", server.url)
        assert code == 0 and "1 rank moves to another agent" in output and "is drained" in output, output
        assert any(thread.is_alive() for thread in streams.threads), "nothing ran when the ranks moved"
        after = server.cluster()
        assert after["groups_formed"] == before["groups_formed"] + 1
        assert after["load_bytes_read"] == 0  # the spare had read its shard before, the one that stays read nothing
        assert agent["id"] not in [r["agent"] for r in after["ranks"]]
        assert agent_of(server, victim)["state"] == "drained" and agent_of(server, spare)["state"] == "serving"
        # It may be stopped: nobody notices.
        assert victim.stop() == 0, victim.output
        assert streams.finish() == expected
        assert server.cluster()["groups_formed"] == after["groups_formed"]


def test_answers_about_agents_that_cannot_be_drained():
    keys = ["--api-key", "k", "--admin-api-key", "admin"]
    with cluster([1, 1], "--tensor-parallel-size", 2, *keys) as (server, (_, victim)):
        url = ["--url", server.url]
        code, output = harness.run("drain", "nobody", *url, "--api-key", "admin")
        assert code == 1 and "there is no agent 'nobody'" in output, output
        code, output = harness.run("drain", "nobody", *url, "--api-key", "k")
        assert code == 1 and "admin API key" in output, output
        code, output = harness.run("drain", "nobody", *url)
        assert code == 1 and "API key" in output, output
        code, output = harness.run("drain", *url)
        assert code == 2 and "no agent given" in output, output


def test_the_local_agent_may_be_stopped_once_it_is_drained():
    server = harness.Server(MODEL, "--master-port", (port := harness.free_port()))
    worker = None
    try:
        server.wait_ready()
        local = server.cluster()["agents"][0]
        harness.until(lambda: "ready at" in server.output, 20, "the launcher knows")
        worker = harness.Process("worker", "--master-port", port, "--slots", 1, "--threads", 1)
        harness.until(lambda: len(server.cluster()["agents"]) == 2, 30, "the spare")
        expected = Streams(server).finish()
        streams = Streams(server)
        streams.wait_middle()
        code, output = harness.run("drain", local["id"], "--url", server.url)
        assert code == 0 and "it may be stopped" in output, output
        os.kill(local["pid"], signal.SIGTERM)
        harness.until(lambda: "ended as it was told to" in server.output, 30, server.output)
        assert streams.finish() == expected
        assert [a["pid"] for a in server.cluster()["agents"]] == [worker.pid]
        assert server.text("The ocean", max_tokens=4)
        assert server.stop() == 0, server.output
        assert worker.stop() == 0, worker.output
    finally:
        for process in [server, worker]:
            if process is not None and process.running():
                process.kill_all()


def test_drain_waits_for_a_replacement():
    with cluster([1, 1], "--tensor-parallel-size", 2) as (server, workers):
        agent = agent_of(server, workers[1])
        drain = harness.Process("drain", agent["id"], "--url", server.url)
        try:
            harness.until(lambda: "no replacement yet" in drain.output, 30, f"it says what it waits for: {drain.output}")
            assert agent_of(server, workers[1])["state"] == "draining"
            code, output = harness.run("drain", agent["id"], "--no-wait", "--url", server.url)
            assert code == 0 and "already" in output, output
            assert server.text("The ocean", max_tokens=4)  # it serves meanwhile
            port = server.args[server.args.index("--master-port") + 1]
            workers.append(harness.Process("worker", "--master-port", port, "--slots", 1, "--threads", 1))
            assert drain.wait(60) == 0, drain.output
        finally:
            if drain.running():
                drain.kill_all()
        code, output = harness.run("drain", agent["id"], "--url", server.url)
        assert code == 0 and "drained before" in output, output
        code, output = harness.run("status", "--url", server.url)
        assert code == 0 and "drained" in output and agent["id"] in output, output


def test_a_killed_agent_with_a_spare():
    with cluster([1, 1, 1], "--tensor-parallel-size", 2) as (server, (_, victim, _)):
        expected = Streams(server).finish()  # undisturbed
        streams = Streams(server)
        streams.wait_middle()
        os.kill(victim.pid, signal.SIGKILL)
        assert streams.finish() == expected
        after = server.cluster()
        assert after["groups_formed"] == 2 and after["reforms"] == 0 and after["reformed_from"] is None
        assert after["recomputed_tokens"] > 0


def test_a_killed_agent_without_a_spare():
    layout = ["--tensor-parallel-size", 2, "--pipeline-parallel-size", 2, "--replace-timeout", 2]
    with cluster([2, 2], *layout) as (server, (stays, victim)):
        first = server.cluster()["numerics_id"]
        streams = Streams(server)
        streams.wait_middle()
        shown = list(streams.texts)
        os.kill(victim.pid, signal.SIGKILL)
        texts = streams.finish()
        after = server.cluster()
        assert len(after["ranks"]) == 2 and {r["agent"] for r in after["ranks"]} == {agent_of(server, stays)["id"]}
        assert after["reformed_from"] == {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}
        assert after["reforms"] == 1 and after["numerics_id"] != first
        assert "shoal:reforms_total" in server.http.get("/metrics").text
        for text, before, fingerprints in zip(texts, shown, streams.fingerprints):
            assert text.startswith(before)
            assert fingerprints == [first, after["numerics_id"]]
        reply = server.complete("The ocean", max_tokens=4)
        assert reply.status_code == 200 and reply.headers["x-shoal-reforms"] == "0"


def test_no_token_is_lost_or_said_twice_in_another_layout():
    # The null device's text depends on nothing but the tokens before: it is the same in every layout.
    layout = ["--tensor-parallel-size", 2, "--pipeline-parallel-size", 2, "--replace-timeout", 1]
    null = ["--device", "null", "--load-format", "dummy", "--max-model-len", 1024]
    with cluster([2, 2], *layout, *null) as (server, (_, victim)):
        expected = Streams(server, max_tokens=600).finish()
        streams = Streams(server, max_tokens=600)
        streams.wait_middle()
        os.kill(victim.pid, signal.SIGKILL)
        assert streams.finish() == expected
        assert server.cluster()["reforms"] == 1


@pytest.mark.parametrize("waiting", [False, True], ids=["running", "queued"])
def test_what_was_accepted_before_sigterm_is_finished(waiting):
    limit = ["--max-num-seqs", 1] if waiting else []
    server = harness.Server(MODEL, "--shutdown-timeout", 200, *limit)
    try:
        server.wait_ready()
        body = {"prompt": "Once upon a time", "max_tokens": 200, "temperature": 0, "ignore_eos": True, "stream": True}
        ends = []
        first = threading.Event()

        def read():
            with httpx.stream("POST", server.url + "/v1/completions", json=body, timeout=300) as reply:
                for line in reply.iter_lines():
                    first.set()
                    if line.startswith("data: "):
                        ends.append(line) if "[DONE]" in line else None  # pylint: disable=expression-not-assigned

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert first.wait(60)
        harness.until(lambda: server.cluster()["waiting" if waiting else "running"] == (1 if waiting else 2), 30, "both")
        server.process.send_signal(signal.SIGTERM)
        harness.until(lambda: server.http.get("/readyz").status_code == 503, 10, "not ready")
        assert server.http.get("/livez").status_code == 200
        late = server.complete("a", max_tokens=1)
        assert late.status_code == 503 and "retry-after" in late.headers and late.headers["connection"] == "close"
        for thread in threads:
            thread.join(240)
        assert len(ends) == 2, server.output
        assert server.wait(60) == 0, server.output
        assert "cut off" not in server.output
    finally:
        if server.running():
            server.kill_all()


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q", "-x", "-p", "no:cacheprovider"]))
