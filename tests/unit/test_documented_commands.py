"""Every command line in README and docs is one that the programs take: command, options, their values, arguments."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from face0_worker.cli import commands as face0_worker
from producer.cli import cli as face0

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("README*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")])
PROGRAMS = {"face0": face0, "face0-worker": face0_worker}
_FENCE = re.compile(r"^ *(```+|~~~+) *(\w*)")
_SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
_INSIDE = re.compile(r"\$\(([^()]+)\)")
_ASSIGNED = re.compile(r"[A-Za-z_]\w*=.*")
# stands for what the reader fills in, or for "and so on"
_PLACEHOLDER = re.compile(r"[A-Z][A-Z0-9_]*(=[A-Z]+)?|\[.*\]|\.\.\.|…")
_EXPLAINED = re.compile(r" {3,}(?!#)")
_OPTIONAL = re.compile(r"\[([^\]]*)\]")
_OTHERS = re.compile(r"(?<=\w)(\|\w+)+")
_OUTPUT = ("text", "output", "json", "python", "yaml", "toml", "csv")


@dataclass(frozen=True)
class Written:
    """A command as a page has it. `whole`: a line of a block, which must run as it is, not a name in a sentence."""

    page: str
    line: int
    text: str
    whole: bool


def commands_of(page: str, text: str) -> list[Written]:
    """Return every command of a page: lines of blocks (but those marked as output), and code within sentences."""
    found: list[Written] = []
    prose, fence, language, pending, begun = list[str](), "", "", "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        mark = _FENCE.match(line)
        if mark and (not fence or mark[1] == fence):
            fence, language, pending = ("", "", "") if fence else (mark[1], mark[2], "")
            prose.append("")
            continue
        prose.append("" if fence else line)
        if not fence or language in _OUTPUT:
            continue
        begun = begun if pending else number
        pending += _plain(line) if not language else line.strip().removeprefix("$ ")
        if pending.endswith("\\"):
            pending = pending[:-1] + " "
            continue
        found += [Written(page, begun, words, True) for words in _programs(pending)]
        pending = ""
    for span in _SPAN.finditer("\n".join(prose)):
        number = span.string.count("\n", 0, span.start()) + 1
        found += [Written(page, number, words, False) for words in _programs(span[1].replace("\n", " "))]
    return found


def _plain(line: str) -> str:
    """Return a line of a block without language as a command: its explanation cut off, what is optional taken."""
    words = _EXPLAINED.split(line.strip().removeprefix("$ "), maxsplit=1)[0]
    return _OTHERS.sub("", _OPTIONAL.sub(r"\1", words))


def _programs(line: str) -> Iterator[str]:
    """Yield each call of our programs in a shell line: after `|` and `&&`, and inside `$( )`."""
    if "face0" not in line:
        return
    try:
        lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
        lexer.whitespace_split, lexer.commenters = True, "#"
        words = list(lexer)
    except ValueError:  # a quote in a sentence
        return
    call: list[str] = []
    for word in [*words, ";"]:
        for inner in _INSIDE.findall(word):  # in quotes; elsewhere the brackets part words
            yield from _programs(inner)
        if re.fullmatch(r"[();<>|&]+", word):
            if call and call[0] in PROGRAMS:
                yield shlex.join(call)
            call = []
        elif call or not _ASSIGNED.fullmatch(word):
            call.append(Path(word).name if not call else word)


def wrong(written: Written) -> str:
    """Return what the programs would say against a command as it is written; "" for nothing."""
    program, *words = shlex.split(written.text)
    command: click.Command = PROGRAMS[program]
    context = click.Context(command, info_name=program)
    if not written.whole:
        words = [word for word in words if word not in ("...", "…", "|")]
    try:
        while True:
            if {"-h", "--help"} & set(words):
                return ""
            values, rest, _ = command.make_parser(context).parse_args(list(words))
            _convert(command, context, values)
            if not isinstance(command, click.Group):
                return _complete(command, context, values, rest, written)
            if not rest:
                return ""
            inner = command.get_command(context, rest[0])
            if inner is None:
                return f"{context.command_path} has no command {rest[0]}"
            words, command = rest[1:], inner
            context = click.Context(inner, parent=context, info_name=rest[0])
    except click.BadOptionUsage as error:
        # a sentence may name an option and leave its value out
        return error.format_message() if written.whole or not written.text.endswith(error.option_name) else ""
    except click.UsageError as error:
        return error.format_message()


def _convert(command: click.Command, context: click.Context, values: dict[str, object]) -> None:
    for parameter in command.params:
        said = values.get(str(parameter.name))
        for value in said if isinstance(said, list | tuple) else [said]:
            # files of an example need not be there
            if (
                isinstance(value, str)
                and not _PLACEHOLDER.fullmatch(value)
                and not isinstance(parameter.type, click.Path)
            ):
                parameter.type.convert(value, parameter, context)


def _complete(
    command: click.Command, context: click.Context, values: dict[str, object], rest: list[str], written: Written
) -> str:
    if rest:
        return f"{context.command_path} takes no more arguments, but there is {rest[0]}"
    lost = [one.name for one in command.params if one.required and values.get(str(one.name)) in (None, (), [])]
    return f"{context.command_path} needs {', '.join(map(str, lost))}" if lost and written.whole else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_is_one_that_the_programs_take(page: Path) -> None:
    said = [
        f"{one.page}:{one.line}: {one.text}: {problem}"
        for one in commands_of(str(page.relative_to(ROOT)), page.read_text("utf-8"))
        if (problem := wrong(one))
    ]
    assert said == []


def test_the_first_page_has_commands_in_both_languages() -> None:
    """Were none found, the test above would be green for ever."""
    for name in ("README.md", "README.ja.md"):
        found = [one for one in commands_of(name, (ROOT / name).read_text("utf-8")) if one.whole]
        assert {"face0 init", "face0 up", "face0 down"} <= {one.text for one in found}
        assert len(found) >= 8


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("face0 sbmit --skus list.csv", "face0 has no command sbmit"),
        ("face0 submit --sku list.csv --consent ID", "No such option"),
        ("face0 submit --skus list.csv", "face0 submit needs consent_id"),
        ("face0 submit --skus list.csv --consent ID --priority soon", "'soon' is not one of"),
        ("face0 submit --skus list.csv --consent", "Option '--consent' requires an argument"),
        ("face0 status JOB OTHER", "takes no more arguments, but there is OTHER"),
        ("JOB=$(face0 submitt) && echo", "has no command submitt"),
        ("cat x | face0-worker walk", "face0-worker has no command walk"),
        ("FACE0_HOME=/x .venv/bin/face0 nothing   # a comment", "has no command nothing"),
        ("face0 submit --skus list.csv \\\n  --consent ID --never", "No such option"),
    ],
)
def test_a_command_that_does_not_exist_is_noticed(line: str, problem: str) -> None:
    (found,) = commands_of("page", f"words\n```sh\n{line}\n```\n")
    assert problem in wrong(found)
    assert found.line == 3


def test_a_block_without_language_may_explain_and_offer_choices() -> None:
    line = "face0 submit --skus FILE --consent ID [--priority urgent|normal] [--never]    makes a job"
    (found,) = commands_of("page", f"```\n{line}\n```\n")
    assert found.text == "face0 submit --skus FILE --consent ID --priority urgent --never"
    assert "No such option" in wrong(found)


def test_output_is_not_taken_for_a_command() -> None:
    assert commands_of("page", "```text\nface0 said something\n```\n") == []
    (found,) = commands_of("page", "a sentence with `face0 watch` in it")
    assert wrong(found) == ""
    assert "no command wach" in wrong(commands_of("page", "`face0 wach`")[0])
