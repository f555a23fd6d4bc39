"""Processes that get a signal."""

import time


def signalled(process, ready, number, code, within):
    """Returns the output of a process that gets a signal once `ready()` holds and ends with `code`.

    Args:
        within: seconds that it has to end.
    """
    try:
        deadline = time.monotonic() + 200
        while not ready() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(number)
        output = process.communicate(timeout=within)[0]
    finally:
        process.kill()
    assert process.returncode == code, output
    return output
