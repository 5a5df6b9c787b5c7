#!/usr/bin/env bash
# One session from create to drained, for shell scripts. Needs jq and `pip install 'qsessions[cli]'`.
#
# Credentials come from the environment or ~/.qiskit/qiskit-ibm.json. To try it without an account:
#   eval "$(qsessions emulator & echo pid=$!)"; ./session.sh; kill $pid
set -euo pipefail

# --max-ttl, from the first job's start, bounds the cost if this machine vanishes: always set it.
session=$(qsessions create --mode dedicated --backend ibm_fez --max-ttl 10m --json | jq -r .id)
# Whatever happens from here on, the session doesn't stay open.
trap 'qsessions drain "$session" --json | jq -r "\"\(.id): \(.done)\""' EXIT

# Here jobs would be submitted to the session.
qsessions get "$session" --json | jq -r '"\(.id) is \(.state) on \(.backend_name), at most \(.max_ttl) s"'
qsessions workloads --status pending --status in_progress --jsonl | jq -r '"may cost: \(.id), \(.mode), \(.status)"'
