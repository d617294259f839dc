# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning: the check of a gibibyte of data, tokens a second with packing beside a plain run of the library, and a
gibibyte pushed.

Both trainings are of the same rows with the same settings but for packing, in processes of their own, one after the
other; the ratio of their losses on the rows that are held back says that speed is not bought with learning.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tests.registry_process import PASSWORD, USER, Served, registry_process

from kaito.runtime.artifacts.push import Target, push_image
from kaito.runtime.tune.job import Job, Summary, read, state_dir

GIB = 1 << 30
WORDS = ("kaito", "workspace", "model", "adapter", "node", "data", "token", "loss", "tuning", "image", "layer", "cache")
PREVIEW = "from kaito.runtime.tune.preview import main; import sys; sys.exit(main(['', sys.argv[1]]))"


def write_parquet(path: Path, size: int) -> None:
    """A file of about this size: conversations of uneven length that hardly compress."""
    dice = random.Random(1)
    schema = pa.schema([("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])))])
    noise = [dice.randbytes(3000).hex() for _ in range(256)]
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        while not path.exists() or path.stat().st_size < size:
            rows = []
            for _ in range(4096):
                length, start = dice.randrange(100, 3000), dice.randrange(2000)
                answer = dice.choice(noise)[start : start + length]
                rows.append([{"role": "user", "content": "Why so?"}, {"role": "assistant", "content": answer}])
            writer.write_table(pa.table({"messages": rows}, schema=schema))


def preflight(folder: Path, size: int = GIB) -> tuple[float, float]:
    """Seconds of processor time and peak GiB of memory of the check of such a file."""
    path = folder / "data.parquet"
    write_parquet(path, size)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", PREVIEW, str(path)], check=True, stdout=subprocess.DEVNULL)
    took = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    path.unlink()
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"preflight: {took:.1f} s, {used:.1f} s of processor time, {after.ru_maxrss / (1 << 20):.2f} GiB", flush=True)
    return took, after.ru_maxrss / (1 << 20)


def write_ragged(folder: Path, rows: int = 192) -> None:
    """Texts of a few and of many words, most of them short, as answers are."""
    dice = random.Random(2)
    lengths = [min(240, int(dice.lognormvariate(3.2, 0.9)) + 4) for _ in range(rows)]
    lines = [" ".join(dice.choice(WORDS) for _ in range(length)) for length in lengths]
    (folder / "data.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))


CONFIG = """
training_config:
  LoraConfig: {{r: 8, lora_alpha: 16}}
  TrainingArguments:
    per_device_train_batch_size: {batch}
    num_train_epochs: 6
    learning_rate: 1.0e-3
    max_length: {length}
    packing: {packing}
    eval_packing: false
    per_device_eval_batch_size: 4
  DatasetConfig: {{train_test_split: 0.9}}
"""


def train(folder: Path, model: str, *, packing: bool) -> Summary:
    """One training; what it came to."""
    output = folder / ("packed" if packing else "plain")
    output.mkdir()
    config = output / "training.yaml"
    # As many tokens for each step of the optimizer: a pack holds what five rows hold on the average.
    config.write_text(CONFIG.format(batch=1 if packing else 5, length=320, packing=str(packing).lower()))
    job = Job(
        workspace="bench", model=model, model_id="kaito/demo-phi-3", method="lora", device="cpu",
        training_config=str(config), data_dir=str(folder / "data"), output_dir=str(output), checkpoint_s=3600,
    )  # fmt: skip
    file = output / "job.json"
    file.write_text(job.model_dump_json())
    subprocess.run([sys.executable, "-m", "kaito.runtime.tune.worker", str(file)], check=True)
    found = read(state_dir(output) / "summary.json", Summary)
    assert found is not None
    return found


def packing(folder: Path, model: str) -> tuple[float, float]:
    """How many times as fast real tokens are trained on with packing, and the ratio of the losses."""
    (folder / "data").mkdir()
    write_ragged(folder / "data")
    plain, packed = (train(folder, model, packing=packed) for packed in (False, True))
    assert plain.eval_loss and packed.eval_loss and plain.tokens_per_second and packed.tokens_per_second
    return packed.tokens_per_second / plain.tokens_per_second, packed.eval_loss / plain.eval_loss


def pushing(folder: Path, tries: int = 3) -> list[tuple[float, float]]:
    """For each try, the speed of a push of a gibibyte over that of curl's upload to the same registry, and of `cp`."""
    (folder / "registry").mkdir()
    (folder / "result").mkdir()
    weights = folder / "result" / "adapter_model.safetensors"
    dice = random.Random(3)
    with weights.open("wb") as file:
        for _ in range(256):
            file.write(dice.randbytes(GIB // 256))
    digest = subprocess.check_output(["sha256sum", str(weights)], text=True).split()[0]
    found = []
    with registry_process(folder / "registry") as registry:
        login = registry.login(folder / "login.json")
        for number in range(tries):
            copied = _seconds("cp", str(weights), str(folder / "copy"))
            uploaded = _uploaded(registry, f"bench/curl-{number}", weights, digest)
            began = time.monotonic()
            push_image(folder / "result", Target(f"{registry.host}/bench/push-{number}:1", (login,)), annotations={})
            pushed = time.monotonic() - began
            print(f"push: {pushed:.2f} s, curl {uploaded:.2f} s, cp {copied:.2f} s", flush=True)
            found.append((uploaded / pushed, copied / pushed))
    return found


def _uploaded(registry: Served, repository: str, file: Path, digest: str) -> float:
    place = registry.request("POST", f"{repository}/blobs/uploads/").headers["Location"]
    login = ("-u", f"{USER}:{PASSWORD}", "-H", "Content-Type: application/octet-stream")
    return _seconds("curl", "-sf", *login, "-T", str(file), f"{place}&digest=sha256:{digest}")


def _seconds(*argv: str) -> float:
    began = time.monotonic()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began
