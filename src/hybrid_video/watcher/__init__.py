"""The watcher: one long-lived process that looks at every backend's health and opens and closes rented pods.

loop          its duties, each at its own pace and with its own fate
lease         never two watchers at once
embedded      a watcher for the time of one run
health_round  one look at every backend; health_store keeps the findings for everybody
demand_store  what running batches still have to do
picture       that and the pods, as the policy is shown them; arriving adds how jobs have been coming
scaling       carries out what the policy decides
pod_care      ends pods that run but do not work
collecting    brings in what dead runs have paid for

Nothing here is imported by this module: the engine publishes its demand through one part and embeds another.
"""
