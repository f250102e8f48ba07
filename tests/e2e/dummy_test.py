"""`--load-format dummy`: a model of which only the configuration and the tokenizer are there. The made-up weights are
the same in every layout, so in f32 the text is, too."""

import json
import pathlib
import shutil
import tempfile

import pytest

import harness

LAYERS = 4  # enough for two stages; all 30 would only take longer


@pytest.fixture(scope="module")
def model():
    with tempfile.TemporaryDirectory() as folder:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(harness.SAFETENSORS / name, folder)
        config = json.loads((harness.SAFETENSORS / "config.json").read_text())
        pathlib.Path(folder, "config.json").write_text(json.dumps(config | {"num_hidden_layers": LAYERS}))
        yield folder


def texts(model, tp, pp, seed, *more):
    arguments = ["--load-format", "dummy", "--seed", seed, "--compute-dtype", "f32", "--tensor-parallel-size", tp,
                 "--pipeline-parallel-size", pp, *more]
    with harness.serve(model, *arguments) as server:
        assert len(server.cluster()["ranks"]) == tp * pp
        answers = [server.text(prompt, max_tokens=24, ignore_eos=True)
                   for prompt in ("The history of the lighthouse", "def fibonacci(n):", "오늘 서울의 날씨는")]
    assert all(answers) and len(set(answers)) == len(answers), answers
    return answers


def test_the_same_model_in_every_layout(model):
    one = texts(model, 1, 1, seed=7)
    assert texts(model, 2, 1, seed=7) == one
    assert texts(model, 2, 2, seed=7) == one
    assert texts(model, 1, 1, seed=8) != one


@pytest.mark.parametrize("quantization", ["fp8", "int8", "int4"])
def test_quantised_it_is_the_same_in_every_layout_too(model, quantization):
    one = texts(model, 1, 1, 7, "--quantization", quantization)
    assert texts(model, 2, 2, 7, "--quantization", quantization) == one


def test_without_it_weight_files_are_needed(model):
    code, output = harness.run("serve", model, "--port", harness.free_port())
    assert code != 0 and "safetensors" in output, output


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q", "-x", "-p", "no:cacheprovider"]))
