"""Why a server's process ended, read from the end of its log, and what to do about it."""

import re

from preceptor.serving.config import ServeConfig
from preceptor.teacher.card import TINY_MODEL

_SHORTER = "{again} --max-model-len 2048  # or a smaller --model"
_LESS = "{again} --gpu-memory-utilization 0.8 --max-model-len 2048  # or end what else uses the GPU: nvidia-smi"
_SETUP = "rm -rf .venv-serving && make serve-setup"
# What the log says, what that means, what to do. vLLM 0.32, FastChat 0.2.36, transformers 5.19.
CAUSES = (
    (r"address already in use|while attempting to bind|cannot be had", "its port is taken", "{again} --port 8001"),
    (r"no available memory for the cache blocks", "no memory is left for its cache", _SHORTER),
    (r"larger than the available KV cache memory", "its cache does not hold a single prompt of full length", _SHORTER),
    (r"free memory on device", "too little of the GPU's memory is free", _LESS),
    (r"cuda out of memory|outofmemoryerror", "the GPU has too little memory", _LESS),
    (r"cannot allocate memory|memoryerror|std::bad_alloc", "the machine has too little memory", _SHORTER),
    (r"head.?size.{0,40}not supported", "vLLM's kernels refuse the size of its heads", "use --backend fastchat"),
    (r"does not recognize this architecture|architectures.{0,80}(not supported|failed to be inspected)",
     "its version does not know the model's architecture",
     "choose another --model, or a newer server in requirements-serving.txt"),
    (r"couldn't connect to .{0,40}huggingface\.co|localentrynotfounderror|offlinemodeisenabled|max retries exceeded",
     "the model is not on this machine and cannot be fetched",
     "download it where there is internet, and name its folder with --model"),
    (r"repositorynotfounderror|gatedrepo|401 client error", "Hugging Face does not give that model to you",
     "check the id, accept its licence on its page, and set HF_TOKEN"),
    (r"safetensor.{0,60}(error|header)", "the model's weights are damaged", "copy or download the model again"),
    (r"can't load tokenizer|couldn't instantiate the backend tokenizer|autotokenizer\.from_pretrained\(",
     "the model's tokenizer does not load", "copy its tokenizer.json again, or see the log above"),
    (r"chat.?template", "the model's folder has no chat template",
     f"cp {TINY_MODEL}/chat_template.jinja MODEL/  # or write its own"),
    (r"maximum context length", "its context is too short for a prompt", "{again} --max-model-len 512  # or more"),
    (r"max_model_len.{0,80}greater than the derived|was made for \d+ tokens", "the model has a shorter context",
     "{again} --max-model-len 512"),
    (r"not compiled with cuda|no nvidia driver", "no GPU is there", "make serve-setup  # where the server is to run"),
    (r"libnuma\.so", "the library libnuma is missing on this machine", "sudo apt-get install libnuma1"),
    (r"no module named", "its environment is incomplete", _SETUP),
)  # fmt: skip


def explain(log: str, code: int | None, config: ServeConfig) -> tuple[str, str]:
    """What happened and what to do, from the end of a log and an exit code; nothing to do if that is not known."""
    again = f"python main.py serve --backend {config.backend}"
    if code == 128 + 9:
        return "it was killed, by hand or because memory ran out", f"free -g  # then, with more room: {again}"
    for pattern, meaning, next_step in CAUSES:
        if re.search(pattern, log, re.IGNORECASE):
            return meaning, next_step.format(again=again)
    errors = re.findall(r"((?:\w+\.)*\w*(?:Error|Exception): .+|error: .+)$", log, re.MULTILINE)
    return (errors[-1].strip()[:300], "") if errors else (f"exit code {code}", "")
