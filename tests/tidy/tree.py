"""The files of the tree and a rough reading of C++ and Rust: enough to find functions, tests and includes."""
import os
import re
from dataclasses import dataclass, field

SOURCE_SUFFIXES = (".cc", ".h", ".cu", ".cuh", ".rs", ".py", ".proto", ".cmake", ".sh")
SKIPPED_FOLDERS = {".git", ".venv", ".cache", "models", "target", "__pycache__", ".pytest_cache", "node_modules"}


@dataclass
class Problem:
    path: str
    line: int
    rule: str
    text: str

    def __str__(self):
        return f"{self.path}:{self.line}: [{self.rule}] {self.text}"


@dataclass
class Function:
    name: str
    first: int  # line of the signature's start
    last: int  # line of the closing brace
    body: str
    head: str

    @property
    def lines(self):
        return self.last - self.first + 1


@dataclass
class Tree:
    """Paths are relative to the root, with '/'."""

    root: str
    paths: list = field(default_factory=list)
    texts: dict = field(default_factory=dict)

    @classmethod
    def read(cls, root):
        tree = cls(root)
        for folder, folders, names in os.walk(root):
            top = os.path.relpath(folder, root) == "."
            folders[:] = sorted(f for f in folders if f not in SKIPPED_FOLDERS and not (top and f.startswith("build")))
            for name in sorted(set(names) - SKIPPED_FOLDERS):  # .git is a file in a linked work tree
                path = os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/")
                try:
                    with open(os.path.join(root, path), encoding="utf-8") as f:
                        text = f.read()
                except (UnicodeDecodeError, OSError):
                    continue  # a binary fixture
                tree.paths.append(path)
                tree.texts[path] = text
        return tree

    def with_suffix(self, *suffixes):
        return [p for p in self.paths if p.endswith(suffixes)]


_CPP_TOKENS = re.compile(
    r'//[^\n]*|/\*.*?\*/|(?:u8|[uUL])?R"(?P<d>[^()\\ ]{0,16})\(.*?\)(?P=d)"|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', re.S)
_RUST_TOKENS = re.compile(
    r'//[^\n]*|/\*.*?\*/|b?r(?P<d>#*)".*?"(?P=d)|b?"(?:\\.|[^"\\])*"|b?\'(?:\\.[^\']*|[^\'\\])\'', re.S)


def strip_code(text, rust=False):
    """The text with comments, string contents and (C++) preprocessor lines blanked; line numbers stay."""

    def blank(match):
        token = match.group(0)
        lines = "\n" * token.count("\n")
        return lines if token.startswith(("//", "/*")) else '""' + lines

    if rust:
        return _RUST_TOKENS.sub(blank, text)
    # 1'000'000: a digit separator opens no character literal.
    text = re.sub(r"(?<=[0-9a-fA-F])'(?=[0-9a-fA-F])", "", text)
    text = re.sub(r"\b(?:public|private|protected)\s*:(?!:)", "", _CPP_TOKENS.sub(blank, text))
    out, continued = [], False
    for line in text.split("\n"):
        directive = continued or line.lstrip().startswith("#")
        continued = directive and line.rstrip().endswith("\\")
        out.append("" if directive else line)
    return "\n".join(out)


_OUTER_CPP = re.compile(r"\b(namespace|class|struct|union|enum)\b|extern\s*\"\"")
_OUTER_RUST = re.compile(r"\b(mod|impl|trait|struct|enum|union)\b|extern\s*\"\"\s*$|macro_rules!")


def _opens_function(head, rust):
    if rust:
        return re.search(r"\bfn\s+\w+", head) is not None
    if "(" not in head or head.rstrip().endswith(("=", ",")):
        return False
    # `class X : public Y<decltype(f())> {` opens a class; `struct X F(...) {` is written by nobody here.
    before_paren = head.split("(", 1)[0]
    if _OUTER_CPP.search(before_paren):
        return re.search(r"\b(alignas|SHOAL_CAPABILITY|__attribute__)\s*$", before_paren) is None and \
            re.search(r"\)\s*(const|noexcept|override|final|->.*)*\s*$", head) is not None and \
            not re.search(r"\b(class|struct|union|enum|namespace)\b", before_paren)
    return True


def _name(head, rust):
    if rust:
        found = re.search(r"\bfn\s+(\w+)", head)
        return found.group(1) if found else "?"
    found = re.search(r"([\w:~]+|operator\s*\S+)\s*\(", head)
    name = found.group(1) if found else "?"
    if re.fullmatch(r"(TYPED_)?TEST(_F|_P)?|RC_GTEST_(FIXTURE_)?PROP", name):
        inner = re.search(r"\(([^()]*)", head)
        name += "(" + ", ".join(part.strip() for part in (inner.group(1) if inner else "").split(",")[:2]) + ")"
    return name


def functions(text, rust=False):
    """The functions of a source by brace matching; what a function contains (lambdas, local classes) counts to it."""
    code = strip_code(text, rust)
    outer = _OUTER_RUST if rust else _OUTER_CPP
    found, stack, line, start, start_line = [], [], 1, 0, 1
    for i, c in enumerate(code):
        if c == "\n":
            line += 1
        if not stack or stack[-1][0] != "inner":
            if not code[start:i].strip():
                start_line = line
            if c in ";}":
                start = i + 1
        if c == "{":
            if stack and stack[-1][0] in ("function", "inner"):
                stack.append(("inner", None))
                continue
            head = code[start:i]
            if _opens_function(head, rust):
                stack.append(("function", (start_line, i, head.strip())))
            elif outer.search(head):
                stack.append(("outer", None))
                start = i + 1
            else:
                stack.append(("inner", None))  # an initialiser
        elif c == "}" and stack:
            kind, data = stack.pop()
            if kind == "function":
                first, opened, head = data
                found.append(Function(_name(head, rust), first, line, code[opened:i + 1], head))
            if not stack or stack[-1][0] == "outer":
                start = i + 1
    return found
