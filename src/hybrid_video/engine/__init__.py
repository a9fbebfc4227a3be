"""The way of a batch: fleet, selection, attempts, resumption and report.

Everything a flow or a command needs to get a batch done, without Prefect: `BatchRun` takes its three steps (select,
generate, record) from outside, so the same engine runs them as plain calls or as Prefect tasks.
"""
