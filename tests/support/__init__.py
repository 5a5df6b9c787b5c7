"""What the tests share: servers that misbehave, clocks, ledgers, tables of calls and faults."""
