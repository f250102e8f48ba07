"""One real server for all conformance tests, with the official client pointed at it."""

import os
import pathlib
import sys

import openai
import pytest

sys.path.insert(0, str(pathlib.Path(os.environ["SHOAL_SOURCE_DIR"]) / "tests/e2e"))
import harness  # noqa: E402

KEY = "sk-conformance"
MODEL = "smol"


@pytest.fixture(scope="session")
def server():
    with harness.serve(harness.GGUF, "--tensor-parallel-size", 2, "--api-key", KEY, "--served-model-name", MODEL,
                       "--max-model-len", 2048) as running:
        running.http.headers["Authorization"] = f"Bearer {KEY}"
        yield running


@pytest.fixture(scope="session")
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0, timeout=120) as made:
        yield made
