"""The programs that jobs run: what a sampler or an estimator answers."""
