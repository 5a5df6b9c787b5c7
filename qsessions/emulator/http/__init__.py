"""The service served: routes, credentials, faults and the record of requests."""
