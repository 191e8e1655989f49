"""What plugins, files and matrices are called reaches the terminal as text, never as commands;
help shows every example whole."""

from __future__ import annotations

import io
import os
import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from typer.main import get_command

from commands import call, evaluator, task, written
from ssl_bench.console.commands import app
from ssl_bench.console.live import Live
from ssl_bench.records.schema import Failure
from ssl_bench.system.terminal import console, escape, guard_streams, harmless, traceback_of

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\rX"
SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # what rich itself sends: colours, cursor moves


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def obeyed(text: str) -> str:
    """The control characters that are left once the terminal library's own are taken away."""
    return "".join(c for c in SEQUENCE.sub("", text) if not c.isprintable() and c not in "\n\r\t")


def test_control_characters_are_written_out_and_lines_stay_lines() -> None:
    assert harmless("a\n\tb é 漢") == "a\n\tb é 漢" and obeyed(harmless(EVIL)) == ""
    assert harmless("\x1b[31m") == "\\x1b[31m" and harmless("\udc80") == "\\udc80" and harmless("\u202e") == "\\u202e"
    assert harmless("\r") == "\\r", "a line that overwrites itself hides what it says"
    assert escape("[red]\x1b") == "\\[red]\\x1b"
    try:
        raise RuntimeError("\ud800" + "y" * 10**7)
    except RuntimeError as error:
        assert (
            len(traceback_of(error)) < 50_000
            and "\\ud800" in traceback_of(error)
            and "RuntimeError" in traceback_of(error)
        )


def test_the_live_view_obeys_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", screen := Screen())
    monkeypatch.setenv("TERM", "xterm-256color")
    cell: Any = SimpleNamespace(
        row=SimpleNamespace(name=f"row {EVIL}", candidates=(0, 1)), candidate=SimpleNamespace(settings=EVIL), seed=0
    )
    failure = Failure(
        row=EVIL,
        task="t",
        seed=0,
        where=EVIL,
        error="E",
        message=f"[bold]{EVIL}",
        traceback=f"line 1\nline 2 {EVIL}",
        created="now",
    )
    with Live(console()) as live:
        live.packing(EVIL, 1, 2)
        live.cell_started(cell, 1, 1)
        live.progressed(
            SimpleNamespace(metrics={"loss": 1.0}, images_per_second=1.0, seconds_left=1.0, step=1, steps=2)
        )
        live.noted(EVIL)
        live.bar.refresh()
        live.cell_failed(cell, failure)
        live.chose(SimpleNamespace(name=EVIL, candidates=(0, 1)), SimpleNamespace(settings=EVIL), {EVIL: 0.5})
        live.console.print(EVIL, markup=False)
    shown = screen.getvalue()
    assert "\x1b[" in shown, "it is drawn as in a terminal"
    assert obeyed(shown) == "" and "\x1b[2J" not in shown and "\x1b]" not in shown, repr(shown)
    assert "line 1\nline 2" in SEQUENCE.sub("", shown) and "[bold]" in shown


def test_every_command_shows_what_plugins_are_called_as_text(tmp_path: Path) -> None:
    evil = ascii(EVIL)[1:-1]
    plugin = task("loud", f"raise RuntimeError('message {evil}')").replace("Regresses", f"Evil {evil}")
    plugin += task("quiet", "pass").replace("        return {}", f"        return {{'value {evil}': 1.0}}")
    plugin += (
        evaluator("judge", "pass")
        .replace('"half"', f'"half {evil}"')
        .replace("'half'", f"'half {evil}'")
        .replace("Answers", f"Evil {evil}")
    )
    row = f"row {EVIL}".replace("\r", "")
    words = written(tmp_path, plugin, tasks=["loud", {"quiet": {"row": row}}], evaluate=["judge", {"knn": {"k": [5]}}])
    outputs = [
        call(tmp_path, "run", *words),
        call(tmp_path, "status", "tiny"),
        call(tmp_path, "show", "tiny/loud/0"),
        call(tmp_path, "report", "tiny"),
    ]
    if outputs[0].code == 2:  # such a name of a row is refused, which is as good
        assert "row" in outputs[0].err and obeyed(outputs[0].err) == ""
        words = written(tmp_path, plugin, tasks=["loud", "quiet"], evaluate=["judge", {"knn": {"k": [5]}}])
        outputs = [
            call(tmp_path, "run", *words),
            call(tmp_path, "status", "tiny"),
            call(tmp_path, "show", "tiny/loud/0"),
            call(tmp_path, "report", "tiny"),
        ]
    assert outputs[0].code == 1, outputs[0]
    outputs += [call(tmp_path, "list", what, "--plugin", "plugin.py") for what in ("tasks", "evaluators")]
    outputs += [
        call(tmp_path, "show", "tiny/quiet/0"),
        call(tmp_path, "plan", *words[:3]),
        call(tmp_path, "check-task", "loud", "--plugin", "plugin.py"),
    ]
    for ended in outputs:
        assert obeyed(ended.out) == "" and obeyed(ended.err) == "" and "\x1b" not in ended.out + ended.err, ended
    assert "message \\x1b]0;owned" in outputs[1].out and "message \\x1b]0;owned" in outputs[2].out


def test_names_of_files_that_are_no_text_are_shown(tmp_path: Path) -> None:
    """A name that is not UTF-8, and one with an escape code, as a photo or in an error."""
    for split in ("train", "test"):
        for label in ("a", "b"):
            folder = tmp_path / "photos" / split / label
            folder.mkdir(parents=True)
            for number in range(12):
                Image.new("RGB", (32, 32), (number * 9, len(split), ord(label))).save(folder / f"{number}.png")
    broken = os.fsencode(tmp_path / "photos/train/a") + b"/bad\xff\x1b[31m.png"
    with open(broken, "wb") as file:
        file.write(b"no image")
    words = written(tmp_path, data={"source": "folder:photos", "size": 32})
    ended = call(tmp_path, "plan", *words[:3])
    assert "Traceback" not in ended.err and "\x1b" not in ended.out + ended.err, ended
    assert call(tmp_path, "run", *words, "--out", "runs/\udce9\x1b[1m").err.count("\x1b") == 0


def test_a_stream_that_shows_little_shows_the_rest_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw := io.BytesIO(), encoding="ascii"))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    guard_streams()
    print("±2 \udce9")
    sys.stdout.flush()
    assert raw.getvalue() == b"\\xb12 \\udce9\n"


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_help_shows_every_example_whole(columns: int) -> None:
    group: Any = get_command(app)
    examples = 0
    for name, command in {"": group, **group.commands}.items():
        context = command.make_context(
            name, [], resilient_parsing=True, terminal_width=columns, max_content_width=columns
        )
        text = command.get_help(context)
        written_out = [
            line.strip()
            for line in (command.callback.__doc__ or "").splitlines()
            if line.strip().startswith("ssl-bench ")
        ]
        for example in written_out:
            assert example in [line.strip() for line in text.splitlines()], text
            shlex.split(example)
        examples += len(written_out)
        for parameter in command.params:
            assert not getattr(parameter, "help", None) or parameter.help.split()[0] in text
        assert "[/" not in text and "[bold" not in text
    assert examples >= 3 and "tasks=[my_task]" in group.commands["run"].get_help(context)
