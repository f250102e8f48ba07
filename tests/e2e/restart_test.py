"""The coordinator, the local agent and the launcher killed or stopped, from outside: nothing is loaded again, nothing
fails silently, and what was accepted under an Idempotency-Key is answered once."""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import re
import resource
import signal
import socket
import threading

import httpx
import openai
import pytest

import harness

resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # some die of SIGSEGV
NULL = ["--device", "null", "--load-format", "dummy"]  # up in a moment
LONG = {"prompt": "The history of the lighthouse begins", "max_tokens": 600, "ignore_eos": True}
SAMPLINGS = [{"temperature": 0}, {"temperature": 0.8, "top_k": 50, "seed": 11}]


def child(server, verb):
    """The pid of the launcher's child that runs `verb`."""
    for pid in harness.descendants(server.pid):
        with contextlib.suppress(OSError):
            words = pathlib.Path("/proc", str(pid), "cmdline").read_bytes().split(b"\0")
            if len(words) > 1 and words[1] == verb.encode() and harness.alive(pid):
                return pid
    return None


def kill(server, verb, sig=signal.SIGKILL):
    pid = child(server, verb)
    assert pid, server.output
    os.kill(pid, sig)
    return pid


def back(server, name, times=1):
    """Waits until the launcher has said so often that its child is back, and the server is ready."""
    def said():
        assert server.running(), server.output
        return server.output.count(f"the {name} is back") >= times
    harness.until(said, 60, f"{name} is back: {server.output}")
    server.wait_ready()


def ready(server):
    """Ready, and the launcher knows: from here on it starts again what dies."""
    server.wait_ready()
    harness.until(lambda: "ready at" in server.output, 20, "the launcher knows")
    return server


def backs(server, name):
    return server.output.count(f"the {name} is back")


def post(server, body, key=None, timeout=300):
    """On a connection of its own: one that a kill broke must not be met again."""
    headers = {"Idempotency-Key": key} if key else {}
    return httpx.post(f"{server.url}/v1/completions", json=body, headers=headers, timeout=timeout, verify=False)


def begin(pool, server, body, key):
    """Sends a keyed request on a thread of `pool`, and returns when it runs."""
    harness.until(lambda: cluster(server)["running"] == 0, 30, "what ran before is over")
    reply = pool.submit(post, server, body, key)
    harness.until(lambda: cluster(server)["running"] == 1, 30, "it runs")
    return reply


def text(reply):
    return reply.raise_for_status().json()["choices"][0]["text"]


def cluster(server):
    # verify: it would read all certificates each time, while streams run.
    return httpx.get(f"{server.url}/v1/cluster", timeout=60, verify=False).raise_for_status().json()


def finished(server):
    """How many requests the present coordinator has finished."""
    metrics = httpx.get(f"{server.url}/metrics", timeout=60).text
    return sum(float(n) for n in re.findall(r"^vllm:request_success_total\{.*\} (\S+)$", metrics, re.MULTILINE))


@pytest.fixture(scope="module")
def square():
    with harness.serve(harness.GGUF, "--tensor-parallel-size", 2, "--pipeline-parallel-size", 2) as server:
        yield ready(server)


def test_a_killed_coordinator_cuts_streams_visibly_and_loads_nothing_again(square):
    undisturbed = text(post(square, {**LONG, "temperature": 0}))
    before, agent, times = cluster(square), child(square, "worker"), backs(square, "coordinator")
    client = openai.OpenAI(base_url=f"{square.url}/v1", api_key="none", max_retries=0)
    got = ""
    with pytest.raises((openai.APIError, httpx.TransportError)):
        for count, chunk in enumerate(client.completions.create(
                model="", prompt=LONG["prompt"], max_tokens=600, temperature=0, stream=True,
                extra_body={"ignore_eos": True})):
            got += chunk.choices[0].text
            if count == 20:
                kill(square, "coordinator")
    assert got and undisturbed.startswith(got) and got != undisturbed
    back(square, "coordinator", times + 1)
    after = cluster(square)
    assert after["load_bytes_read"] == 0 and after["epoch"] > before["epoch"]
    assert {r["agent"] for r in after["ranks"]} == {r["agent"] for r in before["ranks"]}
    assert child(square, "worker") == agent
    assert text(post(square, {**LONG, "temperature": 0})) == undisturbed
    assert re.search(r"shoal: the coordinator, pid \d+, was killed by signal 9 \(Killed\); it is started again in 0\.\d s",
                     square.output), square.output
    assert re.search(r"shoal: the coordinator is back, pid \d+: it was killed by signal 9 \(Killed\); "
                     r"serving again after \d+\.\d\d s", square.output), square.output


def test_a_cut_stream_has_no_end_in_its_bytes(square):
    times = backs(square, "coordinator")
    with socket.create_connection(("127.0.0.1", square.port)) as connection:
        body = b'{"prompt": "a", "max_tokens": 4000, "ignore_eos": true, "stream": true}'
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        received = b""
        while received.count(b"data: ") < 10:
            received += connection.recv(65536)
        kill(square, "coordinator")
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(65536):
                received += piece
    assert b"transfer-encoding: chunked" in received.lower()
    assert b"[DONE]" not in received and b'"error"' not in received and not received.endswith(b"0\r\n\r\n")
    back(square, "coordinator", times + 1)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "seeded"])
def test_a_keyed_request_survives_its_coordinator_and_is_answered_once(square, sampling):
    body, key = {**LONG, **sampling}, f"restart-{sampling['temperature']}"
    undisturbed, times = text(post(square, body)), backs(square, "coordinator")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        cut = begin(pool, square, body, key)
        kill(square, "coordinator")
        with pytest.raises(httpx.TransportError):
            cut.result()
        back(square, "coordinator", times + 1)
        one, two = pool.submit(post, square, body, key), pool.submit(post, square, body, key)
        assert text(one.result()) == undisturbed
        assert one.result().content == two.result().content
        assert all(r.result().headers["idempotent-replayed"] == "true" for r in (one, two))
    assert finished(square) == 1
    assert cluster(square)["load_bytes_read"] == 0
    assert post(square, {**body, "max_tokens": 1}, key).status_code == 422
    # It is kept through another death, and nothing is executed for it.
    kill(square, "coordinator")
    back(square, "coordinator", times + 2)
    assert post(square, body, key).content == one.result().content
    assert finished(square) == 0


def test_a_keyed_request_without_a_seed_keeps_the_one_that_was_drawn(square):
    body, times = {**LONG, "temperature": 1.0}, backs(square, "coordinator")
    answers = []
    with concurrent.futures.ThreadPoolExecutor() as pool:
        cut = begin(pool, square, body, "drawn")
        kill(square, "coordinator")
        with pytest.raises(httpx.TransportError):
            cut.result()
        back(square, "coordinator", times + 1)
        # Nobody has asked for it again, and it is made: killed once more, only its end can tell.
        harness.until(lambda: finished(square) == 1, 60, "it is answered without its client")
        for _ in range(2):
            answers.append(post(square, body, "drawn").raise_for_status().content)
    assert answers[0] == answers[1] and finished(square) == 1


def test_a_request_that_the_coordinator_dies_of_is_not_executed_for_ever(square):
    body, times = {**LONG, "max_tokens": 3000}, backs(square, "coordinator")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        cut = begin(pool, square, body, "poison")
        for death in range(1, 4):
            kill(square, "coordinator", signal.SIGSEGV)
            back(square, "coordinator", times + death)
            if death < 3:
                harness.until(lambda: cluster(square)["running"] == 1, 30, "it is executed again")
        with pytest.raises(httpx.TransportError):
            cut.result()
    poisoned = post(square, body, "poison")
    assert poisoned.status_code == 500 and "poisoned" in poisoned.text
    assert poisoned.headers["x-should-retry"] == "false"
    assert text(post(square, {**body, "max_tokens": 4}))


def test_a_client_of_a_keyed_request_may_go(square):
    body, before = {**LONG, "temperature": 0, "max_tokens": 200}, finished(square)
    with pytest.raises(httpx.TimeoutException):
        post(square, body, "gone", timeout=0.2)
    assert text(post(square, body, "gone")) == text(post(square, body))
    assert finished(square) == before + 2


def test_four_streams_outlive_the_local_agent(square):
    prompts = [f"{LONG['prompt']} in {place}" for place in ("Oslo", "Porto", "Cork", "Gdansk")]
    bodies = [{**LONG, **SAMPLINGS[i % 2], "prompt": prompt} for i, prompt in enumerate(prompts)]
    undisturbed = [text(post(square, body)) for body in bodies]
    times, begun, go = backs(square, "local agent"), threading.Barrier(5), threading.Event()

    def stream(body):
        got, count, done = "", 0, False
        with httpx.stream("POST", f"{square.url}/v1/completions", json={**body, "stream": True}, timeout=300) as reply:
            assert reply.status_code == 200, reply.read()
            for line in reply.iter_lines():
                done = done or line == "data: [DONE]"
                if not line.startswith("data: ") or done:
                    continue
                got += json.loads(line[6:])["choices"][0]["text"]
                count += 1
                if count == 10:
                    begun.wait(60)
                    assert go.wait(60)
        assert done
        return got

    with concurrent.futures.ThreadPoolExecutor() as pool:
        streams = [pool.submit(stream, body) for body in bodies]
        begun.wait(60)
        assert cluster(square)["running"] == 4
        kill(square, "worker")
        go.set()
        assert [s.result() for s in streams] == undisturbed
    back(square, "local agent", times + 1)
    assert re.search(r"shoal: the local agent is back, pid \d+: it was killed by signal 9 \(Killed\); "
                     r"registered again after \d+\.\d\d s", square.output), square.output


def test_a_stopped_coordinator_is_replaced(square):
    times = backs(square, "coordinator")
    stopped = kill(square, "coordinator", signal.SIGSTOP)
    back(square, "coordinator", times + 1)
    assert not harness.alive(stopped)
    assert "had been stopped for 5 s and was killed" in square.output
    assert cluster(square)["load_bytes_read"] == 0
    assert text(post(square, {**LONG, "temperature": 0, "max_tokens": 8}))


def test_external_agents_are_adopted():
    port = harness.free_port()
    workers = [harness.Process("worker", "--master-port", port, "--slots", 1) for _ in range(3)]  # one is a spare
    server = harness.Server(harness.GGUF, "--tensor-parallel-size", 2, "--workers", "external", "--master-port", port)
    try:
        ready(server)
        before = cluster(server)
        # Each time anew it is left to chance which of the three registers first.
        for death in range(1, 5):
            kill(server, "coordinator")
            back(server, "coordinator", death)
            after = cluster(server)
            assert after["load_bytes_read"] == 0
            assert [r["agent"] for r in after["ranks"]] == [r["agent"] for r in before["ranks"]]
        assert server.stop() == 0, server.output
        assert [w.stop() for w in workers] == [0, 0, 0]
    finally:
        for process in [server, *workers]:
            if process.running():
                process.kill_all()


def state_of(server, agent):
    return next((a["state"] for a in cluster(server)["agents"] if a["id"] == agent), None)


def test_a_drain_is_gone_on_with_by_the_next_coordinator():
    port = harness.free_port()
    workers = [harness.Process("worker", "--master-port", port, "--slots", 1) for _ in range(2)]
    server = harness.Server(harness.GGUF, "--tensor-parallel-size", 2, "--workers", "external", "--master-port", port)
    try:
        ready(server)
        going = cluster(server)["ranks"][1]["agent"]
        code, output = harness.run("drain", going, "--no-wait", "--url", server.url)
        assert code == 0, output
        harness.until(lambda: state_of(server, going) == "draining", 30, "it is being drained")
        kill(server, "coordinator")
        back(server, "coordinator")
        assert state_of(server, going) == "draining"
        assert cluster(server)["load_bytes_read"] == 0, "there is nobody else: its weights were adopted"
        workers.append(harness.Process("worker", "--master-port", port, "--slots", 1))
        harness.until(lambda: state_of(server, going) == "drained", 60, "its ranks have moved")
        # Both have the weights, but one of them is not to be used.
        kill(server, "coordinator")
        back(server, "coordinator", 2)
        assert state_of(server, going) == "drained"
        assert going not in [r["agent"] for r in cluster(server)["ranks"]]
        assert cluster(server)["load_bytes_read"] == 0
        assert server.stop() == 0, server.output
        assert [w.stop() for w in workers] == [0, 0, 0]
    finally:
        for process in [server, *workers]:
            if process.running():
                process.kill_all()


def test_ports_that_were_chosen_stay():
    server = harness.Process("serve", harness.GGUF, *NULL, "--port", 0)
    try:
        harness.until(lambda: "ready at" in server.output or not server.running(), 60, "ready")
        url = re.search(r"ready at (\S+)", server.output)[1]
        kill(server, "coordinator")
        harness.until(lambda: "the coordinator is back" in server.output, 60, "it is back")
        assert httpx.get(f"{url}/readyz", timeout=60).status_code == 200
        assert server.stop() == 0, server.output
    finally:
        if server.running():
            server.kill_all()


@pytest.mark.parametrize("verb", ["coordinator", "worker"])
def test_a_signal_ends_everything_while_a_child_is_down(verb, tmp_path):
    server = harness.Server(harness.GGUF, *NULL, env={"TMPDIR": str(tmp_path)})
    try:
        ready(server)
        assert os.listdir(tmp_path), "the private state directory"
        kill(server, verb)
        harness.until(lambda: "it is started again" in server.output, 20, "its end was seen")
        assert server.stop() == 0, server.output
        assert not os.listdir(tmp_path)
    finally:
        if server.running():
            server.kill_all()


def test_a_killed_launcher_leaves_no_state(tmp_path):
    server = harness.Server(harness.GGUF, *NULL, env={"TMPDIR": str(tmp_path)}).wait_ready()
    below = harness.descendants(server.pid)
    os.kill(server.pid, signal.SIGKILL)
    server.wait()
    harness.until(lambda: not [p for p in below if harness.alive(p)], 60, "children end after the launcher's death")
    assert not os.listdir(tmp_path)


def test_a_named_state_directory_outlives_serve_and_is_not_shared(tmp_path):
    body, args = {**LONG, "temperature": 0}, [harness.GGUF, "--state-dir", tmp_path / "state"]
    first = harness.Server(*args)
    try:
        first.wait_ready()
        answer = post(first, body, "kept").raise_for_status()
        code, output = harness.run("serve", *args, "--port", harness.free_port())
        assert code == 1 and "in use by another coordinator" in output, output
        with concurrent.futures.ThreadPoolExecutor() as pool:
            cut = begin(pool, first, {**body, "max_tokens": 601}, "cut")
            first.kill_all()
            with pytest.raises(httpx.TransportError):
                cut.result()
    finally:
        if first.running():
            first.kill_all()
    with harness.serve(*args) as second:
        again = post(second, body, "kept")
        assert again.content == answer.content and again.headers["idempotent-replayed"] == "true"
        assert text(post(second, {**body, "max_tokens": 601}, "cut")).startswith(text(answer))
        assert finished(second) == 1


def test_sigterm_waits_for_executions_whose_clients_have_gone(tmp_path):
    state, body = ["--state-dir", tmp_path / "state"], {**LONG, "temperature": 0}
    server = harness.Server(harness.GGUF, *state, "--shutdown-timeout", 200)
    try:
        server.wait_ready()
        with pytest.raises(httpx.TimeoutException):
            post(server, body, "gone", timeout=0.5)
        harness.until(lambda: cluster(server)["running"] == 1, 30, "it runs")
        metrics = httpx.get(f"{server.url}/metrics", timeout=60).text
        assert re.search(r"^shoal:journal_accepted_total\{.*\} 1$", metrics, re.MULTILINE), metrics
        assert server.stop(seconds=200) == 0, server.output
        assert "cut off" not in server.output
    finally:
        if server.running():
            server.kill_all()
    with harness.serve(harness.GGUF, *state) as later:
        answer = post(later, body, "gone")
        assert answer.headers["idempotent-replayed"] == "true"
        assert finished(later) == 0, "it was not executed again"
        assert text(answer)


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q", "-x", "-p", "no:cacheprovider"]))
