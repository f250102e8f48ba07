#!/usr/bin/env python3
"""The load client counts right, and the README's table is the raw results'."""
import asyncio
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SOURCE = os.environ.get("SHOAL_SOURCE_DIR") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path.insert(0, os.path.join(SOURCE, "tools", "bench", "peers"))
import client  # noqa: E402
import compare  # noqa: E402
import table  # noqa: E402

RESULTS = {
    "made": "2026-01-02", "commit": "abc1234", "machine": {"cpu": "Some CPU", "cores": 2}, "model": "m.gguf", "threads": 2, "repeats": 3,
    "decode_1": {"median": {"shoal": 90.0, "llama.cpp": 100.0}},
    "streams_16": {"median": {"shoal": 300.0, "llama.cpp": 200.0},
                   "runs": {"shoal": [{"memory": [{"command": "shoal rank 0", "pss_bytes": 5000000}]},
                                      {"memory": [{"command": "shoal rank 0", "pss_bytes": 7000000}]}]}},
}


def event(value):
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"


class Client(unittest.TestCase):
    """Against a server of a few lines that answers as told, in pieces that cut events anywhere."""

    def ask(self, pieces, status=b"200 OK"):
        async def serve(reader, writer):
            headers = await reader.readuntil(b"\r\n\r\n")
            length = int(headers.lower().split(b"content-length:")[1].split()[0])
            self.request = json.loads(await reader.readexactly(length))
            writer.write(b"HTTP/1.1 " + status + b"\r\nTransfer-Encoding: chunked\r\n\r\n")
            for piece in pieces:
                writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                await writer.drain()
            writer.write(b"0\r\n\r\n")
            writer.close()

        async def run():
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            async with server:
                return await client.complete("127.0.0.1", server.sockets[0].getsockname()[1], "m", [1, 2], 3)

        return asyncio.run(run())

    def test_counts_tokens_and_arrivals_whatever_the_pieces(self):
        body = (event({"choices": [{"text": "a"}], "usage": None}) + event({"choices": [{"text": "bc"}]}) + event({"choices": [{"text": ""}]}) +
                event({"choices": [], "usage": {"completion_tokens": 3}}) + event(b"[DONE]"))
        for size in (1, 7, 50, len(body)):
            stream = self.ask([body[i:i + size] for i in range(0, len(body), size)])
            self.assertEqual((stream.tokens, len(stream.arrivals), stream.error), (3, 2, ""), size)
        self.assertEqual(self.request["prompt"], [1, 2])
        self.assertTrue(self.request["ignore_eos"] and self.request["stream"])

    def test_errors_are_kept(self):
        self.assertIn("503", self.ask([b"{}"], b"503 Unavailable").error)
        self.assertIn("boom", self.ask([event({"error": {"message": "boom"}})]).error)

    def test_figures(self):
        streams = [client.Stream(sent=10.0, arrivals=[10.5, 11.0, 12.5], tokens=9), client.Stream(sent=10.0, arrivals=[11.0, 12.0], tokens=3)]
        got = client.figures(streams, 4.0)
        self.assertEqual((got["tokens"], got["tokens_per_s"], got["first_token_s"]), (12, 3.0, 1.0))
        self.assertEqual(got["decode_tokens_per_s"], 4.0)  # (9 - 1) / 2 s; the other stream made 2 / 1 s


class Table(unittest.TestCase):
    def test_rows(self):
        text = table.table(RESULTS)
        self.assertIn("| decode, 1 stream | 90 | 100 (llama-bench) | 0.90 |", text)
        self.assertIn("| 300 | 200 (llama-server -np 16) | 1.50 |", text)
        self.assertIn("rank 7 MB", text)
        self.assertIn("commit abc1234", text)

    def test_memory_beside_its_budget(self):
        def rows(rest, resident_kv):
            return [{"memory": [
                {"command": "shoal rank 0", "weights_bytes": 80e6, "kv_bytes": resident_kv, "rest_bytes": rest},
                {"command": "x worker", "weights_bytes": 80e6, "kv_bytes": 0, "rest_bytes": 12e6},
                {"command": "x coordinator", "weights_bytes": 0, "kv_bytes": 0, "rest_bytes": 30e6}]}]
        best = table.largest_processes(rows(5e6, 1e6) + rows(15e6, 20e6))
        self.assertEqual(table.memory_text("rank", best["rank"]),
                         "rank 115 MB (weights 80 + KV 20 + rest 15; budget 220)")
        self.assertEqual(table.memory_text("worker", best["worker"]), "worker 12 MB")  # the weights are the rank's
        self.assertEqual(table.memory_text("coordinator", best["coordinator"]), "coordinator 30 MB (budget 150)")

    def run_table(self, readme, *args):
        with tempfile.TemporaryDirectory() as folder:
            results, target = os.path.join(folder, "r.json"), os.path.join(folder, "README.md")
            with open(results, "w", encoding="utf-8") as f:
                json.dump(RESULTS, f)
            with open(target, "w", encoding="utf-8") as f:
                f.write(readme)
            code = subprocess.run([sys.executable, table.__file__, results, target, *args], capture_output=True, check=False).returncode
            with open(target, encoding="utf-8") as f:
                return code, f.read()

    def test_written_then_checked(self):
        code, written = self.run_table(f"top\n{table.BEGIN}\nold\n{table.END}\nbottom\n")
        self.assertEqual((code, written.startswith("top\n"), written.endswith("\nbottom\n"), "old" in written), (0, True, True, False))
        self.assertEqual(self.run_table(written, "--check")[0], 0)
        self.assertEqual(self.run_table(written.replace("0.90", "0.99"), "--check"), (1, written.replace("0.90", "0.99")))

    def test_place_is_needed(self):
        self.assertNotEqual(self.run_table("nothing\n")[0], 0)

    def test_readme_shows_the_committed_results(self):
        readme, results = os.path.join(SOURCE, "README.md"), os.path.join(SOURCE, "tools", "bench", "results", "peers.json")
        self.assertTrue(os.path.exists(results), "measure with tools/bench/peers/compare.py first")
        with open(readme, encoding="utf-8") as f, open(results, encoding="utf-8") as g:
            text = f.read()
            self.assertEqual(table.replaced(text, table.table(json.load(g))), text)


class Compare(unittest.TestCase):
    def test_memory_by_mapping(self):
        smaps = """7f0000000000-7f0000010000 r--s 00000000 00:01 1 /memfd:shoal-weights-r0 (deleted)
Size: 64 kB
Rss: 60 kB
Pss: 30 kB
VmFlags: rd mr
7f0000020000-7f0000030000 rw-s 00000000 00:01 2                          /memfd:shoal-kv-r0 (deleted)
Rss: 8 kB
Pss: 8 kB
7f0000040000-7f0000050000 rw-p 00000000 00:00 0
Rss: 20 kB
Pss: 16 kB
7f0000060000-7f0000070000 r-xp 00000000 08:01 3 /usr/lib/a b.so
Rss: 4 kB
Pss: 1 kB
"""
        self.assertEqual(compare.memory_of(smaps), {"pss_bytes": 55 * 1024, "weights_bytes": 60 * 1024,
                                                    "kv_bytes": 8 * 1024, "rest_bytes": 17 * 1024})
        with open("/proc/self/smaps", encoding="utf-8") as f:
            own = compare.memory_of(f.read())
        self.assertEqual(own["rest_bytes"], own["pss_bytes"])
        self.assertGreater(own["pss_bytes"], 1 << 20)

    def test_only_a_committed_tree_and_its_own_program_are_measured(self):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            subprocess.run(["git", "init", "-q", folder], check=True)
            with self.assertRaisesRegex(SystemExit, "of any commit"):
                compare.commit(root / "elsewhere" / "shoal", root)
            (root / "tools").mkdir()
            (root / "tools" / "new.py").write_text("")
            with self.assertRaisesRegex(SystemExit, "tools/"):
                compare.commit(root / "build" / "shoal", root)


if __name__ == "__main__":
    unittest.main()
