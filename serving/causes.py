"""Why a server's process ended, read from the end of its log, and what to do about it."""

import re

from serving.config import ServeConfig

_SHORTER = "--max-model-len 2048  # or a smaller --model"
_LESS = "--gpu-memory-utilization 0.8 --max-model-len 2048  # or end what else uses the GPU: nvidia-smi"
# (what the log says, what it means, what to add to the command or to do; a next step with a colon first stands alone).
CAUSES = (
    (r"address already in use|error while attempting to bind", "its port was taken in the meantime", "--port 8001"),
    (r"no available memory for the cache blocks", "no memory is left for its cache", _SHORTER),
    (r"larger than the available KV cache memory", "its cache does not hold a single prompt of full length", _SHORTER),
    (r"free memory on device", "too little of the GPU's memory is free", _LESS),
    (r"cuda out of memory|outofmemoryerror", "the GPU has too little memory", _LESS),
    (r"cannot allocate memory|memoryerror|std::bad_alloc", "the machine has too little memory", _SHORTER),
    (
        r"head.?size.{0,40}not supported",
        "vLLM's kernels refuse the size of its heads",
        ":serve it with --backend fastchat",
    ),
    (
        r"does not recognize this architecture|architectures.{0,80}(not supported|failed to be inspected)|"
        r"unrecognized model|unknown model type",
        "its version does not know the model's architecture",
        ":choose another --model, or a newer server in requirements-serving.txt",
    ),
    (
        r"couldn't connect to .{0,40}huggingface\.co|localentrynotfounderror|offlinemodeisenabled|max retries exceeded",
        "the model is not on this machine and cannot be fetched",
        ":download it where there is internet, and name its folder with --model",
    ),
    (
        r"repository not found|repositorynotfounderror|gated ?repo|401 client error",
        "Hugging Face does not give that model to you",
        ":check the id, accept its licence on its page, and set HF_TOKEN",
    ),
    (
        r"(can't load|couldn't instantiate|unable to load).{0,40}tokenizer",
        "the model's tokenizer does not load",
        ":ls the model's folder; tokenizer.json and tokenizer_config.json have to be there",
    ),
    (
        r"safetensor.{0,60}(error|invalid|header)",
        "the model's weights are damaged",
        ":copy or download the model again",
    ),
    (r"max_model_len.{0,80}greater than the derived", "the model has a shorter context", "--max-model-len 512"),
    (r"maximum context length|context_length_exceeded", "its context is too short for a prompt", "--max-model-len 512"),
    (r"torch not compiled with cuda|no nvidia driver|found no nvidia", "no GPU is there", ":make serve-setup"),
    (r"no module named", "its environment is incomplete", ":rm -rf .venv-serving && make serve-setup"),
)
_ERROR = re.compile(r"^.*?((?:\w+\.)*\w*(?:Error|Exception): .+|error: .+)$", re.MULTILINE)


def explain(log: str, code: int | None, config: ServeConfig) -> tuple[str, str]:
    """What happened and what to do, from the end of a log and an exit code."""
    again = f"python main.py serve --backend {config.backend}"
    for pattern, meaning, step in CAUSES:
        if re.search(pattern, log, re.IGNORECASE):
            return meaning, step[1:] if step.startswith(":") else f"{again} {step}"
    if code == 137:
        return "it was killed, by hand or because memory ran out", f"free -g  # then, with more room: {again}"
    errors = _ERROR.findall(log)
    said = errors[-1].strip()[:300] if errors else f"exit code {code}"
    return said, ""
