"""Queue, history, interrupt, cache, jobs and output naming of the ComfyUI emulator, as observed on ComfyUI 0.8.0."""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from pathlib import Path
from typing import Any

import av
import httpx
import pytest
from PIL import Image

from hybrid_video.emulators.comfyui.folders import Folders
from hybrid_video.models import OutputSpec, Tier
from hybrid_video.pricing.timings import ServiceTimes
from tests.vendors.comfyui_rig import Graph, comfyui, graph, sampled

RESULT = [{"filename": "clip_00001_.mp4", "subfolder": "t", "type": "output"}]


def decoded(response: httpx.Response) -> tuple[int, int, int, float]:
    """Width, height, frames and rate of a downloaded video."""
    with av.open(io.BytesIO(response.content), "r") as container:
        stream = container.streams.video[0]
        frames = len(list(container.decode(video=0)))
        return stream.width, stream.height, frames, float(stream.average_rate or 0)


async def test_a_finished_prompt_names_a_playable_clip_of_the_size_in_the_graph() -> None:
    """Frames from `batch_size`, rate from CreateVideo."""
    async with comfyui() as rig:
        entry = await rig.run(graph())
        clip = await rig.view(entry["outputs"]["save"]["images"][0])
    assert entry["outputs"] == {"save": {"images": RESULT, "animated": [True]}}
    assert decoded(clip) == (64, 48, 4, 8.0)


async def test_a_video_model_makes_4n_plus_1_frames() -> None:
    """Eight latent frames asked for decode to five."""
    async with comfyui() as rig:
        entry = await rig.run(sampled())
        clip = await rig.view(entry["outputs"]["save"]["images"][0])
    assert decoded(clip) == (96, 64, 5, 16.0)


async def test_the_file_holds_the_whole_graph_and_the_extra_data() -> None:
    """Prompts leak with the file, as on the real server."""
    async with comfyui() as rig:
        entry = await rig.run(sampled(prompt="secret"), extra_data={"extra_pnginfo": {"note": "mine"}})
        clip = await rig.view(entry["outputs"]["save"]["images"][0])
    with av.open(io.BytesIO(clip.content)) as container:
        assert "secret" in container.metadata["prompt"]
        assert container.metadata["note"] == '"mine"'


async def test_the_history_entry_has_prompt_outputs_status_and_meta() -> None:
    """Three messages on success, timestamps in milliseconds."""
    async with comfyui() as rig:
        entry = await rig.run(graph(), prompt_id="p", client_id="c")
    assert entry["prompt"][:2] == [0, "p"]
    assert entry["prompt"][4] == ["save"]
    assert entry["status"]["status_str"] == "success"
    assert entry["status"]["completed"] is True
    messages = entry["status"]["messages"]
    assert [kind for kind, _ in messages] == ["execution_start", "execution_cached", "execution_success"]
    assert messages[2][1]["timestamp"] - messages[0][1]["timestamp"] == pytest.approx(1000, abs=2)
    meta = {"node_id": "save", "display_node": "save", "parent_node": None, "real_node_id": "save"}
    assert entry["meta"] == {"save": meta}


async def test_history_is_empty_with_200_for_an_unknown_or_unfinished_prompt() -> None:
    """`{}` says nothing about whether it exists."""
    async with comfyui(service_s=50) as rig:
        pid = await rig.submit(graph())
        for name in (pid, "nope", "a%2Fb"):
            response = await rig.http.get(f"/history/{name}")
            assert (response.status_code, response.json()) == (200, {})


async def test_history_pages_from_the_newest_or_the_oldest() -> None:
    """`max_items` alone is the last ones; with `offset` it counts from the oldest."""
    async with comfyui() as rig:
        for number in range(4):
            await rig.run(graph(), prompt_id=str(number), client_id="c")

        async def ids(query: str) -> list[str]:
            return list((await rig.http.get(f"/history?{query}")).json())

        assert await ids("max_items=2") == ["2", "3"]
        assert await ids("max_items=2&offset=1") == ["1", "2"]
        assert await ids("offset=2") == ["2", "3"]
        assert await ids("max_items=0") == []
        assert await ids("max_items=-1") == []
        assert (await rig.http.get("/history?max_items=x")).status_code == 500
        await rig.http.post("/history", json={"delete": ["1"]})
        assert await ids("") == ["0", "2", "3"]
        await rig.http.post("/history", json={"clear": True})
        assert await ids("") == []


async def test_a_prompt_is_in_exactly_one_of_pending_running_and_history() -> None:
    """One runs, the rest wait in order of number; `/prompt` counts both."""
    async with comfyui(service_s=20) as rig:
        running = await rig.submit(graph())
        await rig.until_running(running)
        late = await rig.submit(graph("t/late"), number=9)
        soon = await rig.submit(graph("t/soon"), number=-9)
        queue = (await rig.http.get("/queue")).json()
        depth = (await rig.http.get("/prompt")).json()
        await rig.entry(soon)
        order = list((await rig.http.get("/history")).json())
    assert [item[1] for item in queue["queue_running"]] == [running]
    assert {item[1] for item in queue["queue_pending"]} == {late, soon}
    assert len(queue["queue_pending"][0]) == 5
    assert depth == {"exec_info": {"queue_remaining": 3}}
    assert order == [running, soon]


async def test_deleting_removes_one_pending_prompt_per_listed_id() -> None:
    """Duplicates survive, unknown and running ids are ignored, and nothing of it is in the history."""
    async with comfyui(service_s=50) as rig:
        running = await rig.submit(graph())
        await rig.until_running(running)
        for _ in range(2):
            await rig.submit(graph(), prompt_id="twice")
        response = await rig.http.post("/queue", json={"delete": ["twice", "nope", running]})
        queue = (await rig.http.get("/queue")).json()
        states = [charge.state for charge in rig.emulator.charges.rows]
    assert (response.status_code, response.content) == (200, b"")
    assert [item[1] for item in queue["queue_pending"]] == ["twice"]
    assert [item[1] for item in queue["queue_running"]] == [running]
    assert states == ["open", "cancelled", "open"]


async def test_clearing_empties_pending_but_not_the_running_prompt() -> None:
    """`{"clear": true}`."""
    async with comfyui(service_s=50) as rig:
        await rig.until_running(await rig.submit(graph()))
        await rig.submit(graph())
        await rig.http.post("/queue", json={"clear": True})
        assert (await rig.http.get("/prompt")).json()["exec_info"]["queue_remaining"] == 1


@pytest.mark.parametrize(("body", "status"), [(b"{}", 200), (b'{"delete": "dup"}', 200), (b"", 500)])
async def test_odd_queue_posts_are_tolerated_except_an_empty_one(body: bytes, status: int) -> None:
    """A text under `delete` is taken letter by letter."""
    async with comfyui() as rig:
        assert (await rig.http.post("/queue", content=body)).status_code == status


async def test_a_second_post_of_an_id_is_a_second_run() -> None:
    """Not idempotent; while it waits the first result still shows."""
    async with comfyui() as rig:
        await rig.run(graph(), prompt_id="p", client_id="c")
        await rig.submit(graph("t/again"), prompt_id="p", client_id="c")
        assert (await rig.entry("p"))["outputs"]["save"]["images"] == RESULT
        assert len(rig.emulator.charges.rows) == 2


async def test_the_same_id_and_number_twice_in_the_queue_kill_the_worker() -> None:
    """The heap compares the graphs and raises; HTTP stays healthy but nothing ever runs again."""
    async with comfyui(service_s=20) as rig:
        running = await rig.submit(graph(), number=0)
        await rig.until_running(running)
        await rig.submit(graph(), number=1)
        for _ in range(2):
            await rig.submit(graph(), prompt_id="same", number=2)
        await rig.entry(running)
        await asyncio.sleep(0.5)
        await rig.http.post("/interrupt", json={})
        queue = (await rig.http.get("/queue")).json()
        history = (await rig.http.get("/history")).json()
    assert queue["queue_running"] == []
    assert "same" in [item[1] for item in queue["queue_pending"]]
    assert list(history) == [running]


async def test_an_interrupt_stops_a_sampler_at_its_next_step() -> None:
    """Status error, not completed, last message `execution_interrupted`, no `execution_error`."""
    async with comfyui(service_s=100) as rig:
        pid = await rig.submit(sampled())
        await asyncio.sleep(0.2)
        response = await rig.http.post("/interrupt", json={"prompt_id": pid})
        entry = await rig.entry(pid)
        assert rig.emulator.charges.rows[0].state == "cancelled"
    assert (response.status_code, response.content) == (200, b"")
    assert (entry["status"]["status_str"], entry["status"]["completed"]) == ("error", False)
    kind, data = entry["status"]["messages"][-1]
    assert (kind, data["node_id"], data["node_type"]) == ("execution_interrupted", "sampler", "KSampler")
    assert "execution_error" not in [kind for kind, _ in entry["status"]["messages"]]


async def test_an_interrupt_for_another_prompt_does_nothing() -> None:
    """A pending prompt is not removed by it either."""
    async with comfyui(service_s=20) as rig:
        pid = await rig.submit(sampled())
        waiting = await rig.submit(graph())
        await rig.http.post("/interrupt", json={"prompt_id": waiting})
        assert (await rig.entry(pid))["status"]["completed"] is True
        assert (await rig.entry(waiting))["status"]["completed"] is True


async def test_an_interrupt_while_idle_has_no_later_effect() -> None:
    """The flag is cleared at the next start; a body that is no JSON counts as none, a list is a 500."""
    async with comfyui() as rig:
        assert (await rig.http.post("/interrupt", content=b"")).status_code == 200
        assert (await rig.http.post("/interrupt", json=[])).status_code == 500
        assert (await rig.run(graph()))["status"]["completed"] is True


async def test_an_odd_size_passes_validation_and_fails_in_the_encoder() -> None:
    """The cheapest real `execution_error`; inputs of the node are printed with it."""
    async with comfyui() as rig:
        entry = await rig.run(graph(width=65))
        assert rig.emulator.charges.rows[0].state == "failed"
    kind, data = entry["status"]["messages"][-1]
    assert (entry["status"]["status_str"], entry["outputs"], kind) == ("error", {}, "execution_error")
    assert data["exception_type"] == "av.error.ExternalError"
    assert "avcodec_open2" in data["exception_message"]
    assert data["executed"] == ["img", "video"]
    assert data["current_inputs"]["filename_prefix"] == ["t/clip"]
    assert data["current_inputs"]["video"][0].startswith("tensor(")


async def test_a_fully_cached_prompt_names_the_old_file_to_a_client_with_an_id() -> None:
    """No new file is written and next to no time passes."""
    async with comfyui(service_s=30) as rig:
        await rig.run(graph(), client_id="c")
        entry = await rig.run(graph(), client_id="c")
        names = [path.name for path in (rig.emulator.output_dir / "t").iterdir()]
    assert entry["outputs"]["save"]["images"] == RESULT
    assert set(entry["status"]["messages"][1][1]["nodes"]) == {"img", "video", "save"}
    assert entry["status"]["messages"][-1][1]["timestamp"] - entry["status"]["messages"][0][1]["timestamp"] == 0
    assert names == ["clip_00001_.mp4"]


async def test_a_fully_cached_prompt_without_client_id_succeeds_with_nothing() -> None:
    """Success and empty outputs, observed on 0.8.0 (0.3.64 still lists them)."""
    async with comfyui() as rig:
        await rig.run(graph())
        entry = await rig.run(graph())
    assert (entry["status"]["status_str"], entry["outputs"]) == ("success", {})


async def test_another_prefix_runs_only_the_save_node() -> None:
    """That is why each job has its own prefix."""
    async with comfyui() as rig:
        await rig.run(graph())
        entry = await rig.run(graph("t/other"))
    assert entry["status"]["messages"][1][1]["nodes"] == ["img", "video"]
    assert entry["outputs"]["save"]["images"][0]["filename"] == "other_00001_.mp4"


async def test_the_cache_keeps_only_what_the_last_prompt_used() -> None:
    """A, B, A runs A again; so does `/free` with `free_memory`."""
    async with comfyui() as rig:

        async def cached(prompt: Graph) -> list[str]:
            return list((await rig.run(prompt))["status"]["messages"][1][1]["nodes"])

        await cached(graph())
        assert await cached(graph(color=1)) == []
        assert await cached(graph()) == []
        assert await cached(graph()) == ["img", "video", "save"]
        await rig.http.post("/free", json={"free_memory": True})
        assert await cached(graph()) == []
        assert (await rig.http.post("/free", content=b"")).status_code == 500


async def test_two_equal_save_nodes_share_one_file() -> None:
    """The second finds the first in the cache."""
    prompt = graph()
    prompt["twin"] = prompt["save"]
    async with comfyui() as rig:
        outputs = (await rig.run(prompt, client_id="c"))["outputs"]
    assert outputs["save"] == outputs["twin"]


async def test_file_names_count_up_from_the_highest_on_disk() -> None:
    """So a deleted name comes back."""
    async with comfyui() as rig:
        folder = rig.emulator.output_dir / "t"
        folder.mkdir()
        (folder / "clip_00007_.mp4").write_bytes(b"")
        assert (await rig.run(graph(color=1)))["outputs"]["save"]["images"][0]["filename"] == "clip_00008_.mp4"
        (folder / "clip_00008_.mp4").unlink()
        assert (await rig.run(graph(color=2)))["outputs"]["save"]["images"][0]["filename"] == "clip_00008_.mp4"


@pytest.mark.parametrize(
    ("prefix", "file"),
    [("a/b/c", ("c_00001_.mp4", "a/b")), ("", ("._00001_.mp4", "")), ("x/%width%", ("64_00001_.mp4", "x"))],
)
async def test_a_prefix_becomes_folder_and_name(prefix: str, file: tuple[str, str]) -> None:
    """`%width%` is expanded by the server; `%date:...%` is not."""
    async with comfyui() as rig:
        entry = (await rig.run(graph(prefix)))["outputs"]["save"]["images"][0]
    assert (entry["filename"], entry["subfolder"]) == file


@pytest.mark.parametrize(
    ("prefix", "text"), [("../x", "outside the output folder"), ("/abs", "outside"), ("n" * 300, "File name too long")]
)
async def test_a_bad_prefix_fails_after_the_work_was_done(prefix: str, text: str) -> None:
    """An execution error, not a validation error."""
    async with comfyui() as rig:
        kind, data = (await rig.run(graph(prefix)))["status"]["messages"][-1]
    assert kind == "execution_error"
    assert text in data["exception_message"]


async def test_webm_webp_and_still_images_come_under_the_images_key() -> None:
    """WEBP of one frame has no `animated`; SaveImage gives one file per frame; PreviewImage is of type temp."""
    prompt = graph()
    webp = {"images": ["img", 0], "filename_prefix": "t/p", "fps": 8.0, "lossless": False, "quality": 80}
    webm = {"images": ["img", 0], "filename_prefix": "t/m", "codec": "vp9", "fps": 8.0, "crf": 32.0}
    prompt |= {
        "webp": {"class_type": "SaveAnimatedWEBP", "inputs": {**webp, "method": "default"}},
        "webm": {"class_type": "SaveWEBM", "inputs": webm},
        "stills": {"class_type": "SaveImage", "inputs": {"images": ["img", 0], "filename_prefix": "t/i"}},
        "seen": {"class_type": "PreviewImage", "inputs": {"images": ["img", 0]}},
    }
    async with comfyui() as rig:
        outputs = (await rig.run(prompt))["outputs"]
        picture = await rig.view(outputs["webp"]["images"][0])
        video = await rig.view(outputs["webm"]["images"][0])
        single = await rig.run(prompt | {"img": graph(frames=1)["img"]})
    with Image.open(io.BytesIO(picture.content)) as image:
        assert getattr(image, "n_frames", 1) == 4
    assert (picture.headers["content-type"], video.headers["content-type"]) == ("image/webp", "video/webm")
    assert decoded(video)[:3] == (64, 48, 4)
    assert outputs["webp"]["animated"] == [True]
    assert [file["filename"] for file in outputs["stills"]["images"]] == [f"i_{n:05}_.png" for n in range(1, 5)]
    assert {file["type"] for file in outputs["seen"]["images"]} == {"temp"}
    assert "animated" not in single["outputs"]["webp"]
    assert single["outputs"]["save"]["animated"] == [True]


async def test_vhs_video_combine_puts_one_entry_under_gifs() -> None:
    """With the picture and the silent file beside it; `save_output` false makes it temp."""
    combine: dict[str, Any] = {
        "images": ["img", 0],
        "frame_rate": 8.0,
        "loop_count": 0,
        "filename_prefix": "v/x",
        "format": "video/h264-mp4",
        "pingpong": False,
        "save_output": True,
    }
    prompt = {"img": graph()["img"], "out": {"class_type": "VHS_VideoCombine", "inputs": combine}}
    async with comfyui() as rig:
        shown = (await rig.run(prompt))["outputs"]["out"]
        clip = await rig.view(shown["gifs"][0])
        files = sorted(path.name for path in (rig.emulator.output_dir / "v").iterdir())
        combine["save_output"] = False
        hidden = (await rig.run(prompt))["outputs"]["out"]["gifs"][0]
    assert list(shown) == ["gifs"]
    entry = shown["gifs"][0]
    assert (entry["filename"], entry["format"], entry["frame_rate"]) == ("x_00001.mp4", "video/h264-mp4", 8.0)
    assert (entry["workflow"], Path(entry["fullpath"]).name) == ("x_00001.png", "x_00001.mp4")
    assert files == ["x_00001.mp4", "x_00001.png"]
    assert decoded(clip)[:3] == (64, 48, 4)
    assert hidden["type"] == "temp"


async def test_jobs_list_every_state_without_graphs() -> None:
    """Only below `/api`; newest first."""
    async with comfyui(service_s=20) as rig:
        done = await rig.submit(graph(), extra_data={"extra_pnginfo": {"workflow": {"id": "w"}}})
        await rig.entry(done)
        broken = await rig.submit(graph(width=65))
        await rig.entry(broken)
        running = await rig.submit(graph(color=3))
        await rig.until_running(running)
        pending = await rig.submit(graph())
        listed = (await rig.http.get("/api/jobs")).json()
        plain = await rig.http.get("/jobs")
        twice = await rig.http.get("/api/api/jobs")
        some = (await rig.http.get("/api/jobs?status=completed,failed&limit=1&offset=-4")).json()
        named = (await rig.http.get("/api/jobs?workflow_id=w")).json()
    states = {job["id"]: job["status"] for job in listed["jobs"]}
    assert states == {done: "completed", broken: "failed", running: "in_progress", pending: "pending"}
    assert listed["pagination"] == {"offset": 0, "limit": None, "total": 4, "has_more": False}
    assert (plain.status_code, twice.status_code) == (404, 200)
    assert some["pagination"] == {"offset": 0, "limit": 1, "total": 2, "has_more": True}
    assert [job["id"] for job in named["jobs"]] == [done]
    job = next(job for job in listed["jobs"] if job["id"] == done)
    assert job["preview_output"] == RESULT[0] | {"nodeId": "save", "mediaType": "images"}
    assert (job["outputs_count"], job["workflow_id"], "prompt" in job) == (1, "w", False)


async def test_one_job_tells_outputs_and_workflow_or_404_in_json() -> None:
    """An interrupted job is failed without `execution_error`."""
    async with comfyui(service_s=50) as rig:
        pid = await rig.submit(sampled())
        await asyncio.sleep(0.1)
        await rig.http.post("/interrupt", json={})
        await rig.entry(pid)
        job = (await rig.http.get(f"/api/jobs/{pid}")).json()
        unknown = await rig.http.get("/api/jobs/nope")
    assert job["status"] == "failed"
    assert "execution_error" not in job
    assert set(job["workflow"]) == {"prompt", "extra_data"}
    assert job["execution_status"]["status_str"] == "error"
    assert (unknown.status_code, unknown.json()) == (404, {"error": "Job not found"})


@pytest.mark.parametrize("query", ["status=nope", "sort_by=x", "sort_order=up", "limit=x", "limit=0", "offset=x"])
async def test_a_bad_jobs_parameter_is_a_json_400(query: str) -> None:
    """The only routes with real error bodies."""
    async with comfyui() as rig:
        response = await rig.http.get(f"/api/jobs?{query}")
    assert response.status_code == 400
    assert list(response.json()) == ["error"]


async def test_service_time_follows_the_products_timings_when_none_is_given() -> None:
    """For the model file, size and frames in the graph, on the GPU the server shows."""
    output = OutputSpec(width=96, height=64, fps=16, frames=5)
    expected_s, _ = ServiceTimes().expected_s(
        backend="comfyui",
        tier=Tier.LOCAL,
        gpu="NVIDIA GeForce RTX 4090",
        model="wan2.1-t2v-1.3b",
        output=output,
    )
    async with comfyui(service_s=None) as rig:
        messages = (await rig.run(sampled()))["status"]["messages"]
    took_s = (messages[-1][1]["timestamp"] - messages[0][1]["timestamp"]) / 1000
    assert took_s == pytest.approx(expected_s, abs=0.003)


async def test_a_server_ends_while_a_clip_is_drawn() -> None:
    """The drawing thread cannot be stopped and writes into a folder that is being deleted; the end must not wait."""
    folders, threads = Folders(), list[threading.Thread]()
    drawing, enough = threading.Event(), threading.Event()

    def draw(into: Path) -> None:
        number = 0
        while not enough.is_set():
            number += 1
            with contextlib.suppress(OSError):
                (into / str(number)).touch()
            drawing.set()

    async def cancelled_while_it_draws() -> None:
        with folders.scratch() as scratch:
            threads.append(threading.Thread(target=draw, args=[Path(scratch)], daemon=True))
            threads[-1].start()
            await asyncio.to_thread(drawing.wait)
            raise asyncio.CancelledError

    for _ in range(10):
        drawing.clear()
        with pytest.raises(asyncio.CancelledError):
            await cancelled_while_it_draws()
        enough.set()
        await asyncio.to_thread(threads.pop().join)
        enough.clear()
    folders.close()
