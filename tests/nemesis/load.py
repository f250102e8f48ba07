"""The load under which faults come: streams whose text is known, each checked when it ends."""

import dataclasses
import json
import threading
import time

import httpx

PROMPTS = [
    "The history of the lighthouse begins",
    "List three uses of a paper clip:",
    "def fibonacci(n):",
    "서울의 날씨는",
    "Once upon a time, in a village by the sea,",
    "The three laws of thermodynamics are",
    "A recipe for bread: take flour, water",
    "In 1969 the first",
]
SAMPLINGS = [
    {"temperature": 0},
    {"temperature": 0.8, "top_k": 50, "seed": 11},
    {"temperature": 1.0, "top_p": 0.9, "seed": 12},
]
STOPS = [None, None, [" the sea", "\n\n\n"], None, [" you"]]


def specs(max_tokens):
    """All requests there are; lengths differ so that they end at different times."""
    made = []
    for i, prompt in enumerate(PROMPTS):
        for j, sampling in enumerate(SAMPLINGS):
            spec = {"prompt": prompt, "max_tokens": max_tokens // 2 + (37 * (3 * i + j)) % (max_tokens // 2 + 1), **sampling}
            stop = STOPS[(3 * i + j) % len(STOPS)]
            made.append({**spec, "stop": stop} if stop else {**spec, "ignore_eos": True})
    return made


@dataclasses.dataclass
class Stream:
    """One streamed answer. Times are time.monotonic()."""
    spec: dict
    number: int
    times: list = dataclasses.field(default_factory=list)  # of events with text or an end in them
    text: str = ""
    reason: str | None = None
    done: int = 0
    abandon: bool = False  # its client goes away at the next event
    error: str | None = None
    ended: float | None = None

    def live(self):
        return bool(self.times) and self.ended is None


def run(http, stream):
    """Streams it to its end; what went wrong is in `error`."""
    try:
        with http.stream("POST", "/v1/completions", json={**stream.spec, "stream": True}) as reply:
            if reply.status_code != 200:
                stream.error = f"{reply.status_code} {reply.read().decode()[:300]}"
            for line in reply.iter_lines() if stream.error is None else []:
                if stream.abandon:
                    break
                if not line.startswith("data: "):
                    continue
                if line == "data: [DONE]":
                    stream.done += 1
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    stream.error = json.dumps(event["error"])
                    continue
                for choice in event["choices"]:
                    stream.text += choice["text"]
                    stream.reason = choice["finish_reason"] or stream.reason
                stream.times.append(time.monotonic())
    except (httpx.TransportError, OSError) as trouble:
        stream.error = f"cut: {trouble!r}"
    stream.ended = time.monotonic()


class Load:
    """`width` clients that stream one request after another while the gate is open."""

    def __init__(self, url, width, max_tokens):
        self.url, self.specs = url, specs(max_tokens)
        self.expected = [self._undisturbed(s) for s in self.specs]
        self.lock = threading.Lock()
        self.streams, self.open, self.over, self.next = [], threading.Event(), False, 0
        self.started = 0
        self.threads = [threading.Thread(target=self._client, daemon=True) for _ in range(width)]
        for thread in self.threads:
            thread.start()

    def _undisturbed(self, spec):
        body = httpx.post(f"{self.url}/v1/completions", json=spec, timeout=300).raise_for_status().json()
        choice = body["choices"][0]
        return choice["text"], choice["finish_reason"]

    def _client(self):
        # A connection for each stream, so that an idle server has none.
        limits = httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(base_url=self.url, timeout=httpx.Timeout(120, connect=5), limits=limits) as http:
            while not self.over:
                if not self.open.wait(0.2):
                    continue
                with self.lock:
                    number = self.next
                    self.next += 1
                    stream = Stream(self.specs[number % len(self.specs)], number)
                    self.streams.append(stream)
                run(http, stream)
                if stream.error is not None:
                    time.sleep(0.1)  # the server may be away

    def live(self):
        """Streams between their first and last token."""
        with self.lock:
            return [s for s in self.streams if s.live()]

    def pause(self, seconds):
        """Closes the gate and waits for what runs; the streams that did not end in time."""
        self.open.clear()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with self.lock:
                if all(s.ended is not None for s in self.streams):
                    return []
            time.sleep(0.02)
        with self.lock:
            return [s for s in self.streams if s.ended is None]

    def take_ended(self):
        """Streams that have ended, each given out once."""
        with self.lock:
            ended = [s for s in self.streams if s.ended is not None]
            self.streams = [s for s in self.streams if s.ended is None]
            return ended

    def judge(self, stream):
        """What is wrong with an ended stream: None, or "lost", "cut", "doubled" or "differs" with the details."""
        text, reason = self.expected[stream.number % len(self.specs)]
        if stream.abandon and stream.error is None:
            return None if text.startswith(stream.text) else f"differs: {stream.text!r}, expected {text!r}"
        if stream.error is not None:
            kind = "cut" if stream.error.startswith("cut") else "lost"
            if not text.startswith(stream.text):
                kind = "differs"
            return f"{kind}: {stream.error}"
        if stream.done != 1 or stream.reason is None:
            return f"lost: {stream.done} [DONE], finish_reason {stream.reason}"
        if (stream.text, stream.reason) != (text, reason):
            kind = "doubled" if len(stream.text) > len(text) else "differs"
            return f"{kind}: {stream.text!r} ({stream.reason}), expected {text!r} ({reason})"
        return None

    def stop(self):
        self.over = True
        self.open.set()
        for thread in self.threads:
            thread.join(130)
