"""The files of a deployment: they can be read, and what they start is understood by this version's command line."""

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import main as cli
from preceptor.serving.config import ServeConfig

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "serving" / "deploy"
REQUIREMENTS = ROOT / "requirements.txt"
UNIT = DEPLOY / "preceptor-agents.service"


def instructions() -> dict[str, list[str]]:
    """Of the Containerfile, by their names."""
    joined = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for line in joined.splitlines():
        if line and not line.startswith("#"):
            name, _, rest = line.partition(" ")
            found.setdefault(name, []).append(rest)
    return found


def served(words: list[str]) -> ServeConfig:
    return cli.read("serve", words).resolved()


def test_the_image_starts_what_the_composition_says() -> None:
    image, services = instructions(), yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    python, program, verb, *always = json.loads(image["ENTRYPOINT"][0])
    assert (python, program, verb) == (".venv/bin/python", "main.py", "serve")
    assert (ROOT / program).is_file()
    agents = services["agents"]
    config = served([*always, *shlex.split(agents["command"])])
    assert (config.backend, config.host, config.port, config.logdir) == ("agents", "0.0.0.0", 8000, "/data")
    assert agents["volumes"][0].endswith(f":{config.logdir}")
    assert image["EXPOSE"] == [str(config.port)]
    assert f"127.0.0.1:{config.port}/ready" in image["HEALTHCHECK"][0]
    assert image["USER"] != ["root"]
    name = re.fullmatch(r"http://(\w+):8000/v1", str(config.fallback.base_url))
    assert name
    model = shlex.split(services[name[1]]["command"])
    assert model[model.index("--served-model-name") + 1] == config.fallback.teacher_model
    assert agents["environment"]["OPENAI_API_KEY"] == services[name[1]]["environment"]["VLLM_API_KEY"]
    assert (DEPLOY / agents["build"]["context"]).resolve() == ROOT
    assert (ROOT / agents["build"]["dockerfile"]).is_file()
    assert agents["hostname"] == "agents"
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv*", "log", "**/.env"} <= set(ignored), "keys lie in .env"
    defaults = dict(argument.split("=", 1) for argument in image["ARG"])
    assert defaults["TORCH_INDEX"].endswith("/cpu")
    assert image["FROM"] == ["${BASE}"]
    *parts, everything = [copied.split() for copied in image["COPY"]]
    assert everything == [".", "."]
    assert all((ROOT / name).exists() for names in parts for name in names[:-1])
    assert defaults["BASE"].startswith("docker.io/")
    assert (ROOT / image["RUN"][-1].split()[1]).is_file()


def test_a_server_imports_nothing_that_the_image_leaves_out() -> None:
    left_out = re.search(r"pip uninstall -q -y ([\w -]+?) &&", instructions()["RUN"][-1])
    assert left_out
    modules = left_out[1].replace("-", "_").split()
    assert set(left_out[1].split()) < {re.split("[=[]", line)[0] for line in REQUIREMENTS.read_text().splitlines()}
    packages = ("agent.methods", "agent.relearning", "controller", "envs", "serving.local", "serving.policy", "teacher")
    script = f"""
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys({modules}))
for name in {packages}:
    package = importlib.import_module(f"preceptor.{{name}}")
    for each in pkgutil.walk_packages(getattr(package, "__path__", []), f"{{package.__name__}}."):
        if not each.name.endswith(("__main__", "on_ray")):
            importlib.import_module(each.name)
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_the_unit_starts_a_server_that_may_write_where_it_writes() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    service = unit["Service"]
    python, program, verb, *words = shlex.split(service["ExecStart"])
    assert Path(python).is_relative_to(service["WorkingDirectory"])
    assert (program, verb) == ("main.py", "serve")
    config = served(words)
    assert config.backend == "agents"
    assert Path(config.logdir) == Path("/var/lib") / service["StateDirectory"]
    assert not config.detach, "systemd watches it"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    here = UNIT.read_text().replace("/opt/preceptor/.venv/bin/python", sys.executable)
    (tmp_path / UNIT.name).write_text(here.replace("User=preceptor", "User=root"))  # who need not exist here
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / UNIT.name], capture_output=True, text=True, check=False
    )
    assert UNIT.name not in done.stdout + done.stderr, "each complaint names the unit"


def test_the_proxy_sends_a_host_that_the_server_answers_to() -> None:
    proxy, page = (DEPLOY / "Caddyfile").read_text(), (ROOT / "docs" / "deploy.md").read_text()
    assert "header_up Host {upstream_hostport}" in proxy
    assert "proxy_set_header Host 127.0.0.1:8000;" in page
    assert proxy.count("{") == proxy.count("}")
