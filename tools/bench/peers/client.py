"""A small load client for /v1/completions streams, for any server; standard library only, so that it measures little of itself."""
import asyncio
import json
import random
import time
from dataclasses import dataclass, field


@dataclass
class Stream:
    """What one request saw. Times are seconds on one monotonic clock."""

    sent: float = 0.0
    arrivals: list = field(default_factory=list)  # one time per event that carried text
    tokens: int = 0
    error: str = ""


async def _read_headers(reader):
    status = int((await reader.readline()).split()[1])
    chunked, length = False, None
    while True:
        line = (await reader.readline()).decode("latin-1").strip().lower()
        if not line:
            return status, chunked, length
        if line.startswith("transfer-encoding:") and "chunked" in line:
            chunked = True
        elif line.startswith("content-length:"):
            length = int(line.split(":", 1)[1])


async def _pieces(reader, chunked, length):
    """The body's bytes as they arrive."""
    if chunked:
        while size := int((await reader.readline()).split(b";")[0], 16):
            yield await reader.readexactly(size)
            await reader.readexactly(2)
    elif length is not None:
        yield await reader.readexactly(length)
    else:
        while piece := await reader.read(65536):
            yield piece


def _take_event(stream, line, now):
    if not line.startswith(b"data: ") or line == b"data: [DONE]":
        return
    event = json.loads(line[6:])
    if "error" in event:
        stream.error = json.dumps(event["error"])
        return
    choices, usage = event.get("choices") or [], event.get("usage")
    if choices and choices[0].get("text"):
        stream.arrivals.append(now)
    if usage:
        stream.tokens = usage["completion_tokens"]


async def complete(host, port, model, prompt_ids, max_tokens, seed=0):
    """One streamed request; prompt_ids: token ids."""
    stream = Stream()
    body = json.dumps({"model": model, "prompt": prompt_ids, "max_tokens": max_tokens, "temperature": 0, "seed": seed,
                       "ignore_eos": True, "cache_prompt": False, "stream": True,
                       "stream_options": {"include_usage": True}}).encode()
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
                     b"Connection: close\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body)
        stream.sent = time.monotonic()
        status, chunked, length = await _read_headers(reader)
        rest = b""
        async for piece in _pieces(reader, chunked, length):
            if status != 200:
                stream.error = f"{status} {piece[:300]!r}"
                break
            *lines, rest = (rest + piece).split(b"\n")
            now = time.monotonic()
            for line in lines:
                _take_event(stream, line.rstrip(b"\r"), now)
    finally:
        writer.close()
    return stream


def random_prompt(generator, length, vocabulary=48000, first=100):
    return [generator.randrange(first, vocabulary) for _ in range(length)]


async def load(host, port, model, streams, prompt_tokens, max_tokens, seed):
    """All requests at once; returns the figures of one run."""
    generator = random.Random(seed)
    prompts = [random_prompt(generator, prompt_tokens) for _ in range(streams)]
    begun = time.monotonic()
    results = await asyncio.gather(*(complete(host, port, model, p, max_tokens) for p in prompts))
    wall_s = time.monotonic() - begun
    errors = [r.error for r in results if r.error]
    if errors:
        raise RuntimeError(f"{len(errors)} of {streams} requests failed: {errors[0]}")
    return figures(results, wall_s)


def figures(results, wall_s):
    """Tokens per second over the whole run, per stream after its first token, and the median time to the first."""
    tokens = sum(r.tokens for r in results)
    firsts = sorted(r.arrivals[0] - r.sent for r in results)
    # Text may arrive for several tokens at once, so the rate is tokens after the first over the time they took.
    rates = sorted((r.tokens - 1) / (r.arrivals[-1] - r.arrivals[0]) for r in results if r.tokens > 1)
    return {"tokens": tokens, "wall_s": wall_s, "tokens_per_s": tokens / wall_s,
            "decode_tokens_per_s": rates[len(rates) // 2] if rates else 0.0, "first_token_s": firsts[len(firsts) // 2]}
