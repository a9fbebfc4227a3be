"""The watcher: one long-lived process that looks at every backend's health and opens and closes rented pods.

health_store   what was found, for everybody to read
lease          never two watchers at once
"""
