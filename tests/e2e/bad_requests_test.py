"""What is wrong with one request is that request's: a stream beside it goes on, and its text does not change."""

import json
import socket
import threading

import pytest

import harness

STORY = {"prompt": "Once upon a time in a small village", "temperature": 0.8, "seed": 7, "max_tokens": 500,
         "ignore_eos": True, "stream": True}


def stream(server, started=None):
    """The text of STORY."""
    text = ""
    with server.http.stream("POST", "/v1/completions", json=STORY) as reply:
        assert reply.status_code == 200, reply.read()
        for line in reply.iter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                text += json.loads(line[6:])["choices"][0]["text"]
                if started is not None:
                    started.set()
    return text


def completion(**changes):
    return "/v1/completions", json.dumps({"prompt": "x", "max_tokens": 4, **changes}).encode()


BAD = {
    "malformed": (400, ("/v1/completions", b'{"prompt": "x"')),
    "not an object": (400, ("/v1/completions", b"[]")),
    "invalid UTF-8": (400, ("/v1/completions", b'{"prompt": "\xff\xfe"}')),
    "too deep": (400, ("/v1/completions", b'{"prompt": ' + b"[" * 10000 + b"]" * 10000 + b"}")),
    "wrong type": (400, completion(max_tokens="many")),
    "no prompt": (400, ("/v1/completions", b'{"max_tokens": 4}')),
    "over-long": (400, completion(prompt="word " * 20000)),
    "far too large": (413, completion(prompt="word " * 300000)),
    "temperature": (400, completion(temperature=1e9)),
    "top_p": (400, completion(top_p=-1)),
    "negative": (400, completion(max_tokens=-1)),
    "no such token": (400, completion(prompt=[10**9])),
    "model": (404, completion(model="nobody")),
    "messages": (400, ("/v1/chat/completions", b'{"messages": "hello"}')),
    "route": (404, ("/v1/nowhere", b"{}")),
}


def send(server, path, body):
    return server.http.post(path, content=body, headers={"Content-Type": "application/json"})


def not_http(server):
    """Bytes that are no request, and a request that is cut off."""
    for data in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n",
                 b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as s:
            s.sendall(data)


def test_a_stream_beside_bad_requests_is_the_same():
    with harness.serve(harness.GGUF, "--max-model-len", 2048) as server:
        alone = stream(server)
        started, texts = threading.Event(), []
        reader = threading.Thread(target=lambda: texts.append(stream(server, started)))
        reader.start()
        assert started.wait(60)
        rounds = 0
        # In rounds until the stream is through, so that there is one after every token of it.
        while reader.is_alive():
            for name, (status, request) in BAD.items():
                reply = send(server, *request)
                assert reply.status_code == status, (name, reply.text)
                assert reply.json()["error"]["message"], name
            not_http(server)
            rounds += reader.is_alive()
        reader.join()
        assert rounds > 0, "the stream ended before all bad requests were sent: the test does not test"
        assert texts == [alone]


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q", "-x", "-p", "no:cacheprovider"]))
