"""`hybrid-video ledger backup`, `restore`, `close-gap`, `move` and `prune`."""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import sqlalchemy as sa
import typer
from sqlalchemy.exc import SQLAlchemyError

from hybrid_video.cli.ledger import ledger_app
from hybrid_video.cli.output import console, print_json
from hybrid_video.cli.run import JsonOption, parse_usd
from hybrid_video.engine.report import money
from hybrid_video.engine.session import open_ledger
from hybrid_video.errors import ConfigurationError, InputError, LedgerError
from hybrid_video.ledger import Ledger
from hybrid_video.ledger import schema as t
from hybrid_video.ledger.copying import (
    Copied,
    backup_name,
    copy,
    inspect,
    prune_backups,
    prune_journal,
    refuse_running,
)
from hybrid_video.ledger.copying import backup as write_backup
from hybrid_video.ledger.copying import restore as read_backup
from hybrid_video.ledger.gaps import close_by_word, open_gap
from hybrid_video.models import Tier, utc_now
from hybrid_video.redaction import redact
from hybrid_video.settings import Settings
from hybrid_video.tidying import prune_ledger


@ledger_app.command()
def backup(
    file: Annotated[
        Path | None, typer.Argument(help="Where to write it. Default: a dated file in the backups folder of the home.")
    ] = None,
    keep: Annotated[
        int, typer.Option(min=1, max=10_000, help="How many of the dated backups to keep; older ones are deleted.")
    ] = 30,
    json_output: JsonOption = False,
) -> int:
    """Copy the ledger while it is in use, check the copy, and keep the newest ones.

    The journal beside the ledger is kept as far back as the oldest dated backup.
    """
    settings = Settings.load()
    folder = settings.storage.home / "backups"
    path = file or folder / backup_name(utc_now())
    with contextlib.closing(open_ledger(settings)) as ledger:
        copied = write_backup(ledger, path)
        gone = [] if file else prune_backups(folder, keep)
        prune_journal(ledger, folder)
    _say(f"backup written to {str(path)!r}", copied)
    if gone:
        console.print(f"{len(gone)} older backups deleted; the newest {keep} are kept")
    if json_output:
        print_json({"file": str(path), "deleted": [str(old) for old in gone], **_fields(copied)})
    return 0


@ledger_app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A backup written by `hybrid-video ledger backup`.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Put the present ledger aside (it is renamed, not deleted).")
    ] = False,
    json_output: JsonOption = False,
) -> int:
    """Fill an empty ledger from a backup.

    Nothing is sent by it before `hybrid-video reconcile` has found out what happened since the backup.
    """
    settings = Settings.load()
    inspect(file)
    if replace:
        _put_aside(settings)
    with contextlib.closing(open_ledger(settings)) as ledger:
        copied = read_backup(file, ledger)
    _say("the ledger is restored", copied)
    console.print(
        "what was bought after the backup is not in it, so nothing is sent yet: run `hybrid-video reconcile`, which "
        "finds it out",
        soft_wrap=True,
    )
    if json_output:
        print_json({"file": str(file), **_fields(copied)})
    return 0


@ledger_app.command("close-gap")
def close_gap(
    charged: Annotated[
        list[str] | None,
        typer.Option(
            "--charged",
            metavar="TIER=USD",
            help="What the vendors of a tier billed since the backup beyond what the ledger has. Can be repeated.",
            show_default=False,
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="You have held the vendors' bills against the ledger.")] = False,
    json_output: JsonOption = False,
) -> int:
    """Let a restored ledger send jobs again by your word, where `hybrid-video reconcile` could not find out everything.

    Look at the vendors' bills since the backup first. What they hold beyond the ledger is booked with --charged; the
    jobs it was for are not known and may be made, and paid for, again.
    """
    amounts = _amounts(charged or [])
    with contextlib.closing(open_ledger(Settings.load())) as ledger:
        with ledger.reading() as connection:
            gap = open_gap(connection)
        if gap is not None and not yes:
            raise InputError(
                f"--yes: look at the vendors' bills since {gap.taken_at:%Y-%m-%d %H:%M:%S} UTC first, give what the "
                "ledger does not have with --charged, for example --charged cloud=1.20, and then say --yes"
            )
        with ledger.writing() as connection:
            gap = close_by_word(connection, amounts)
    total = sum(amounts.values(), Decimal(0))
    console.print(f"${money(total)} booked by your word; jobs can be sent again", soft_wrap=True)
    if json_output:
        print_json({"taken_at": gap.taken_at.isoformat(), "booked_usd": money(total)})
    return 0


@ledger_app.command()
def move(
    to: Annotated[
        str, typer.Option("--to", metavar="VARIABLE", help="Name of an environment variable that holds the new URL.")
    ],
    json_output: JsonOption = False,
) -> int:
    """Copy the ledger to another database, for example from SQLite to PostgreSQL for several machines.

    The address holds a password, so it is read from a variable and never given on the command line. Nothing may be
    running. The old ledger stays as it is; afterwards set HYBRID_VIDEO_LEDGER_URL to the new address everywhere.
    """
    url = _from_environment(to)
    settings = Settings.load()
    with contextlib.closing(open_ledger(settings)) as old, contextlib.closing(_opened(url, to)) as new:
        if old.raw().url == new.raw().url:
            raise InputError(f"--to: {to} names the ledger that is in use already; name another database")
        copied = copy(old, new, running=False)
    _say("the ledger is copied", copied)
    console.print("set HYBRID_VIDEO_LEDGER_URL to the new address for every process; the old ledger was not changed")
    if json_output:
        print_json(_fields(copied))
    return 0


@ledger_app.command()
def prune(
    older_than: Annotated[
        int, typer.Option("--older-than", metavar="DAYS", min=1, max=36_500, help="Age since the end of a batch.")
    ] = 365,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    json_output: JsonOption = False,
) -> int:
    """Delete the jobs, attempts and decisions of old batches. Balances, clips and the history stay.

    A pruned batch cannot be run again under its name. Batches with anything open or uncertain are left alone.
    """
    gone = prune_ledger(Settings.load(), older_than_days=older_than, dry_run=dry_run)
    what = f"{len(gone.batches)} batches that ended more than {older_than} days ago"
    if dry_run:
        console.print(f"would prune {what}; nothing was changed")
    else:
        console.print(
            f"pruned {what}: {gone.jobs} jobs, {gone.attempts} attempts, ${money(gone.settled_usd)} kept in sums"
        )
    if json_output:
        counts = {"jobs": gone.jobs, "attempts": gone.attempts, "settled_usd": money(gone.settled_usd)}
        print_json({"batches": list(gone.batches), "dry_run": dry_run, **({} if dry_run else counts)})
    return 0


def _amounts(texts: list[str]) -> dict[Tier, Decimal]:
    amounts: dict[Tier, Decimal] = {}
    for text in texts:
        tier, _, usd = text.partition("=")
        if tier not in (Tier.CLOUD, Tier.GEMINI):
            raise InputError(f"--charged: {text!r} is not understood; write cloud=USD or gemini=USD")
        amounts[Tier(tier)] = amounts.get(Tier(tier), Decimal(0)) + parse_usd("--charged", usd)
    return amounts


def _from_environment(name: str) -> str:
    value = os.environ.get(name, "")
    if "://" in name:
        raise InputError("--to: give the name of a variable, not the address itself: addresses hold passwords")
    if not value:
        raise InputError(f"--to: the environment variable {name!r} is empty; put the new ledger's URL into it")
    return value


def _opened(url: str, variable: str) -> Ledger:
    try:
        return Ledger.open(url)
    except LedgerError as error:
        raise ConfigurationError(str(error).replace("HYBRID_VIDEO_LEDGER_URL", variable)) from None


def _put_aside(settings: Settings) -> None:
    if settings.storage.ledger_url is not None:
        raise InputError("--replace: only a ledger file can be put aside; empty the database yourself, or name another")
    path = settings.storage.ledger_path
    if not path.exists():
        return
    _refuse_driven(path)
    aside = path.with_name(f"{path.stem}-before-restore-{utc_now():%Y%m%dT%H%M%SZ}{path.suffix}")
    for ending in ("", "-wal", "-shm"):  # the log too: what is only in it belongs to the file
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + ending).rename(aside.with_name(aside.name + ending))
    console.print(f"the present ledger is kept as {str(aside)!r}", soft_wrap=True, markup=False)


def _refuse_driven(path: Path) -> None:
    """Makes sure that nobody works with the file. It is read as it is: it may be damaged, or of a newer version.

    Raises:
        ConfigurationError: a batch is being made, a watcher watches, or another process has the file open (an API or
            a dashboard, which would go on with the renamed one).
    """
    engine = sa.create_engine(f"sqlite:///{path}")
    watched = sa.select(sa.exists(sa.select(t.watchers).where(t.watchers.c.lease_until > utc_now())))
    try:
        with engine.connect() as connection:
            refuse_running(connection)
            if connection.execute(watched).scalar():
                raise ConfigurationError("the ledger is in use by a watcher; end `hybrid-video up` or `watch` first")
            # Empties the log into the file, and is refused while anyone else has the file open (sqlite.org/wal.html).
            connection.exec_driver_sql("PRAGMA journal_mode=DELETE")
    except SQLAlchemyError as error:
        said = redact(getattr(error, "orig", None) or error, limit=200)
        if "locked" in said:
            raise ConfigurationError(
                f"the ledger is in use ({said}): end `hybrid-video up`, `api`, `dashboard` and whatever else has it "
                "open, and try again"
            ) from None
        console.print(f"the present ledger cannot be read ({said}); it is put aside as it is", soft_wrap=True)
    finally:
        engine.dispose()


def _say(what: str, copied: Copied) -> None:
    console.print(
        f"{what}: {copied.batches} batches, {copied.attempts} attempts, ${money(copied.settled_usd)} settled, "
        f"${money(copied.reserved_usd)} reserved",
        soft_wrap=True,
        markup=False,
    )


def _fields(copied: Copied) -> dict[str, object]:
    fields = asdict(copied)
    fields.pop("rows")
    return fields | {"settled_usd": money(copied.settled_usd), "reserved_usd": money(copied.reserved_usd)}
