#!/usr/bin/env bash
# A job for Slurm or cron: runs a program inside a session that ends with it.
# Needs `pip install 'qsessions[cli]'`.
#
# Credentials come from the environment or ~/.qiskit/qiskit-ibm.json. To try it without an account:
#   eval "$(qsessions emulator & echo pid=$!)"; ./run_job.sh; kill $pid
#SBATCH --time=01:00:00
set -euo pipefail

# Close what an earlier job left open when its node was taken away.
qsessions reap || echo "some sessions need a look: qsessions ledger" >&2

# SIGTERM, which Slurm sends before the time is up, goes to the program.
# The session ends in any case.
# Always set --max-ttl: it limits the cost if this machine vanishes.
exec qsessions run --mode dedicated --backend ibm_fez --max-ttl 1h -- "${@:-env}"
