# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The typed files that the operator writes and pods read.

A pod's behaviour is one such file, mounted from a ConfigMap, not twenty flags. The operator renders it with
`model_dump_json`, `kaito-runtime` reads it with `model_validate_json`; both import this module and nothing else of each
other. A container that ends in error leaves a `Failure` as its termination message, which the operator reads back.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

SERVE_CONFIG_KEY = "serve.json"
"""The key in the ConfigMap, and the file's name below `CONFIG_MOUNT`."""
FETCH_CONFIG_KEY = "fetch.json"
CONFIG_MOUNT = "/etc/kaito"
USER_CONFIG_MOUNT = "/mnt/config"
USER_CONFIG_KEY = "inference_config.yaml"
WEIGHTS_MOUNT = "/workspace/weights"
LOCAL_WEIGHTS_MOUNT = "/workspace/local-weights"
NODE_WEIGHTS = "/opt/kaito/models"
"""On nodes: below it, by the preset's name, the folders of models that an administrator has put there, as in KAITO."""
API_KEYS_MOUNT = "/etc/kaito-api-keys"
ADAPTERS_MOUNT = "/mnt/adapter"
"""Below it, by name, the adapters that lie on volumes."""
FETCHED_ADAPTERS_MOUNT = "/mnt/fetched-adapters"
"""Below it, by name, those that are fetched."""
PULL_SECRETS_MOUNT = "/run/kaito/pull-secrets"
MAX_ADAPTERS = 10
HTTP_PORT = 5000
KV_EVENTS_PORT = 5557
"""Where vLLM publishes, over ZeroMQ, which parts of prompts its KV cache holds; routers subscribe to it."""
TUNE_CONFIG_KEY = "tune.json"
TRAINING_CONFIG_KEY = "training_config.yaml"
"""The key of a tuning ConfigMap, and the file's name below `USER_CONFIG_MOUNT`."""
DATA_MOUNT = "/mnt/data"
OUTPUT_ROOT = "/mnt"
"""`output_dir` of a training configuration is below it."""
DEFAULT_OUTPUT_DIR = "/mnt/output"
PUSH_SECRET_MOUNT = "/run/kaito/push-secret"
USELESS_TO_RETRY = 64
"""Exit code of a container that would fail in the same way again: what it was given has to be corrected first."""

Engine = Literal["vllm", "transformers"]


class Contract(BaseModel):
    """A file that one deployable writes and another reads: frozen, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSource(Contract):
    """Where the weights come from: `folder`, where one is named; else, in this order, `local_dirs`, the download
    folder, the hub."""

    id: str
    """The Hugging Face id, e.g. `microsoft/Phi-3-mini-4k-instruct`. A local folder is laid out by it: `DIR/<id>/`."""
    revision: str | None = None
    """Commit to download; None takes the repository's default branch."""
    folder: str | None = None
    """The model's own folder in the pod: it is there or nowhere."""
    local_dirs: tuple[str, ...] = ()
    """Folders (paths in the pod) that may hold weights laid out by model id."""
    download_dir: str = WEIGHTS_MOUNT
    offline: bool = False
    """Never ask a hub."""


class Adapter(Contract):
    """A LoRA adapter, addressed by its name in a request's `model`."""

    name: str
    path: str
    strength: float = Field(default=1.0, ge=0.0, le=1.0)


class Parallelism(Contract):
    """How the model is spread over GPUs."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1


class ServeConfig(Contract):
    """What `kaito-runtime serve` runs."""

    version: Literal[1] = 1
    workspace: str
    namespace: str
    engine: Engine
    device: Literal["cuda", "cpu"]
    model: ModelSource
    served_model_name: str
    port: int = HTTP_PORT
    dtype: str = "auto"
    max_model_len: int | None = None
    """None lets the engine take what fits."""
    gpu_memory_utilization: float | None = None
    parallelism: Parallelism = Parallelism()
    nodes: int = Field(default=1, ge=1)
    """Over how many pods the model is spread; each pod's index is its rank, and rank 0 has the API."""
    peers: tuple[str, ...] = ()
    """Where the pods find each other, by rank; as many as `nodes` when there are several."""
    rendezvous_port: int = 29500
    """The port of rank 0 at which the engines meet."""
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    chat_template: str | None = None
    """The name of a template that the runtime ships, without its folder."""
    load_format: str | None = None
    config_format: str | None = None
    tokenizer_mode: str | None = None
    trust_remote_code: bool = False
    extra_args: dict[str, str | bool | int | float] = Field(default_factory=dict)
    """Further engine options of the catalogue (`kv-cache-dtype` and the like), by the engine's own names."""
    kv_offload: bool = False
    """Whether parts of the KV cache may be kept in the machine's memory where the user's file asks for it."""
    adapters: tuple[Adapter, ...] = ()
    """Followed while the server runs: one that is added to the file is loaded, one that is gone is unloaded."""
    fetch_config: str | None = None
    """Path of the FetchConfig that says how an adapter comes that is not there yet."""
    user_config: str | None = None
    """Path of the user's `inference_config.yaml`, whose values win over ours."""
    user_config_name: str | None = None
    """The ConfigMap that it comes from, for messages."""
    benchmark: Literal["off", "light", "full"] = "off"
    """What the pod measures of itself once it is Ready."""
    api_keys_dir: str | None = None
    """Folder with one file an API key, as a Secret is mounted; None lets everybody ask."""


class OciSource(Contract):
    """An image or an artifact in a registry. Its manifest says which it is: of an image the folder `path` is taken; a
    model artifact (CNCF ModelPack) and a plain file artifact (as `oras push` makes it) are taken whole."""

    kind: Literal["oci"] = "oci"
    reference: str
    """As users write it: `registry/name:tag`, `name@sha256:…`."""
    path: str = "/data"
    """The folder of an image whose content is wanted; of no meaning for artifacts."""


class UrlSource(Contract):
    """Files over http or https, each under the last segment of its path."""

    kind: Literal["url"] = "url"
    urls: tuple[str, ...] = Field(min_length=1)
    sha256: dict[str, str] = Field(default_factory=dict)
    """What a file must hash to, in hex, by its URL."""


class HubSource(Contract):
    """A data set of a Hugging Face hub: the files of one of its splits."""

    kind: Literal["hub"] = "hub"
    repository: str
    """`org/name`."""
    revision: str = ""
    """A branch, a tag or a commit; empty for the default branch."""
    path: str = ""
    """A file, a folder, or a pattern with `*`."""
    config: str = ""
    """A configuration that the data set's card names."""
    split: str = ""
    """Empty for `train`."""


class BucketSource(Contract):
    """A folder of an object store."""

    kind: Literal["bucket"] = "bucket"
    uri: str
    """As `kaito.api.buckets` reads it."""
    only_safe: bool = True
    """Leave out files in formats that can run code when they are loaded."""


Source = Annotated[OciSource | UrlSource | HubSource | BucketSource, Field(discriminator="kind")]


class FetchItem(Contract):
    """One thing to bring into one folder."""

    name: str
    """What messages call it."""
    source: Source
    destination: str
    """A folder that is not there yet, is empty, or was filled by an earlier fetch; it appears whole or not at all."""
    credentials: tuple[str, ...] = ()
    """Docker `config.json` files, or folders of them, tried one after the other when a registry refuses an anonymous
    client; for a bucket, folders with a file for each key, as a Secret is mounted."""


class FetchConfig(Contract):
    """What `kaito-runtime fetch` brings."""

    version: Literal[1] = 1
    items: tuple[FetchItem, ...]
    registry_mirrors: dict[str, str] = Field(default_factory=dict)
    """Where to ask instead: `mcr.microsoft.com` to `localhost:5000`, or with a folder, `localhost:5000/mcr`."""
    ca_file: str | None = None
    """Further certificate authorities (PEM) to trust."""
    public_only: bool = False
    """Refuse addresses of files that lead to this machine, a private network or a cloud's metadata, whatever their
    names and redirects say."""


ResultFormat = Literal["image", "artifact"]
"""A container image in KAITO's layout, or an artifact after CNCF ModelPack."""


class TuneTarget(Contract):
    """Where something is pushed."""

    image: str
    """As users write it: `registry/name:tag`."""
    credentials: tuple[str, ...] = ()
    """Docker `config.json` files, or folders of them."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Annotations of the manifest."""
    format: ResultFormat = "image"
    """What the result becomes."""


TuningMethod = Literal["lora", "qlora", "full"]


class Together(Contract):
    """How the pods of one tuning find each other, each on a node of its own."""

    nodes: int = Field(ge=2)
    """How many pods train; each pod's index is its rank."""
    leader: str
    """The host name of rank 0, which the others ask what to do."""
    port: int = 29500
    """Where it answers."""


class TuneConfig(Contract):
    """What `kaito-runtime tune` does: fetch the data, check it, train, save, push."""

    version: Literal[1] = 1
    workspace: str
    namespace: str
    device: Literal["cuda", "cpu"]
    processes: int = Field(default=1, ge=1)
    """Training processes of each pod, one for each GPU."""
    together: Together | None = None
    """Set where several pods train together."""
    model: ModelSource
    preset: str = ""
    """The preset's name, for the image's annotation and the model card."""
    trust_remote_code: bool = False
    method: TuningMethod
    training_config: str = f"{USER_CONFIG_MOUNT}/{TRAINING_CONFIG_KEY}"
    """Path of the training configuration with KAITO's six sections."""
    data: tuple[FetchItem, ...] = ()
    """What to fetch into the data folder first; nothing where the data lie on a volume."""
    data_dir: str = DATA_MOUNT
    private_urls: bool = False
    """Data may come from loopback and private addresses."""
    offline: bool = False
    """Never ask a hub for data."""
    output_dir: str = DEFAULT_OUTPUT_DIR
    output: TuneTarget | None = None
    """None leaves the result in the output folder, which is a volume then."""
    merge: bool = False
    """The result is the model with the adapter in it, not the adapter."""
    checkpoint_s: float = Field(default=300.0, gt=0)
    """Seconds of training that a sudden end may cost."""
    checkpoints: TuneTarget | None = None
    """Where checkpoints are kept while it trains: another pod goes on from there. None keeps them where the output is
    alone."""
    registry_mirrors: dict[str, str] = Field(default_factory=dict)
    ca_file: str | None = None


TunePhase = Literal["Starting", "Fetching", "Checking", "Preparing", "Training", "Saving", "Pushing", "Done"]


class TuneProgress(Contract):
    """Where a tuning stands: a line of the log after `names.PROGRESS_MARK`, and the last words of a success."""

    phase: TunePhase
    step: int | None = None
    steps: int | None = None
    epoch: float | None = None
    loss: float | None = None
    """Of the last logged step."""
    eval_loss: float | None = None
    tokens_per_second: float | None = None
    eta_s: int | None = None
    gpu_memory_gib: float | None = None
    rows: int | None = None
    """Rows that are trained on and evaluated with."""
    note: str = ""
    """What the user should know: rows that were left out, a smaller batch, a registry that is waited for."""
    image: str = ""
    digest: str = ""
    """Of the pushed image."""


class StartProgress(Contract):
    """How far a model server's start is, with all that is known of it so far: a line of the log after
    `names.START_MARK`. Times are RFC 3339, of the pod's clock."""

    phase: str
    """What it is at, as `Loading the weights`."""
    done_bytes: int | None = None
    """Of what is being fetched; None while nothing is."""
    total_bytes: int | None = None
    remaining_s: int | None = None
    weights_at: str = ""
    """When the weights were in the engine; empty before."""
    weights_bytes: int = 0
    weights_s: float = 0.0
    """Seconds that it took to bring them there."""
    first_token_at: str = ""
    """When the engine made its first token; empty before."""
    first_token_s: float = 0.0
    """Seconds from the start of the server to that."""


class BenchmarkResult(BaseModel):
    """What a model server found when it measured itself: a line of its log after `names.BENCHMARK_MARK` and the time.
    The first three keys are KAITO's. Not strict about unknown keys: others read and write such lines too."""

    model_config = ConfigDict(frozen=True)

    vllm_total_tpm: float
    """Tokens a minute, of prompts and answers together; -1 where nothing could be measured."""
    ttft_avg_ms: float = -1.0
    tpot_avg_ms: float = -1.0
    duration_sec: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    max_concurrency: int = 0
    load: Literal["light", "full"] = "full"
    engine: str = ""
    engine_version: str = ""
    problem: str = ""
    """Why nothing could be measured, as a sentence without its stop; empty where something was."""


class Failure(Contract):
    """The last words of a container: what went wrong in one line, and what the user can do."""

    reason: str
    """A reason of `kaito.api.names`."""
    message: str
    next_step: str = ""
