"""SIGTERM while requests run: not ready at once, nothing new is let in, what runs is finished, then all ends with 0."""

import json
import pathlib
import signal
import sys
import threading

import openai
import pytest

import conftest  # noqa: F401  (finds the harness)
import harness

LONG = {"prompt": "Once upon a time", "max_tokens": 400, "temperature": 0, "ignore_eos": True}


def stream(server, got):
    with server.http.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: "):
                got.append(line[6:])


def test_what_runs_is_finished():
    server = harness.Server(harness.GGUF, "--shutdown-timeout", 60)
    try:
        server.wait_ready()
        got, whole = [], []
        threads = [threading.Thread(target=stream, args=(server, got)),
                   threading.Thread(target=lambda: whole.append(server.http.post("/v1/completions", json=LONG)))]
        for thread in threads:
            thread.start()
        harness.until(lambda: len(got) > 3 and server.cluster()["running"] == 2, 30, "two running requests")
        server.process.send_signal(signal.SIGTERM)
        harness.until(lambda: server.http.get("/readyz").status_code == 503, 10, "not ready")
        late = server.http.post("/v1/completions", json={**LONG, "max_tokens": 1})
        assert late.status_code == 503 and "retry-after" in late.headers and late.headers["connection"] == "close"
        with openai.OpenAI(base_url=server.url + "/v1", api_key="any", max_retries=0) as client:
            with pytest.raises(openai.InternalServerError) as refused:
                client.completions.create(model=server.http.get("/v1/models").json()["data"][0]["id"], prompt="a")
        assert refused.value.status_code == 503 and refused.value.code == "service_unavailable"
        for thread in threads:
            thread.join(120)
        assert got[-1] == "[DONE]"
        assert json.loads(got[-2])["choices"][0]["finish_reason"] == "length"
        assert whole[0].status_code == 200 and whole[0].json()["usage"]["completion_tokens"] == 400
        assert server.wait(60) == 0, server.output
    finally:
        if server.running():
            server.kill_all()


def test_what_takes_too_long_gets_an_error():
    server = harness.Server(harness.GGUF, "--shutdown-timeout", 0)
    try:
        server.wait_ready()
        got = []
        thread = threading.Thread(target=lambda: got.append(
            server.http.post("/v1/completions", json={**LONG, "max_tokens": 6000})))
        thread.start()
        harness.until(lambda: server.cluster()["running"] == 1, 30, "a running request")
        server.process.send_signal(signal.SIGTERM)
        thread.join(60)
        assert got[0].status_code == 503 and got[0].json()["error"]["code"] == "service_unavailable"
        assert server.wait(60) == 1 and "1 request cut off" in server.output, server.output
    finally:
        if server.running():
            server.kill_all()


def test_10_a_stream_that_is_broken_off_raises_in_the_client():
    server = harness.Server(harness.GGUF, "--shutdown-timeout", 0)
    try:
        server.wait_ready()
        model = server.http.get("/v1/models").json()["data"][0]["id"]
        with openai.OpenAI(base_url=server.url + "/v1", api_key="any", max_retries=0, timeout=120) as client:
            chunks = client.completions.create(model=model, prompt="Once upon a time", max_tokens=6000, stream=True,
                                               extra_body={"ignore_eos": True})
            assert next(iter(chunks)).choices
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(openai.APIError) as broken:
                for chunk in chunks:
                    assert chunk.choices[0].finish_reason is None
        assert broken.value.body["code"] == "service_unavailable", broken.value
        assert server.wait(60) == 1 and "1 request cut off" in server.output, server.output
    finally:
        if server.running():
            server.kill_all()


if __name__ == "__main__":
    sys.exit(pytest.main([str(pathlib.Path(__file__)), "-v", "-p", "no:cacheprovider"]))
