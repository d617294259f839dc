# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Faults that a container tells of itself with its last words: weights, hub, options, GPU, adapters.

The words are those of our runtime, and, for a template's own image, those of vLLM, PyTorch and the Hugging Face client.
"""

from __future__ import annotations

from kaito.api import names
from kaito.operator.faults.fault import Fault

WEIGHTS = names.REASON_WEIGHTS_NOT_FOUND
ENGINE = names.REASON_ENGINE_FAILED
CONFIG = names.REASON_CONFIG_INVALID

LOG = (
    Fault(names.REASON_ADAPTER, "log", "A LoRA adapter is missing, broken, or not made for the model",
          "Correct the adapter that the message names, or take it out of inference.adapters.",
          (r"\badapters?\b", r"\blora\b"), ENGINE),
    Fault(names.REASON_TOKEN, "log", "The hub does not accept the token",
          "Put a valid token under the key HF_TOKEN of the Secret in presetOptions.modelAccessSecret.",
          ("invalid (user )?token", "token (is|was) (invalid|expired|refused|not accepted)",
           r"401 Client Error(?!.*gated)", "invalid credentials"), WEIGHTS),
    Fault(names.REASON_GATED, "log", "The model is gated, and the token, if any, has no access to it",
          "Accept the model's terms on the hub, and give a token in presetOptions.modelAccessSecret.",
          ("gated", "awaiting a review", "access to model", "needs a token"), WEIGHTS),
    Fault(names.REASON_REVISION, "log", "The hub does not have the model's revision",
          "Correct the revision that the message names.", ("RevisionNotFound", r"revision .*not found",
          "no revision", r"has no (commit|revision)"), WEIGHTS),
    Fault(names.REASON_MODEL_MISSING, "log", "The hub has no such model",
          "Correct the model's id.", ("RepositoryNotFound", r"404 Client Error", "no such model"), WEIGHTS),
    Fault(names.REASON_HUB_RATE, "log", "The hub serves no more requests for now",
          "Wait, or give a token in presetOptions.modelAccessSecret.", ("429", "too many requests"), WEIGHTS),
    Fault(names.REASON_DISK_FULL, "log", "The disk is full",
          "Use nodes with a bigger disk, or free space where the weights are kept.",
          ("no space left on device", "disk quota exceeded", r"\bENOSPC\b", "disk is full", "not enough disk"),
          WEIGHTS),
    Fault(names.REASON_HUB_UNREACHABLE, "log", "The hub cannot be reached",
          "Let the pods reach the hub, set HF_ENDPOINT to a mirror, or put the weights on the node.",
          ("LocalEntryNotFound", "cannot reach", "could not be reached", "cannot be reached", "not reachable",
           "MaxRetryError", "name resolution", "ConnectionError", "offline"), WEIGHTS),
    Fault(names.REASON_WEIGHTS_BROKEN, "log", "A file of the weights is damaged or incomplete",
          "Remove the file that the message names, so that it is fetched again.",
          ("SafetensorError", "HeaderTooLarge", "checksum", "incomplete", "truncated", "UnpicklingError"), WEIGHTS),
    Fault(names.REASON_CUDA_MEMORY, "log", "The GPU ran out of memory",
          "Use a smaller max-model-len, a lower gpu-memory-utilization, or bigger or more GPUs.",
          (r"CUDA (error: )?out of memory", "OutOfMemoryError", "GPU ran out of memory", "HIP out of memory"), ENGINE),
    Fault(names.REASON_KV_CACHE, "log", "The model leaves too little GPU memory for its KV cache",
          "Use a smaller max-model-len, or bigger or more GPUs.",
          ("No available memory for the cache", "too little memory for its KV cache", "stored in KV cache",
           "desired GPU memory utilization"), ENGINE),
    Fault(names.REASON_TOO_LONG, "log", "max-model-len is more than the model can take",
          "Lower max-model-len in the ConfigMap that inference.config names.",
          (r"max.?model.?len.*(greater|longer|larger|more) than", r"longer than .*max_position_embeddings"), CONFIG),
    Fault(names.REASON_DRIVER, "log", "The node's NVIDIA driver is too old for the engine",
          "Update the NVIDIA driver of the nodes, or use an older runtime image.",
          ("driver version is insufficient", "driver on your system is too old", "PTX was compiled with an unsupported",
           "unsupported display driver"), ENGINE),
    Fault(names.REASON_NO_GPU, "log", "The engine found no GPU",
          "Check the node's NVIDIA driver and device plugin, or run on a CPU.",
          ("No CUDA GPUs are available", "Found no NVIDIA driver", "no usable GPU"), ENGINE),
    Fault(names.REASON_NCCL, "log", "The GPUs do not reach each other",
          "See the log for NCCL's lines; check the nodes' GPU links and the size of /dev/shm.",
          (r"\bNCCL\b", "ProcessGroupNCCL"), ENGINE),
    Fault(names.REASON_CUDA, "log", "The GPU or its driver failed",
          "Start again on another node; check this one with nvidia-smi and dmesg (Xid errors).",
          ("CUDA error", "cudaError", "CUBLAS", "CUDNN", "device-side assert", "illegal memory access", "ECC error"),
          ENGINE),
    Fault(names.REASON_UNKNOWN_FLAG, "log", "The engine does not know an option of the ConfigMap",
          "Correct the option in the ConfigMap that inference.config names.",
          ("unrecognized arguments", "No such option", "does not know the option", "ambiguous option"), CONFIG),
    Fault(CONFIG, "log", "The engine refuses a value in the ConfigMap",
          "Correct the option in the ConfigMap that inference.config names.",
          ("error: argument", "Invalid value for", "refuses the option", r"inference_config\.yaml")),
    Fault(names.REASON_ARCHITECTURE, "log", "The engine does not support the model's architecture",
          "Use the other engine (annotation kaito.sh/runtime), a newer runtime image, or another model.",
          ("architectures? .*(not supported|unsupported|failed to be inspected)",
           "does not recognize this architecture", "Unsupported architecture"), ENGINE),
    Fault(names.REASON_ENGINE_MISSING, "log", "The image lacks the engine, or a package that it needs",
          "Install it as the message says, or choose the other engine with the annotation kaito.sh/runtime.",
          ("No module named", "ModuleNotFoundError", "is not installed")),
    Fault(WEIGHTS, "log", "The weights are neither on the machine nor can they be downloaded",
          "Put them where the message says, or let the pods reach the hub.",
          ("No weights", "no file named", "cannot find any model weights", "model weights")),
    Fault(ENGINE, "log", "The engine ended with an error",
          "See kubectl logs {pod} --previous."),
)  # fmt: skip
