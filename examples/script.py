"""One session from create to closed, without `await`.

Set QISKIT_IBM_TOKEN to an API key and QISKIT_IBM_INSTANCE to the instance's CRN.
To try it without an account, start `qsessions emulator` and set the variables that it prints.
"""

from qsessions import SessionClient


def main() -> None:
    """Open a session, let its jobs run, and wait until it is closed."""
    with SessionClient(application="qsessions-script") as client:
        # Always set max_ttl: it limits the cost if this machine vanishes. It counts from the first
        # job's start.
        with client.open(mode="dedicated", backend="ibm_fez", max_ttl="10m") as live:
            print(f"{live.id} is {live.refresh().state}")
            # Submit jobs here, such as with qiskit-ibm-runtime: Session.from_id(live.id, service)
        # Its jobs still run, then it closes. An error in the block would have closed it at once.
        closed = live.wait_until("closed", timeout="10m")
        print(f"{closed.id} is {closed.state}, used {closed.elapsed_time or 0:.0f} s")
        for workload in client.workloads(status=("pending", "in_progress")):
            print(f"still open: {workload.id}, {workload.mode}, {workload.status}")


if __name__ == "__main__":
    main()
