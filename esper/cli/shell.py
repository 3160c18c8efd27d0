"""The shell of `esper sql`: lines until a semicolon, completion, a history of its own, a pager for long answers."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import shutil
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO, TypeVar, cast

import platformdirs
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.history import History as Asked
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.lexers import PygmentsLexer
from pygments.lexers.sql import SqlLexer

from esper.cli.output import DIM, complain, complain_of, say, say_table, styled
from esper.cli.sql import say_schema
from esper.errors import EsperError
from projections import ad_hoc
from projections.ad_hoc import blocks_of, check_reads
from projections.history import History
from projections.run_queries import run_ids
from projections.schema import Relation
from projections.views import VIEWS

if TYPE_CHECKING:
    from projections.history import History


_WORD: Final = re.compile(r"[\w.\\]+$")
_SOURCE: Final = re.compile(r"\b(?:from|join)\s+([\w.]+)(?:\s+(?:as\s+)?(\w+))?", re.IGNORECASE)
_KEYWORDS: Final = frozenset(
    {"where", "join", "left", "right", "full", "inner", "group", "order", "limit", "on", "using"}
)
"""What may stand behind a view's name and is not an alias."""
PROMPT: Final = "esper> "
HELP: Final = """\
  end a query with ; and Enter     Ctrl-C  cancels a query or clears the line
  \\d        the views, \\d+ with all tables of the log      Ctrl-D, \\q  leave
  \\d VIEW   a view's columns                             Tab     completes views, columns and keywords"""
PAGER: Final = "less -SRFX"
"""Long lines are cut and scrolled sideways, colours stay, and what fits on the screen is shown as it is."""
_T = TypeVar("_T")


class SqlCompleter(Completer):
    """Completes what is being typed; the schema is read once, when it is first needed."""

    def __init__(self, history: History) -> None:
        self._history = history

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        """Everything that the word before the cursor may become, what is likeliest first."""
        found = _WORD.search(document.text_before_cursor)
        word = found[0] if found else ""
        if not word and not complete_event.completion_requested:
            return
        seen: set[str] = set()
        for text, about in self._offers(document.text, word):
            if text.lower().startswith(word.lower()) and text not in seen:
                seen.add(text)
                yield Completion(text, start_position=-len(word), display_meta=about)

    def _offers(self, query: str, word: str) -> Iterator[tuple[str, str]]:
        if word.startswith("\\"):
            yield from (("\\d", "views"), ("\\q", "leave"), ("\\?", "help"))
            return
        named = self._named(query)
        owner, dot, _ = word.rpartition(".")
        if dot and owner in named:
            for column in named[owner].columns:
                yield f"{owner}.{column.name}", column.meaning
        likely = named.values() or [relation for name, relation in self._relations.items() if name in VIEWS]
        for relation in likely:
            yield from ((column.name, column.meaning) for column in relation.columns)
        for name, relation in self._relations.items():
            yield name, relation.meaning
        yield from self._words

    def _named(self, query: str) -> dict[str, Relation]:
        """The views that a query names, by their names and aliases."""
        named: dict[str, Relation] = {}
        for name, alias in _SOURCE.findall(query):
            relation = self._relations.get(name)
            if relation is not None:
                named[name] = relation
                if alias and alias.lower() not in _KEYWORDS:
                    named[alias] = relation
        return named

    @cached_property
    def _relations(self) -> dict[str, Relation]:
        return {relation.name: relation for relation in ad_hoc.relations(self._history)}

    @cached_property
    def _words(self) -> list[tuple[str, str]]:
        keywords, functions = ad_hoc.keywords(self._history), ad_hoc.functions(self._history)
        return [*((name, "") for name in keywords), *((name, "function") for name in functions)]


def shell(history: History) -> None:
    """Ask and answer until the person leaves."""
    session: PromptSession[str] = PromptSession(
        message=PROMPT,
        history=remembered(),
        lexer=PygmentsLexer(SqlLexer),
        completer=SqlCompleter(history),
        complete_in_thread=True,
        multiline=True,
        key_bindings=_keys(),
        prompt_continuation=lambda width, _line, _wrapped: " " * (width - 2) + "> ",
    )
    say(
        styled(
            f"{len(run_ids(history))} runs in {history.archive.parent}; \\d shows the views, \\? helps, \\q leaves", DIM
        )
    )
    while True:
        try:
            line = session.prompt().strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        if line in {"\\q", "quit", "exit", "quit;", "exit;"}:
            return
        try:
            if line:
                obey(history, line)
        except EOFError:
            return


def obey(history: History, line: str) -> None:
    """Carry out one line; whatever is wrong with it is said in one line."""
    try:
        if line in {"\\?", "\\h", "help"}:
            say(HELP)
        elif line.startswith("\\d"):
            wanted = line[2:].strip().rstrip(";")
            with paged():
                say_schema(history, None if wanted == "+" else wanted or None, all_of_them=wanted == "+")
        elif line.startswith("\\"):
            complain(f"there is no command {line.split(maxsplit=1)[0]}; \\? shows those that there are")
        else:
            _answer(history, line)
    except EsperError as error:
        complain_of(error)
    except KeyboardInterrupt:
        complain("cancelled")
    except BrokenPipeError:
        pass  # the pager was left before the end


def _answer(history: History, query: str) -> None:
    began = time.monotonic()
    check_reads(query)
    columns, blocks = interruptible(history, lambda: blocks_of(history, query))
    rows = 0

    def counted() -> Iterator[list[tuple[Any, ...]]]:
        nonlocal rows
        while (block := interruptible(history, lambda: next(blocks, None))) is not None:
            rows += len(block)
            yield block

    with paged():
        say_table(columns, counted())
    plural = "" if rows == 1 else "s"
    say(styled(f"({rows:,} row{plural}, {1e3 * (time.monotonic() - began):,.0f} ms)", DIM))


def interruptible(history: History, call: Callable[[], _T]) -> _T:
    """What `call` returns, on a thread of its own: DuckDB does not look for Ctrl-C, but it can be told to stop.

    Raises EOFError where the terminal goes away meanwhile: nobody waits for the answer any more.
    """
    outcome: list[_T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            outcome.append(call())
        except BaseException as error:  # noqa: BLE001 - raised again where it was waited for
            failure.append(error)

    thread = threading.Thread(target=work, name="esper-sql", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.1)
            _check_terminal()
    except (KeyboardInterrupt, EOFError):
        ad_hoc.cancel(history)
        thread.join()
        raise
    if failure:
        raise failure[0]
    return outcome[0]


def _check_terminal() -> None:
    """Raise EOFError where stdin was a terminal and its other end is closed. Not everybody gets a SIGHUP then."""
    poll = select.poll()
    poll.register(0, 0)
    if any(found & select.POLLHUP for _, found in poll.poll(0)) and stat.S_ISCHR(os.fstat(0).st_mode):
        raise EOFError


@contextlib.contextmanager
def paged() -> Iterator[None]:
    """What is said inside goes through the person's pager, or straight to the terminal where there is none."""
    command = shlex.split(os.environ.get("PAGER", "")) or shlex.split(PAGER)
    if shutil.which(command[0]) is None:
        yield
        return
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as pager:
        try:
            with contextlib.redirect_stdout(cast(TextIO, pager.stdin)):
                yield
        finally:
            with contextlib.suppress(BrokenPipeError):
                cast(TextIO, pager.stdin).close()
            _wait(pager)


def _wait(pager: subprocess.Popen[str]) -> None:
    """Until the person leaves the pager, to which Ctrl-C means something of its own."""
    while pager.poll() is None:
        with contextlib.suppress(KeyboardInterrupt):
            pager.wait()


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        text = buffer.text.strip()
        if not text or text.startswith("\\") or text.endswith(";") or text in {"quit", "exit", "help"}:
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n")

    return keys


def remembered() -> Asked:
    """What was asked, kept among the user's own files: never in a data folder, which people copy and share.

    Of this shell alone where those cannot be written, as in a container.
    """
    folder = Path(platformdirs.user_state_dir("esper", appauthor=False))
    file = folder / "sql-history"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(file))
