"""The house rules that no linter knows, each with the file and line that breaks it."""

import ast
import importlib
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from configparser import ConfigParser
from functools import cache
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

ROOT = Path(__file__).parent.parent
PACKAGES = ("marketplace", "ray_cluster", "billing", "examples")
PROGRAM_SUFFIXES = {".py", ".sh", ".ipynb", ".sql", ".toml", ".yaml", ".yml", ".html", ".js", ".css", ""}

FUNCTION_LINES_MAX = 60
MODULE_LINES_MAX = 400
PUBLIC_NAMES_MAX = 12


@cache
def tree() -> tuple[Path, ...]:
    """Every file that is tracked, or would be: relative paths."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return tuple(Path(name) for name in sorted(set(listing.splitlines())) if (ROOT / name).is_file())


@cache
def text(path: Path) -> str:
    """The text of a file; nothing for one that is not text."""
    try:
        return (ROOT / path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


@cache
def syntax(path: Path) -> ast.Module:
    """The syntax tree of a Python file."""
    return ast.parse(text(path), filename=str(path))


def modules(*packages: str) -> list[Path]:
    """The Python files of these packages, or of the whole tree; migrations are generated and never edited again."""
    return [
        path
        for path in tree()
        if path.suffix == ".py" and path.parent.name != "versions" and (not packages or path.parts[0] in packages)
    ]


def found(pattern: str, paths: Sequence[Path]) -> list[str]:
    """Each ``file:line: text`` that matches."""
    regex = re.compile(pattern)
    return [
        f"{path}:{number}: {match.group()}"
        for path in paths
        if regex.search(text(path))
        for number, line in enumerate(text(path).splitlines(), 1)
        for match in regex.finditer(line)
    ]


def holds(problems: Sequence[str]) -> None:
    """Fail with all of the problems, one a line."""
    assert not problems, "\n" + "\n".join(problems)


# Size and openings


def test_functions_are_short() -> None:
    """A reader sees a whole function on one screen. (A migration is written once, so it may be as long as it must.)"""
    holds(
        [
            f"{path}:{node.lineno}: {node.name} has {length} lines, at most {FUNCTION_LINES_MAX}"
            for path in modules()
            if "versions" not in path.parts
            for node in ast.walk(syntax(path))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
        ]
    )


def test_modules_are_short() -> None:
    """A module is one noun: what outgrows it becomes a folder."""
    counts = [(path, len(text(path).splitlines())) for path in modules()]
    holds([f"{path}:{MODULE_LINES_MAX}: {n} lines" for path, n in counts if n > MODULE_LINES_MAX])


def test_every_module_opens_with_one_sentence() -> None:
    """Whoever opens a module reads first, in one sentence, what it is for."""
    problems = []
    for path in modules(*PACKAGES):
        opening = (ast.get_docstring(syntax(path)) or "").split("\n\n")[0]
        if not opening.endswith((".", ":")) or re.search(r"[.!?]\s+[A-Z]", opening):
            problems.append(f"{path}:1: opens with {opening!r}, not with one sentence")
    holds(problems)


# Money


def seconds(node: ast.AST) -> Iterator[ast.AST]:
    """What may be a float beneath this node, because its name ends in _seconds: a timeout is no money."""
    if isinstance(node, ast.AnnAssign | ast.Assign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if all(ast.unparse(target).lower().endswith("_seconds") for target in targets):
            yield node
    elif isinstance(node, ast.keyword) and (node.arg or "").endswith("_seconds"):
        yield node
    elif isinstance(node, ast.arguments):
        positional = [*node.posonlyargs, *node.args]
        defaults = [None] * (len(positional) - len(node.defaults)) + list(node.defaults) + node.kw_defaults
        for argument, default in zip([*positional, *node.kwonlyargs], defaults, strict=True):
            if argument.arg.endswith("_seconds"):
                yield from (part for part in (argument, default) if part is not None)


def floats(module: ast.Module) -> Iterator[ast.expr]:
    """Every float literal, the name ``float``, and every division that would make one."""
    allowed = {id(part) for node in ast.walk(module) for root in seconds(node) for part in ast.walk(root)}
    for node in ast.walk(module):
        if not isinstance(node, ast.expr) or id(node) in allowed:
            continue
        literal = isinstance(node, ast.Constant) and isinstance(node.value, float)
        if literal or (isinstance(node, ast.Name) and node.id == "float"):
            yield node
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            sides = (node.left, node.right)
            if any(isinstance(side, ast.Constant) and isinstance(side.value, int) for side in sides):
                yield node


def test_no_float_touches_money() -> None:
    """No cent is lost to binary fractions: billing has no float, but for spans named *_seconds."""
    paths = [path for path in modules("billing") if "testing" not in path.parts]
    holds([f"{path}:{node.lineno}: {ast.unparse(node)}" for path in paths for node in floats(syntax(path))])


def test_the_only_rounding_code_imports_nothing_of_others() -> None:
    """billing/money.py can be read and checked alone: the standard library and our errors are all it knows."""
    path = Path("billing/money.py")
    allowed = set(sys.stdlib_module_names) | {"billing.errors"}
    problems = []
    for node in ast.walk(syntax(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            problems += [f"{path}:{node.lineno}: imports {n}" for n in names if not {n, n.split(".")[0]} & allowed]
    holds(problems)


# Names and errors


@pytest.mark.parametrize("package", ["billing", "ray_cluster"])
def test_the_drawn_error_tree_is_the_real_one(package: str) -> None:
    """The tree at the top of an errors.py is what the code does: same classes, parents and statuses."""
    path = Path(package, "errors.py")
    module = syntax(path)
    classes = {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}
    above = [next(iter(classes))]
    drawn: dict[str, tuple[str, str]] = {}
    for line in (ast.get_docstring(module) or "").splitlines():
        match = re.match(r"([│ ]*)[├└]── (\w+)(?: +(\d{3})\b)?", line)
        if match:
            above[len(match[1]) // 4 + 1 :] = [match[2]]
            drawn[match[2]] = (above[-2], match[3] or "")
    real = {name: ast.unparse(node.bases[0]) for name, node in classes.items() if name != above[0]}
    assert {name: parent for name, (parent, _) in drawn.items()} == real, f"{path}:1: drawing ≠ classes"
    errors = importlib.import_module(f"{package}.errors")
    for name, (_, status) in drawn.items():
        if status:
            assert str(getattr(errors, name).status) == status, f"{path}:{classes[name].lineno}: {name}"


def test_the_buyers_face_is_small_and_honest() -> None:
    """``marketplace.__all__`` is exactly what the package offers: sorted out, importable, at most a dozen names."""
    offered = importlib.import_module("marketplace")
    names = getattr(offered, "__all__", [])
    where = "marketplace/__init__.py:1"
    assert 0 < len(names) <= PUBLIC_NAMES_MAX, f"{where}: __all__ has {len(names)} names"
    assert [name for name in names if not hasattr(offered, name)] == [], f"{where}: __all__ names what is not there"
    submodules = {name for name in vars(offered) if f"marketplace.{name}" in sys.modules}
    public = {name for name in vars(offered) if not name.startswith("_")} - submodules
    assert public - set(names) == set(), f"{where}: public, but not in __all__"


def test_classes_use_the_words_of_the_glossary() -> None:
    """One idea, one word: a device, a lease and a transfer have no second names."""
    banned = re.compile(r"(Worker|Host|Instance|Transaction)(?![a-z])")
    holds(
        [
            f"{path}:{node.lineno}: class {node.name}"
            for path in modules(*PACKAGES)
            for node in ast.walk(syntax(path))
            if isinstance(node, ast.ClassDef) and banned.search(node.name)
        ]
    )


# What people type


def shown_commands() -> Iterator[tuple[str, list[str]]]:
    """Each command in a ```sh block of a Markdown file: where it stands, and its words."""
    for path in tree():
        inside, pending = False, ""
        for number, line in enumerate(text(path).splitlines() if path.suffix == ".md" else [], 1):
            if line.lstrip().startswith("```"):
                inside = line.strip() in ("```sh", "```bash", "```console", "```shell")
                continue
            if not inside:
                continue
            pending += line.strip().removeprefix("$ ")
            if pending.endswith("\\"):
                pending = pending[:-1] + " "
                continue
            lexer = shlex.shlex(pending, posix=True, punctuation_chars="|&;")
            lexer.whitespace_split = True
            words: list[str] = []
            for word in [*lexer, ";"]:
                if set(word) <= set("|&;") and words:
                    yield f"{path}:{number}", words
                    words = []
                elif words or not re.match(r"[A-Z_]+=", word):
                    words.append(word)
            pending = ""


def spare_problem(words: Sequence[str]) -> str:
    """Why ``spare`` would not understand these words; empty when it would."""
    command = typer.main.get_command(importlib.import_module("marketplace.cli").app)
    known = {"--help", "--version"}
    for word in words:
        if isinstance(command, TyperGroup) and not word.startswith("-"):
            if word not in command.commands:
                return f"spare has no command {word!r} here"
            command = command.commands[word]
        elif word == "--":
            break
        elif word.startswith("-"):
            options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
            if word.split("=")[0] not in options | known:
                return f"{command.name} has no option {word}"
    return ""


def test_the_commands_in_the_documents_exist() -> None:
    """Whatever a document tells people to type is there: spare's commands and options, make's targets, scripts."""
    targets = set(re.findall(r"^([a-z]+):", text(Path("Makefile")), re.MULTILINE))
    problems = []
    for where, words in shown_commands():
        program = Path(words[0]).name
        if program == "spare" and (problem := spare_problem(words[1:])):
            problems.append(f"{where}: {problem}")
        elif program == "make":
            goals = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
            problems += [f"{where}: make has no target {goal}" for goal in goals if goal not in targets]
        elif words[0].startswith(("scripts/", ".ci/", "./")) and not (ROOT / words[0]).exists():
            problems.append(f"{where}: no {words[0]}")
    holds(problems)


def test_the_paths_in_the_documents_exist() -> None:
    """Whatever file a document names in backticks is there."""
    folders = {path.parts[0] for path in tree() if len(path.parts) > 1}
    token = re.compile(r"`([\w.-]+(?:/[\w.-]+)*/?)`")
    holds(
        [
            f"{path}:{number}: no {name}"
            for path in tree()
            if path.suffix == ".md" and path.name != "CHANGELOG.md"
            for number, line in enumerate(text(path).splitlines(), 1)
            for name in token.findall(line)
            if "/" in name and name.split("/")[0] in folders and not (ROOT / name).exists()
        ]
    )


# What must not be in the tree


def test_nothing_of_a_build_machine_is_left() -> None:
    """The tree works anywhere: it holds no path of the machine it was written on and no package registry's address."""
    homes = r"(?<![\w.:/-])/(?:wo" r"rk|ro" r"ot|Us" r"ers/\w+|ho" r"me/(?!spare\b)\w+)/[\w.]"
    registry = r"--(?:extra-)?index" r"-url|PIP_" r"INDEX|https?://[^\s\"')]+/simp" r"le\b"
    holds(found(f"{homes}|{registry}", tree()))


def test_nothing_is_left_undone() -> None:
    """What is in the tree is finished and tested: no reminders, no empty shells, no test that does not run."""
    reminders = r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X|NotImpl" r"ementedError)\b"
    unrun = r"\bpytest\.sk" r"ip\b|\bmark\.sk" r"ip|\bimportor" r"skip\b|\bunittest\.sk" r"ip|\bxf" r"ail\b"
    holds(found(f"{reminders}|{unrun}", tree()))


def spoken(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Every string that a program uses (its docstrings left out), and every list of words joined."""
    prose = {id(node.value) for node in ast.walk(module) if isinstance(node, ast.Expr)}
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value
        elif isinstance(node, ast.List | ast.Tuple):
            yield node.lineno, " ".join(str(item.value) for item in node.elts if isinstance(item, ast.Constant))


def test_only_processes_that_we_started_are_stopped() -> None:
    """A provider's other programs are safe: nothing here stops processes by name, or every Ray of a machine."""
    pattern = re.compile(r"\bray st" r"op\b|\bpk" r"ill\b|\bkill" r"all\b")
    problems = []
    for path in tree():
        if path.suffix == ".py":
            lines = list(spoken(syntax(path)))
        elif path.suffix in PROGRAM_SUFFIXES and path.name != "LICENSE":
            lines = [(n, line.partition("#")[0]) for n, line in enumerate(text(path).splitlines(), 1)]
        else:
            continue
        problems += [f"{path}:{number}: {line}" for number, line in lines if pattern.search(line)]
    holds(problems)


def test_programs_can_be_started() -> None:
    """Every file that names its interpreter can be run, and every shell script stops at its first error."""
    problems = []
    for path in tree():
        if text(path).startswith("#!"):
            if not os.access(ROOT / path, os.X_OK):
                problems.append(f"{path}:1: not executable")
            if "sh" in text(path).splitlines()[0].split("/")[-1] and "\nset -eu" not in text(path):
                problems.append(f"{path}:1: does not set -eu")
        elif path.parts[0] in ("scripts", ".ci") and path.suffix in ("", ".sh"):
            problems.append(f"{path}:1: names no interpreter")
    holds(problems)


# What loading a module really loads (import-linter does not see what a package's __init__ brings in)

CONTRACTS = ConfigParser()
CONTRACTS.read(ROOT / ".importlinter")
OUTSIDE = CONTRACTS["importlinter:contract:outside"]


@pytest.mark.parametrize("name", ["marketplace", *OUTSIDE["source_modules"].split()])
def test_what_runs_outside_loads_no_server(name: str) -> None:
    """Notebooks, devices and clusters load no server and no database, not even by way of a package's ``__init__``."""
    program = f"import json, sys, {name}; print(json.dumps(sorted({{n.split('.')[0] for n in sys.modules}})))"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"{name}: {run.stderr}"
    loaded = set(json.loads(run.stdout.splitlines()[-1]))
    assert loaded & set(OUTSIDE["forbidden_modules"].split()) == set(), f"import {name} loads these"
