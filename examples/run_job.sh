#!/usr/bin/env bash
# A job for Slurm, or a line of cron: a program inside a session that ends with it. Needs `pip install 'qsessions[cli]'`.
#
# Credentials come from the environment or ~/.qiskit/qiskit-ibm.json. To try it without an account:
#   eval "$(qsessions emulator & echo pid=$!)"; ./run_job.sh; kill $pid
#SBATCH --time=01:00:00
set -euo pipefail

# What an earlier job left open when its node was taken away costs until it is closed.
qsessions reap || echo "some sessions need a look: qsessions ledger" >&2

# SIGTERM, as before the time is up, goes to the program; whatever becomes of it, the session is ended.
# --max-ttl, from the first job's start, bounds the cost if this machine vanishes: always set it.
exec qsessions run --mode dedicated --backend ibm_fez --max-ttl 1h -- "${@:-env}"
