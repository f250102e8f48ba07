"""What cannot be started says why, in words, with a non-zero exit, and leaves nothing behind."""

import json
import pathlib
import shutil
import socket

import pytest

import harness


def refused(*args, words, seconds=60):
    if args[0] == "serve" and "--port" not in args:
        args += ("--port", harness.free_port())  # another server may have the default one
    code, output = harness.run(*args, seconds=seconds)
    assert code not in (0, None) and code < 128, (code, output)  # an exit, not a signal
    for word in words:
        assert word in output, output
    return output


def test_missing_model():
    refused("serve", "/no/such/model.gguf", words=["/no/such/model.gguf"])


def test_truncated_model(tmp_path):
    data = pathlib.Path(harness.GGUF).read_bytes()[: 40 << 20]
    (tmp_path / "cut.gguf").write_bytes(data)
    refused("serve", tmp_path / "cut.gguf", words=["cut.gguf"])


def test_a_header_that_lies_about_sizes(tmp_path):
    data = bytearray(pathlib.Path(harness.GGUF).read_bytes()[: 4 << 20])
    data[8:16] = (1 << 60).to_bytes(8, "little")  # tensor count
    (tmp_path / "lie.gguf").write_bytes(data)
    refused("serve", tmp_path / "lie.gguf", words=["lie.gguf"])


def broken_twin(tmp_path, change):
    """A copy of the safetensors model with a changed config.json."""
    twin = tmp_path / "twin"
    shutil.copytree(harness.SAFETENSORS, twin)
    config = json.loads((twin / "config.json").read_text())
    change(config)
    (twin / "config.json").write_text(json.dumps(config))
    return twin


def test_unknown_architecture(tmp_path):
    twin = broken_twin(tmp_path, lambda c: c.update(architectures=["WonderForCausalLM"], model_type="wonder"))
    refused("serve", twin, words=["WonderForCausalLM", "LlamaForCausalLM"])


def test_misshapen_tensors_are_all_listed(tmp_path):
    twin = broken_twin(tmp_path, lambda c: c.update(intermediate_size=1600))
    refused("serve", twin, words=["layers.0", "gate_proj", "down_proj"])


def test_more_ranks_than_can_be_used():
    refused("serve", harness.GGUF, "--tensor-parallel-size", 10, words=["9"])
    refused("serve", harness.GGUF, "--pipeline-parallel-size", 31, words=["30"])


def test_port_in_use():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused("serve", harness.GGUF, "--port", port, words=[str(port), "in use"])


def test_off_loopback_needs_insecure():
    refused("serve", harness.GGUF, "--master-addr", "0.0.0.0", words=["--insecure"])
    refused("worker", "--master-port", 1, "--listen", "0.0.0.0:0", words=["insecure"])
    refused("worker", "--master-port", 1, "--advertise-address", "10.0.0.1:7001", words=["advertise", "insecure"])


def test_what_an_agent_cannot_advertise():
    refused("worker", "--master-port", 1, "--advertise-address", "127.0.0.1:0", words=["advertise", "port"])


@pytest.mark.parametrize("args,words", [
    (["serve"], ["no model given"]),
    (["serve", "m", "--tensor-paralel-size", "2"], ["--tensor-parallel-size"]),
    (["serv"], ["unknown verb"]),
    (["worker"], ["--master-port"]),
    (["inspect", "/no/such/model"], ["/no/such/model"]),
])
def test_command_line(args, words):
    refused(*args, words=words)


def test_context_that_cannot_fit():
    refused("serve", harness.GGUF, "--max-model-len", 4096, "--kv-cache-blocks", 16, words=["4096"])


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q", "-x", "-p", "no:cacheprovider"]))
