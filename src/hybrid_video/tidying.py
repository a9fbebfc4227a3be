"""What schedules do besides making clips: fetch prices, and delete the details of old batches.

The commands `prices --refresh` and `ledger prune` and the flows of the same purpose call the same functions here.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from hybrid_video.backends.runpod.pods import PodsClient
from hybrid_video.engine.session import opened
from hybrid_video.ledger.copying import backup, backup_name, prune_backups, prune_journal
from hybrid_video.ledger.pruning import Pruned, compact, prunable, prune
from hybrid_video.models import utc_now
from hybrid_video.pricing.refresh import Refresh, compare, load_prices, prices_folder, write
from hybrid_video.settings import Settings

BACKUPS_KEPT = 30


async def refresh_prices(settings: Settings) -> Refresh:
    """Fetches RunPod's prices, compares them with those known, and writes them into a file of their own.

    Raises:
        ConfigurationError: there is no key, or the folder cannot be written.
        BackendError: RunPod does not answer, or refuses the key.
    """
    client = PodsClient.from_settings(settings.runpod)
    try:
        catalogue = await client.catalogue()
    finally:
        await client.close()
    now = datetime.now(UTC)
    found = compare(catalogue, load_prices("current", settings), now.date())
    if not found.entries:
        return found
    return Refresh(found.entries, found.changed, found.doubtful, write(found, prices_folder(settings), now))


def prune_ledger(settings: Settings, *, older_than_days: int, dry_run: bool = False) -> Pruned:
    """Deletes jobs, attempts and decisions of batches that ended so long ago; what is in no chart yet stays.

    Raises:
        ConfigurationError, LedgerError: the ledger or the history cannot be used now.
    """
    before = utc_now() - timedelta(days=older_than_days)
    with opened(settings) as (ledger, history):
        history.update(ledger)
        if dry_run:
            return Pruned(prunable(ledger, before), 0, 0, Decimal(0))
        gone = prune(ledger, before)
        if gone.batches:
            compact(ledger)
        return gone


def back_up(settings: Settings, *, keep: int = BACKUPS_KEPT) -> Path:
    """Copies the ledger into the backups folder while it is in use, checks the copy, and keeps the newest ones.

    Raises:
        ConfigurationError, LedgerError: it cannot be read, or the copy cannot be written.
    """
    folder = settings.storage.home / "backups"
    path = folder / backup_name(utc_now())
    with opened(settings) as (ledger, _history):
        backup(ledger, path)
        prune_backups(folder, keep)
        prune_journal(ledger, folder)
    return path
