"""The ledger: a durable record of the sessions that this user's processes created.

When one of them is killed, `reap` finds there what it left open.
"""
