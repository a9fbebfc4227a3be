"""RunPod: serverless endpoints (`serverless`), configured pods (`pod_backend`) and the management API (`pods`).

Both hosts are spoken to with httpx. The `runpod` package 1.12.0 was read and does not serve here:

* `runpod.Endpoint` blocks (requests), its `run` has a fixed time-out of 10 s, and `status()` gives only the state: the
  error text, `delayTime` and `executionTime`, which the bill needs, are dropped.
* `runpod.AsyncioEndpoint.run` always wraps its argument as `{"input": …}`, so `policy` (execution time-out, time to
  live) cannot be sent, and it looks at no status code: a 401 or 429 surfaces as `KeyError: 'id'` or a JSON error.
* Its retries (`Retry(total=5, status_forcelist=[408, 429])`) are mounted on `http://` only, and urllib3 repeats no
  POST after an answer: they cannot submit twice, but they do not help a read over https either.
* The base URL is a module-level global read from the environment at import.
* Pods go through GraphQL only (`runpod.api.graphql`), without REST v2; GraphQL is announced to end early in 2027.
* Importing it takes 1.8 s, because it loads the whole worker side.

It does serve for the account's balance, which only GraphQL offers: see `account`.
"""

from hybrid_video.backends.runpod.pod_backend import PodBackend
from hybrid_video.backends.runpod.pod_records import GpuType, Pod, PodBill, PodSpec, ServerlessBill
from hybrid_video.backends.runpod.pods import PodsClient
from hybrid_video.backends.runpod.serverless import ServerlessBackend

__all__ = [
    "GpuType",
    "Pod",
    "PodBackend",
    "PodBill",
    "PodSpec",
    "PodsClient",
    "ServerlessBackend",
    "ServerlessBill",
]
