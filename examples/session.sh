#!/usr/bin/env bash
# One session from create to drained, in a shell. Needs jq and `pip install 'qsessions[cli]'`.
#
# Credentials come from the environment or ~/.qiskit/qiskit-ibm.json. To try it without an account:
#   eval "$(qsessions emulator & echo pid=$!)"; ./session.sh; kill $pid
set -euo pipefail

# Always set --max-ttl: it limits the cost if this machine vanishes.
session=$(qsessions create --mode dedicated --backend ibm_fez --max-ttl 10m --json | jq -r .id)
# Drain the session however this script ends.
trap 'qsessions drain "$session" --json | jq -r "\"\(.id): \(.done)\""' EXIT

# Submit jobs to the session here.
qsessions get "$session" --json | jq -r '"\(.id) is \(.state) on \(.backend_name), at most \(.max_ttl) s"'
qsessions workloads --status pending --status in_progress --jsonl | jq -r '"may cost: \(.id), \(.mode), \(.status)"'
