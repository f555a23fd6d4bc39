"""`codeformer-jax prepare` from the command line."""

import pytest
from prepare.support import fill, read_all, read_split

from codeformer_jax import cli


def test_makes_a_dataset(room, capsys):
    fill(room.faces, 12)
    (room.faces / "notes.txt").touch()
    arguments = [str(room.faces), str(room.out), "--size", "16", "--workers", "0"]
    assert cli.main(["prepare", *arguments, "--validation-fraction", "0"]) == 0
    captured = capsys.readouterr()
    assert captured.out == (
        f"{room.out}: 12 train images\nleft out: 1 other; listed in {room.out}/rejected.jsonl\n"
    )
    assert len(read_split(room.out, "train")) == 12


def test_options_arrive(room, capsys):
    fill(room.faces, 3)
    (room.faces / "bad.png").touch()
    arguments = ["prepare", str(room.faces), str(room.out), "--workers", "0"]
    assert cli.main([*arguments, "--size", "8", "--min-size", "25", "--max-rejected", "1"]) == 2
    assert "4 of 4 images were left out (3 too_small, 1 unreadable)" in capsys.readouterr().err
    assert cli.main([*arguments, "--size", "8", "--max-rejected", "0"]) == 2
    assert "min_size was 25 and is 4" in capsys.readouterr().err
    assert cli.main([*arguments, "--size", "8", "--max-rejected", "0", "--restart"]) == 2
    assert "1 of 4 images were left out (1 unreadable)" in capsys.readouterr().err
    assert not room.out.exists()
    assert cli.main([*arguments, "--size", "8"]) == 0
    assert cli.main([*arguments, "--size", "8"]) == 2
    assert "exists; give another OUT, or --force" in capsys.readouterr().err
    assert cli.main([*arguments, "--size", "12", "--format", "jpeg", "--force"]) == 0
    assert read_all(room.out)["000.png"].shape == (12, 12, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["faces"], "required: OUT"),
        (["faces", "out", "--size", "big"], "--size: invalid int value"),
        (["faces", "out", "--format", "gif"], "invalid choice: 'gif'"),
    ],
)
def test_usage_errors(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["prepare", *arguments])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
