"""A test of your own code against the emulator: no account, no network, no mock.

Run it with pytest, which finds the fixtures by itself.
"""

from qsessions import SessionClient
from qsessions.testing.threaded import ThreadedEmulator


def count_open(client: SessionClient) -> int:
    """Return how many sessions cost or may cost. This is the code under test."""
    return len(list(client.workloads(status=("pending", "in_progress"))))


def test_open_sessions_are_counted(
    qsessions_sync_client: SessionClient, qsessions_emulator: ThreadedEmulator
) -> None:
    """Closed sessions don't count. A session left open would fail the test at its end."""
    client = qsessions_sync_client
    first = client.create(mode="dedicated", backend="ibm_fez", max_ttl="10m")
    client.create(mode="batch", backend="ibm_fez", max_ttl="10m")
    assert count_open(client) == 2
    client.close(first.id)
    assert count_open(client) == 1
    qsessions_emulator.advance("30m")  # a session unused for 30 minutes closes
    assert count_open(client) == 0
