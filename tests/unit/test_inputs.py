"""Input images and workflow files: what is found, what is fetched, and what is refused before anything is paid."""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from PIL import Image

from hybrid_video.errors import InputError
from hybrid_video.inputs import ImageFetcher, resolve_image, resolve_workflow
from hybrid_video.inputs.addresses import is_public
from hybrid_video.models import VideoJob

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def picture(form: str = "PNG", size: tuple[int, int] = (64, 48)) -> bytes:
    out = io.BytesIO()
    Image.radial_gradient("L").resize(size).convert("RGB").save(out, form)
    return out.getvalue()


def job(**fields: str) -> VideoJob:
    return VideoJob(id="a", prompt="a lighthouse", **fields)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    batch_dir = tmp_path / "batch"
    (batch_dir / "images").mkdir(parents=True)
    (batch_dir / "images" / "cat.png").write_bytes(picture())
    (tmp_path / "secret.png").write_bytes(picture())
    return batch_dir


async def local(folder: Path, image: str) -> Path | None:
    return await resolve_image(job(image=image), folder, allow_private=False, cache_dir=folder / "cache")


async def refusal(folder: Path, image: str) -> str:
    with pytest.raises(InputError) as caught:
        await local(folder, image)
    assert repr(image) in str(caught.value), "the message shows the value"
    assert str(caught.value).startswith("image: "), "the message names the field"
    return str(caught.value)


@asynccontextmanager
async def served(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serves every path with one handler on loopback; gives the port."""
    app = web.Application()
    app.router.add_get("/{tail:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def loopback(_host: str, _port: int) -> list[str]:
    return ["127.0.0.1"]


async def test_text_to_video_needs_no_image(folder: Path) -> None:
    """A job without an image resolves to None."""
    assert await resolve_image(job(), folder, allow_private=False, cache_dir=folder) is None


@pytest.mark.parametrize("written", ["images/cat.png", "./images/../images/cat.png", "images\\cat.png"])
async def test_a_path_inside_the_folder_is_found(folder: Path, written: str) -> None:
    """Relative paths are taken from the batch file's folder; backslashes count as slashes."""
    assert await local(folder, written) == folder / "images" / "cat.png"


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
async def test_jpeg_and_webp_are_accepted(folder: Path, form: str) -> None:
    """The content decides, not the suffix."""
    (folder / "x.png").write_bytes(picture(form))
    assert await local(folder, "x.png") == folder / "x.png"


@pytest.mark.parametrize(
    "written",
    [
        "../secret.png",
        "images/../../secret.png",
        "/etc/passwd",
        "~/secret.png",
        "C:\\secret.png",
        "c:secret.png",
        "\\\\h\\x.png",
    ],
)
async def test_a_path_outside_the_folder_is_refused(folder: Path, written: str) -> None:
    """Parent, absolute, home, drive and network paths are refused with what to do instead."""
    assert "give the path from there" in await refusal(folder, written)


async def test_a_symbolic_link_out_of_the_folder_is_refused(folder: Path) -> None:
    """Containment is checked after links are followed."""
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    (folder / "up").symlink_to(folder.parent)
    assert "leads outside" in await refusal(folder, "link.png")
    assert "leads outside" in await refusal(folder, "up/secret.png")


async def test_a_symbolic_link_loop_is_refused(folder: Path) -> None:
    """A link to itself is an error of the user's, not a crash."""
    (folder / "loop.png").symlink_to("loop.png")
    assert "image" in await refusal(folder, "loop.png")


@pytest.mark.parametrize(
    "written", ["data:image/png;base64,AAAA", "file:///etc/passwd", "ftp://x/y.png", "s3://b/k.png"]
)
async def test_other_schemes_are_refused(folder: Path, written: str) -> None:
    """Only paths and https addresses are taken."""
    assert "https" in await refusal(folder, written)


async def test_a_missing_file_is_named_with_the_nearest_one(folder: Path) -> None:
    """A typing error gets a suggestion."""
    assert "did you mean 'cat.png'" in await refusal(folder, "images/cta.png")


async def test_a_folder_an_empty_file_and_a_null_byte_are_refused(folder: Path) -> None:
    """Things that are no file with content are refused by name."""
    (folder / "empty.png").touch()
    assert "is a folder" in await refusal(folder, "images")
    assert "is empty" in await refusal(folder, "empty.png")
    assert "cannot be opened" in await refusal(folder, "a\0.png")


async def test_a_file_that_is_no_picture_is_refused(folder: Path) -> None:
    """A text file called .png, and a format no backend takes."""
    (folder / "text.png").write_text("hello " * 100)
    (folder / "x.gif").write_bytes(picture("GIF"))
    for name in ("text.png", "x.gif"):
        assert "PNG, JPEG or WebP" in await refusal(folder, name)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
async def test_a_truncated_picture_is_refused(folder: Path, form: str) -> None:
    """Pictures are decoded to their end."""
    (folder / "cut.png").write_bytes(picture(form, (640, 480))[:-600])
    assert "is damaged" in await refusal(folder, "cut.png")


async def test_a_decompression_bomb_is_refused_by_its_header(folder: Path) -> None:
    """A few kilobytes that would unpack to 100 megapixels and more are not unpacked."""
    for side in (10_000, 15_000):
        Image.new("1", (side, side)).save(folder / "bomb.png")
        assert (folder / "bomb.png").stat().st_size < 100_000
        assert "megapixels" in await refusal(folder, "bomb.png")


async def test_a_picture_of_too_many_bytes_is_refused(folder: Path) -> None:
    """50 MB is the limit."""
    with (folder / "big.png").open("wb") as file:
        file.write(picture())
        file.truncate(51_000_000)
    assert "51.0 MB" in await refusal(folder, "big.png")


def test_a_workflow_file_is_found_and_a_name_is_left_alone(folder: Path) -> None:
    """Only what ends in .json is a path."""
    (folder / "own.JSON").write_text("{}")
    assert resolve_workflow(job(workflow="own.JSON"), folder) == folder / "own.JSON"
    assert resolve_workflow(job(workflow="auto"), folder) is None
    assert resolve_workflow(job(workflow="wan-t2v"), folder) is None


@pytest.mark.parametrize("written", ["../own.json", "/own.json", "nope.json", "https://example.com/own.json"])
def test_a_workflow_file_elsewhere_is_refused(folder: Path, written: str) -> None:
    """Workflows obey the same rules as pictures."""
    (folder.parent / "own.json").write_text("{}")
    with pytest.raises(InputError, match=r"^workflow: "):
        resolve_workflow(job(workflow=written), folder)


async def test_an_address_is_fetched_once_and_kept_by_content(tmp_path: Path) -> None:
    """Jobs that share an address share one download; the file is named by its hash."""
    hits: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        hits.append(request.path)
        return web.Response(body=picture("JPEG"), content_type="image/jpeg")

    async with served(handler) as port:
        url = f"http://127.0.0.1:{port}/a.jpg"
        asked = [
            resolve_image(job(image=url), tmp_path, allow_private=True, cache_dir=tmp_path / "c") for _ in range(5)
        ]
        paths = await asyncio.gather(*asked)
    assert len(hits) == 1
    assert len(set(paths)) == 1
    assert paths[0] is not None
    assert paths[0].suffix == ".jpg"
    assert not list((tmp_path / "c").glob("*.part"))


@pytest.mark.parametrize(
    "url", ["http://example.com/a.png", "https://127.0.0.1/a.png", "https://[::1]/a.png", "https://10.0.0.1/a.png",
            "https://2130706433/a.png", "https://user:pw@example.com/a.png", "https://", "https:a.png"]
)  # fmt: skip
async def test_plain_http_private_and_odd_addresses_are_refused(folder: Path, url: str) -> None:
    """Nothing is sent to addresses of the user's own network unless private addresses are allowed."""
    with pytest.raises(InputError, match=r"^image: ") as caught:
        await local(folder, url)
    assert "user:pw" not in str(caught.value)


async def test_a_name_with_one_private_address_is_refused(tmp_path: Path) -> None:
    """Every address of a host must be public, not only the first."""

    async def resolve(_host: str, _port: int) -> list[str]:
        return ["93.184.216.34", "169.254.169.254"]

    with pytest.raises(InputError, match=r"169\.254\.169\.254.*HYBRID_VIDEO_ALLOW_PRIVATE_URLS"):
        await ImageFetcher(tmp_path, resolve=resolve).fetch("https://images.example/a.png")


def certificate(name: str) -> tuple[bytes, bytes]:
    """A self-signed certificate for one host name, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return built.public_bytes(serialization.Encoding.PEM), private


async def test_https_connects_to_the_checked_address_under_the_hosts_name(tmp_path: Path) -> None:
    """One look-up per request; certificate and Host header are those of the name, so rebinding gains nothing."""
    pem, key = certificate("images.example")
    (tmp_path / "cert.pem").write_bytes(pem)
    (tmp_path / "key.pem").write_bytes(key)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    trust = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    looked_up: list[str] = []
    hosts: list[str] = []

    async def resolve(host: str, _port: int) -> list[str]:
        looked_up.append(host)
        return ["127.0.0.1"]

    async def handler(request: web.Request) -> web.Response:
        hosts.append(request.host)
        return web.Response(body=picture(), content_type="image/png")

    fetcher = ImageFetcher(tmp_path / "c", allow_private=True, resolve=resolve, tls=trust, pause_s=0)
    async with served(handler, server) as port:
        path = await fetcher.fetch(f"https://images.example:{port}/a.png")
        with pytest.raises(InputError, match="certificate"):
            await fetcher.fetch(f"https://other.example:{port}/a.png")
    assert path.is_file()
    assert hosts == [f"images.example:{port}"]
    assert looked_up[0] == "images.example"
    assert looked_up.count("images.example") == 1


async def test_the_next_address_is_tried_when_one_refuses(tmp_path: Path) -> None:
    """A host with a dead first address is still reached."""

    async def resolve(_host: str, _port: int) -> list[str]:
        return ["::1", "127.0.0.1"]

    async def handler(_request: web.Request) -> web.Response:
        return web.Response(body=picture(), content_type="image/png")

    async with served(handler) as port:
        fetcher = ImageFetcher(tmp_path, allow_private=True, resolve=resolve)
        assert (await fetcher.fetch(f"http://images.example:{port}/a.png")).is_file()


async def test_redirects_are_followed_and_checked_each_time(tmp_path: Path) -> None:
    """Three redirects are followed, a fourth and one to another scheme are refused."""

    async def handler(request: web.Request) -> web.Response:
        left = request.path.strip("/")
        if left == "ftp":
            return web.Response(status=302, headers={"Location": "ftp://x/y"})
        if left.isdecimal() and int(left) > 0:
            return web.Response(status=302, headers={"Location": f"/{int(left) - 1}"})
        return web.Response(body=picture(), content_type="image/png")

    fetcher = ImageFetcher(tmp_path, allow_private=True, resolve=loopback)
    async with served(handler) as port:
        assert (await fetcher.fetch(f"http://h.example:{port}/3")).is_file()
        with pytest.raises(InputError, match="more than 3 times"):
            await fetcher.fetch(f"http://h.example:{port}/4")
        with pytest.raises(InputError, match="'ftp' instead of https"):
            await fetcher.fetch(f"http://h.example:{port}/ftp")


async def test_a_redirect_into_the_private_network_is_refused(tmp_path: Path) -> None:
    """The checks hold for where a redirect leads: http to a public-looking name, then to a private address."""
    from hybrid_video.inputs.download import Downloader, RefusedError

    async def handler(_request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": "http://intranet.example/a.png"})

    class OnlyFirst(Downloader):
        """Lets the first host through as a stand-in for a public one, and judges the others as usual."""

        async def _addresses(self, place: object, host: str) -> list[str]:
            return ["127.0.0.1"] if host == "public.example" else await Downloader._addresses(strict, place, host)  # type: ignore[arg-type]

    async def resolve(_host: str, _port: int) -> list[str]:
        return ["192.168.1.1"]

    strict = Downloader(allow_private=False, resolve=resolve, tls=None)
    async with served(handler) as port:
        with pytest.raises(RefusedError, match=r"192\.168\.1\.1"):
            await OnlyFirst(allow_private=True, resolve=resolve, tls=None).download(
                f"http://public.example:{port}/", tmp_path / "x"
            )


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda: web.Response(text="<html>", content_type="text/html"), "text/html"),
        (lambda: web.Response(status=404), "404"),
        (lambda: web.Response(status=503), "503"),
        (lambda: web.Response(body=b"", content_type="image/png"), "empty"),
        (lambda: web.Response(body=b"no picture", content_type="image/png"), "PNG, JPEG or WebP"),
        (
            lambda: web.Response(body=picture(), content_type="image/png", headers={"Content-Encoding": "br"}),
            "compressed",
        ),
    ],
)
async def test_what_is_not_a_picture_is_refused(tmp_path: Path, answer: Callable[[], web.Response], text: str) -> None:
    """Status, type, encoding and content are checked; nothing stays behind in the cache."""

    async def handler(_request: web.Request) -> web.Response:
        return answer()

    async with served(handler) as port:
        fetcher = ImageFetcher(tmp_path / "c", allow_private=True, pause_s=0)
        with pytest.raises(InputError, match=text):
            await fetcher.fetch(f"http://127.0.0.1:{port}/a.png?signature=abcdef123456")
    assert list((tmp_path / "c").iterdir()) == []


async def test_an_endless_body_is_cut_off_at_the_limit(tmp_path: Path) -> None:
    """The limit holds while streaming, whatever the headers promise."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "image/png"})
        await response.prepare(request)
        while True:
            await response.write(b"\0" * 1_000_000)

    async with served(handler) as port:
        with pytest.raises(InputError, match="more than 50 MB"):
            await ImageFetcher(tmp_path, allow_private=True).fetch(f"http://127.0.0.1:{port}/a.png")


async def test_a_slow_server_runs_into_the_time_limit(tmp_path: Path) -> None:
    """A body that trickles is given up."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "image/png"})
        await response.prepare(request)
        for _ in range(100):
            await response.write(b"\0")
            await asyncio.sleep(0.05)
        return response

    async with served(handler) as port:
        with pytest.raises(InputError, match=r"not complete after 0\.2 s"):
            await ImageFetcher(tmp_path, allow_private=True, timeout_s=0.2).fetch(f"http://127.0.0.1:{port}/a.png")


async def test_an_outage_is_tried_again_and_a_signature_is_never_shown(tmp_path: Path) -> None:
    """Two bad answers and a good one make a picture; a host that is not there is named without the signature."""
    left = [503, 502]

    async def handler(_request: web.Request) -> web.Response:
        return web.Response(status=left.pop()) if left else web.Response(body=picture(), content_type="image/png")

    fetcher = ImageFetcher(tmp_path, allow_private=True, pause_s=0)
    async with served(handler) as port:
        assert (await fetcher.fetch(f"http://127.0.0.1:{port}/a.png")).is_file()
    with pytest.raises(InputError, match="cannot be fetched") as caught:
        await fetcher.fetch(f"http://127.0.0.1:{port}/b.png?sig=topsecret1")
    assert "topsecret1" not in str(caught.value)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_are_public(address: str) -> None:
    """Plain public addresses pass, wrapped ones too."""
    assert is_public(address)
    assert ip_address(address)


PRIVATE = """
    127.0.0.1 0.0.0.0 10.1.2.3 172.16.0.1 192.168.0.1 169.254.169.254 100.64.0.1 224.0.0.1
    ::1 :: fe80::1 fe80::1%eth0 fc00::1 fec0::1 ff02::1
    ::ffff:127.0.0.1 ::ffff:10.0.0.1 64:ff9b::7f00:1 2002:7f00:1:: 2001:0:4136:e378:8000:63bf:80ff:fffe nonsense
"""


@pytest.mark.parametrize("address", PRIVATE.split())
def test_private_and_wrapped_private_addresses_are_not_public(address: str) -> None:
    """Loopback, private, link-local, shared, multicast and all ways to write them inside IPv6."""
    assert not is_public(address)
