"""All pods of the account, and the program that runs inside each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from aiohttp import web

from hybrid_video.emulators.runpod.metering import Usage
from hybrid_video.emulators.runpod.pods import TOKEN_VARIABLE, BootTimes, Pod, PodStatus, StaticPod
from hybrid_video.emulators.server import RunningServer, ScaledClock, start_server

ServiceFactory = Callable[[Pod], web.Application]


@dataclass
class _Service:
    epoch: int
    server: RunningServer


class Fleet:
    """Pods by id. The program of a pod is a real server on its own loopback port, started when first asked for.

    A container that is reset or stopped loses its program, and with it ComfyUI's queue and history. When the balance
    is used up every pod stops, and those without a network volume are terminated with their data (docs:
    accounts-billing/billing); that is noticed when somebody looks. A pod with a lease in its environment ends itself at
    the very moment it runs out.
    """

    def __init__(
        self, *, clock: ScaledClock, boot: BootTimes, service: ServiceFactory, balance_usd: Decimal | None = None
    ) -> None:
        self.boot = boot
        self._clock, self._service, self._balance_usd = clock, service, balance_usd
        self._pods: dict[str, Pod] = {}
        self._services: dict[str, _Service] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def add(self, pod: Pod) -> None:
        """Takes a pod in."""
        self._pods[pod.id] = pod
        self.watch_lease(pod)

    def watch_lease(self, pod: Pod) -> None:
        """Ends the pod when its lease runs out, as the keeper in it does; called again after every renewal."""
        timer = self._timers.pop(pod.id, None)
        if timer is not None:
            timer.cancel()
        if pod.lease_until is None:
            return
        left_s = max(0.0, pod.lease_until - self._clock.now()) / self._clock.scale
        self._timers[pod.id] = asyncio.get_running_loop().call_later(left_s + 0.001, self._lease_over, pod)

    def add_static(self, pods: tuple[StaticPod, ...], usd_per_s: Callable[[str], Decimal | None]) -> None:
        """Adds pods that run and answer from now on."""
        now = self._clock.now()
        for static in pods:
            pod = Pod(
                id=static.id,
                request=static.request(),
                data_center="EU-RO-1",
                usd_per_s=usd_per_s(static.gpu) or Decimal(0),
                created_at=now,
                boot=self.boot,
            )
            pod.run_at_once(now)
            self.add(pod)

    def get(self, pod_id: str) -> Pod | None:
        """The pod, TERMINATED ones for a while too; None afterwards."""
        self._enforce_leases()
        self._enforce_balance()
        pod = self._pods.get(pod_id)
        return None if pod is None or pod.gone(self._clock.now()) else pod

    def listed(self) -> list[Pod]:
        """Pods as `GET /v2/pods` lists them: a terminated one is no longer there."""
        self._enforce_leases()
        self._enforce_balance()
        now = self._clock.now()
        return [pod for pod in self._pods.values() if pod.status(now) is not PodStatus.TERMINATED]

    def usages(self) -> list[Usage]:
        """Everything billed, terminated pods included."""
        self._enforce_leases()
        return [usage for pod in self._pods.values() for usage in pod.usages]

    def left_usd(self) -> Decimal | None:
        """What is left of the balance; None when it is unlimited."""
        if self._balance_usd is None:
            return None
        now = self._clock.now()
        spent = (
            Decimal(str(round(usage.seconds_within(0.0, now), 6))) * (usage.usd_per_s + usage.disk_usd_per_s)
            for usage in self.usages()
        )
        return self._balance_usd - sum(spent, Decimal(0))

    async def stop(self, pod: Pod) -> None:
        """Stops a pod."""
        pod.stop(self._clock.now())
        await self._end_service(pod)

    async def restart(self, pod: Pod) -> None:
        """Resets a pod's container."""
        pod.restart(self._clock.now())
        self.watch_lease(pod)
        await self._end_service(pod)

    async def terminate(self, pod: Pod) -> None:
        """Deletes a pod."""
        pod.terminate(self._clock.now())
        await self._end_service(pod)

    async def service_url(self, pod: Pod) -> str | None:
        """Address of the program inside a pod, None while nothing answers there."""
        if not pod.serves(self._clock.now()):
            return None
        service = self._services.get(pod.id)
        if service is not None and service.epoch != pod.epoch:  # a program of an earlier container
            await self._end_service(pod)
            service = None
        if service is None:
            server = await start_server(self._service(pod))
            service = self._services.setdefault(pod.id, _Service(pod.epoch, server))
            if service.server is not server:  # another request was quicker
                await server.close()
        return service.server.url

    def reset(self) -> list[RunningServer]:
        """Forgets every pod; returns the programs, which are still to be closed."""
        servers = [service.server for service in self._services.values()]
        self._services.clear()
        self._pods.clear()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        return servers

    async def close(self) -> None:
        """Ends every program and forgets every pod."""
        for server in self.reset():
            await server.close()
        await asyncio.gather(*self._ending)

    def _lease_over(self, pod: Pod) -> None:
        if not pod.expire(self._clock.now()):
            if pod.status(self._clock.now()) is not PodStatus.TERMINATED:
                self.watch_lease(pod)
            return
        ending = asyncio.create_task(self._end_service(pod))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def _enforce_leases(self) -> None:
        """Whatever the timers have not come to yet, at the moment it was due."""
        now = self._clock.now()
        for pod in self._pods.values():
            if pod.lease_until is not None and pod.lease_until <= now:
                self._lease_over(pod)

    def _enforce_balance(self) -> None:
        left_usd = self.left_usd()
        if left_usd is None or left_usd > 0:
            return
        now = self._clock.now()
        for pod in self._pods.values():
            if pod.status(now) in (PodStatus.EXITED, PodStatus.TERMINATED):
                continue
            if pod.request.mounts.network:
                pod.stop(now)
            else:
                pod.terminate(now)

    async def _end_service(self, pod: Pod) -> None:
        service = self._services.pop(pod.id, None)
        if service is not None:
            await service.server.close()


def token_of(pod: Pod) -> str:
    """The bearer token the pod's own gate asks for; empty: the program is open to anyone who knows the pod id."""
    return pod.request.env.get(TOKEN_VARIABLE, "")
