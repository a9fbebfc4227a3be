"""The steps that bring custom nodes and models."""

from __future__ import annotations

from hybrid_video.installer import code
from hybrid_video.installer.downloading import Downloader, check_space
from hybrid_video.installer.journal import FileState
from hybrid_video.installer.manifest import ModelSource, files_of, nodes_of
from hybrid_video.installer.options import Token
from hybrid_video.installer.receipt import InstalledFile, InstalledNode
from hybrid_video.installer.work import Work


def nodes_needed(work: Work) -> bool:
    """Whether a node package is missing; updates and repairs look at each."""
    have = {node.name for node in work.receipt.nodes if (work.layout.custom_nodes / node.name).is_dir()}
    return work.action in ("repair", "update") or any(node.name not in have for node in nodes_of(work.bundles))


def fetch_nodes(work: Work) -> str:
    """Fetches node packages and what they need."""
    wanted = nodes_of(work.bundles)
    for node in wanted:
        commit, _ = code.resolve(work.runner, node.url, node.ref)
        target = work.layout.custom_nodes / node.name
        target.parent.mkdir(parents=True, exist_ok=True)
        code.checkout(work.runner, node.url, commit, target)
        if (target / "requirements.txt").exists():
            work.environment.install_requirements(target / "requirements.txt", work.torch)
        work.keep(nodes=work.receipt.with_node(InstalledNode(name=node.name, url=node.url, commit=commit)).nodes)
    return ", ".join(node.name for node in wanted) or "none needed"


def downloader_of(work: Work) -> Downloader:
    """What fetches models for this run."""
    return Downloader(
        work.layout.models,
        mirrors=work.options.mirrors,
        known=work.receipt.known_hashes,
        token=Token.from_environment(),
        cancelled=lambda: work.journal.cancel_requested,
        on_notice=work.notice,
    )


def models_needed(work: Work) -> bool:
    """Whether a model is missing or not in the receipt; a repair hashes each."""
    known = work.receipt.known_hashes
    loader = downloader_of(work)

    def right(file: ModelSource) -> bool:
        place = loader.place_of(file)
        return file.path in known and place.is_file() and place.stat().st_size == file.bytes

    return work.action == "repair" or not all(right(file) for file in files_of(work.bundles))


def fetch_models(work: Work) -> str:
    """Fetches and verifies models, the receipt growing with each."""
    wanted = files_of(work.bundles)
    loader = downloader_of(work)
    work.journal.files(tuple(FileState(file=f.name, folder=f.folder, bytes_total=f.bytes) for f in wanted))
    check_space(work.layout.folder, loader.missing_bytes(wanted), work.options.min_free_gb)
    for file in wanted:
        digest = loader.fetch(file, work.journal.file, check=work.action == "repair")
        if not file.sha256 and file.path not in work.receipt.known_hashes:
            work.notice(f"{file.name} has no known hash; {digest[:16]}… is trusted from now on, as it came first")
        entry = InstalledFile(
            path=file.path,
            bytes=file.bytes,
            sha256=digest,
            source=file.url,
            licence=file.licence,
            trusted_on_first_use=not file.sha256,
        )
        work.keep(files=work.receipt.with_file(entry).files)
    return f"{len(wanted)} files, {sum(file.bytes for file in wanted) / 1e9:.1f} GB, verified"
