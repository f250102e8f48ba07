"""The load under which faults come: requests whose text is known, each checked when it ends."""

import dataclasses
import json
import threading
import time
import uuid

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
    {"temperature": 0.9, "seed": 13, "repetition_penalty": 1.2, "presence_penalty": 0.4, "frequency_penalty": 0.3,
     "logit_bias": {"28": -3, "198": 1.5}, "min_tokens": 20, "logprobs": 2},
    {"temperature": 1.0, "seed": 14, "n": 4, "frequency_penalty": 0.5},
]
STOPS = [None, None, [" the sea", "\n\n\n"], None, None, [" you"], None]
KEYED_EACH = 3       # every third client asks with an Idempotency-Key
PATIENCE = 120       # seconds that a client waits for a byte, and asks again with a key
RETRY_SECONDS = 0.1  # between two questions with one key


def specs(max_tokens):
    """All requests there are; lengths differ so that they end at different times."""
    made = []
    for i, prompt in enumerate(PROMPTS):
        for j, sampling in enumerate(SAMPLINGS):
            number, half = len(SAMPLINGS) * i + j, max_tokens // 2
            # So many choices share the time of one.
            most = (half + (37 * number) % (half + 1)) // sampling.get("n", 1)
            spec = {"prompt": prompt, "max_tokens": most, **sampling}
            stop = STOPS[number % len(STOPS)]
            made.append({**spec, "stop": stop} if stop else {**spec, "ignore_eos": True})
    return made


@dataclasses.dataclass
class Choice:
    """What came of one choice."""
    text: str = ""
    reason: str | None = None
    logprobs: list = dataclasses.field(default_factory=list)  # (token, its own, its rivals')

    def add(self, choice):
        self.text += choice["text"]
        self.reason = choice["finish_reason"] or self.reason
        if said := choice.get("logprobs"):
            self.logprobs += zip(said["tokens"], said["token_logprobs"], said["top_logprobs"])

    def begins(self, whole):
        return whole.text.startswith(self.text) and whole.logprobs[:len(self.logprobs)] == self.logprobs


@dataclasses.dataclass
class Request:
    """What a client asked for. Times are time.monotonic()."""
    spec: dict
    number: int
    began: float = dataclasses.field(default_factory=time.monotonic)
    choices: list = None  # Choice
    error: str | None = None  # begins with "cut" (the connection ended), "refused" (not let in) or neither
    ended: float | None = None

    def __post_init__(self):
        self.choices = self.choices or [Choice() for _ in range(self.spec.get("n", 1))]


@dataclasses.dataclass
class Stream(Request):
    """One streamed answer."""
    times: list = dataclasses.field(default_factory=list)  # of events with text or an end in them
    done: int = 0
    abandon: bool = False  # its client goes away at the next event

    def live(self):
        return bool(self.times) and self.ended is None


@dataclasses.dataclass
class Keyed(Request):
    """One whole answer to a request with an Idempotency-Key, which is asked again until it is there, and once more."""
    key: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)
    failures: list = dataclasses.field(default_factory=list)  # (time, what) of questions that got no answer
    bodies: list = dataclasses.field(default_factory=list)    # of answers: bytes
    replayed: bool = False  # the last answer was said to be one that had been given before


def stream_it(http, stream):
    """Streams it to its end; what went wrong is in `error`."""
    try:
        with http.stream("POST", "/v1/completions", json={**stream.spec, "stream": True}) as reply:
            if reply.status_code != 200:
                refused = "refused: " if reply.status_code == 503 else ""
                stream.error = f"{refused}{reply.status_code} {reply.read().decode()[:300]}"
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
                    stream.choices[choice["index"]].add(choice)
                stream.times.append(time.monotonic())
    except (httpx.ConnectError, httpx.ConnectTimeout) as trouble:
        stream.error = f"refused: {trouble!r}"
    except (httpx.TransportError, OSError) as trouble:
        stream.error = f"cut: {trouble!r}"
    stream.ended = time.monotonic()


def ask(http, keyed):
    """Asks with its key until there are two answers, or one that is none; what went wrong for good is in `error`."""
    end = time.monotonic() + PATIENCE
    while len(keyed.bodies) < 2 and keyed.error is None:
        try:
            reply = http.post("/v1/completions", json=keyed.spec, headers={"Idempotency-Key": keyed.key})
            if reply.status_code == 200:
                keyed.bodies.append(reply.content)
                keyed.replayed = reply.headers.get("idempotent-replayed") == "true"
                continue
            trouble = f"{reply.status_code} {reply.text[:300]}"
            if reply.status_code != 503:
                keyed.error = trouble
        except (httpx.TransportError, OSError) as cut:
            trouble = f"cut: {cut!r}"
        keyed.failures.append((time.monotonic(), trouble))
        if time.monotonic() > end:
            keyed.error = f"no answer in {PATIENCE} s: {trouble}"
        time.sleep(RETRY_SECONDS)
    if keyed.error is None:
        for choice in json.loads(keyed.bodies[0])["choices"]:
            keyed.choices[choice["index"]].add(choice)
    keyed.ended = time.monotonic()


class Outages:
    """The times in which there was no coordinator to answer: the only ones in which a client may notice something."""

    def __init__(self):
        self.spans = []

    def begin(self):
        self.spans.append([time.monotonic(), float("inf")])

    def end(self):
        self.spans[-1][1] = time.monotonic()

    def touch(self, since, until):
        return any(start <= until and since <= end for start, end in self.spans)


def judge_stream(stream, expected, outages):
    """What is wrong with an ended stream: None, or "lost", "cut", "doubled" or "differs" with the details. `expected`: its
    choices."""
    found = stream.choices
    begins = len(found) == len(expected) and all(ours.begins(whole) for ours, whole in zip(found, expected))
    if stream.error is not None:
        kind = stream.error.split(":")[0]
        if not begins or stream.done:
            kind = "differs"
        elif kind in ("cut", "refused") and outages.touch(stream.began, stream.ended):
            return None
        return f"{kind if kind in ('cut', 'differs') else 'lost'}: {stream.error}: {found}, {stream.done} [DONE]"
    if stream.abandon:
        return None if begins else f"differs: {found}, expected {expected}"
    if stream.done != 1 or any(choice.reason is None for choice in found):
        return f"lost: {stream.done} [DONE], {found}"
    if found != expected:
        doubled = any(len(ours.text) > len(whole.text) for ours, whole in zip(found, expected))
        return f"{'doubled' if doubled else 'differs'}: {found}, expected {expected}"
    return None


def judge_keyed(keyed, expected, outages):
    """As judge_stream, of a whole answer."""
    if keyed.error is not None:
        return f"lost: {keyed.error}"
    # Each question begins where the one before failed, or before: any outage since the first explains a failure.
    since = keyed.began
    for at, trouble in keyed.failures:
        if not outages.touch(since, at):
            return f"lost: an error with no coordinator fault: {trouble}"
        since = at
    if keyed.bodies[0] != keyed.bodies[1] or not keyed.replayed:
        return f"doubled: {keyed.bodies[0]!r}, then {keyed.bodies[1]!r}, replayed: {keyed.replayed}"
    if keyed.choices != expected:
        return f"differs: {keyed.choices}, expected {expected}"
    return None


class Load:
    """`width` clients, each with one request after another while the gate is open."""

    def __init__(self, url, width, max_tokens):
        self.url, self.specs = url, specs(max_tokens)
        self.expected = [self._undisturbed(s) for s in self.specs]
        self.outages = Outages()
        self.lock = threading.Lock()
        self.requests, self.open, self.over, self.next = [], threading.Event(), False, 0
        kinds = [Keyed if i % KEYED_EACH == KEYED_EACH - 1 else Stream for i in range(width)]
        self.threads = [threading.Thread(target=self._client, args=(kind,), daemon=True) for kind in kinds]
        for thread in self.threads:
            thread.start()

    def _undisturbed(self, spec):
        body = httpx.post(f"{self.url}/v1/completions", json=spec, timeout=300).raise_for_status().json()
        choices = [Choice() for _ in body["choices"]]
        for choice in body["choices"]:
            choices[choice["index"]].add(choice)
        return choices

    def _client(self, kind):
        # A connection for each request, so that an idle server has none.
        limits = httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(base_url=self.url, timeout=httpx.Timeout(PATIENCE, connect=5), limits=limits) as http:
            while not self.over:
                if not self.open.wait(0.2):
                    continue
                with self.lock:
                    number = self.next
                    self.next += 1
                    request = kind(self.specs[number % len(self.specs)], number)
                    self.requests.append(request)
                try:
                    (ask if kind is Keyed else stream_it)(http, request)
                except Exception as trouble:  # noqa: BLE001: an answer that no client understands
                    request.error, request.ended = f"not understood: {trouble!r}", time.monotonic()
                if request.error is not None:
                    time.sleep(RETRY_SECONDS)  # the server may be away

    def now(self, kind):
        """Requests of a kind that have not been given out by take_ended()."""
        with self.lock:
            return [r for r in self.requests if isinstance(r, kind)]

    def live(self):
        """Streams between their first and last token."""
        return [s for s in self.now(Stream) if s.live()]

    def unanswered(self):
        """Keyed requests without an answer."""
        return [k for k in self.now(Keyed) if k.ended is None and not k.bodies]

    def pause(self, seconds):
        """Closes the gate and waits for what runs; the requests that did not end in time."""
        self.open.clear()
        end = time.monotonic() + seconds
        while time.monotonic() < end and any(r.ended is None for r in self.now(Request)):
            time.sleep(0.02)
        return [r for r in self.now(Request) if r.ended is None]

    def take_ended(self):
        """Requests that have ended, each given out once."""
        with self.lock:
            ended = [r for r in self.requests if r.ended is not None]
            self.requests = [r for r in self.requests if r.ended is None]
            return ended

    def judge(self, request):
        """What is wrong with an ended request, or None."""
        judge = judge_keyed if isinstance(request, Keyed) else judge_stream
        return judge(request, self.expected[request.number % len(self.specs)], self.outages)

    def stop(self):
        self.over = True
        self.open.set()
        for thread in self.threads:
            thread.join(PATIENCE + 10)
