#!/usr/bin/env python3
"""Measures Shoal beside llama.cpp: same file, same threads, same client, runs of both in turn. Writes raw results as JSON.

  tools/bench/peers/compare.py --llama DIR_OF_LLAMA_PROGRAMS [--out FILE.json] [--repeats 5]

  decode_1   one stream, 128 tokens after a prompt of 8; Shoal through HTTP, llama.cpp through llama-bench (no HTTP)
  streams_16 16 streams at once, 128 random prompt tokens and 64 answer tokens each; llama-server -np 16
  memory     of each server process after the load; shared memory is counted once
It prints machine, command and limit, and takes only a program that is built from a commit: the results name it.
One rank with two threads unless told otherwise. Refuses a busy machine (--busy: does not), and records before each run how
busy others kept it: a neighbour on one core distorts both sides, and not alike.
"""
import argparse
import asyncio
import datetime
import json
import os
import pathlib
import platform
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request

from client import load

ROOT = pathlib.Path(__file__).resolve().parents[3]
READY_TIMEOUT_S = 120
MAX_BUSY = 0.05
LEAST_RATIO = 0.7  # of the peer's tokens per second: the floor that both measurements have to pass
DECODE = {"streams": 1, "prompt_tokens": 8, "max_tokens": 128}
STREAMS = {"streams": 16, "prompt_tokens": 128, "max_tokens": 64}


def busy_share(seconds=1.0):
    """How much of the machine's processor time others use, 0 to 1, over a short while."""
    def times():
        with open("/proc/stat", encoding="utf-8") as f:
            values = [int(v) for v in f.readline().split()[1:]]
        return sum(values), values[3] + values[4]  # all, idle and waiting for I/O
    total, idle = times()
    time.sleep(seconds)
    later_total, later_idle = times()
    return 1 - (later_idle - idle) / max(1, later_total - total)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def memory_of(smaps):
    """From the text of /proc/PID/smaps: the proportional set size, and what is resident of the weights and the KV
    cache. Agent and rank share those two: they are counted once, as the rank's, and the rest proportionally."""
    pss = weights = kv = rest = 0
    name = ""
    for line in smaps.splitlines():
        key, _, value = line.partition(":")
        if " " in key:  # the first line of a mapping: range, rights, offset, device, inode, name
            name = line.split(maxsplit=5)[5] if len(line.split(maxsplit=5)) > 5 else ""
        elif key == "Rss":
            weights += 1024 * int(value.split()[0]) * name.startswith("/memfd:shoal-weights")
            kv += 1024 * int(value.split()[0]) * name.startswith("/memfd:shoal-kv")
        elif key == "Pss":
            pss += 1024 * int(value.split()[0])
            rest += 1024 * int(value.split()[0]) * (not name.startswith(("/memfd:shoal-weights", "/memfd:shoal-kv")))
    return {"pss_bytes": pss, "weights_bytes": weights, "kv_bytes": kv, "rest_bytes": rest}


class Server:
    """A server process and its children, from ready to gone."""

    def __init__(self, command, port, ready_path):
        self.port, self.command = port, [str(c) for c in command]
        self.log = open(os.devnull, "w", encoding="utf-8")
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not self.answers(ready_path):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise RuntimeError(f"not ready: {' '.join(self.command)} (status {self.process.returncode})")
            time.sleep(0.1)

    def answers(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=2) as response:
                return response.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def model(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/models", timeout=5) as response:
            return json.load(response)["data"][0]["id"]

    def tree(self):
        """The process and its descendants."""
        parents = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    stat = pathlib.Path(f"/proc/{entry}/stat").read_text(encoding="utf-8")
                except OSError:
                    continue
                parents.setdefault(int(stat.rsplit(")", 1)[1].split()[1]), []).append(int(entry))
        found, queue = [], [self.process.pid]
        while queue:
            pid = queue.pop()
            found.append(pid)
            queue += parents.get(pid, [])
        return found

    def memory(self):
        """One row for each process of the tree, see memory_of."""
        rows = []
        for pid in self.tree():
            try:
                smaps = pathlib.Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8", errors="replace")
                words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            rows.append({"command": " ".join(w for w in words if w)[:160], **memory_of(smaps)})
        return rows

    def close(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def shoal_server(args, streams):
    port = free_port()
    return Server([args.shoal, "serve", args.model, "--port", port, "--threads", args.threads, "--max-num-seqs", streams,
                   "--tensor-parallel-size", 1, "--pipeline-parallel-size", 1], port, "/readyz")


def llama_server(args, streams):
    port = free_port()
    context = streams * 512
    return Server([f"{args.llama}/llama-server", "-m", args.model, "--port", port, "--host", "127.0.0.1", "-t", args.threads,
                   "-tb", args.threads, "-np", streams, "-c", context], port, "/health")


def measure(start, args, shape, seed):
    """A server of its own for each run, warmed by one short request."""
    with start(args, shape["streams"]) as server:
        model = server.model()
        asyncio.run(load("127.0.0.1", server.port, model, 1, 8, 8, seed))
        busy = busy_share()
        result = asyncio.run(load("127.0.0.1", server.port, model, seed=seed, **shape))
        return {**result, "busy_before": round(busy, 3), "memory": server.memory(), "command": server.command}


def llama_bench(args):
    command = [f"{args.llama}/llama-bench", "-m", args.model, "-p", "0", "-n", str(DECODE["max_tokens"]), "-t", str(args.threads),
               "-r", "1", "-o", "json"]
    out = subprocess.run(command, check=True, capture_output=True, text=True)
    row = json.loads(out.stdout)[0]
    return {"decode_tokens_per_s": row["avg_ts"], "command": command, "build": row["build_commit"]}


def machine():
    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo", encoding="utf-8") if line.startswith("model name")), "?")
    return {"cpu": cpu, "cores": os.cpu_count(), "kernel": platform.release(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")}


def commit(shoal, root=ROOT):
    """The commit that the program at `shoal` is built from; brings it up to date. Ends when nobody could say: another
    tree's program, or changes that are not committed (those to results do not count)."""
    if pathlib.Path(shoal).resolve() != (root / "build" / "shoal").resolve():
        sys.exit(f"compare: {shoal} may be of any commit; only build/shoal of this tree is measured")
    git = ["git", "-C", str(root)]
    status = [*git, "status", "--porcelain", "--", ".", ":!tools/bench/results", ":!README.md"]
    changed = subprocess.run(status, check=True, capture_output=True, text=True).stdout
    if changed:
        sys.exit(f"compare: commit these first, the results name a commit:\n{changed.rstrip()}")
    subprocess.run([root / "tools" / "dev" / "build", "release", "shoal"], check=True, stdout=sys.stderr)
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True)
    return head.stdout.strip()


def version(shoal):
    return subprocess.run([shoal, "version"], check=True, capture_output=True, text=True).stdout.strip()


def medians(runs, key):
    return {name: statistics.median(run[key] for run in values) for name, values in runs.items()}


def main():
    parser = argparse.ArgumentParser(description="Shoal beside llama.cpp")
    parser.add_argument("--llama", required=True, help="folder of llama-bench and llama-server")
    parser.add_argument("--shoal", default=ROOT / "build" / "shoal")
    parser.add_argument("--model", default=str(ROOT / "models" / "SmolLM2-135M-Instruct-Q4_1.gguf"))
    parser.add_argument("--out", default=str(ROOT / "tools" / "bench" / "results" / "peers.json"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--busy", action="store_true", help="measure although others use the machine")
    args = parser.parse_args()
    share = busy_share(3.0)
    if share > MAX_BUSY and not args.busy:
        sys.exit(f"compare: others use {share:.0%} of this machine; figures would mean nothing (--busy measures all the same)")
    built_from = commit(args.shoal)
    where = machine()
    print(f"compare: {where['cpu']}, {where['cores']} cores, kernel {where['kernel']}; {version(args.shoal)}, "
          f"commit {built_from}; {' '.join(sys.argv)}")
    decode, streams = {"shoal": [], "llama.cpp": []}, {"shoal": [], "llama.cpp": []}
    for repeat in range(args.repeats):
        decode["shoal"].append(measure(shoal_server, args, DECODE, repeat))
        decode["llama.cpp"].append(llama_bench(args))
        streams["shoal"].append(measure(shoal_server, args, STREAMS, repeat))
        streams["llama.cpp"].append(measure(llama_server, args, STREAMS, repeat))
        print(f"compare: round {repeat + 1} of {args.repeats}", file=sys.stderr)
    result = {
        "made": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"), "commit": built_from,
        "version": version(args.shoal),
        "machine": where,
        "model": os.path.basename(args.model), "threads": args.threads, "repeats": args.repeats,
        "decode_1": {"shape": DECODE, "median": medians(decode, "decode_tokens_per_s"), "runs": decode},
        "streams_16": {"shape": STREAMS, "median": medians(streams, "tokens_per_s"), "runs": streams},
    }
    with open(args.out, "w", encoding="utf-8") as f:
        # Paths of this machine say nothing to a reader.
        text = json.dumps(result, indent=1)
        f.write(text.replace(str(ROOT) + "/", "").replace(str(args.llama) + "/", ""))
        f.write("\n")
    for name in ("decode_1", "streams_16"):
        median = result[name]["median"]
        print(f"{name}: shoal {median['shoal']:.1f} tokens/s, llama.cpp {median['llama.cpp']:.1f}, "
              f"ratio {median['shoal'] / median['llama.cpp']:.2f}, at least {LEAST_RATIO} is wanted")


if __name__ == "__main__":
    main()
