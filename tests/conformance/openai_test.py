"""What OpenAI clients rely on, tried with the official Python client and, where bytes matter, with a plain HTTP one.

Each test names the assertion it stands for: the numbered list in tests/conformance/README.md.
"""

import json
import os
import pathlib
import re
import signal
import socket
import sys
import threading
import time

import httpx
import openai
import pytest

from conftest import KEY, MODEL
import harness

MESSAGES = [{"role": "user", "content": "Tell me about the sea."}]
FINISH_REASONS = {"stop", "length", "tool_calls", "content_filter", "function_call"}


def chat(client, **parameters):
    return client.chat.completions.create(**{"model": MODEL, "messages": MESSAGES, "max_tokens": 12, "temperature": 0,
                                             **parameters})


def raw_stream(server, path, **body):
    """(response headers, bytes of the body)."""
    body = {"model": MODEL, "max_tokens": 12, "temperature": 0, "stream": True, **body}
    with server.http.stream("POST", path, json=body) as reply:
        assert reply.status_code == 200, reply.read()
        return reply.headers, b"".join(reply.iter_raw())


def events(data):
    assert data.endswith(b"\n\n")
    found = data.decode("utf-8").split("\n\n")[:-1]
    for event in found:
        assert event.startswith(("data: ", ": ")) and "\n" not in event
    return [event[6:] for event in found if event.startswith("data: ")]


def error_of(reply, status):
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str) and isinstance(error["type"], str) and isinstance(error["code"], str)
    assert error["param"] is None or isinstance(error["param"], str)
    return error


# --- 1: framing ---
@pytest.mark.parametrize("path, prompt", [("/v1/chat/completions", {"messages": MESSAGES}),
                                          ("/v1/completions", {"prompt": "The sea"})])
def test_01_every_event_is_one_data_line_and_the_stream_ends_with_done(server, path, prompt):
    headers, data = raw_stream(server, path, **prompt)
    assert headers["content-type"].startswith("text/event-stream")
    found = events(data)
    assert found[-1] == "[DONE]"
    assert all(isinstance(json.loads(event), dict) for event in found[:-1])


# --- 2: usage in streams ---
@pytest.mark.parametrize("path, prompt", [("/v1/chat/completions", {"messages": MESSAGES}),
                                          ("/v1/completions", {"prompt": "The sea"})])
def test_02_usage_comes_once_at_the_end_when_asked_for(server, path, prompt):
    _, data = raw_stream(server, path, stream_options={"include_usage": True}, **prompt)
    chunks = [json.loads(e) for e in events(data)[:-1]]
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in chunks[:-1])
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 12
    _, data = raw_stream(server, path, **prompt)
    chunks = [json.loads(e) for e in events(data)[:-1]]
    assert all(len(chunk["choices"]) == 1 and "usage" not in chunk for chunk in chunks)


def test_02_streamed_usage_equals_whole_usage(client):
    whole = chat(client).usage
    last = list(chat(client, stream=True, stream_options={"include_usage": True}))[-1].usage
    assert (last.prompt_tokens, last.completion_tokens, last.total_tokens) == (
        whole.prompt_tokens, whole.completion_tokens, whole.total_tokens)


# --- 3, 4, 5: deltas ---
def test_03_the_role_comes_first_and_once(server):
    _, data = raw_stream(server, "/v1/chat/completions", messages=MESSAGES)
    deltas = [json.loads(e)["choices"][0]["delta"] for e in events(data)[:-1]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert all("role" not in delta for delta in deltas[1:])


def test_03_the_clients_accumulator_gives_the_whole_answer(client):
    whole = chat(client).choices[0].message
    with client.chat.completions.stream(model=MODEL, messages=MESSAGES, max_tokens=12, temperature=0) as stream:
        stream.until_done()
        final = stream.current_completion_snapshot.choices[0].message
    assert final.role == "assistant" and final.content == whole.content and whole.content


def test_04_the_last_delta_is_empty_and_no_content_is_null(server):
    _, data = raw_stream(server, "/v1/chat/completions", messages=MESSAGES)
    deltas = [json.loads(e)["choices"][0]["delta"] for e in events(data)[:-1]]
    assert deltas[-1] == {}
    assert all(isinstance(delta["content"], str) for delta in deltas[:-1])


def test_05_one_finish_reason_in_the_last_choice(client):
    for max_tokens in (1, 12):
        chunks = list(chat(client, stream=True, max_tokens=max_tokens))
        reasons = [chunk.choices[0].finish_reason for chunk in chunks]
        assert reasons[-1] in FINISH_REASONS and reasons[:-1] == [None] * (len(reasons) - 1)
    assert chat(client, max_tokens=1).choices[0].finish_reason == "length"


# --- 8: no tool calls ---
def test_08_no_tool_calls_no_key(server):
    for extra in ({}, {"tools": []}, {"tools": None}):
        body = {"model": MODEL, "messages": MESSAGES, "max_tokens": 4, **extra}
        reply = server.http.post("/v1/chat/completions", json=body)
        assert "tool_calls" not in reply.json()["choices"][0]["message"]
        _, data = raw_stream(server, "/v1/chat/completions", messages=MESSAGES, **extra)
        for event in events(data)[:-1]:
            assert "tool_calls" not in json.loads(event)["choices"][0]["delta"]


# --- 9: errors ---
def test_09_errors_have_four_keys_and_true_statuses(server, client):
    post = server.http.post
    assert error_of(post("/v1/chat/completions", content=b"{"), 400)["type"] == "invalid_request_error"
    assert error_of(post("/v1/chat/completions", json={"model": MODEL}), 400)["param"] == "messages"
    assert error_of(post("/v1/chat/completions", json={"model": "no", "messages": MESSAGES}),
                    404)["code"] == "model_not_found"
    assert error_of(server.http.get("/v1/chat/completions"), 405)["code"] == "method_not_allowed"
    assert error_of(post("/v1/embeddings", json={}), 404)["code"] == "not_found"
    assert error_of(post("/v1/completions", content=b"x" * 1_100_000), 413)["code"] == "request_too_large"
    bare = httpx.get(server.url + "/v1/models")
    assert error_of(bare, 401)["code"] == "invalid_api_key"


def test_09_the_client_raises_its_typed_errors(server, client):
    with pytest.raises(openai.BadRequestError) as bad:
        chat(client, temperature=9)
    assert bad.value.param == "temperature" and bad.value.code == "invalid_value"
    with pytest.raises(openai.NotFoundError) as missing:
        chat(client, model="gpt-4o")
    assert missing.value.code == "model_not_found"
    with openai.OpenAI(base_url=server.url + "/v1", api_key="wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError) as refused:
            stranger.models.list()
    assert refused.value.code == "invalid_api_key"


def test_09_a_full_queue_is_a_rate_limit_error_with_a_time_to_come_back():
    with harness.serve(harness.GGUF, "--served-model-name", MODEL, "--max-num-seqs", 1,
                       "--max-queued-requests", 1) as narrow:
        with openai.OpenAI(base_url=narrow.url + "/v1", api_key="any", max_retries=0, timeout=120) as client:
            runs = chat(client, max_tokens=4000, stream=True, extra_body={"ignore_eos": True})
            next(iter(runs))
            waits = threading.Thread(target=lambda: chat(client, max_tokens=1))
            waits.start()
            harness.until(lambda: narrow.cluster()["waiting"] == 1, 30, "a waiting request")
            for stream in (False, True):
                with pytest.raises(openai.RateLimitError) as full:
                    chat(client, max_tokens=1, stream=stream)
                assert full.value.code == "rate_limit_exceeded" and full.value.type == "rate_limit_error"
                assert int(full.value.response.headers["retry-after"]) >= 1
            runs.close()
            waits.join(60)
            assert not waits.is_alive()


def test_09_a_request_that_makes_ranks_fail_is_not_sent_again():
    with harness.serve(harness.GGUF, "--tensor-parallel-size", 2, "--served-model-name", MODEL) as own:
        caught = []

        def ask():
            with openai.OpenAI(base_url=own.url + "/v1", api_key="any", timeout=120) as client:  # with its retries
                try:
                    chat(client, max_tokens=4000, extra_body={"ignore_eos": True})
                except openai.APIStatusError as error:
                    caught.append(error)
        asking = threading.Thread(target=ask)
        asking.start()
        tokens = epoch = 0
        for _ in range(3):  # ranks die while it runs, as if of what it does
            def executing():
                state = own.cluster()
                told = state["phase"] == "ready" and all(rank["pid"] for rank in state["ranks"])
                return told and state["epoch"] > epoch and state["output_tokens"] > tokens and state
            state = harness.until(executing, 60, "a step of a new group")
            os.kill(state["ranks"][1]["pid"], signal.SIGSEGV)
            tokens, epoch = state["output_tokens"], state["epoch"]
        asking.join(60)
        assert not asking.is_alive()
        assert isinstance(caught[0], openai.InternalServerError)
        assert caught[0].code == "poisoned" and caught[0].type == "server_error"
        assert caught[0].response.headers["x-should-retry"] == "false"
        posts = re.findall(r'^http_requests_total{handler="/v1/chat/completions".*} (\d+)$',
                           own.http.get("/metrics").text, re.M)
        assert posts == ["1"], "the client did not send it again"
        harness.until(lambda: own.cluster()["poisoned"] == 1, 10, "its count")
        assert own.chat("Hello")["choices"][0]["message"]["content"]  # who comes next is served


# --- 10: failure before the first token ---
def test_10_a_streaming_request_that_fails_early_is_plain_json(server):
    body = {"model": MODEL, "messages": MESSAGES, "stream": True, "max_tokens": 100000}
    reply = server.http.post("/v1/chat/completions", json=body)
    assert reply.headers["content-type"] == "application/json"
    assert error_of(reply, 400)["code"] == "context_length_exceeded"


# --- 11: context length ---
def test_11_over_long_prompts_say_it_in_the_known_words(client):
    with pytest.raises(openai.BadRequestError) as refused:
        chat(client, messages=[{"role": "user", "content": "word " * 5000}], max_tokens=10)
    assert refused.value.code == "context_length_exceeded"
    message = refused.value.body["message"]
    found = re.match(r"This model's maximum context length is (\d+) tokens\. However, you requested (\d+) tokens "
                     r"\((\d+) in the messages, (\d+) in the completion\)\. Please reduce the length", message)
    assert found, message
    limit, total, prompt, completion = map(int, found.groups())
    assert limit == 2048 and completion == 10 and total == prompt + completion and prompt > 5000


# --- 12: unknown and unsupported fields ---
def test_12_unknown_fields_pass_and_unsupported_ones_are_named(client):
    assert chat(client, extra_body={"surprise": [1], "another": {"a": None}}).choices
    for field, value in [("modalities", ["text", "audio"]), ("response_format", {"type": "json_object"}),
                         ("tools", [{"type": "function", "function": {"name": "f", "parameters": {}}}])]:
        with pytest.raises(openai.BadRequestError) as refused:
            chat(client, **{field: value})
        assert refused.value.param == field and refused.value.code == "unsupported_parameter"
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model=MODEL, prompt="a", suffix="b")
    assert refused.value.param == "suffix"


# --- 13: shapes of content ---
def test_13_content_comes_in_many_shapes(client):
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": None},
        {"role": "assistant"},
        {"role": "tool", "tool_call_id": "call_1", "content": "as text"},
        {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "as parts"}]},
        {"role": "user", "content": "Go on."},
    ]
    assert chat(client, messages=messages).usage.prompt_tokens > 10
    as_parts = chat(client, messages=[{"role": "user", "content": [{"type": "text", "text": "Hello"}]}])
    as_text = chat(client, messages=[{"role": "user", "content": "Hello"}])
    assert as_parts.choices[0].message.content == as_text.choices[0].message.content


# --- 14: limits, nulls, greedy ---
def test_14_max_completion_tokens_wins(client):
    assert chat(client, max_tokens=3).usage.completion_tokens == 3
    assert chat(client, max_tokens=None, max_completion_tokens=4).usage.completion_tokens == 4
    assert chat(client, max_tokens=9, max_completion_tokens=5).usage.completion_tokens == 5


def test_14_null_is_the_default(server):
    names = ["temperature", "top_p", "top_k", "min_p", "seed", "stop", "n", "stream", "stream_options", "logprobs", "tools",
             "response_format", "max_completion_tokens", "presence_penalty", "logit_bias", "user"]
    body = {"model": MODEL, "messages": MESSAGES, "max_tokens": 2, **{name: None for name in names}}
    reply = server.http.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text


def test_14_temperature_0_is_greedy_and_a_seed_repeats(client):
    assert len({chat(client).choices[0].message.content for _ in range(3)}) == 1
    sampled = {"temperature": 1.5, "max_tokens": 16}
    one = chat(client, seed=7, **sampled).choices[0].message.content
    assert chat(client, seed=7, **sampled).choices[0].message.content == one
    assert len({chat(client, seed=seed, **sampled).choices[0].message.content for seed in range(5)}) > 1
    assert len({chat(client, **sampled).choices[0].message.content for _ in range(5)}) > 1


# --- 16: whole characters, stop strings ---
@pytest.mark.parametrize("prompt", ["😀😃😄😁😆😅😂🤣", "안녕하세요. 저는 한국어를", "e\u0301e\u0301e\u0301e\u0301", "👩‍👩‍👧‍👦👨‍👨‍👦"])
def test_16_chunks_hold_whole_characters_however_they_are_cut(client, prompt):
    prompt = prompt * 3
    for temperature, seed in ((0, 0), (1.2, 1), (1.2, 2)):
        common = {"model": MODEL, "prompt": prompt, "temperature": temperature, "seed": seed}
        whole = client.completions.create(max_tokens=24, **common).choices[0].text
        pieces = [c.choices[0].text for c in client.completions.create(max_tokens=24, stream=True, **common)]
        assert "".join(pieces) == whole
        if "\ufffd" not in whole:
            assert all("\ufffd" not in piece for piece in pieces)
    for length in range(1, 9):
        cut = client.completions.create(model=MODEL, prompt=prompt, temperature=0, max_tokens=length)
        assert cut.usage.completion_tokens == length
        assert "\ufffd" not in cut.choices[0].text


def test_16_a_stop_string_across_tokens_is_never_shown(client):
    whole = chat(client, max_tokens=40).choices[0].message.content
    words = whole.split(" ")
    stop = words[5][-2:] + " " + words[6][:2]  # across a token border
    expected = whole[:whole.index(stop)]
    stopped = chat(client, max_tokens=40, stop=[stop, "never there"])
    assert stopped.choices[0].message.content == expected
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.usage.completion_tokens < 40
    text = ""
    for chunk in chat(client, max_tokens=40, stop=stop, stream=True):
        text += chunk.choices[0].delta.content or ""
        assert expected.startswith(text)
    assert text == expected


# --- 18: models ---
def test_18_models(client, server):
    listed = server.http.get("/v1/models").json()
    assert listed["object"] == "list"
    entry = listed["data"][0]
    assert entry["id"] == MODEL and entry["object"] == "model" and isinstance(entry["created"], int) and entry["owned_by"]
    assert client.models.retrieve(MODEL).id == MODEL
    assert [m.id for m in client.models.list()] == [MODEL]
    assert chat(client, max_tokens=1).model == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing")


# --- 19: headers, flushes, CORS, disconnects ---
def test_19_stream_headers_request_id_and_cors(server):
    headers, _ = raw_stream(server, "/v1/chat/completions", messages=MESSAGES)
    assert headers["cache-control"] == "no-cache" and headers["x-accel-buffering"] == "no"
    reply = server.http.post("/v1/completions", json={"prompt": "a", "max_tokens": 1}, headers={"X-Request-Id": "abc-1"})
    assert reply.headers["x-request-id"] == "abc-1"
    assert reply.headers["access-control-allow-origin"] == "*"
    asked = server.http.options("/v1/chat/completions", headers={
        "Origin": "http://page", "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization"})
    assert asked.status_code == 204 and "authorization" in asked.headers["access-control-allow-headers"]


def test_19_events_arrive_one_by_one(server):
    # At the socket: an HTTP library shows chunks, and several of them may have come in one flush.
    def arrivals():
        body = json.dumps({"model": MODEL, "prompt": "Count:", "max_tokens": 64, "temperature": 0, "stream": True,
                           "ignore_eos": True})
        found, data = [time.monotonic()], b""
        with socket.create_connection(("127.0.0.1", server.port)) as peer:
            peer.sendall((f"POST /v1/completions HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {KEY}\r\n"
                          f"Content-Length: {len(body)}\r\n\r\n{body}").encode())
            while not data.endswith(b"0\r\n\r\n"):
                piece = peer.recv(65536)
                assert piece, data
                found.append(time.monotonic())
                data += piece
        return found, data.count(b"data: ")

    # A reader that is kept from running sees several at once; a server that holds them back does so every time.
    for _ in range(10):
        (start, first, *rest), count = arrivals()
        assert count > 20
        if 1 + len(rest) >= 0.9 * count and first - start < 0.5 * (rest[-1] - start):
            return
    raise AssertionError(f"{count} events in {1 + len(rest)} pieces, from {first - start} s to {rest[-1] - start} s")


@pytest.mark.parametrize("stream", [True, False])
def test_19_a_disconnect_frees_the_cache(server, stream):
    def used():
        cluster = server.cluster()
        return cluster["kv_blocks"] - cluster["kv_blocks_free"]
    harness.until(lambda: used() == 0, 10, "an idle cache")
    body = json.dumps({"model": MODEL, "prompt": "Once", "max_tokens": 2000, "stream": stream, "ignore_eos": True})
    with socket.create_connection(("127.0.0.1", server.port)) as peer:
        peer.sendall((f"POST /v1/completions HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {KEY}\r\n"
                      f"Content-Length: {len(body)}\r\n\r\n{body}").encode())
        harness.until(lambda: used() > 0, 10, "blocks in use")
    # What is shown may be 50 ms old.
    harness.until(lambda: used() == 0, 1 + 0.05, "blocks back after the client left")
    assert (server.cluster()["running"], server.cluster()["waiting"]) == (0, 0)


def test_metrics_are_there_and_move(server):
    def value(name):
        text = server.http.get("/metrics").text
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name + "{"))
    before = value("vllm:generation_tokens_total")
    server.http.post("/v1/completions", json={"prompt": "a", "max_tokens": 7, "ignore_eos": True}).raise_for_status()
    assert value("vllm:generation_tokens_total") == before + 7
    assert value("vllm:request_success_total") > 0
    assert value("vllm:e2e_request_latency_seconds_count") > 0


if __name__ == "__main__":
    sys.exit(pytest.main([str(pathlib.Path(__file__)), "-v", "-p", "no:cacheprovider"]))
