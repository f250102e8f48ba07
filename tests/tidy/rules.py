"""The rules of the tree. Each is a function Tree -> list of Problem, and looks at nothing but the tree."""
import ast
import json
import os
import re

from tree import SOURCE_SUFFIXES, Problem, functions, strip_code

MAX_FILE_LINES = 800
MAX_FUNCTION_LINES = 70
WAIVER = "tidy: long function because"
AREAS = ("common", "coordinator", "worker", "kernels", "proto", "tools", "tests", "deploy")

# Who may include what besides its own folder: the first row whose prefix matches the including file decides.
# Columns: prefix, what it may include, what of that it may not.
ARROWS = [
    ("common/base/", ("common/base/",), ()),
    ("common/text/", ("common/text/", "common/base/"), ()),
    ("common/model/", ("common/model/", "common/base/", "common/text/"), ()),
    ("common/plan/", ("common/plan/", "common/base/", "common/model/"), ()),
    ("kernels/ops/", ("kernels/ops/", "common/base/"), ()),
    ("kernels/ref/", ("kernels/ref/", "kernels/ops/", "common/base/"), ()),
    ("kernels/cpu/", ("kernels/cpu/", "kernels/ops/", "common/base/"), ()),
    ("kernels/cuda/", ("kernels/cuda/", "kernels/ops/", "common/base/"), ()),
    ("kernels/null/", ("kernels/null/", "kernels/ops/", "common/base/"), ()),
    ("kernels/", ("kernels/", "common/base/"), ()),
    ("coordinator/core/", ("coordinator/core/", "common/"), ()),
    ("coordinator/planner/", ("coordinator/planner/", "common/"), ()),
    ("coordinator/metrics/", ("coordinator/metrics/", "coordinator/core/", "common/"), ()),
    ("coordinator/rpc/", ("coordinator/rpc/", "coordinator/core/", "common/"), ()),
    ("coordinator/journal/", ("coordinator/journal/", "common/"), ()),
    ("coordinator/http/",
     ("coordinator/http/", "coordinator/core/", "coordinator/journal/", "coordinator/metrics/", "common/"), ()),
    ("coordinator/", ("coordinator/", "common/"), ()),
    ("worker/agent/", ("worker/", "kernels/ops/", "common/"), ()),
    ("worker/", ("worker/", "kernels/ops/", "common/"), ("worker/agent/",)),
    ("tools/", ("tools/", "common/", "coordinator/", "worker/", "kernels/"), ()),
    ("tests/", tuple(area + "/" for area in AREAS), ()),
]

# Headers from outside that only some places may see.
GUARDED = [
    (re.compile(r"(^|/)(grpc|grpcpp)/|\.pb\.h$|^google/protobuf/|^google/rpc/"),
     re.compile(r"^common/plan/wire|^coordinator/rpc/|^worker/agent/|^tests/|^tools/"),
     "protobuf and gRPC stay in common/plan/wire, coordinator/rpc and worker/agent"),
    (re.compile(r"^gloo/"), re.compile(r"^worker/comm/gloo"), "Gloo, and what it throws, stays in worker/comm/gloo*"),
    (re.compile(r"^(?!worker/|tests/)(.*/)?nccl[^/]*\.h$"), re.compile(r"^worker/comm/nccl|^tests/gpu/"), "nccl.h stays in worker/comm/nccl*"),
    (re.compile(r"^(?!kernels/|worker/|tests/)(.*/)?(cuda|cublas|cudnn|curand)[^/]*\.h$"),  # ours may be called so, too
     re.compile(r"^kernels/cuda/|^worker/device/cuda|^worker/comm/nccl|^tests/gpu/"),
     "CUDA headers stay in kernels/cuda, worker/device/cuda* and worker/comm/nccl*"),
    (re.compile(r"^common/plan/wire_grpc\.h$"),
     re.compile(r"^common/plan/wire|^coordinator/rpc/|^worker/agent/|^tests/|^tools/"),
     "connections are the business of coordinator/rpc and worker/agent"),
    (re.compile(r"^common/plan/wire"),  # its headers show no protobuf, and so would slip past the row above
     re.compile(r"^common/plan/wire|^coordinator/rpc/|^coordinator/core/serving_step|^worker/agent/|"
                r"^worker/rank/process|^worker/maker/|^tests/|^tools/"),
     "messages are made and read in coordinator/rpc, core/serving_step (plans), worker/agent, maker and rank/process"),
    (re.compile(r"^(thread|mutex|shared_mutex|condition_variable|future|atomic|semaphore|latch|barrier|stop_token|"
                r"chrono|fstream|iostream|unistd\.h)$|^sys/|^linux/|^boost/(asio|beast)|^common/base/(mutex|futex)\.h$|"
                r"^absl/(synchronization|time)/"),
     re.compile(r"^(?!coordinator/core/)"), "coordinator/core has no threads, locks, clock or I/O"),
]

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.M)


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


def includes(text):
    for match in INCLUDE.finditer(text):
        yield line_of(text, match.start()), match.group(2)


def _allowed(path, included):
    if included.startswith(os.path.dirname(path) + "/"):
        return True
    for prefix, targets_of, exceptions in ARROWS:
        if path.startswith(prefix):
            return included.startswith(targets_of) and not included.startswith(exceptions)
    return True


def arrows(tree):
    problems = []
    for path in tree.with_suffix(".cc", ".h", ".cu", ".cuh"):
        for line, included in includes(tree.texts[path]):
            for pattern, places, why in GUARDED:
                if pattern.search(included) and not places.search(path):
                    problems.append(Problem(path, line, "arrow", f"includes {included}: {why}"))
            if included.split("/", 1)[0] in AREAS and not included.endswith(".pb.h") and not _allowed(path, included):
                problems.append(Problem(path, line, "arrow", f"may not include {included}"))
    return problems


def file_length(tree):
    problems = []
    for path in tree.with_suffix(*SOURCE_SUFFIXES):
        count = tree.texts[path].count("\n")
        if count > MAX_FILE_LINES:
            problems.append(Problem(path, count, "file-length", f"{count} lines, at most {MAX_FILE_LINES}"))
    return problems


def _python_functions(path, text):
    try:
        nodes = ast.walk(ast.parse(text))
    except SyntaxError as error:
        return [], [Problem(path, error.lineno or 1, "syntax", str(error))]
    return [n for n in nodes if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))], []


def function_length(tree):
    problems = []
    for path in tree.with_suffix(".cc", ".h", ".cu", ".cuh", ".rs"):
        text = tree.texts[path]
        lines = text.split("\n")
        for function in functions(text, path.endswith(".rs")):
            if function.lines <= MAX_FUNCTION_LINES:
                continue
            nearby = "\n".join(lines[max(0, function.first - 4):function.first + 3])
            if WAIVER in nearby and path.startswith("kernels/"):
                continue
            problems.append(Problem(path, function.first, "function-length",
                                    f"{function.name} has {function.lines} lines, at most {MAX_FUNCTION_LINES}"))
    for path in tree.with_suffix(".py"):
        found, broken = _python_functions(path, tree.texts[path])
        problems += broken
        for node in found:
            count = node.end_lineno - node.lineno + 1
            if count > MAX_FUNCTION_LINES:
                problems.append(Problem(path, node.lineno, "function-length",
                                        f"{node.name} has {count} lines, at most {MAX_FUNCTION_LINES}"))
    for path in tree.with_suffix(".cc", ".h", ".cu", ".cuh", ".rs"):
        if not path.startswith("kernels/") and WAIVER in tree.texts[path]:
            line = line_of(tree.texts[path], tree.texts[path].index(WAIVER))
            problems.append(Problem(path, line, "function-length", "only a kernel may carry a waiver"))
    return problems


EXPECTATION = re.compile(r"\b(?:EXPECT_|ASSERT_|RC_ASSERT|ADD_FAILURE|FAIL\s*\(|(?:\w+(?:::|\.|->))?(?:Expect|Check|Verify)[A-Z]?\w*\s*[(<])")
PYTHON_HELPER = re.compile(r"^(expect|check|verify|assert)")


def _called_names(node):
    for inner in ast.walk(node):
        if isinstance(inner, ast.Call):
            callee = inner.func
            yield callee.attr if isinstance(callee, ast.Attribute) else getattr(callee, "id", "")


def _python_expecting(nodes):
    """The names of a file's functions that expect something, themselves or through another function of the file."""
    expecting = set()
    for node in nodes:
        calls = set(_called_names(node))
        if any(isinstance(i, ast.Assert) for i in ast.walk(node)) or calls & {"raises", "fail"} or \
                any(PYTHON_HELPER.match(name) for name in calls):
            expecting.add(node.name)
    while True:
        more = {n.name for n in nodes if n.name not in expecting and expecting & set(_called_names(n))}
        if not more:
            return expecting
        expecting |= more


def _expecting(found):
    """The names of a file's functions whose body expects something, itself or through another function of the file."""
    expecting = {f.name for f in found if EXPECTATION.search(f.body)}
    while True:
        called = re.compile(r"\b(?:" + "|".join(re.escape(n.rsplit("::", 1)[-1]) for n in expecting) + r")\s*[(<]")
        more = {f.name for f in found if expecting and f.name not in expecting and called.search(f.body)}
        if not more:
            return expecting
        expecting |= more


def expectations(tree):
    problems = []
    for path in tree.with_suffix(".cc", ".cu"):
        found = functions(tree.texts[path])
        expecting = _expecting(found)
        for function in found:
            if re.match(r"(TYPED_)?TEST(_F|_P)?\(|RC_GTEST_", function.name) and function.name not in expecting:
                problems.append(Problem(path, function.first, "no-expectation", f"{function.name} expects nothing"))
    for path in tree.with_suffix(".rs"):
        code = strip_code(tree.texts[path], rust=True)
        names = set(re.findall(r"#\[test\](?:\s*#\[[^\]]*\])*\s*(?:pub\s+)?fn\s+(\w+)", code))
        for function in functions(tree.texts[path], rust=True):
            if function.name in names and not re.search(r"\b(?:assert|debug_assert|panic|unreachable)\w*!|\b(?:expect|check|verify)_\w+\(",
                                                        function.body):
                problems.append(Problem(path, function.first, "no-expectation", f"{function.name} expects nothing"))
    for path in tree.with_suffix(".py"):
        if not path.startswith("tests/") and "test" not in os.path.basename(path):
            continue
        nodes = _python_functions(path, tree.texts[path])[0]
        expecting = _python_expecting(nodes)
        for node in nodes:
            if node.name.startswith("test_") and node.name not in expecting:
                problems.append(Problem(path, node.lineno, "no-expectation", f"{node.name} expects nothing"))
    return problems


# Written in two parts, so that this file does not hold what it forbids.
WORDS = [
    (re.compile(r"\b(?:TO" r"DO|FIX" r"ME|X" r"XX|HA" r"CK)\b"), "unfinished work belongs in the tracker"),
    (re.compile(r"(?<![\w.~-])/(?:ro" r"ot|wo" r"rk)/"), "a path of one machine"),
]


def words(tree):
    problems = []
    for path in tree.paths:
        if path.endswith((".json", ".lock", ".svg", ".jsonl")) or path == "LICENSE":
            continue
        text = tree.texts[path]
        for pattern, why in WORDS:
            for match in pattern.finditer(text):
                problems.append(Problem(path, line_of(text, match.start()), "word", f"'{match.group(0)}': {why}"))
    return problems


def headers(tree):
    problems = []
    for path in tree.with_suffix(".h", ".cuh"):
        if "#pragma once" not in tree.texts[path] and '#ifdef __cplusplus' not in tree.texts[path]:
            problems.append(Problem(path, 1, "header", "lacks #pragma once"))
    return problems


def compiled_sources(tree, build):
    """The sources in the build tree's compilation database, relative to the root."""
    with open(os.path.join(build, "compile_commands.json"), encoding="utf-8") as f:
        entries = json.load(f)
    root = os.path.realpath(tree.root)
    found = set()
    for entry in entries:
        name = os.path.realpath(os.path.join(entry["directory"], entry["file"]))
        if name.startswith(root + os.sep):
            found.add(os.path.relpath(name, root).replace(os.sep, "/"))
    return found


def _cargo_crate(tree, path):
    """The folder of the Cargo.toml that owns a Rust file, or None."""
    folder = os.path.dirname(path)
    while folder:
        if folder + "/Cargo.toml" in tree.texts:
            return folder
        folder = os.path.dirname(folder)
    return None


def _rust_orphans(tree):
    problems = []
    cmake = "\n".join(tree.texts[p] for p in tree.paths if os.path.basename(p) == "CMakeLists.txt" or p.endswith(".cmake"))
    for path in tree.with_suffix(".rs"):
        crate, name = _cargo_crate(tree, path), os.path.basename(path)
        if crate is None or "cargo" not in cmake.lower():
            problems.append(Problem(path, 1, "no-target", "belongs to no crate that CMake builds"))
            continue
        if name in ("lib.rs", "main.rs", "build.rs") or path.startswith((crate + "/tests/", crate + "/examples/", crate + "/src/bin/")):
            continue
        module = os.path.basename(os.path.dirname(path)) if name == "mod.rs" else name[:-3]
        siblings = [p for p in tree.with_suffix(".rs") if p.startswith(crate + "/") and p != path]
        if not any(re.search(rf"\bmod\s+{module}\s*;", tree.texts[p]) for p in siblings):
            problems.append(Problem(path, 1, "no-target", f"no `mod {module};` names it"))
    return problems


CUDA = "kernels/cuda/"


def _cuda_sources(tree):
    """What the plug-in's CMakeLists.txt names: it is built only where there is a toolkit."""
    named = re.findall(r"[^\s()]+", re.sub(r"#.*", "", tree.texts.get(CUDA + "CMakeLists.txt", "")))
    return {os.path.normpath(CUDA + name) for name in named}


def _cuda_orphans(tree):
    named = _cuda_sources(tree)
    return [Problem(path, 1, "no-target", f"is not in {CUDA}CMakeLists.txt")
            for path in tree.with_suffix(".cc", ".cu") if path.startswith(CUDA) and path not in named]


def targets(tree, compiled):
    """Every C++ source is compiled, and every header is reached from a compiled one."""
    problems = _rust_orphans(tree) + _cuda_orphans(tree)
    named = _cuda_sources(tree)
    for path in tree.with_suffix(".cc"):
        if path not in compiled and path not in named and not path.startswith(CUDA):
            problems.append(Problem(path, 1, "no-target", "is in no CMake target"))
    reached, queue = set(), [p for p in compiled if p in tree.texts]
    while queue:
        path = queue.pop()
        for _, included in includes(tree.texts[path]):
            for candidate in (included, os.path.normpath(os.path.join(os.path.dirname(path), included))):
                if candidate in tree.texts and candidate not in reached:
                    reached.add(candidate)
                    queue.append(candidate)
    for path in tree.with_suffix(".h"):
        if path not in reached and not path.startswith(CUDA):
            problems.append(Problem(path, 1, "no-target", "is included by no compiled source"))
    return problems


def listed(tree):
    """Every Python test is in its folder's CMakeLists.txt, by name or, in a list, by what precedes _test.py."""
    problems = []
    for path in tree.with_suffix("_test.py"):
        folder, name = os.path.split(path)
        cmake = re.sub(r"#.*", "", tree.texts.get(folder + "/CMakeLists.txt", ""))
        part = name[:-len("_test.py")]
        if re.search(rf"(?<![\w}}]){name}\b", cmake):
            continue
        if "}_test.py" in cmake and re.search(rf"(?<!\w){part}(?!\w)", cmake):
            continue
        problems.append(Problem(path, 1, "no-target", "is in no CMakeLists.txt of its folder"))
    return problems


TESTED_BY = re.compile(r"[Tt]ested by:?\s+(tests/[\w./-]+)")
TEST_FILE = re.compile(r"^tests/.*_test\.(cc|py)$")


def _mirrors(folder):
    """Where tests of a folder's sources lie: the same path below tests/, its first part dropped or not, or above."""
    parts = folder.split("/")
    paths = [parts, parts[1:]] if len(parts) > 1 else [parts]
    return {"tests/" + "/".join(p[:n]) for p in paths for n in range(1, len(p) + 1)}


def tested(tree):
    """A source has a test in the mirrored folder, of its name (what precedes a `_` will do) or including its header, or
    names one elsewhere (`Tested by: tests/...`). Helpers of tests are no tests."""
    stems, included = {}, {}
    for path in filter(TEST_FILE.match, tree.paths):
        folder, name = os.path.split(path)
        stems.setdefault(folder, set()).add(name.rsplit("_test.", 1)[0])
        included.setdefault(folder, set()).update(i for _, i in includes(tree.texts[path]))
    problems = []
    for path in tree.with_suffix(".cc", ".cu"):
        if path.startswith(("tests/", "tools/bench/")):  # a benchmark measures and prints; nobody relies on it
            continue
        named = TESTED_BY.search(tree.texts[path])
        if named:
            if named.group(1) not in tree.texts or not TEST_FILE.match(named.group(1)):
                problems.append(Problem(path, line_of(tree.texts[path], named.start()), "untested",
                                        f"{named.group(1)} is no test that exists"))
            continue
        stem, header = os.path.splitext(os.path.basename(path))[0], path[:-3] + ".h"
        names = {"_".join(stem.split("_")[:n]) for n in range(1, stem.count("_") + 2)}
        mirrors = _mirrors(os.path.dirname(path))
        if any(names & stems.get(m, set()) or header in included.get(m, ()) for m in mirrors):
            continue
        problems.append(Problem(path, 1, "untested",
                                "no test in the mirrored folder has its name or its header, and it names none"))
    return problems


def check(tree, compiled=None):
    problems = []
    for rule in (arrows, file_length, function_length, expectations, words, headers, listed, tested):
        problems += rule(tree)
    if compiled is not None:
        problems += targets(tree, compiled)
    return sorted(problems, key=lambda p: (p.path, p.line, p.rule))
