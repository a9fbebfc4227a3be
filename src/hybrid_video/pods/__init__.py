"""Rented pods from the wish to the bill: records, leases, orphans and money.

naming      which pods are ours
records     a pod as the ledger knows it, and the table of its states
store       every write of a pod's life, one checked transaction each
accounting  what a pod cost beyond the jobs it ran, and whose that is
pool        opens, looks after and closes pods; decides nothing about how many are worth it

Nothing here is imported by this module: the parts are imported by name.
"""
