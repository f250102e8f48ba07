#!/usr/bin/env python3
"""Each rule must report the bad tree that was made for it, and leave the good one alone."""
import json
import os
import tempfile
import unittest

import rules
from tree import Tree, functions, strip_code

BODY = "  x();\n"


def function_of(lines):
    """A C++ function that is `lines` lines long."""
    return "void F() {\n" + BODY * (lines - 2) + "}\n"


class TreeCase(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def tree(self, files):
        for path, text in files.items():
            full = os.path.join(self.folder.name, path)
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, "w", encoding="utf-8") as f:
                f.write(text)
        return Tree.read(self.folder.name)

    def expect_problems(self, rule, files, *expected):
        """The rule reports exactly the expected (path, line) pairs."""
        got = [(p.path, p.line) for p in rule(self.tree(files))]
        self.assertEqual(sorted(got), sorted(expected))


class Arrows(TreeCase):
    def expect_include(self, path, included, good):
        text = f'#pragma once\n#include "{included}"\n'
        self.expect_problems(rules.arrows, {path: text}, *([] if good else [(path, 2)]))
        os.remove(os.path.join(self.folder.name, path))

    def test_allowed(self):
        for path, included in [
            ("common/plan/a.h", "common/model/b.h"), ("common/model/a.h", "common/text/b.h"),
            ("kernels/cpu/gemm/a.cc", "kernels/ops/b.h"), ("kernels/cpu/gemm/a.cc", "kernels/cpu/b.h"),
            ("coordinator/server/a.cc", "coordinator/http/b.h"), ("coordinator/rpc/a.cc", "cluster.pb.h"),
            ("worker/rank/a.cc", "worker/graph/b.h"), ("worker/agent/a.cc", "worker/rank/b.h"),
            ("common/plan/wire_plan.cc", "plan.pb.h"), ("tools/cli/a.cc", "coordinator/server/b.h"),
            ("tests/x/a.cc", "worker/agent/b.h"), ("worker/comm/nccl_group.cc", "nccl.h"), ("worker/rank/a.cc", "worker/comm/nccl.h"),
            ("kernels/cuda/a.cu", "cuda_runtime.h"), ("tools/cli/a.cc", "worker/device/cuda_plugin.h"),
            ("tests/x/a_test.cc", "tests/x/cuda_runtime_api.h"),
        ]:
            with self.subTest(path=path, included=included):
                self.expect_include(path, included, good=True)

    def test_forbidden(self):
        for path, included in [
            ("common/base/a.h", "common/model/b.h"), ("common/model/a.h", "common/plan/b.h"),
            ("common/text/a.h", "common/model/b.h"), ("common/plan/a.h", "worker/rank/b.h"),
            ("kernels/ops/a.h", "kernels/cpu/b.h"), ("kernels/ref/a.cc", "kernels/cpu/b.h"),
            ("kernels/cpu/a.cc", "common/model/b.h"), ("kernels/cpu/a.cc", "worker/kv/b.h"),
            ("coordinator/core/a.cc", "worker/rank/b.h"), ("coordinator/core/a.cc", "kernels/ops/b.h"),
            ("coordinator/core/a.cc", "coordinator/http/b.h"), ("coordinator/http/a.cc", "coordinator/rpc/b.h"),
            ("coordinator/http/a.cc", "coordinator/server/b.h"), ("worker/rank/a.cc", "coordinator/core/b.h"),
            ("worker/rank/a.cc", "worker/agent/b.h"), ("worker/graph/a.cc", "kernels/cpu/b.h"),
            ("worker/graph/a.cc", "tests/testing/b.h"), ("tools/cli/a.cc", "tests/testing/b.h"),
            ("common/plan/ring.cc", "plan.pb.h"), ("worker/rank/a.cc", "grpcpp/grpcpp.h"),
            ("worker/rank/a.cc", "google/protobuf/arena.h"), ("worker/comm/shm.cc", "nccl.h"),
            ("worker/graph/a.cc", "cuda_runtime.h"), ("coordinator/server/a.cc", "cuda.h"),
        ]:
            with self.subTest(path=path, included=included):
                self.expect_include(path, included, good=False)

    def test_core_has_no_threads_clock_or_io(self):
        bad = ("mutex", "atomic", "chrono", "sys/mman.h", "linux/futex.h", "common/base/mutex.h", "common/base/futex.h",
               "absl/synchronization/mutex.h")
        for header in bad:
            with self.subTest(header=header):
                self.expect_include("coordinator/core/a.cc", header, good=False)
                self.expect_include("coordinator/server/a.cc", header, good=True)
        for header in ("vector", "common/base/clock.h"):
            with self.subTest(header=header):
                self.expect_include("coordinator/core/a.cc", header, good=True)

    def test_messages_are_made_in_few_places(self):
        for path, included, good in [
            ("coordinator/core/serving_step.cc", "common/plan/wire.h", True),
            ("worker/rank/process.cc", "common/plan/wire.h", True),
            ("worker/maker/make_weights.cc", "common/plan/wire_setup.h", True),
            ("worker/agent/a.cc", "common/plan/wire_grpc.h", True),
            ("coordinator/core/scheduler.cc", "common/plan/wire.h", False),
            ("coordinator/core/serving_step.cc", "common/plan/wire_grpc.h", False),
            ("worker/rank/engine.cc", "common/plan/wire.h", False),
            ("worker/rank/process.cc", "common/plan/wire_grpc.h", False),
            ("coordinator/http/a.cc", "common/plan/wire_setup.h", False),
        ]:
            with self.subTest(path=path, included=included):
                problems = rules.arrows(self.tree({path: f'#include "{included}"\n'}))
                self.assertEqual(problems == [], good)
                os.remove(os.path.join(self.folder.name, path))


class Lengths(TreeCase):
    def test_file(self):
        self.expect_problems(rules.file_length, {"a.cc": "\n" * 800, "b.cc": "\n" * 801, "c.md": "\n" * 900}, ("b.cc", 801))

    def test_function(self):
        self.expect_problems(rules.function_length, {"worker/a.cc": "\n" + function_of(70), "worker/b.cc": "\n" + function_of(71)},
                             ("worker/b.cc", 2))

    def test_method_in_namespace_and_class(self):
        text = "namespace a {\nclass B : public C<int> {\n public:\n" + function_of(71) + "};\n}  // namespace a\n"
        self.expect_problems(rules.function_length, {"a.h": text}, ("a.h", 4))

    def test_long_table_and_long_class_are_no_functions(self):
        table = "const Row kRows[] = {\n" + "  {F(1), 2},\n" * 90 + "};\n"
        many = "struct S {\n" + "  void F() { g(); }\n" * 90 + "};\n"
        self.expect_problems(rules.function_length, {"a.cc": table + many})

    def test_waiver_only_in_kernels(self):
        text = "// tidy: long function because the tile is unrolled by hand\n" + function_of(90)
        self.expect_problems(rules.function_length, {"kernels/cpu/a.cc": text})
        self.expect_problems(rules.function_length, {"worker/a.cc": text}, ("worker/a.cc", 1), ("worker/a.cc", 2))

    def test_rust_and_python(self):
        rust = "impl<'a> S<'a> {\n    fn f(&'a self) -> char {\n" + "        x('{');\n" * 69 + "        '}'\n    }\n}\n"
        python = "def f():\n" + "    x()\n" * 70
        self.expect_problems(rules.function_length, {"a.rs": rust, "a.py": python}, ("a.rs", 2), ("a.py", 1))


class Reading(unittest.TestCase):
    def test_braces_in_strings_comments_and_macros(self):
        text = '#define OPEN {\n// {\nvoid F() {\n  g("{", \'{\', R"x({")x", 1\'000);  /* { */\n}\nvoid G() {}\n'
        self.assertEqual([(f.name, f.first, f.last) for f in functions(text)], [("F", 3, 5), ("G", 6, 6)])

    def test_lambda_counts_to_its_function(self):
        text = "int F() {\n  auto f = [](int x) {\n    return x;\n  };\n  return f(1);\n}\n"
        self.assertEqual([(f.name, f.lines) for f in functions(text)], [("F", 6)])

    def test_constructor_with_initialisers(self):
        text = "A::A(int x)\n    : x_(x),\n      y_(0) {\n  g();\n}\n"
        self.assertEqual([(f.name, f.first, f.last) for f in functions(text)], [("A::A", 1, 5)])

    def test_lines_stay(self):
        text = 'a /* x\ny */ "b" // c\n#define D \\\n  {\nR"(1\n2)" d'
        self.assertEqual(strip_code(text).count("\n"), text.count("\n"))


class Expectations(TreeCase):
    def test_gtest(self):
        text = ("TEST(A, Empty) {\n  f();\n}\nTEST(A, Good) {\n  EXPECT_EQ(1, f());\n}\nTEST_F(B, Helper) {\n  ExpectSame(1);\n}\n"
                "TEST_P(C, OnlyInAComment) {\n  // EXPECT_TRUE(f());\n}\nTEST(A, Member) { h.VerifyAll(); }\n"
                "void AsAlone(int n) {\n  EXPECT_EQ(n, f(n));\n}\nTEST(A, Through) { AsAlone(3); }\nTEST(A, Not) { AsAloneNot(3); }\n")
        self.expect_problems(rules.expectations, {"tests/a_test.cc": text}, ("tests/a_test.cc", 1), ("tests/a_test.cc", 10),
                             ("tests/a_test.cc", 18))

    def test_rust(self):
        text = "#[test]\nfn a() {\n    f();\n}\n#[test]\nfn b() {\n    assert_eq!(f(), 1);\n}\nfn c() {}\n"
        self.expect_problems(rules.expectations, {"a.rs": text}, ("a.rs", 1))

    def test_python(self):
        text = "def test_a():\n    f()\n\ndef test_b():\n    assert f()\n\ndef test_c():\n    with pytest.raises(X):\n        f()\n"
        text += "\ndef refused(x):\n    again(x)\n\ndef again(x):\n    assert x\n\ndef test_d():\n    refused(1)\n"
        self.expect_problems(rules.expectations, {"tests/test_a.py": text}, ("tests/test_a.py", 1))


class Words(TreeCase):
    def test_words(self):
        todo, home = "TO" + "DO", "/ro" + "ot/x"
        self.expect_problems(rules.words, {"a.cc": f"// {todo}: later\n", "b.md": f"fine\nsee {home}\n", "c.md": "to-do, ./ro" + "ot/x\n"},
                             ("a.cc", 1), ("b.md", 2))

    def test_pragma_once(self):
        self.expect_problems(rules.headers, {"a.h": "int f();\n", "b.h": "#pragma once\n"}, ("a.h", 1))


class Targets(TreeCase):
    def test_sources_and_headers(self):
        files = {"common/a.cc": '#include "common/a.h"\n', "common/a.h": '#include "common/b.h"\n', "common/b.h": "",
                 "common/alone.cc": "", "common/alone.h": ""}
        self.expect_problems(lambda tree: rules.targets(tree, {"common/a.cc"}), files, ("common/alone.cc", 1), ("common/alone.h", 1))

    def test_header_of_a_source_without_target_is_not_reached(self):
        files = {"common/a.cc": '#include "common/a.h"\n', "common/a.h": ""}
        self.expect_problems(lambda tree: rules.targets(tree, set()), files, ("common/a.cc", 1), ("common/a.h", 1))

    def test_the_plug_in_names_its_sources(self):
        files = {"kernels/cuda/CMakeLists.txt": "set(S a.cc gemm/b.cu ../../worker/comm/d.cc)  # c.cu\n", "kernels/cuda/a.cc": "",
                 "kernels/cuda/gemm/b.cu": "", "kernels/cuda/c.cu": "", "kernels/cuda/b.cu": "", "worker/comm/d.cc": "",
                 "worker/comm/e.cc": ""}
        self.expect_problems(lambda tree: rules.targets(tree, set()), files, ("kernels/cuda/c.cu", 1), ("kernels/cuda/b.cu", 1),
                             ("worker/comm/e.cc", 1))

    def test_rust(self):
        files = {"t/CMakeLists.txt": "add_custom_command(COMMAND cargo build)", "t/Cargo.toml": "", "t/src/lib.rs": "mod used;\n",
                 "t/src/used.rs": "", "t/src/unused.rs": "", "lost/src/lib.rs": ""}
        self.expect_problems(lambda tree: rules.targets(tree, set()), files, ("t/src/unused.rs", 1), ("lost/src/lib.rs", 1))

    def test_reads_the_compilation_database(self):
        tree = self.tree({"common/a.cc": ""})
        build = os.path.join(self.folder.name, "build")
        os.mkdir(build)
        entries = [{"directory": build, "file": os.path.join(self.folder.name, "common/a.cc")},
                   {"directory": build, "file": "/usr/elsewhere.cc"}]
        with open(os.path.join(build, "compile_commands.json"), "w", encoding="utf-8") as f:
            json.dump(entries, f)
        self.assertEqual(rules.compiled_sources(tree, build), {"common/a.cc"})


class Tested(TreeCase):
    def test_untested_source(self):
        files = {"common/plan/a.cc": "", "common/plan/b.cc": "", "common/plan/c_avx2.cc": "", "common/plan/d.cc": "",
                 "common/plan/e.cc": "// Tested by: tests/plan/nothing_test.cc\n",
                 "common/plan/f.cc": "// Tested by: tests/plan/a_test.cc\n",
                 "tests/plan/a_test.cc": '#include "common/plan/b.h"\n', "tests/plan/c_test.py": ""}
        self.expect_problems(rules.tested, files, ("common/plan/d.cc", 1), ("common/plan/e.cc", 1))

    def test_mirrored_folders(self):
        files = {"kernels/cpu/x.cc": "", "kernels/ref/y.cc": "", "worker/kv/z.cc": "", "tests/kernels/x_test.cc": "",
                 "tests/ref/y_test.cc": "", "tests/worker/kv/z_test.cc": "", "kernels/cuda/x.cu": "", "kernels/cuda/w.cu": ""}
        self.expect_problems(rules.tested, files, ("kernels/cuda/w.cu", 1))

    def test_what_is_no_test_of_it(self):
        files = {"worker/kv/helper.cc": "", "tests/kv/helper.cc": '#include "worker/kv/helper.h"\n',  # no test
                 "worker/kv/cache.cc": "", "tests/http/cache_test.cc": '#include "worker/kv/cache.h"\n',  # elsewhere
                 "worker/kv/block.cc": "", "tests/kv/block_list_test.cc": "",  # a longer name
                 "worker/kv/named.cc": "// Tested by: tests/kv/helper.cc\n"}
        self.expect_problems(rules.tested, files, ("worker/kv/helper.cc", 1), ("worker/kv/cache.cc", 1),
                             ("worker/kv/block.cc", 1), ("worker/kv/named.cc", 1))


class Listed(TreeCase):
    def test_python_tests(self):
        loop = "foreach(name two)\n  shoal_python_test(e_${name} SCRIPT ${name}_test.py)\nendforeach()\n"
        files = {"tests/a/CMakeLists.txt": "shoal_python_test(a SCRIPT one_test.py)  # not lost_test.py\n",
                 "tests/a/one_test.py": "", "tests/a/lost_test.py": "", "tests/b/helper.py": "",
                 "tests/b/alone_test.py": "", "tests/e/CMakeLists.txt": loop, "tests/e/two_test.py": "",
                 "tests/e/three_test.py": ""}
        self.expect_problems(rules.listed, files, ("tests/a/lost_test.py", 1), ("tests/b/alone_test.py", 1),
                             ("tests/e/three_test.py", 1))


class Whole(TreeCase):
    def test_good_tree(self):
        files = {"common/a.cc": '#include "common/a.h"\n' + function_of(20), "common/a.h": "#pragma once\n",
                 "tests/common/a_test.cc": '#include "common/a.h"\nTEST(A, B) { EXPECT_TRUE(F()); }\n', "README.md": "good\n"}
        self.assertEqual(rules.check(self.tree(files), {"common/a.cc", "tests/common/a_test.cc"}), [])

    def test_build_trees_and_models_are_not_read(self):
        todo = "TO" + "DO"
        tree = self.tree({"build/a.cc": todo, "build-asan/a.cc": todo, "models/a.md": todo, "common/x/target/a.rs": todo})
        self.assertEqual(tree.paths, [])


if __name__ == "__main__":
    unittest.main()
