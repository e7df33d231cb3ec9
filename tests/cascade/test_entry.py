"""What a user reads when a command ends before its work is done."""

import signal

import pytest

from cascade.entry import explained


def test_ctrl_c_ends_with_one_line_and_a_second_one_is_ignored(capsys):
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as ended, explained():
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"
