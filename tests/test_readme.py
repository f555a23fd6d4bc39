"""Commands of the README and docs/commands.md: finding them, and a rule for each of them."""

import pytest

from tools import readme_commands
from tools.readme_commands import (
    PAGES,
    Command,
    check_table,
    commands,
    commands_of_pages,
    to_run,
    words_of,
)

TEXT = """\
Do it:

    make demo      # at once
    python train.py --config=a.py \\
        --x=1

1. First.

       codeformer-jax restore FACES... -o out

   Not `codeformer-jax this` and
    not a continued paragraph.

```python
import a
```

| figure | `python benchmarks/a.py --b` |
"""


def test_commands_are_found_in_order():
    assert commands(TEXT) == [
        Command(3, "shell", "make demo      # at once"),
        Command(4, "shell", "python train.py --config=a.py --x=1"),
        Command(9, "shell", "codeformer-jax restore FACES... -o out"),
        Command(14, "python", "import a\n"),
        Command(18, "table", "python benchmarks/a.py --b"),
    ]


def test_every_command_has_a_rule():
    found = commands_of_pages()
    assert {page for page, _ in found} == set(PAGES)
    assert {command.kind for _, command in found} == {"shell", "python", "table"}
    for _, command in found:
        if command.kind == "shell":
            to_run(command)
        elif command.kind == "table":
            check_table(command)


def test_every_rule_is_used():
    found = [command for _, command in commands_of_pages()]
    plain = [" ".join(words_of(command)) for command in found if command.kind == "shell"]
    for start in (*readme_commands.TINY, *readme_commands.INSTEAD):
        assert any(text.startswith(start) for text in plain), start


def test_settings_are_appended_and_words_replaced():
    command = Command(1, "shell", "codeformer-jax testset FACES... 'a set'  # made once")
    assert to_run(command) == ["codeformer-jax", "testset", "FACES", "a set", "--size", "32"]
    command = Command(1, "shell", "curl -L -o codeformer.pth https://x.org/y/codeformer.pth")
    assert to_run(command) == ["cp", "downloads/codeformer.pth", "codeformer.pth"]


@pytest.mark.parametrize(
    "text", ["codeformer-jax restored FACES -o out", "python trian.py", "wget x", "a | b", "A=1 b"]
)
def test_a_command_without_a_rule_is_an_error(text):
    with pytest.raises(ValueError, match=r"no rule|needs a shell"):
        to_run(Command(1, "shell", text))


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("python benchmarks/nothing.py", "benchmarks/nothing.py"),
        ("python benchmarks/degrade.py --speed 3", '"--speed"'),
        ("make toast", "toast:"),
        ('make test ARGS="tests/nowhere"', "tests/nowhere"),
    ],
)
def test_a_missing_script_or_option_in_a_table_is_an_error(text, missing):
    with pytest.raises(ValueError, match=f"not there: .*{missing}"):
        check_table(Command(1, "table", text))


def test_a_failing_command_is_an_error_with_its_output(tmp_path):
    readme_commands.run(Command(1, "shell", "codeformer-jax export --help"), tmp_path)
    with pytest.raises(ValueError, match=r"(?s)exit code 2 of .*the following arguments"):
        readme_commands.run(Command(1, "shell", "codeformer-jax export"), tmp_path)
