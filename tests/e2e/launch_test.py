"""Starting and ending around the edges: as the first process of a container, with settings in the environment, told to
stop before it is ready, told twice, and joined by an agent of another build."""

import json
import os
import pathlib
import re
import signal
import stat
import subprocess
import threading

import httpx
import pytest

import harness

NULL = ["--device", "null", "--load-format", "dummy"]  # up in a moment


def script(path, *lines):
    path.write_text("#!/bin/sh\n" + "\n".join(lines) + "\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_serve_is_the_first_process_of_a_container(tmp_path, monkeypatch):
    unshare = ["unshare", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this host lets nobody make a process namespace")
    start = script(tmp_path / "start", f'exec {" ".join(unshare)} {harness.BINARY} "$@"')
    monkeypatch.setattr(harness, "BINARY", start)
    server = harness.Server(harness.GGUF, *NULL)
    try:
        server.wait_ready()
        below = harness.descendants(server.pid)
        first = next(p for p in below if f"NSpid:\t{p}\t1\n" in pathlib.Path("/proc", str(p), "status").read_text())
        below.remove(first)
        assert len(below) == 3, below  # coordinator, agent, rank
        os.kill(first, signal.SIGTERM)
        assert server.wait() == 0, server.output
        harness.until(lambda: not [p for p in below if harness.alive(p)], 20, "all processes end")
    finally:
        if server.running():
            server.kill_all()


def test_a_configuration_file_in_the_environment(tmp_path):
    config = tmp_path / "shoal.yaml"
    config.write_text(json.dumps({"model": str(harness.GGUF), "served-model-name": "from-file", "max-model-len": 96,
                                  "device": "null", "load-format": "dummy"}))
    port = harness.free_port()
    process = harness.Process("serve", "--port", port, "--max-model-len", 64,
                              env={"SHOAL_CONFIG": str(config), "SHOAL_MAX_MODEL_LEN": "80"})
    try:
        harness.until(lambda: "ready at" in process.output or not process.running(), 60, "ready")
        assert process.running(), process.output
        models = httpx.get(f"http://127.0.0.1:{port}/v1/models", timeout=60).json()["data"]
        assert [(m["id"], m["max_model_len"]) for m in models] == [("from-file", 64)]
        assert process.stop() == 0, process.output
    finally:
        if process.running():
            process.kill_all()


def test_the_command_line_beats_the_environment_of_every_verb():
    with harness.serve(harness.GGUF, *NULL) as server:
        nobody = f"http://127.0.0.1:{harness.free_port()}"
        code, output = harness.run("status", "--url", server.url, env={"SHOAL_URL": nobody})
        assert code == 0, output
        code, output = harness.run("status", env={"SHOAL_URL": nobody})
        assert code == 1 and f"no server at {nobody}" in output


def test_start_shows_how_loading_goes():
    # f32 weights take long enough to load for the line to be shown.
    with harness.serve(harness.SAFETENSORS, "--compute-dtype", "f32") as server:
        harness.until(lambda: "ready at" in server.output, 10, "the last words of the start")
        shown = server.output
    loading = re.findall(r"^loading  \S+ \S+ of \S+ [KMGT]iB", shown, re.MULTILINE)
    assert loading, shown
    assert shown.index("kv heads") < shown.index(loading[0]) < shown.index(f"ready at {server.url}")
    assert "curl " in shown


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_signals_while_it_waits_for_agents(sig):
    server = harness.Server(harness.GGUF, "--workers", "external")
    try:
        harness.until(lambda: "waiting for agents" in server.output, 30, "it waits")
        assert server.stop(sig) == 0, server.output
    finally:
        if server.running():
            server.kill_all()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_signals_while_it_loads(sig):
    segments = set(os.listdir("/dev/shm"))
    server = harness.Server(harness.SAFETENSORS, "--compute-dtype", "f32", "--tensor-parallel-size", 2)
    try:
        harness.until(lambda: "loading " in server.output, 60, f"it loads:\n{server.output}")
        assert server.stop(sig) == 0, server.output
        assert set(os.listdir("/dev/shm")) <= segments
    finally:
        if server.running():
            server.kill_all()


def test_a_second_signal_does_not_wait_for_what_runs():
    # With a real device: 8000 tokens take it far longer than the second signal does.
    server = harness.Server(harness.GGUF, "--shutdown-timeout", 3600)
    first, cut = threading.Event(), []

    def read():
        body = {"prompt": "a", "max_tokens": 8000, "ignore_eos": True, "stream": True}
        try:
            with server.http.stream("POST", "/v1/completions", json=body) as reply:
                for _ in reply.iter_lines():
                    first.set()
        except httpx.TransportError as error:
            cut.append(error)

    reader = threading.Thread(target=read)
    try:
        server.wait_ready()
        reader.start()
        assert first.wait(60)
        below = harness.descendants(server.pid)
        server.process.send_signal(signal.SIGTERM)
        harness.until(lambda: "draining" in server.output, 30, f"it drains: {server.output}")
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() not in (0, None), server.output
        reader.join(60)
        assert cut, "the stream was not cut: it may have ended before the second signal came"
        harness.until(lambda: not [p for p in below if harness.alive(p)], 20, "all processes end")
    finally:
        if server.running():
            server.kill_all()


def another_build(tmp_path):
    """The program with another build id in its note, as any other link of it has."""
    code, output = harness.run("version")
    assert code == 0
    build_id = bytes.fromhex(re.search(r"(?m)^shoal \S+\+([0-9a-f]{12})$", output)[1])
    data = pathlib.Path(harness.BINARY).read_bytes()
    note = data.index(b"GNU\0" + build_id)
    copy = tmp_path / "shoal"
    copy.write_bytes(data[:note + 4] + bytes([data[note + 4] ^ 0xFF]) + data[note + 5:])
    copy.chmod(0o755)
    return str(copy)


def test_an_agent_of_another_build_is_refused(tmp_path, monkeypatch):
    port = harness.free_port()
    server = harness.Server(harness.GGUF, *NULL, "--workers", "external", "--master-port", port)
    try:
        harness.until(lambda: "waiting for agents" in server.output, 30, "it waits")
        own = harness.run("version")[1].split()[1]
        with monkeypatch.context() as patch:
            patch.setattr(harness, "BINARY", another_build(tmp_path))
            other = harness.run("version")[1].split()[1]
            code, output = harness.run("worker", "--master-port", port, "--device", "null")
        assert other != own
        assert code == 1, (code, output)
        assert own in output and other in output, output
        # Nobody else is harmed: an agent of the same build still makes the group complete.
        worker = harness.Process("worker", "--master-port", port, "--device", "null")
        try:
            server.wait_ready()
            assert server.stop() == 0, server.output
            assert worker.stop() == 0, worker.output
        finally:
            if worker.running():
                worker.kill_all()
    finally:
        if server.running():
            server.kill_all()


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q", "-x", "-p", "no:cacheprovider"]))
