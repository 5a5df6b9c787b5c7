"""The operations of the contract that the emulator doesn't serve, by their ids: each test of the
contract passes over these.
"""

NOT_YET = frozenset(
    {
        "delete_job",
        "get_instance",
        "get_instance_configuration",
        "get_job_logs",
        "get_job_metrics",
        "get_job_results",
        "get_usage",
        "replace_job_tags",
    }
)
